"""No operation walks the table, whatever the planner knows of it: cost stays flat as it grows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from eventstore import (
    ANY,
    NO_STREAM,
    ConcurrencyConflict,
    EventFilter,
    EventMetadata,
    Query,
    QueryItem,
    QueryToken,
    ReadOptions,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
    no_new,
)
from eventstore.grouping import Submission
from eventstore.operations import append_group, encode_append
from eventstore.operations.checkpoints import Definition, create_subscription, has_scanned
from eventstore.operations.deliveries import Slice, read_slice
from eventstore.registry import codec_of
from tests.fixtures.events import new_event, new_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session, sessionmaker

    from eventstore import EventEnvelope

KNOWN = new_events(3)
RARE = Query(QueryItem(types=["Deposited"], tags=["rare:7", "all"]))
BY_TYPE = Query(QueryItem(types=["no such"]))
KEY = EventMetadata(idempotency_key="k")


def append_as_group(store: SqlAlchemyEventStore, begun: str = "known", version: int = 4) -> None:
    appends = [
        (f"beside-{begun}", NO_STREAM, new_events(3)),
        (f"with-key-beside-{begun}", ANY, [new_event(key="x"), new_event(key="x")]),
        (begun, version, [new_event(key="new")]),
        ("missing", 7, [new_event()]),
    ]
    group = []
    for append in appends:
        batch, rows = encode_append(*append, codec_of(None))
        group.append(Submission(batch=batch, rows=rows, waiter=None))
    connection = store.session.connection()
    outcomes = append_group(connection, group, codec=codec_of(None), schema=None)
    assert [outcomes[each] for each in group[:3]] == [3, 2, version + 1]
    assert isinstance(outcomes[group[3]], ConcurrencyConflict)


def query_and_append(store: SqlAlchemyEventStore, stream: str) -> None:
    """Run the statements of the queries of this module."""
    store.read_by_query(Query(QueryItem(types=["a"], tags=["rare:7", "all"])))
    store.append(StreamAppend(stream, NO_STREAM, [new_event(tags=["other"])]), require=no_new(RARE))
    store.append_to_stream(stream, 1, [new_event(tags=["other"])])


def deliver(store: SqlAlchemyEventStore, *, until: int | None, partitions: int = 1) -> None:
    filters = EventFilter(event_types=["no such"])
    for given in (None, filters):
        read_slice(
            store.session,
            Slice("view", 0, partitions, given),
            codec_of(None),
            after=19_990,
            until=until,
            limit=500,
            idle_seconds=30,
            schema=None,
        )


def waited(store: SqlAlchemyEventStore) -> None:
    session = store.session
    create_subscription(session, "view", Definition(partitions=4), 19_990, schema=None)
    assert not has_scanned(session, "view", 20_000, schema=None)


OPERATIONS: dict[str, Callable[[SqlAlchemyEventStore], object]] = {
    "append": lambda store: store.append_to_stream("new", NO_STREAM, new_events(3)),
    "append with a key": lambda store: store.append_to_stream("new", ANY, [new_event(key="x")]),
    "append to several streams": lambda store: store.append(
        StreamAppend("new", NO_STREAM, new_events(2)), require=[StreamAt("known", 4)]
    ),
    "a retry by ids": lambda store: store.append_to_stream("known", NO_STREAM, KNOWN),
    "a retry by key": lambda store: store.append_to_stream(
        "known", NO_STREAM, [new_event({"n": 0}, metadata=KEY)]
    ),
    "the newest events of a stream": lambda store: list(
        store.read_stream("big", ReadOptions(backward=True, max_count=10))
    ),
    "the tail of a stream": lambda store: store.load_stream("big", "A", idempotency_key="k"),
    "a conflict with what was missed": lambda store: with_missed(store, new_event()),
    "a conflict of a key": lambda store: with_missed(store, new_event(key="new")),
    "the end of the feed": lambda store: list(store.read_all_forward(19_990)),
    "a filtered end of the feed": lambda store: list(
        store.read_all_forward(19_990, filters=EventFilter(event_types=["no such"]))
    ),
    "a group": append_as_group,
    "a tagged append": lambda store: store.append_to_stream(
        "tagged", ANY, [new_event(tags=["all"])]
    ),
    "the events of a rare tag": lambda store: found(store, "rare:7", "all"),
    "a condition": lambda store: store.append(
        StreamAppend("tagged", ANY, [new_event(tags=["all"])]),
        require=no_new(RARE, after=store.read_by_query(RARE).token),
    ),
    "a condition on a type": lambda store: store.append(
        StreamAppend("tagged", ANY, [new_event()]),
        require=no_new(
            BY_TYPE, after=QueryToken(BY_TYPE.fingerprint, store.read_by_query(RARE).token.position)
        ),
    ),
    "a page of a subscription": lambda store: deliver(store, until=20_000),
    "a page of a partition": lambda store: deliver(store, until=20_000, partitions=4),
    "a page after a hint": lambda store: deliver(store, until=None),
    "a look whether a view has come so far": waited,
    "delete and restore": lambda store: (store.delete_stream("big"), store.restore_stream("big")),
}


SUBSCRIPTIONS = ("a page of a subscription", "a page of a partition", "a page after a hint")


def found(store: SqlAlchemyEventStore, *tags: str) -> None:
    assert len(store.read_by_query(Query(QueryItem(types=["Deposited"], tags=tags)))) == 20


def with_missed(store: SqlAlchemyEventStore, event: EventEnvelope[Any]) -> None:
    with pytest.raises(ConcurrencyConflict) as caught:
        store.append_to_stream("big", 19_990, [event], fetch_missed=True)
    assert caught.value.missed is not None
    assert len(caught.value.missed) == 10


def fill(store: SqlAlchemyEventStore) -> None:
    store.append_to_stream("big", NO_STREAM, new_events(20_000))
    data: dict[str, Any] = {}
    store.save_snapshot(Snapshot(aggregate_id="big", aggregate_type="A", version=19_990, data=data))
    tagged = [new_event(tags=["all", f"rare:{number % 100}"]) for number in range(2_000)]
    store.append_to_stream("tagged", NO_STREAM, tagged)
    store.append_to_stream("known", NO_STREAM, KNOWN)
    store.append_to_stream("known", 3, [new_event({"n": 0}, metadata=KEY)])


def scans_of_events(session: Session) -> int:
    """How often this transaction has walked the table, or that of the tags."""
    query = (
        "SELECT sum(seq_scan) FROM pg_stat_xact_user_tables "
        "WHERE relname IN ('events', 'event_tags')"
    )
    return int(session.execute(text(query)).scalar_one())


@pytest.mark.parametrize("is_analyzed", [True, False])
def test_no_operation_scans_the_events(sessions: sessionmaker[Session], is_analyzed: bool) -> None:
    with sessions.begin() as session:
        for table in ("events", "event_tags"):
            session.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        fill(SqlAlchemyEventStore(session))
        if is_analyzed:
            session.execute(text("ANALYZE"))
    for name, operation in OPERATIONS.items():
        with sessions() as session:
            operation(SqlAlchemyEventStore(session))
            assert scans_of_events(session) == 0, name


def _read_feed(session: Session) -> None:
    list(SqlAlchemyEventStore(session).read_all_forward(22_003))


def _read_slice(session: Session, *, partitions: int = 1, until: int | None = None) -> None:
    read_slice(
        session,
        Slice("view", 0, partitions, None),
        codec_of(None),
        after=22_003,
        until=until,
        limit=500,
        idle_seconds=30,
        schema=None,
    )


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(_read_feed, id="feed"),
        pytest.param(partial(_read_slice, until=22_004), id="slice"),
        pytest.param(partial(_read_slice, partitions=4, until=22_004), id="partition"),
        pytest.param(_read_slice, id="run"),
    ],
)
def test_no_page_at_the_end_of_a_large_feed_is_planned_anew(
    sessions: sessionmaker[Session], read: Callable[[Session], None]
) -> None:
    with sessions.begin() as session:
        fill(SqlAlchemyEventStore(session))
        session.execute(text("ANALYZE"))
        # What counts is the number of rows, as it does in a feed of millions: neither the pages nor
        # the planning outweigh a plan that looks better for these values.
        for setting in ("random_page_cost", "seq_page_cost", "cpu_operator_cost"):
            session.execute(text(f"SET LOCAL {setting} = 0.000001"))
        for _ in range(15):  # psycopg prepares the sixth, PostgreSQL keeps a plan after five more
            read(session)
        plans = session.execute(
            text(
                "SELECT custom_plans, generic_plans > 0 FROM pg_prepared_statements"
                " WHERE statement LIKE '%event_data%' AND statement NOT LIKE '%INSERT%'"
            )
        )
        assert [tuple(row) for row in plans] == [(5, True)]


def test_plans_that_were_made_on_an_empty_table_serve_a_large_one(
    sessions: sessionmaker[Session],
) -> None:
    """A driver prepares what it runs often, and PostgreSQL keeps the plan of those days."""
    with sessions() as session:
        for table in ("events", "event_tags"):
            session.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
        # As soon as a statement is prepared, its generic plan is made. (A rollback would make
        # psycopg forget what it has prepared.)
        session.execute(text("SET plan_cache_mode = force_generic_plan"))
        store = SqlAlchemyEventStore(session)
        for number in range(8):
            events = new_events(3)
            for _ in ("the first time", "a retry"):
                store.append_to_stream(f"by-ids-{number}", NO_STREAM, events)
                store.append_to_stream(f"by-key-{number}", ANY, [new_event(key="x")])
            for event in (new_event(), new_event(key="y")):
                with pytest.raises(ConcurrencyConflict):
                    store.append_to_stream(f"by-ids-{number}", 1, [event], fetch_missed=True)
            store.load_stream(f"by-key-{number}", "A", idempotency_key="x")
            append_as_group(store, f"by-ids-{number}", 3)
            query_and_append(store, f"tagged-{number}")
            for name in SUBSCRIPTIONS:
                OPERATIONS[name](store)
            session.commit()
        fill(store)
        session.commit()
        for name in (
            "append",
            "append with a key",
            "a retry by ids",
            "a retry by key",
            "the tail of a stream",
            "a conflict with what was missed",
            "a conflict of a key",
            "a group",
            "a tagged append",
            "the events of a rare tag",
            "a condition",
            *SUBSCRIPTIONS,
        ):
            OPERATIONS[name](store)
            assert scans_of_events(session) == 0, name
            session.commit()
