"""The group's statement: many appends in one transaction, each with the outcome it has alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    ConcurrencyConflict,
    DuplicateEvent,
    IdempotencyMismatch,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
    StreamDeleted,
    StreamNotFound,
    TransactionConflict,
    migrate,
)
from eventstore.grouping import Submission
from eventstore.operations import append_group, encode_append
from eventstore.registry import codec_of
from tests.fixtures.events import new_event, new_events
from tests.fixtures.stores import in_threads, statements_of, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

    from eventstore import EventEnvelope, ExpectedVersion

    Append = tuple[str, ExpectedVersion, list[EventEnvelope[Any]]]


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """The connection of a writer."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def append_all(
    connection: Connection, *appends: Append, schema: str | None = None
) -> list[int | Exception | None]:
    """Return the outcomes in the order of the appends, None for those that have none yet."""
    group = []
    for append in appends:
        batch, rows = encode_append(*append, codec_of(None))
        group.append(Submission(batch=batch, rows=rows, waiter=None))
    outcomes = append_group(connection, group, codec=codec_of(None), schema=schema)
    return [outcomes.get(each) for each in group]


def one(stream_id: str, expected: ExpectedVersion = ANY, **fields: Any) -> Append:
    return stream_id, expected, [new_event(**fields)]


def facts(outcome: object) -> object:
    """What an error is, and what it says."""
    return (type(outcome), vars(outcome)) if isinstance(outcome, Exception) else outcome


def feed_of(sessions: sessionmaker[Session]) -> list[tuple[str, int]]:
    with sessions() as session:
        feed = SqlAlchemyEventStore(session).read_all_forward()
        return [(event.stream_id, event.event_version) for event in feed]


@pytest.fixture
def known(sessions: sessionmaker[Session]) -> dict[str, list[EventEnvelope[Any]]]:
    """Streams of every kind: at version 2, with a key, deleted, and only locked."""
    events = {name: new_events(2) for name in ("two", "deleted", "gone")}
    events["keyed"] = new_events(2, key="k")
    with sessions.begin() as session:
        store = SqlAlchemyEventStore(session)
        for stream_id, batch in events.items():
            store.append_to_stream(stream_id, NO_STREAM, batch)
        store.delete_stream("deleted")
        store.delete_stream("gone")
        store.append(StreamAppend("other", ANY, [new_event()]), require=[StreamAt("locked", 0)])
    return events


def test_every_append_has_the_outcome_that_it_has_alone(
    sessions: sessionmaker[Session],
    connection: Connection,
    known: dict[str, list[EventEnvelope[Any]]],
) -> None:
    refused = new_event()
    appends: list[Append] = [
        one("new"),
        one("new-too", NO_STREAM),
        ("two", 2, new_events(3)),
        ("locked", NO_STREAM, new_events(2)),
        ("other", STREAM_EXISTS, new_events(2)),
        one("missing", 7),
        one("not-found", STREAM_EXISTS),
        ("deleted", ANY, known["deleted"]),
        one("gone", 7),
        ("keyed", 77, new_events(2, key="k")),
        ("keyless", ANY, [new_event(event_id=known["two"][0].event_id)]),
        ("half", ANY, [refused, known["two"][1]]),
        ("empty", NO_STREAM, []),
    ]
    with sessions() as session:
        # Each by itself, and rolled back.
        alone = []
        for append in appends:
            with session.begin_nested() as savepoint:
                try:
                    outcome = SqlAlchemyEventStore(session).append_to_stream(*append)
                except Exception as error:  # noqa: BLE001
                    alone.append(facts(error))
                else:
                    alone.append(outcome)
                savepoint.rollback()
    outcomes = append_all(connection, *appends)
    assert list(map(facts, outcomes)) == alone
    assert outcomes[:5] == [1, 1, 5, 2, 3]
    kinds = [ConcurrencyConflict, StreamNotFound, StreamDeleted, StreamDeleted, int]
    assert list(map(type, outcomes[5:])) == [*kinds, DuplicateEvent, DuplicateEvent, int]
    # Who succeeded is committed, and nothing else.
    written = {"new": 1, "new-too": 1, "two": 5, "locked": 2, "other": 3, "keyed": 2}
    written |= {"deleted": 2, "gone": 2}
    feed = feed_of(sessions)
    assert {s: [v for stream, v in feed if stream == s] for s, _ in feed} == {
        stream_id: list(range(1, version + 1)) for stream_id, version in written.items()
    }


def test_a_conflict_brings_what_was_missed_if_that_is_wanted(
    connection: Connection, known: dict[str, list[EventEnvelope[Any]]]
) -> None:
    group = []
    for stream_id, fetch_missed in (("two", True), ("keyed", False)):
        batch, rows = encode_append(stream_id, 1, [new_event()], codec_of(None))
        submission = Submission(batch=batch, rows=rows, waiter=None, fetch_missed=fetch_missed)
        group.append(submission)
    outcomes = append_group(connection, group, codec=codec_of(None), schema=None)
    conflict, plain = map(outcomes.get, group)
    assert isinstance(conflict, ConcurrencyConflict)
    assert isinstance(plain, ConcurrencyConflict)
    assert [event.event_id for event in conflict.missed or ()] == [known["two"][1].event_id]
    assert plain.missed is None


def test_a_stream_that_was_only_locked_begins_now(
    sessions: sessionmaker[Session],
    connection: Connection,
    known: dict[str, list[EventEnvelope[Any]]],
) -> None:
    assert append_all(connection, one("locked", NO_STREAM), one("new")) == [1, 1]
    with sessions() as session:
        info = SqlAlchemyEventStore(session).get_stream_info("locked")
    assert info is not None
    assert info.created_at == info.updated_at


def test_a_group_is_one_statement_also_with_conflicts(
    engine: Engine, connection: Connection, known: dict[str, list[EventEnvelope[Any]]]
) -> None:
    with statements_of(engine) as sent:
        outcomes = append_all(
            connection,
            *(one(f"new-{n}", NO_STREAM) for n in range(30)),
            ("two", 2, new_events(50)),
            ("keyed", 2, new_events(2, key="another")),
            one("other", 7),
            one("missing", STREAM_EXISTS),
        )
    assert len(sent) == 1
    assert outcomes[:32] == [1] * 30 + [52, 4]
    assert [facts(outcome) for outcome in outcomes[32:]] == [
        facts(ConcurrencyConflict(7, 1, "other")),
        facts(StreamNotFound("missing")),
    ]


def test_who_has_no_company_is_appended_as_by_a_store(
    engine: Engine, connection: Connection
) -> None:
    with statements_of(engine) as sent:
        with Session(connection) as session:
            SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, [new_event()])
        assert append_all(connection, one("t", NO_STREAM)) == [1]
    by_store, in_group = sent
    assert in_group == by_store


def test_a_repeat_costs_the_others_nothing(
    engine: Engine, connection: Connection, known: dict[str, list[EventEnvelope[Any]]]
) -> None:
    statements = []
    for others in (1, 20):
        with statements_of(engine) as sent:
            new = (one(f"{others}-{n}") for n in range(others))
            assert append_all(connection, ("two", 0, known["two"]), *new) == [2] + [1] * others
        statements.append(len(sent))
    assert statements[0] == statements[1]


def test_appends_to_one_stream_follow_one_another(
    sessions: sessionmaker[Session], connection: Connection
) -> None:
    appends = [
        ("s", NO_STREAM, new_events(2)),
        ("t", ANY, new_events(1)),
        ("s", ANY, new_events(3)),
        ("s", 5, new_events(1, key="k")),
        ("s", NO_STREAM, new_events(1)),
        ("s", STREAM_EXISTS, new_events(1)),
        ("t", ANY, new_events(2)),
    ]
    # What expects another version has to wait until the others are there.
    assert append_all(connection, *appends) == [2, 1, 5, 6, None, 7, 3]
    (conflict,) = append_all(connection, appends[4])
    assert facts(conflict) == facts(ConcurrencyConflict(0, 7, "s"))
    with sessions() as session:
        recorded = list(SqlAlchemyEventStore(session).read_all_forward())
    for stream_id in "st":
        wanted = [event for stream, _, events in appends for event in events if stream == stream_id]
        found = [event for event in recorded if event.stream_id == stream_id]
        assert [event.event_version for event in found] == list(range(1, len(found) + 1))
        assert [event.event_id for event in found] == [
            event.event_id for event in wanted if event is not appends[4][2][0]
        ]


def test_if_the_first_of_a_chain_fails_the_others_are_not_touched(
    connection: Connection, known: dict[str, list[EventEnvelope[Any]]]
) -> None:
    outcomes = append_all(connection, one("two", 7), one("two", 8), one("two"), one("new"))
    assert facts(outcomes[0]) == facts(ConcurrencyConflict(7, 2, "two"))
    assert outcomes[1:] == [None, None, 1]


def test_a_repeat_in_the_same_group_waits_for_its_first_try(connection: Connection) -> None:
    first, keyed = one("s"), one("k", key="request")
    assert append_all(connection, first, first, keyed, one("k", key="request")) == [
        1,
        None,
        1,
        None,
    ]
    assert append_all(connection, first, one("k", key="request")) == [1, 1]
    (mismatch,) = append_all(connection, one("k", key="request", data={"n": 2}))
    assert isinstance(mismatch, IdempotencyMismatch)


@pytest.mark.parametrize("is_known_by", ["ids", "key"])
def test_a_retry_that_races_its_first_try_is_recognised(
    sessions: sessionmaker[Session], engine: Engine, connection: Connection, is_known_by: str
) -> None:
    first = new_events(3, key="request")
    second = first if is_known_by == "ids" else new_events(3, key="request")
    with sessions() as early:
        SqlAlchemyEventStore(early).append_to_stream("s", ANY, first)

        def retry() -> list[int | Exception | None]:
            return append_all(connection, one("a"), ("s", ANY, second), one("t"))

        def commit_the_first() -> None:
            wait_until_blocked(engine)
            early.commit()

        outcomes, _ = in_threads(retry, commit_the_first)
    assert outcomes == [1, 3, 1]


def test_an_id_that_somebody_else_commits_meanwhile_fails_alone(
    sessions: sessionmaker[Session], engine: Engine, connection: Connection
) -> None:
    taken = new_event()
    with sessions() as early:
        SqlAlchemyEventStore(early).append_to_stream("elsewhere", ANY, [taken])

        def reuse() -> list[int | Exception | None]:
            appends = one("a"), ("b", ANY, [new_event(), taken]), one("b"), one("c")
            return append_all(connection, *appends)

        def commit_the_first() -> None:
            wait_until_blocked(engine)
            early.commit()

        outcomes, _ = in_threads(reuse, commit_the_first)
    assert isinstance(outcomes, list)
    first, duplicate, behind, last = outcomes
    assert (first, behind, last) == (1, None, 1)
    assert facts(duplicate) == facts(DuplicateEvent(taken.event_id))
    assert feed_of(sessions) == [("elsewhere", 1), ("a", 1), ("c", 1)]


def test_a_deadlock_with_a_transaction_ends_well(
    sessions: sessionmaker[Session], engine: Engine, connection: Connection
) -> None:
    """The transaction holds c and wants a, the group holds a and wants c, and gives way."""
    connection.exec_driver_sql("SET deadlock_timeout = '10ms'")
    with sessions() as session, sessions() as holder:
        session.execute(text("SET deadlock_timeout = '60s'"))
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("c", ANY, [new_event()])
        SqlAlchemyEventStore(holder).append_to_stream("b", ANY, [new_event()])

        def want_the_other() -> None:
            wait_until_blocked(engine)
            store.append_to_stream("a", ANY, [new_event()])
            session.commit()

        def close_the_circle() -> None:
            wait_until_blocked(engine, count=2)
            holder.commit()

        outcomes, *none = in_threads(
            lambda: append_all(connection, *map(one, "abcd")), want_the_other, close_the_circle
        )
    assert none == [None, None]
    assert isinstance(outcomes, list)
    first, *others = outcomes
    assert first in (1, 2)  # either may get a first, once the circle is broken
    assert others == [2, 2, 1]


@pytest.mark.parametrize("in_company", [False, True])
def test_what_is_given_up_is_tried_again_unless_it_was_alone(
    sessions: sessionmaker[Session], engine: Engine, connection: Connection, *, in_company: bool
) -> None:
    """Alone it was judged as by a store, whose caller decides."""
    connection.exec_driver_sql("SET default_transaction_isolation = 'repeatable read'")
    with sessions() as early:
        SqlAlchemyEventStore(early).append_to_stream("s", ANY, [new_event()])

        def append() -> list[int | Exception | None]:
            return append_all(connection, one("s"), *([one("t")] if in_company else []))

        def commit_the_first() -> None:
            wait_until_blocked(engine)
            early.commit()

        outcomes, _ = in_threads(append, commit_the_first)
    assert isinstance(outcomes, list)
    if in_company:
        assert outcomes == [2, 1]
    else:
        assert list(map(type, outcomes)) == [TransactionConflict]


def test_what_the_server_refuses_fails_alone(
    sessions: sessionmaker[Session], engine: Engine, connection: Connection
) -> None:
    with engine.begin() as owner:
        owner.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'no poison here'; END $$"
        )
        owner.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW"
            " WHEN (new.event_type = 'poison') EXECUTE FUNCTION refuse()"
        )
    first, refused, last = append_all(
        connection, one("a"), one("b", event_type="poison"), one("c", NO_STREAM)
    )
    assert (first, last) == (1, 1)
    assert isinstance(refused, DBAPIError)
    assert "hidden" in str(refused)
    assert feed_of(sessions) == [("a", 1), ("c", 1)]


def test_two_groups_and_appends_to_several_streams_never_deadlock(engine: Engine) -> None:
    # The server counts a session's deadlocks when the session ends.
    unpooled = create_engine(engine.url, poolclass=NullPool)
    autocommit = unpooled.execution_options(isolation_level="AUTOCOMMIT")

    def groups(order: str) -> list[list[int | Exception | None]]:
        with autocommit.connect() as connection:
            connection.exec_driver_sql("SET deadlock_timeout = '10ms'")
            return [append_all(connection, *map(one, order)) for _ in range(30)]

    def transactions() -> int:
        for _ in range(30):
            with Session(unpooled) as session, session.begin():
                appends = [StreamAppend(stream_id, ANY, [new_event()]) for stream_id in "bca"]
                SqlAlchemyEventStore(session).append(*appends)
        return 30

    def deadlocks() -> int:
        count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        with unpooled.connect() as connection:
            return int(connection.execute(text(count)).scalar_one())

    earlier = deadlocks()
    *outcomes, count = in_threads(lambda: groups("abc"), lambda: groups("cab"), transactions)
    assert count == 30
    for versions in outcomes:
        assert isinstance(versions, list)
        assert {type(version) for group in versions for version in group} == {int}
    versions = feed_of(sessionmaker(engine))
    for stream_id in "abc":
        assert [v for s, v in versions if s == stream_id] == list(range(1, 91))
    assert deadlocks() == earlier


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_group_keeps_to_its_schema(database_url: URL, is_mapped: bool) -> None:
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    for schema in ("tenant", 'we"ird'):
        migrate.upgrade(engine, schema=schema)
    options = {"schema_translate_map": {None: 'we"ird'}} if is_mapped else {}
    named = None if is_mapped else 'we"ird'
    with engine.connect() as connection:
        mapped = connection.execution_options(**options)
        keyed = one("s", NO_STREAM, key="k")
        assert append_all(mapped, keyed, one("t"), schema=named) == [1, 1]
        outcomes = append_all(mapped, keyed, one("t", 7), ("u", NO_STREAM, []), schema=named)
        assert outcomes[0::2] == [1, 0]
        assert isinstance(outcomes[1], ConcurrencyConflict)
        counts = (
            'SELECT (SELECT count(*) FROM "we""ird".events), (SELECT count(*) FROM tenant.events)'
        )
        assert connection.execute(text(counts)).one() == (2, 0)
    engine.dispose()


def test_the_group_takes_the_fence(
    sessions: sessionmaker[Session], engine: Engine, connection: Connection
) -> None:
    """While a group isn't committed, the feed ends before it, also for later events."""
    append_all(connection, one("z"))
    with sessions() as holder:
        # Holds the group back, when nothing has a number yet.
        holder.execute(text("SELECT FROM streams WHERE stream_id = 'z' FOR UPDATE"))

        def read_the_feed() -> list[tuple[str, int]]:
            wait_until_blocked(engine)
            with sessions.begin() as session:
                SqlAlchemyEventStore(session).append_to_stream("later", ANY, [new_event()])
            seen = feed_of(sessions)
            holder.rollback()
            return seen

        outcomes, seen = in_threads(
            lambda: append_all(connection, one("a"), one("z")), read_the_feed
        )
    assert outcomes == [1, 2]
    assert seen == [("z", 1)]
    assert sorted(feed_of(sessions)) == [("a", 1), ("later", 1), ("z", 1), ("z", 2)]
