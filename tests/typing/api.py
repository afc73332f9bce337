"""Never run: mypy reads it to pin the types of the public face.

What is accepted must stay accepted, and what is revealed here is what users' editors show.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import eventstore
from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AppendResult,
    AsyncEventStore,
    AsyncInMemoryEventStore,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    EventEnvelope,
    EventFilter,
    EventMetadata,
    EventRegistry,
    EventStore,
    ImportProgress,
    InMemoryEventStore,
    ReadOptions,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
    StreamInfo,
)

registry = EventRegistry()


@registry.register("order-placed")
class OrderPlaced(BaseModel):
    order_id: str


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


def facts_of_an_error(error: ConcurrencyConflict) -> None:
    assert_type(error.actual, int)
    assert_type(error.stream_id, str)


def mistakes(store: SqlAlchemyEventStore) -> None:
    store.append_to_stream("s", "0", [envelope])  # type: ignore[arg-type]
    store.append_to_stream("s", 0, envelope)  # type: ignore[arg-type]
    store.append_to_stream("s", 0, [OrderPlaced(order_id="1")])  # type: ignore[list-item]
    store.append(StreamAppend("s", 0, [envelope]), required=[])  # type: ignore[call-arg]
