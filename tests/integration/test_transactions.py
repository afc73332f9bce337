"""The transaction is the caller's: what it sees, what it keeps, and what it can still do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    DuplicateEvent,
    EventStoreError,
    FeedUnavailable,
    IdempotencyMismatch,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
    StreamDeleted,
    StreamNotFound,
    TransactionConflict,
    event_store,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.stores import in_threads, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    Writing = Callable[[SqlAlchemyEventStore], object]


def note(session: Session, words: str) -> None:
    session.execute(text("INSERT INTO notes VALUES (:words)"), {"words": words})


def notes(sessions: sessionmaker[Session]) -> set[str]:
    with sessions() as session:
        return set(session.execute(text("SELECT note FROM notes")).scalars())


def prepare(store: SqlAlchemyEventStore) -> None:
    """Streams in every state: ``open`` at 3, ``deleted`` at 1, ``missing``."""
    store.append_to_stream("open", NO_STREAM, KNOWN)
    store.append_to_stream("deleted", NO_STREAM, [new_event()])
    store.delete_stream("deleted")


KNOWN = [*new_events(2), new_event(key="used")]

REFUSED: dict[str, tuple[type[EventStoreError], Writing]] = {
    "another version": (
        ConcurrencyConflict,
        lambda store: store.append_to_stream("open", 1, [new_event()]),
    ),
    "a new stream that is there": (
        ConcurrencyConflict,
        lambda store: store.append_to_stream("open", NO_STREAM, [new_event()]),
    ),
    "a version of a missing stream": (
        ConcurrencyConflict,
        lambda store: store.append_to_stream("missing", 5, [new_event()]),
    ),
    "a missing stream": (
        StreamNotFound,
        lambda store: store.append_to_stream("missing", STREAM_EXISTS, [new_event()]),
    ),
    "a deleted stream": (
        StreamDeleted,
        lambda store: store.append_to_stream("deleted", ANY, [new_event()]),
    ),
    "reading a deleted stream": (StreamDeleted, lambda store: list(store.read_stream("deleted"))),
    "a part of a batch": (
        DuplicateEvent,
        lambda store: store.append_to_stream("open", ANY, [KNOWN[0], new_event()]),
    ),
    "a used key": (
        IdempotencyMismatch,
        lambda store: store.append_to_stream("open", ANY, [new_event({"n": 9}, key="used")]),
    ),
    "one of several streams": (
        ConcurrencyConflict,
        lambda store: store.append(
            StreamAppend("first", NO_STREAM, [new_event()]),
            StreamAppend("open", 1, [new_event()]),
        ),
    ),
    "a stream that was only read": (
        ConcurrencyConflict,
        lambda store: store.append(
            StreamAppend("first", NO_STREAM, [new_event()]), require=[StreamAt("open", 1)]
        ),
    ),
    "deleting a missing stream": (StreamNotFound, lambda store: store.delete_stream("missing")),
    "deleting another version": (ConcurrencyConflict, lambda store: store.delete_stream("open", 9)),
    "restoring a missing stream": (StreamNotFound, lambda store: store.restore_stream("missing")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_session_is_usable_after_every_typed_error(
    sessions: sessionmaker[Session], name: str
) -> None:
    expected, write = REFUSED[name]
    with sessions.begin() as session:
        prepare(SqlAlchemyEventStore(session))
    with sessions.begin() as session:
        note(session, "before")
        with pytest.raises(expected):
            write(SqlAlchemyEventStore(session))
        note(session, "after")
    assert notes(sessions) == {"before", "after"}
    with sessions() as session:
        store = SqlAlchemyEventStore(session)
        assert len(list(store.read_all_forward())) == 4
        assert store.get_stream_info("first") is None


WRITES: dict[str, Writing] = {
    "append_to_stream": lambda store: store.append_to_stream("new", ANY, [new_event()]),
    "append": lambda store: store.append(
        StreamAppend("new", ANY, [new_event()]), require=[StreamAt("nothing", NO_STREAM)]
    ),
    "delete_stream": lambda store: store.delete_stream("open"),
    "restore_stream": lambda store: store.restore_stream("deleted"),
    "save_snapshot": lambda store: store.save_snapshot(
        Snapshot(aggregate_id="open", aggregate_type="Account", version=1, data={})
    ),
}


def everything(sessions: sessionmaker[Session]) -> list[Any]:
    with sessions() as session:
        return [
            session.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all()
            for table in ("events", "streams", "snapshots")
        ]


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("how", ["begin", "begin_nested", "autobegin"])
def test_nothing_is_left_after_a_rollback(
    sessions: sessionmaker[Session], name: str, how: str
) -> None:
    with sessions.begin() as session:
        prepare(SqlAlchemyEventStore(session))
    before = everything(sessions)
    with sessions() as session:
        store = SqlAlchemyEventStore(session)
        if how == "begin":
            with session.begin() as transaction:
                WRITES[name](store)
                transaction.rollback()
        elif how == "begin_nested":
            with session.begin():
                with session.begin_nested() as savepoint:
                    WRITES[name](store)
                    savepoint.rollback()
                note(session, "kept")
        else:
            WRITES[name](store)
            assert session.in_transaction()
            session.rollback()
    assert everything(sessions) == before
    assert notes(sessions) == ({"kept"} if how == "begin_nested" else set())


def test_nothing_is_committed_for_the_caller(sessions: sessionmaker[Session]) -> None:
    commits: list[object] = []
    with sessions() as session:
        event.listen(session, "after_commit", commits.append)
        store = SqlAlchemyEventStore(session)
        prepare(store)
        for write in WRITES.values():
            write(store)
    assert commits == []
    assert everything(sessions) == [[], [], []]


def test_rows_and_events_commit_together(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        note(session, "mine")
        SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, new_events(2))
    with pytest.raises(IntegrityError), sessions.begin() as session:
        SqlAlchemyEventStore(session).append_to_stream("s", 2, new_events(2))
        note(session, "mine")
    with sessions() as session:
        info = SqlAlchemyEventStore(session).get_stream_info("s")
    assert info is not None
    assert info.version == 2


def test_a_savepoint_takes_back_its_part_alone(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("s", NO_STREAM, [new_event({"n": 1})])
        with session.begin_nested() as savepoint:
            assert store.append_to_stream("s", 1, [new_event({"n": 2})]) == 2
            savepoint.rollback()
        assert store.append_to_stream("s", 1, [new_event({"n": 3})]) == 2
    with sessions() as session:
        events = list(SqlAlchemyEventStore(session).read_stream("s"))
    assert [(event.event_version, event.event_data["n"]) for event in events] == [(1, 1), (2, 3)]


def test_the_context_manager_commits_or_rolls_back(sessions: sessionmaker[Session]) -> None:
    with event_store(sessions) as store:
        store.append_to_stream("s", NO_STREAM, [new_event()])
    with pytest.raises(ZeroDivisionError), event_store(sessions) as store:
        store.append_to_stream("s", 1, [new_event()])
        raise ZeroDivisionError
    with event_store(sessions) as store:
        assert [event.event_version for event in store.read_stream("s")] == [1]


class TestAutocommit:
    """Each call is a transaction of its own: all of it, or nothing."""

    @pytest.fixture(params=["of the engine", "of the connection"])
    def autocommit(
        self, request: pytest.FixtureRequest, engine: Engine, sessions: sessionmaker[Session]
    ) -> Any:
        if request.param == "of the connection":
            yield sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"))
            return
        own = create_engine(engine.url, isolation_level="AUTOCOMMIT")
        yield sessionmaker(own)
        own.dispose()

    def test_appends_are_there_at_once(
        self, autocommit: sessionmaker[Session], sessions: sessionmaker[Session]
    ) -> None:
        with autocommit() as session:
            store = SqlAlchemyEventStore(session)
            store.append_to_stream("s", NO_STREAM, new_events(2))
            store.append(
                StreamAppend("a", NO_STREAM, new_events(1)),
                StreamAppend("b", NO_STREAM, new_events(1)),
            )
            with sessions() as other:
                assert len(list(SqlAlchemyEventStore(other).read_all_forward())) == 4
            assert len(list(store.read_all_forward())) == 4

    @pytest.mark.parametrize("name", REFUSED)
    def test_refused_calls_leave_nothing(
        self, autocommit: sessionmaker[Session], sessions: sessionmaker[Session], name: str
    ) -> None:
        with autocommit() as session:
            prepare(SqlAlchemyEventStore(session))
        before = everything(sessions)
        expected, write = REFUSED[name]
        with autocommit() as session:
            with pytest.raises(expected):
                write(SqlAlchemyEventStore(session))
            assert everything(sessions) == before
            assert SqlAlchemyEventStore(session).append_to_stream("t", 0, [new_event()]) == 1


def test_a_transaction_by_hand_is_the_callers_too(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    """On a connection that SQLAlchemy holds for AUTOCOMMIT; the store must not end it."""
    with sessions.begin() as session:
        prepare(SqlAlchemyEventStore(session))
    before = everything(sessions)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection, Session(connection) as session:
        store = SqlAlchemyEventStore(session)
        connection.exec_driver_sql("BEGIN")
        store.append(StreamAppend("a", NO_STREAM, [new_event()]), StreamAppend("b", 0, []))
        for name in ("a part of a batch", "one of several streams", "another version"):
            expected, write = REFUSED[name]
            with pytest.raises(expected):
                write(store)
        assert store.append_to_stream("a", 1, [new_event()]) == 2
        connection.exec_driver_sql("ROLLBACK")
    assert everything(sessions) == before


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
class TestSnapshotIsolation:
    def test_a_conflict_that_the_snapshot_shows(
        self, engine: Engine, sessions: sessionmaker[Session], level: Any
    ) -> None:
        with Session(engine.execution_options(isolation_level=level)) as session:
            store = SqlAlchemyEventStore(session)
            known = new_events(1)
            assert store.append_to_stream("s", NO_STREAM, known) == 1
            assert store.append_to_stream("s", NO_STREAM, known) == 1
            with pytest.raises(ConcurrencyConflict):
                store.append_to_stream("s", 5, [new_event()])
            session.commit()

    @pytest.mark.parametrize("expected", [0, ANY])
    def test_a_change_behind_the_snapshot_is_retryable(
        self, engine: Engine, sessions: sessionmaker[Session], level: Any, expected: Any
    ) -> None:
        """What the stream's version really is can't be told: nothing is invented."""
        with Session(engine.execution_options(isolation_level=level)) as session:
            session.execute(text("SELECT 1"))  # the snapshot
            with sessions.begin() as other:
                SqlAlchemyEventStore(other).append_to_stream("s", NO_STREAM, [new_event()])
            with pytest.raises(TransactionConflict) as caught:
                SqlAlchemyEventStore(session).append_to_stream("s", expected, [new_event()])
            assert caught.value.sqlstate == "40001"
            assert caught.value.retryable
            session.rollback()
            assert SqlAlchemyEventStore(session).append_to_stream("s", 1, [new_event()]) == 2

    def test_streams_can_be_read_and_the_feed_not(
        self, engine: Engine, sessions: sessionmaker[Session], level: Any
    ) -> None:
        with Session(engine.execution_options(isolation_level=level)) as session:
            store = SqlAlchemyEventStore(session)
            store.append_to_stream("s", NO_STREAM, [new_event()])
            assert len(list(store.read_stream("s"))) == 1
            with pytest.raises(FeedUnavailable, match=level):
                list(store.read_all_forward())
            assert store.append_to_stream("s", 1, [new_event()]) == 2


def test_a_deadlock_is_retryable(sessions: sessionmaker[Session], engine: Engine) -> None:
    with sessions() as one, sessions() as two:
        SqlAlchemyEventStore(one).append_to_stream("a", ANY, [new_event()])
        SqlAlchemyEventStore(two).append_to_stream("b", ANY, [new_event()])

        def cross() -> None:
            SqlAlchemyEventStore(one).append_to_stream("b", ANY, [new_event()])

        def cross_back() -> None:
            wait_until_blocked(engine)
            SqlAlchemyEventStore(two).append_to_stream("a", ANY, [new_event()])

        def attempt(job: Callable[[], None], session: Session) -> Callable[[], None]:
            def run() -> None:
                try:
                    job()
                finally:
                    session.rollback()

            return run

        outcomes = in_threads(attempt(cross, one), attempt(cross_back, two))
    (victim,) = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(victim, TransactionConflict)
    assert victim.sqlstate == "40P01"


class TestConstraints:
    """Each unique constraint on its own; only two of them are ours to name."""

    @pytest.fixture(params=["READ COMMITTED", "AUTOCOMMIT"])
    def session(
        self, request: pytest.FixtureRequest, engine: Engine, sessions: sessionmaker[Session]
    ) -> Any:
        with sessions.begin() as session:
            prepare(SqlAlchemyEventStore(session))
        with Session(engine.execution_options(isolation_level=request.param)) as session:
            yield session

    @pytest.mark.parametrize("size", [1, 2])
    def test_the_stream_and_version(self, session: Session, size: int) -> None:
        """A foreign writer has recorded version 4 without the stream's row."""
        session.execute(
            text(
                "INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type,"
                " event_data, event_version, occurred_at, metadata) "
                f"VALUES (gen_random_uuid(), 'open', '', '', '', '{{}}', {3 + size}, now(), '{{}}')"
            )
        )
        store = SqlAlchemyEventStore(session)
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append_to_stream("open", 3, new_events(size))
        assert (caught.value.expected, caught.value.actual) == (3, 3 + size)
        if size == 1:
            # The session goes on, and the stream's row is as it was.
            info = store.get_stream_info("open")
            assert info is not None
            assert info.version == 3
            assert store.append_to_stream("other", NO_STREAM, [new_event()]) == 1

    def test_the_primary_key_surfaces_as_itself(self, session: Session) -> None:
        session.execute(text("SELECT setval('events_sequence_number_seq', 1, false)"))
        with pytest.raises(IntegrityError, match="pk_events"):
            SqlAlchemyEventStore(session).append_to_stream("open", 3, [new_event()])
        # The session goes on.
        session.execute(text("SELECT setval('events_sequence_number_seq', 100)"))
        assert SqlAlchemyEventStore(session).append_to_stream("open", 3, [new_event()]) == 4

    def test_a_constraint_of_the_callers_own(self, session: Session) -> None:
        SqlAlchemyEventStore(session).append_to_stream("open", 3, [new_event()])
        note(session, "once")
        with pytest.raises(IntegrityError, match="notes_pkey"):
            note(session, "once")


def test_no_error_shows_a_payload(sessions: sessionmaker[Session]) -> None:
    secret = "iban-DE02120300000000202051"
    with sessions() as session:
        session.execute(text("DROP TABLE snapshots"))
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("s", NO_STREAM, new_events(3))
        session.execute(text("SELECT setval('events_sequence_number_seq', 1, false)"))
        attempts: list[Callable[[], object]] = [
            lambda: store.append_to_stream("s", 3, [new_event({"iban": secret})]),
            lambda: store.save_snapshot(
                Snapshot(aggregate_id="s", aggregate_type="A", version=1, data={"iban": secret})
            ),
        ]
        for attempt in attempts:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
                attempt()
            error: BaseException | None = caught.value
            while error is not None:
                assert secret not in str(error)
                error = error.__cause__


@pytest.mark.asyncio
async def test_the_async_twin_keeps_the_session_usable(
    async_event_store: AsyncSqlAlchemyEventStore,
) -> None:
    session = async_event_store.session
    await session.execute(text("CREATE TEMPORARY TABLE mine (note text)"))
    for write, expected in (
        (async_event_store.append_to_stream("s", 5, [new_event()]), ConcurrencyConflict),
        (async_event_store.append_to_stream("s", STREAM_EXISTS, [new_event()]), StreamNotFound),
        (async_event_store.delete_stream("s"), StreamNotFound),
    ):
        await session.execute(text("INSERT INTO mine VALUES ('before')"))
        with pytest.raises(expected):
            await write
    await session.commit()
    count = await session.execute(text("SELECT count(*) FROM mine"))
    assert count.scalar_one() == 3


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_id_behind_the_snapshot_is_retryable(
    engine: Engine, sessions: sessionmaker[Session], level: Any
) -> None:
    """In one stream or several: what the id names can't be told from this snapshot."""
    for others in ([], [StreamAppend("c", ANY, [new_event()])]):
        event = new_event()
        with Session(engine.execution_options(isolation_level=level)) as session:
            session.execute(text("SELECT count(*) FROM events"))
            with sessions.begin() as other:
                SqlAlchemyEventStore(other).append_to_stream("a", ANY, [event])
            with pytest.raises(TransactionConflict):
                SqlAlchemyEventStore(session).append(StreamAppend("b", ANY, [event]), *others)


def test_a_sequence_that_is_behind_never_looks_like_a_conflict(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, new_events(3))
        session.execute(text("SELECT setval('events_sequence_number_seq', 2)"))
    with sessions() as session:
        note(session, "before")
        with pytest.raises(TransactionConflict) as caught:
            SqlAlchemyEventStore(session).append_to_stream("new", NO_STREAM, new_events(3))
        assert caught.value.sqlstate == "23505"
        with pytest.raises(PendingRollbackError):
            session.commit()
    assert notes(sessions) == set()
    # As the error says: the whole transaction again.
    with sessions.begin() as session:
        assert SqlAlchemyEventStore(session).append_to_stream("new", 0, new_events(3)) == 3


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 10}])
def test_the_callers_server_side_cursors_are_not_for_us(
    engine: Engine, sessions: sessionmaker[Session], option: dict[str, Any]
) -> None:
    with Session(engine.execution_options(**option)) as session:
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("s", NO_STREAM, new_events(3))
        store.delete_stream("s")
        store.restore_stream("s")
        assert len(list(store.read_stream("s"))) == 3
        assert len(list(store.read_all_forward())) == 3


def test_checks_alone_write_nothing(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        store = SqlAlchemyEventStore(session)
        result = store.append(StreamAppend("s", ANY, []), require=[StreamAt("t", NO_STREAM)])
        assert [stream.version for stream in result] == [0]
        assert "s" in result
        assert "t" not in result
    assert everything(sessions) == [[], [], []]
