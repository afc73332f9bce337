"""Our store with a registry and all defaults, in the ways that its users have.

    python -m benchmarks.ours autocommit | transaction | held | async | bytes | copy | group |
        group-async | held-unverified | copy-unverified | group-async-unverified

By default there is a session for each operation, from one engine, as an application has one for
each request.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.contents import AGGREGATE_TYPE, BULK, new_metadata, new_stream_id
from benchmarks.our_subscriptions import AsyncSubscribingClient, SubscribingClient
from benchmarks.tables import (
    PAYLOAD,
    EventStoreTables,
    InvoiceIssued,
    registry,
    sqlalchemy_url,
    unverified,
)
from benchmarks.worker import MAX_CONNECTIONS, Client, Store, serve, share
from eventstore import (
    AggregateType,
    AsyncGroupCommitWriter,
    AsyncRepository,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    Decider,
    EventEnvelope,
    EventMetadata,
    EventRegistry,
    GroupCommitWriter,
    Repository,
    SqlAlchemyEventStore,
    async_event_store,
    event_store,
    export_events,
    import_events,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager


def new_event(stream_id: str = "") -> EventEnvelope[InvoiceIssued]:
    return EventEnvelope(
        stream_id=stream_id,  # empty: that of the append
        aggregate_type=AGGREGATE_TYPE,
        event_data=PAYLOAD,
        metadata=EventMetadata.model_validate(new_metadata()),
    )


def new_events(count: int) -> list[EventEnvelope[InvoiceIssued]]:
    return [new_event() for _ in range(count)]


def _decide(command: InvoiceIssued, state: int) -> list[InvoiceIssued]:  # noqa: ARG001
    return [command]


def _evolve(state: int, event: InvoiceIssued) -> int:  # noqa: ARG001
    return state + 1


#: Decides nothing and counts: what is measured is the store. An id is that of a stream.
INVOICES: Final = AggregateType(
    AGGREGATE_TYPE, Decider(initial=0, decide=_decide, evolve=_evolve), stream_id=str
)


class OurClient(SubscribingClient):
    """A session for each operation."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.url)
        self._sessions = sessionmaker(engine)
        self._repository = Repository(self._store, INVOICES)

    def _store(self) -> AbstractContextManager[SqlAlchemyEventStore]:
        return event_store(self._sessions, registry)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        with self._store() as store:
            store.append_to_stream(stream_id, version, new_events(count))

    async def execute(self, stream_id: str) -> None:
        self._repository.execute(stream_id, PAYLOAD)

    async def read_stream(self, stream_id: str) -> int:
        with self._store() as store:
            return len(list(store.read_stream(stream_id)))

    async def read_feed(self, count: int) -> int:
        with self._store() as store:
            return sum(1 for _ in store.read_all_forward(max_count=count))

    async def read_feed_after(self, position: int, count: int) -> int:
        with self._store() as store:
            return sum(1 for _ in store.read_all_forward(position, max_count=count))


class HeldClient(Client):
    """One session with its connection for all operations, as raw keeps a connection."""

    def __init__(self, session: Session, registry: EventRegistry) -> None:
        # Never committed: in AUTOCOMMIT each statement is, and the session keeps its connection.
        self._store = SqlAlchemyEventStore(session, registry)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        self._store.append_to_stream(stream_id, version, new_events(count))

    async def read_stream(self, stream_id: str) -> int:
        return len(list(self._store.read_stream(stream_id)))


class BytesClient(OurClient):
    """Reads that decode nothing, for relays."""

    async def read_stream(self, stream_id: str) -> int:
        with self._store() as store:
            return len(list(store.read_stream(stream_id, as_type=bytes)))

    async def read_feed(self, count: int) -> int:
        with self._store() as store:
            return sum(1 for _ in store.read_all_forward(max_count=count, as_type=bytes))


class CopyClient(Client):
    """`import_events` in, `export_events` out."""

    def __init__(self, engine: Engine, *, registry: EventRegistry = registry) -> None:
        self._engine = engine
        self._registry = registry

    async def bulk(self, count: int) -> None:
        streams = [new_stream_id() for _ in range(count // BULK)]
        events = (new_event(stream_id) for stream_id in streams for _ in range(BULK))
        import_events(self._engine, events, self._registry)

    async def read_feed(self, count: int) -> int:
        lines = _Lines()
        export_events(self._engine, lines)
        return lines.count


class _Lines:
    """Counts lines, and forgets them."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: bytes) -> None:
        self.count += data.count(b"\n")


class AsyncOurClient(AsyncSubscribingClient):
    """As `OurClient`, with asynchronous sessions."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine.url)
        self._sessions = async_sessionmaker(engine)
        self._repository = AsyncRepository(self._store, INVOICES)

    def _store(self) -> AbstractAsyncContextManager[AsyncSqlAlchemyEventStore]:
        return async_event_store(self._sessions, registry)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        async with self._store() as store:
            await store.append_to_stream(stream_id, version, new_events(count))

    async def execute(self, stream_id: str) -> None:
        await self._repository.execute(stream_id, PAYLOAD)

    async def read_stream(self, stream_id: str) -> int:
        async with self._store() as store:
            return len([event async for event in store.read_stream(stream_id)])

    async def read_feed(self, count: int) -> int:
        done = 0
        async with self._store() as store:
            async for _ in store.read_all_forward(max_count=count):
                done += 1
        return done


class GroupClient(Client):
    """Appends of all threads through one writer."""

    def __init__(self, writer: GroupCommitWriter) -> None:
        self._writer = writer

    async def append(self, stream_id: str, version: int, count: int) -> None:
        self._writer.append_to_stream(stream_id, version, new_events(count))


class AsyncGroupClient(Client):
    """Appends of all tasks through one writer."""

    def __init__(self, writer: AsyncGroupCommitWriter) -> None:
        self._writer = writer

    async def append(self, stream_id: str, version: int, count: int) -> None:
        await self._writer.append_to_stream(stream_id, version, new_events(count))


class OurStore(EventStoreTables):
    """Threads, and one engine for all, as an application has it."""

    conflict = ConcurrencyConflict
    distributions = ("sqlalchemy-eventstore", "SQLAlchemy", "psycopg", "psycopg-binary", "pydantic")

    def __init__(
        self, client: Callable[[Engine], Client] = OurClient, *, autocommit: bool = True
    ) -> None:
        self._client = client
        self._autocommit = autocommit

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_engine(
            sqlalchemy_url(url), **engine_options(writers, autocommit=self._autocommit)
        )
        try:
            yield [self._client(engine)] * writers
        finally:
            engine.dispose()


class HeldStore(OurStore):
    """Threads, each with a session of its own."""

    def __init__(self, registry: EventRegistry = registry) -> None:
        super().__init__()
        self._registry = registry

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_engine(sqlalchemy_url(url), **engine_options(writers, autocommit=True))
        with ExitStack() as stack:
            stack.callback(engine.dispose)
            sessions = [
                stack.enter_context(Session(engine)) for _ in range(min(writers, MAX_CONNECTIONS))
            ]
            clients = [HeldClient(session, self._registry) for session in sessions]
            yield share(clients, writers)


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
            yield [AsyncOurClient(engine)] * writers
        finally:
            await engine.dispose()


class GroupStore(OurStore):
    """Threads that share a `GroupCommitWriter`."""

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_engine(sqlalchemy_url(url))
        try:
            with GroupCommitWriter(engine, registry) as writer:
                yield [GroupClient(writer)] * writers
        finally:
            engine.dispose()


class AsyncGroupStore(AsyncOurStore):
    """Tasks that share an `AsyncGroupCommitWriter`."""

    def __init__(self, registry: EventRegistry = registry) -> None:
        super().__init__()
        self._registry = registry

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_async_engine(sqlalchemy_url(url))
        try:
            async with AsyncGroupCommitWriter(engine, self._registry) as writer:
                yield [AsyncGroupClient(writer)] * writers
        finally:
            await engine.dispose()


def engine_options(writers: int, *, autocommit: bool) -> dict[str, Any]:
    """Return as many connections as raw has, and its way to commit."""
    isolation_level = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    return {"pool_size": min(writers, MAX_CONNECTIONS), "max_overflow": 0, **isolation_level}


STORES: Final[dict[str, Callable[[], Store]]] = {
    "autocommit": OurStore,
    "transaction": lambda: OurStore(autocommit=False),
    "held": HeldStore,
    "async": AsyncOurStore,
    "bytes": lambda: OurStore(BytesClient),
    "copy": lambda: OurStore(CopyClient, autocommit=False),
    "group": GroupStore,
    "group-async": AsyncGroupStore,
    "held-unverified": lambda: HeldStore(unverified),
    "copy-unverified": lambda: OurStore(partial(CopyClient, registry=unverified), autocommit=False),
    "group-async-unverified": lambda: AsyncGroupStore(unverified),
}

if __name__ == "__main__":
    serve(STORES[sys.argv[1]]())
