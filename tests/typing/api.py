"""Never run: mypy reads it to pin the types of the public face.

What is accepted must stay accepted, and what is revealed here is what users' editors show.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Annotated, Any, assert_type

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
    Claims,
    ConcurrencyConflict,
    DecidedAggregate,
    Decider,
    DecisionModel,
    EventEnvelope,
    EventFilter,
    EventMetadata,
    EventRegistry,
    EventStore,
    EveryEvents,
    EveryInterval,
    Fold,
    GroupCommitWriter,
    ImportProgress,
    InMemoryEventStore,
    LoadedStream,
    OnEvents,
    Outcome,
    Query,
    QueryItem,
    QueryResult,
    QueryToken,
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
    async_execute_decision,
    causation,
    caused_by,
    combine,
    execute_decision,
    no_new,
)
from eventstore.key_rotation import rotate_master_key
from eventstore.personal import (
    AsyncKeyStore,
    AsyncKeyWrapper,
    Erased,
    InMemoryKeyStore,
    KeyStore,
    KeyWrapper,
    MasterKeys,
    Personal,
    personal,
)
from eventstore.projections import (
    Projection,
    ProjectionVersion,
    async_subscription_of,
    begin_rebuild,
    discard_version,
    fold,
    handles,
    live,
    live_async,
    make_asynchronous,
    make_inline,
    projection_versions,
    rebuild,
    rebuild_async,
    subscription_of,
    switch_version,
    wait_for_projection,
    wait_for_projection_async,
)
from eventstore.subscriptions import (
    NOW,
    PARK,
    AsyncSubscriptionRunner,
    FenceHolder,
    MadeFor,
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


class LearnerRegistered(BaseModel):
    learner_id: str
    email: Annotated[Personal[str], personal(subject="learner_id")]
    phone: Annotated[Personal[str] | None, personal(subject="learner_id")] = None


def personal_data(event: LearnerRegistered) -> None:
    assert_type(event.email, str | Erased)
    assert_type(event.phone, str | Erased | None)
    event.email.lower()  # type: ignore[union-attr]
    if not isinstance(event.email, Erased):
        assert_type(event.email, str)
    LearnerRegistered(learner_id="1", email="ann@example.org")
    LearnerRegistered(learner_id="1", email=Erased("1"))
    LearnerRegistered(learner_id="1", email=7)  # type: ignore[arg-type]
    LearnerRegistered(learner_id="1")  # type: ignore[call-arg]


def keys_of_personal_data(kms: AsyncKeyWrapper, vault: AsyncKeyStore, engine: Engine) -> None:
    keys: KeyWrapper = MasterKeys.from_environment()
    own: KeyStore = InMemoryKeyStore()
    registry.use_keys(keys)
    registry.use_keys(kms, vault)
    registry.use_keys(keys, own)
    registry.use_keys(b"")  # type: ignore[arg-type]
    assert_type(rotate_master_key(engine, keys, schema="orders", on_progress=print), int)
    assert_type(InMemoryEventStore(registry).forget("1"), bool)


async def forgetting(store: AsyncSqlAlchemyEventStore, sync: SqlAlchemyEventStore) -> None:
    assert_type(sync.forget("1"), bool)
    assert_type(await store.forget("1", metadata=EventMetadata(user_id="officer")), bool)
    assert_type(await AsyncInMemoryEventStore(registry).forget("1"), bool)


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
tagged = AggregateType("cart", decider, tags=lambda _, event: [event.order_id])
assert_type(tagged, AggregateType[Place, DecidedAggregate[Place, int, OrderPlaced]])
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
    decided.execute("1", Place(order_id="7"), expected_version=STREAM_EXISTS)
    decided.execute("1", Place(order_id="7"), require=StreamAt("other", 1))
    objects.save(objects.load("1"), require=[StreamAt("other", 1)])
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


def decisions(
    store: EventStore, sessions: sessionmaker[Session], event: EventEnvelope[Any]
) -> None:
    query = Query(QueryItem(types=["order-placed"], tags=["order:1"]), QueryItem(tags=["cart:2"]))
    result = store.read_by_query(query)
    assert_type(result, QueryResult)
    assert_type(result.events, tuple[EventEnvelope[Any], ...])
    assert_type(QueryToken.parse(str(result.token)), QueryToken)
    assert_type(store.read_by_query(Query.all(), after=result.token, as_type=bytes), QueryResult)
    add = StreamAppend("s", ANY, [event])
    store.append(add, require=no_new(query, after=result.token))
    store.append(add, require=[StreamAt("t", 0), no_new(query, after=str(result.token))])
    count: Fold[int] = Fold(0, {"order-placed": lambda count, _: count + 1}, tags=["order:1"])
    assert_type(count.state_of(result), int)
    claim = Claims("email", key=b"0" * 16).on("ann@example.org")
    assert_type(claim.state_of(result), str | None)
    model = combine(Place, order_id=claim)
    assert_type(model, DecisionModel[Place])
    assert_type(execute_decision(store, model, lambda _: [add, add]), AppendResult)
    execute_decision(lambda: eventstore.event_store(sessions), count, lambda _: add)
    held: DecisionModel[str | None] = claim
    execute_decision(store, held, lambda _: add, retries=Retries(attempts=3), sleep=print)


async def async_decisions(store: AsyncEventStore, add: StreamAppend) -> None:
    result = await store.read_by_query(Query.all())
    await store.append(add, require=no_new(Query.all(), after=result.token))
    model = Claims("email").on("ann@example.org")
    assert_type(await async_execute_decision(store, model, lambda _: add), AppendResult)


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
    store.append(StreamAppend("s", 0, [envelope]), require=Query.all())  # type: ignore[arg-type]
    execute_decision(store, Claims("e").on("v"), lambda _: envelope)  # type: ignore[arg-type, return-value]
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
        made_for=MadeFor(None, "es"),
    )
    with SubscriptionRunner(engine, [spec], schema="es") as runner:
        runner.run_until_current(timeout_seconds=1)
        assert_type(runner.listening, bool)
    SubscriptionRunner(sessionmaker(engine), [spec], notifications=False)
    AsyncSubscriptionRunner(async_engine, [spec])
    AsyncSubscriptionRunner(async_sessionmaker(async_engine), [spec], notifications=False)
    assert_type(reset_subscription(session, "view"), bool)
    assert_type(wait_for(engine, "view", 1, 0.5), bool)
    assert_type(replay_parked(engine, spec), list[ParkedStream])
    assert_type(parked_streams(session, "view"), list[ParkedStream])
    assert_type(discard_parked(session, "view", "s"), bool)
    assert_type(subscription_status(session)[0].fence_holder, FenceHolder | None)


class Orders(Projection):
    name = "orders"
    models = ()

    @handles(OrderPlaced)
    def _placed(self, event: EventEnvelope[OrderPlaced], session: Session) -> None:
        assert_type(event.event_data, OrderPlaced)

    @handles(OrderPlaced, replay=False)
    async def _tell(self, event: EventEnvelope[OrderPlaced], session: AsyncSession) -> None: ...

    @handles("noted", OrderPlaced)
    def _several(self, event: EventEnvelope[Any], session: Session) -> None: ...

    @handles(OrderPlaced)  # type: ignore[arg-type]
    def _wrong(self, event: EventEnvelope[str], session: Session) -> None: ...


def projections(engine: Engine, session: Session, registry: EventRegistry) -> None:
    store = SqlAlchemyEventStore(session, registry, projections=[Orders()])
    with live(Orders(), store, stream_id="s", as_of=7) as view:
        assert_type(view, Session)
    spec = subscription_of(Orders(), registry, schema="es", batch_size=10, on_failure=PARK)
    assert_type(spec, Subscription)
    SubscriptionRunner(engine, [spec], registry=registry)
    rebuild(engine, Orders(), registry, timeout_seconds=60)
    assert_type(begin_rebuild(session, Orders(), registry), bool)
    switch_version(session, "orders", 2, timeout_seconds=1)
    assert_type(discard_version(session, "orders", 1), bool)
    make_inline(session, Orders(), registry)
    make_asynchronous(session, Orders(), registry, schema="es")
    assert_type(projection_versions(session, "orders"), list[ProjectionVersion])
    assert_type(wait_for_projection(engine, "orders", 7, 0.5), bool)
    with fold(Orders(), store.read_stream("s"), session) as folded:
        assert_type(folded, Session)


async def async_projections(
    engine: AsyncEngine, session: AsyncSession, registry: EventRegistry
) -> None:
    await rebuild_async(engine, Orders(), registry)
    assert_type(await wait_for_projection_async(engine, "orders", 7, 0.5), bool)
    await session.run_sync(switch_version, "orders", 2)
    store = AsyncSqlAlchemyEventStore(session, registry, projections=[Orders()])
    async with live_async(Orders(), store) as view:
        assert_type(view, AsyncSession)
    assert_type(async_subscription_of(Orders(), registry), Subscription)
