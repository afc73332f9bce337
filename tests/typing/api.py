"""Never run: mypy reads it to pin the types of the public face.

What is accepted must stay accepted, and what is revealed here is what users' editors show.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, assert_type

from pydantic import BaseModel
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import eventstore
from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Aggregate,
    AggregateType,
    AnyPolicy,
    AppendResult,
    AsyncEventStore,
    AsyncGroupCommitWriter,
    AsyncInMemoryEventStore,
    AsyncRepository,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    DecidedAggregate,
    Decider,
    EventEnvelope,
    EventFilter,
    EventMetadata,
    EventRegistry,
    EventStore,
    EveryEvents,
    EveryInterval,
    GroupCommitWriter,
    ImportProgress,
    InMemoryEventStore,
    LoadedStream,
    OnEvents,
    Outcome,
    ReadOptions,
    Repository,
    Retries,
    Snapshot,
    SnapshotPolicy,
    Snapshots,
    SnapshotTail,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
    StreamInfo,
    UnknownPayload,
    Upcast,
    applies,
    causation,
    caused_by,
)
from eventstore.subscriptions import (
    NOW,
    PARK,
    AsyncSubscriptionRunner,
    FenceHolder,
    ParkedStream,
    RetryPolicy,
    Subscription,
    SubscriptionRunner,
    discard_parked,
    parked_streams,
    replay_parked,
    reset_subscription,
    subscription_status,
    wait_for,
)
from eventstore.testing.races import Race, Runner, pausing
from eventstore.testing.scenarios import Scenario, given

registry = EventRegistry()


@registry.register("order-placed")
class OrderPlaced(BaseModel):
    order_id: str


@registry.register("order-moved", version=2, aliases=("OrderMoved",))
class OrderMoved(BaseModel):
    to: str


@registry.upcaster("order-moved", from_version=1)
def rename(data: dict[str, Any]) -> dict[str, Any]:
    return {"to": data["target"]}


@registry.upcaster("order-merged", from_version=1, into={"order-placed": 1, "order-moved": 1})
def split(data: dict[str, Any]) -> Iterator[Upcast]:
    yield Upcast("order-placed", data)


assert_type(registry.register("order-renamed", OrderMoved, version=2), type[OrderMoved])
assert_type(rename({}), dict[str, Any])
assert_type(split({}), Iterator[Upcast])
assert_type(registry.json_schema(), dict[str, Any])
assert_type(UnknownPayload({}).data, Any)
registry.retire("order-merged", version=1)
registry.check()
raw = EventRegistry(unknown="raw")


@registry.upcaster("order-moved", from_version=1)  # type: ignore[type-var]
def without_into(data: dict[str, Any]) -> Iterator[Upcast]:
    yield Upcast("order-placed", data)


@registry.upcaster("order-moved", from_version=1, into={})  # type: ignore[type-var]
def without_upcasts(data: dict[str, Any]) -> dict[str, Any]:
    return data


class Order(BaseModel):
    order_id: str


assert_type(OrderPlaced(order_id="1").order_id, str)
envelope = EventEnvelope(aggregate_type="Order", event_data=OrderPlaced(order_id="1"))
assert_type(envelope, EventEnvelope[OrderPlaced])
metadata = EventMetadata(correlation_id="c", tenant="further keys are kept")


def every_store_is_an_event_store(session: Session, async_session: AsyncSession) -> None:
    sync: EventStore = SqlAlchemyEventStore(session, registry, schema="orders")
    sync = InMemoryEventStore(registry)
    twin: AsyncEventStore = AsyncSqlAlchemyEventStore(async_session, registry, schema="orders")
    twin = AsyncInMemoryEventStore(registry)
    del sync, twin


def sync_operations(store: SqlAlchemyEventStore) -> None:
    assert_type(store.session, Session)
    assert_type(store.append_to_stream("s", 0, [envelope]), int)
    for expected in (ANY, NO_STREAM, STREAM_EXISTS, None, 7):
        store.append_to_stream("s", expected, [envelope])
    result = store.append(StreamAppend("s", ANY, [envelope]), require=[StreamAt("t", 3)])
    assert_type(result, AppendResult)
    assert_type(result["s"].positions, tuple[int, ...])
    assert_type(store.read_stream("s"), Iterator[EventEnvelope[Any]])
    assert_type(
        store.read_stream("s", ReadOptions(backward=True), as_type=OrderPlaced),
        Iterator[EventEnvelope[OrderPlaced]],
    )
    assert_type(
        store.read_all_forward(7, 100, filters=EventFilter(event_types=["order-placed"])),
        Iterator[EventEnvelope[Any]],
    )
    assert_type(store.get_stream_info("s"), StreamInfo | None)
    store.delete_stream("s", 3)
    store.restore_stream("s")
    store.save_snapshot(
        Snapshot(aggregate_id="s", aggregate_type="Order", version=1, data=Order(order_id="1"))
    )
    assert_type(store.get_snapshot("s", "Order", Order), Snapshot[Order] | None)
    assert_type(store.get_snapshot("s", "Order"), Snapshot[Any] | None)


async def async_operations(store: AsyncSqlAlchemyEventStore) -> None:
    assert_type(store.session, AsyncSession)
    assert_type(await store.append_to_stream("s", 0, [envelope]), int)
    assert_type(await store.append(StreamAppend("s", ANY, [envelope])), AppendResult)
    assert_type(
        store.read_stream("s", as_type=OrderPlaced), AsyncIterator[EventEnvelope[OrderPlaced]]
    )
    assert_type([event async for event in store.read_all_forward()], list[EventEnvelope[Any]])
    assert_type(await store.get_stream_info("s"), StreamInfo | None)
    assert_type(await store.get_snapshot("s", "Order", Order), Snapshot[Order] | None)


def context_manager(sessions: sessionmaker[Session]) -> None:
    with eventstore.event_store(sessions, registry, schema="orders") as store:
        assert_type(store, SqlAlchemyEventStore)


async def async_context_manager(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with eventstore.async_event_store(sessions, registry) as store:
        assert_type(store, AsyncSqlAlchemyEventStore)


def bulk_import(sessions: sessionmaker[Session]) -> None:
    engine = create_engine("postgresql+psycopg://")

    def on_progress(progress: ImportProgress) -> None:
        assert_type(progress.position, int)

    done = eventstore.import_events(engine, [envelope], registry, on_progress=on_progress)
    assert_type(done, ImportProgress)
    feed = SqlAlchemyEventStore(sessions()).read_all_forward()
    eventstore.import_events(sessions, feed, schema="copy", batch_size=500, keep_versions=True)
    eventstore.import_events(engine, [], on_progress=print)
    with open("events.jsonl", "wb") as file:  # noqa: PTH123 - never run
        assert_type(eventstore.export_events(engine, file, on_progress=print), int)
    assert_type(eventstore.exported_events([b"", ""]), Iterator[EventEnvelope[Any]])


def group_commit(engine: Engine) -> None:
    with GroupCommitWriter(engine, registry, schema="orders", max_waiting=100) as writer:
        assert_type(writer, GroupCommitWriter)
        assert_type(writer.append_to_stream("s", ANY, [envelope]), int)
    GroupCommitWriter(engine, "orders")  # type: ignore[arg-type]


async def async_group_commit(engine: AsyncEngine, sync_engine: Engine) -> None:
    async with AsyncGroupCommitWriter(engine, registry, max_batch=10) as writer:
        assert_type(writer, AsyncGroupCommitWriter)
        assert_type(await writer.append_to_stream("s", None, [envelope]), int)
    AsyncGroupCommitWriter(sync_engine)  # type: ignore[arg-type]


def facts_of_an_error(error: ConcurrencyConflict) -> None:
    assert_type(error.actual, int)
    assert_type(error.stream_id, str)
    assert_type(error.missed, tuple[EventEnvelope[Any], ...] | None)


class Cart(Aggregate):
    count: int = 0

    def place(self, order_id: str) -> None:
        self.record(OrderPlaced(order_id=order_id))

    @applies(OrderPlaced)
    def _placed(self, event: OrderPlaced) -> None:
        self.count += 1

    @applies(Order, OrderPlaced)
    def _noted(self, event: Order | OrderPlaced) -> None: ...


class Place(BaseModel):
    order_id: str


def decide(command: Place, state: int) -> list[OrderPlaced]:
    return [OrderPlaced(order_id=command.order_id)]


def evolve(state: int, event: OrderPlaced) -> int:
    return state + 1


class Never:
    def wants(self, tail: SnapshotTail) -> bool:
        return False


decider = Decider(initial=0, decide=decide, evolve=evolve)
assert_type(decider, Decider[Place, int, OrderPlaced])
never: SnapshotPolicy = Never()
policy = AnyPolicy(never, EveryEvents(3), EveryInterval(timedelta(days=1)), OnEvents(OrderPlaced))
carts = AggregateType("cart", Cart, snapshots=Snapshots(policy))
counts = AggregateType(
    "cart", decider, stream_id=str.upper, snapshots=Snapshots(policy, state_type=int)
)
assert_type(carts, AggregateType[Callable[[Cart], object], Cart])
assert_type(counts, AggregateType[Place, DecidedAggregate[Place, int, OrderPlaced]])


def repositories(store: EventStore, sessions: sessionmaker[Session]) -> None:
    objects = Repository(store, carts)
    assert_type(objects.load("1"), Cart)
    assert_type(objects.execute("1", lambda cart: cart.place("7")), Outcome[Cart])
    assert_type(objects.save(objects.begin("2"), objects.load("1")), AppendResult)
    assert_type(objects.changes(objects.load("1")), StreamAppend)
    decided = Repository(lambda: eventstore.event_store(sessions, registry), counts)
    outcome = decided.execute("1", Place(order_id="7"), commutes=[OrderPlaced, "order-placed"])
    assert_type(outcome.aggregate.state, int)
    decided.execute("1", Place(order_id="7"), commutes=lambda missed: missed.event_version > 1)
    Repository(store, counts, retries=Retries(attempts=3), sleep=print)
    assert_type(store.load_stream("s", "cart", idempotency_key="k"), LoadedStream)


async def async_repositories(
    store: AsyncEventStore, sessions: async_sessionmaker[AsyncSession]
) -> None:
    objects = AsyncRepository(store, carts)
    assert_type(await objects.load("1"), Cart)
    assert_type(await objects.execute("1", lambda cart: cart.place("7")), Outcome[Cart])
    decided = AsyncRepository(lambda: eventstore.async_event_store(sessions, registry), counts)
    assert_type((await decided.load("1")).state, int)


def context(event: EventEnvelope[Any]) -> None:
    with causation(correlation_id="c", user_id="ann", tenant=7) as metadata:
        assert_type(metadata, EventMetadata)
    assert_type(caused_by(event), AbstractContextManager[EventMetadata])


def testing(store: EventStore) -> None:
    scenario = given(decider, OrderPlaced(order_id="1")).when(Place(order_id="2"))
    assert_type(scenario, Scenario[Place, int])
    scenario.then(OrderPlaced(order_id="2")).then_state(2).then_state(lambda count: count == 2)
    given(Cart).when(lambda cart: cart.place("7")).then_raises(ValueError, match="7")
    with Race() as race:
        runner = race.enter(lambda point: pausing(store, point).append_to_stream("s", 0, []))
        assert_type(runner, Runner[int])


def domain_mistakes(store: EventStore, async_store: AsyncEventStore) -> None:
    given(decider, Place(order_id="1"))  # type: ignore[misc]
    Repository(store, counts).execute("1", OrderPlaced(order_id="1"))  # type: ignore[arg-type]
    Repository(store, carts).execute("1", lambda cart: cart.plaec("7"))  # type: ignore[attr-defined]
    Repository(async_store, carts)  # type: ignore[arg-type]
    AggregateType("cart", object)  # type: ignore[type-var]
    applies(OrderPlaced)(evolve)  # type: ignore[arg-type, type-var]


def mistakes(store: SqlAlchemyEventStore) -> None:
    store.append_to_stream("s", "0", [envelope])  # type: ignore[arg-type]
    store.append_to_stream("s", 0, envelope)  # type: ignore[arg-type]
    store.append_to_stream("s", 0, [OrderPlaced(order_id="1")])  # type: ignore[list-item]
    store.append(StreamAppend("s", 0, [envelope]), required=[])  # type: ignore[call-arg]


def subscriptions(engine: Engine, async_engine: AsyncEngine, session: Session) -> None:
    def view(_session: Session, _event: EventEnvelope[Any]) -> None: ...

    spec = Subscription(
        "view",
        view,
        filters=EventFilter(event_types=["Deposited"]),
        start=NOW,
        batch_size=100,
        retry=RetryPolicy(max_attempts=3),
        on_failure=PARK,
        lease_seconds=10,
        partitions=4,
        version=2,
    )
    with SubscriptionRunner(engine, [spec], schema="es") as runner:
        runner.run_until_current(timeout_seconds=1)
    SubscriptionRunner(sessionmaker(engine), [spec], notifications=False)
    AsyncSubscriptionRunner(async_engine, [spec])
    AsyncSubscriptionRunner(async_sessionmaker(async_engine), [spec], notifications=False)
    assert_type(reset_subscription(session, "view"), bool)
    assert_type(wait_for(engine, "view", 1, 0.5), bool)
    assert_type(replay_parked(engine, spec), list[ParkedStream])
    assert_type(parked_streams(session, "view"), list[ParkedStream])
    assert_type(discard_parked(session, "view", "s"), bool)
    assert_type(subscription_status(session)[0].fence_holder, FenceHolder | None)
