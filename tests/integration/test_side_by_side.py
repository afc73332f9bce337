"""The real store and the in-memory one, driven side by side: they must never differ.

Hypothesis makes up the calls: appends of new and of used events and keys, in every expectation,
to one stream or several, deletions, restorations, snapshots and reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)
from sqlalchemy import NullPool, create_engine

from eventstore import (
    ANY,
    STREAM_EXISTS,
    EventEnvelope,
    EventFilter,
    EventMetadata,
    EventStoreError,
    InMemoryEventStore,
    ReadOptions,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
)
from eventstore.testing.rollback import rolled_back_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL

    from eventstore import EventStore

STREAMS = st.sampled_from(["a", "b%"])
EXPECTED = st.sampled_from([ANY, ANY, ANY, ANY, None, 0, 1, 2, STREAM_EXISTS])
KEYS = st.sampled_from([None, None, "k1", "k2"])
DATA = st.dictionaries(
    st.sampled_from(["x", "y", "é"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.text(max_size=3),
        st.lists(st.integers(0, 3)),
    ),
    max_size=2,
)
BOUNDS = st.one_of(st.none(), st.integers(0, 6))
OPTIONS = st.builds(
    ReadOptions,
    from_version=BOUNDS,
    to_version=BOUNDS,
    max_count=BOUNDS,
    backward=st.booleans(),
    include_deleted=st.booleans(),
    page_size=st.integers(1, 3),
)
FILTERS = st.builds(
    EventFilter,
    event_types=st.sets(st.sampled_from(["t1", "t2", "t3"]), max_size=2),
    aggregate_types=st.sets(st.sampled_from(["T1", "T2"]), max_size=1),
    stream_prefix=st.sampled_from(["", "a", "b%", "%", "_"]),
    correlation_id=st.sampled_from([None, "t1"]),
)

EVENTS = st.builds(
    lambda data, key, name: EventEnvelope(
        aggregate_type=name.upper(),
        event_type=name,
        event_data=data,
        metadata=EventMetadata(idempotency_key=key, correlation_id=name),
    ),
    DATA,
    KEYS,
    st.sampled_from(["t1", "t2"]),
)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call has returned or raised, as a value that can be compared."""
    try:
        return call()
    except EventStoreError as error:
        # The time of a deletion is each store's own.
        return type(error), [fact for name, fact in vars(error).items() if name != "deleted_at"]


def as_read(events: Any) -> list[Any]:
    """Events without their positions: these have holes in a database."""
    return [event.model_copy(update={"sequence_number": 0}) for event in events]


class SideBySide(RuleBasedStateMachine):
    database: URL

    used: Bundle[EventEnvelope[Any]] = Bundle("used")

    @initialize(target=used, events=st.lists(EVENTS, min_size=2, max_size=4))
    def open(self, events: list[EventEnvelope[Any]]) -> MultipleResults[EventEnvelope[Any]]:
        self.memory = InMemoryEventStore()
        self.engine = create_engine(self.database, poolclass=NullPool)
        self.opened = rolled_back_session(self.engine)
        self.real = SqlAlchemyEventStore(self.opened.__enter__())
        return self.append_new_events("a", ANY, events)

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)

    def same(self, call: Callable[[EventStore], Any]) -> None:
        real, model = outcome(lambda: call(self.real)), outcome(lambda: call(self.memory))
        assert real == model

    @rule(
        target=used,
        stream_id=STREAMS,
        expected=EXPECTED,
        events=st.lists(EVENTS, min_size=1, max_size=3),
    )
    def append_new_events(
        self, stream_id: str, expected: Any, events: list[EventEnvelope[Any]]
    ) -> MultipleResults[EventEnvelope[Any]]:
        self.same(lambda store: store.append_to_stream(stream_id, expected, events))
        return multiple(*events)

    @rule(stream_id=STREAMS, versions_back=st.integers(0, 3), length=st.integers(1, 3))
    def append_again(self, stream_id: str, versions_back: int, length: int) -> None:
        """A part of the stream, as it was recorded: under its ids, then under its keys alone."""
        everything = ReadOptions(include_deleted=True)
        recorded = list(self.memory.read_stream(stream_id, everything))[-1 - versions_back :]
        again = recorded[:length]
        renamed = [event.model_copy(update={"event_id": uuid4()}) for event in again]
        self.same(lambda store: store.append_to_stream(stream_id, ANY, again))
        self.same(lambda store: store.append_to_stream(stream_id, ANY, renamed))

    @rule(target=used, event=used, data=DATA)
    def say_something_else_under_the_same_id(
        self, event: EventEnvelope[Any], data: dict[str, Any]
    ) -> EventEnvelope[Any]:
        return event.model_copy(update={"event_data": data})

    @rule(stream_id=STREAMS, expected=EXPECTED, events=st.lists(used, max_size=4))
    def append_to_stream(
        self, stream_id: str, expected: Any, events: Sequence[EventEnvelope[Any]]
    ) -> None:
        self.same(lambda store: store.append_to_stream(stream_id, expected, events))

    @rule(
        appends=st.lists(
            st.tuples(STREAMS, EXPECTED, st.lists(used, max_size=2)),
            min_size=1,
            max_size=3,
            unique_by=lambda append: append[0],
        ),
        require=st.lists(st.tuples(STREAMS, EXPECTED), max_size=1),
    )
    def append(self, appends: list[Any], require: list[Any]) -> None:
        if {stream_id for stream_id, *_ in appends} & {stream_id for stream_id, _ in require}:
            return
        self.same(
            lambda store: [
                (stream.stream_id, stream.version, len(stream.positions), result.already_appended)
                for result in [
                    store.append(
                        *(StreamAppend(*append) for append in appends),
                        require=[StreamAt(*at) for at in require],
                    )
                ]
                for stream in result.streams
            ]
        )

    @rule(stream_id=STREAMS, expected=EXPECTED, event=used, restores=st.sampled_from([1, 1, 0]))
    def close_and_open(
        self, stream_id: str, expected: Any, event: EventEnvelope[Any], restores: int
    ) -> None:
        self.same(lambda store: store.delete_stream(stream_id, expected))
        self.same(lambda store: store.append_to_stream(stream_id, expected, [event]))
        self.same(lambda store: store.get_snapshot(stream_id, "A"))
        if restores:
            self.same(lambda store: store.restore_stream(stream_id))

    @rule(stream_id=STREAMS, version=st.integers(0, 6), data=DATA)
    def snapshot(self, stream_id: str, version: int, data: dict[str, Any]) -> None:
        snapshot = Snapshot(aggregate_id=stream_id, aggregate_type="A", version=version, data=data)
        self.same(lambda store: store.save_snapshot(snapshot))
        self.same(lambda store: store.get_snapshot(stream_id, "A"))

    @rule(stream_id=STREAMS, options=OPTIONS)
    def read_stream(self, stream_id: str, options: ReadOptions) -> None:
        self.same(lambda store: as_read(store.read_stream(stream_id, options)))

    @rule(filters=FILTERS, count=BOUNDS, page_size=st.integers(1, 3))
    def read_feed(self, filters: EventFilter, count: int | None, page_size: int) -> None:
        self.same(
            lambda store: as_read(
                store.read_all_forward(0, count, filters=filters, page_size=page_size)
            )
        )

    @rule(stream_id=STREAMS)
    def stream_info(self, stream_id: str) -> None:
        def facts(store: EventStore) -> Any:
            info = store.get_stream_info(stream_id)
            return info and (info.stream_id, info.version, info.deleted_at is None)

        self.same(facts)


def test_the_stores_never_differ(event_store_database: URL) -> None:
    class Machine(SideBySide):
        database = event_store_database

    Machine.TestCase.settings = settings(
        max_examples=30,
        stateful_step_count=50,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    Machine.TestCase("runTest").runTest()
