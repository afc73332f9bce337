"""Our store with a registry and all defaults, in a session for each operation from one engine.

    python -m benchmarks.ours autocommit | transaction | async
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.events import EVENT_METADATA, PAYLOAD, InvoiceIssued, registry
from benchmarks.payload import AGGREGATE_TYPE
from benchmarks.pooling import MAX_CONNECTIONS
from benchmarks.tables import EventStoreTables, sqlalchemy_url
from benchmarks.worker import Client, Unsupported, serve
from eventstore import (
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    EventEnvelope,
    SqlAlchemyEventStore,
    async_event_store,
    event_store,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager


def new_events(count: int) -> list[EventEnvelope[InvoiceIssued]]:
    return [
        EventEnvelope(aggregate_type=AGGREGATE_TYPE, event_data=PAYLOAD, metadata=EVENT_METADATA)
        for _ in range(count)
    ]


class OurClient(Client):
    """A session for each operation, as an application has one for each request."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def _store(self) -> AbstractContextManager[SqlAlchemyEventStore]:
        return event_store(self._sessions, registry)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        with self._store() as store:
            store.append_to_stream(stream_id, version, new_events(count))

    async def read_stream(self, stream_id: str) -> int:
        with self._store() as store:
            return len(list(store.read_stream(stream_id)))

    async def read_feed(self, count: int) -> int:
        with self._store() as store:
            return sum(1 for _ in store.read_all_forward(max_count=count))

    # The two of S1 and S2: to be written as soon as the store has subscriptions.
    def subscribe(self, handle: Callable[[str], None]) -> AbstractContextManager[object]:
        raise Unsupported("no subscriptions yet")

    async def project(self, count: int) -> int:
        raise Unsupported("no subscriptions yet")


class AsyncOurClient(Client):
    """As `OurClient`, with asynchronous sessions."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    def _store(self) -> AbstractAsyncContextManager[AsyncSqlAlchemyEventStore]:
        return async_event_store(self._sessions, registry)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        async with self._store() as store:
            await store.append_to_stream(stream_id, version, new_events(count))

    async def read_stream(self, stream_id: str) -> int:
        async with self._store() as store:
            return len([event async for event in store.read_stream(stream_id)])

    async def read_feed(self, count: int) -> int:
        done = 0
        async with self._store() as store:
            async for _ in store.read_all_forward(max_count=count):
                done += 1
        return done


class OurStore(EventStoreTables):
    """Threads, and one engine for all, as an application has it."""

    conflict = ConcurrencyConflict
    distributions = ("sqlalchemy-eventstore", "SQLAlchemy", "psycopg", "psycopg-binary", "pydantic")

    def __init__(self, *, autocommit: bool = True) -> None:
        self._autocommit = autocommit

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_engine(
            sqlalchemy_url(url), **engine_options(writers, autocommit=self._autocommit)
        )
        try:
            yield [OurClient(sessionmaker(engine))] * writers
        finally:
            engine.dispose()


class AsyncOurStore(EventStoreTables):
    """Tasks, and one engine for all, on psycopg."""

    blocking = False
    conflict = ConcurrencyConflict
    distributions = OurStore.distributions

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_async_engine(
            sqlalchemy_url(url), **engine_options(writers, autocommit=True)
        )
        try:
            yield [AsyncOurClient(async_sessionmaker(engine))] * writers
        finally:
            await engine.dispose()


def engine_options(writers: int, *, autocommit: bool) -> dict[str, Any]:
    """Return as many connections as raw has, and its way to commit."""
    isolation_level = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    return {"pool_size": min(writers, MAX_CONNECTIONS), "max_overflow": 0, **isolation_level}


def main(kind: str) -> None:
    match kind:
        case "autocommit":
            serve(OurStore())
        case "transaction":
            serve(OurStore(autocommit=False))
        case "async":
            serve(AsyncOurStore())
        case _:
            raise Unsupported(f"there is no contender of ours {kind!r}")


if __name__ == "__main__":
    main(sys.argv[1])
