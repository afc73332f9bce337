"""eventsourcing (pyeventsourcing) on PostgreSQL, and its extension for SQLAlchemy.

Its event store is driven as its `Repository` does it: domain events are mapped by the JSON
transcoder, recorded by the application recorder, and come back as its own immutable objects, which
it does not validate. Streams are ids of any text. Events have no metadata there, so the four ids
are a field of the event.

    python -m benchmarks.peers.pyeventsourcing plain | function | sqlalchemy

`function` inserts by a function in the database (POSTGRES_ENABLE_DB_FUNCTIONS), its quickest way.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from eventsourcing.domain import DomainEvent, datetime_now_with_tzinfo
from eventsourcing.persistence import (
    DatetimeAsISO,
    InfrastructureFactory,
    IntegrityError,
    JSONTranscoder,
    Tracking,
    UUIDAsHex,
)
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.utils import Environment
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from benchmarks.contents import BULK, CATEGORY, DATA, new_metadata
from benchmarks.worker import MAX_CONNECTIONS, Client, Store, Unsupported, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

_PAGE = 1_000
#: Of its own way to insert, which is a pipeline: psycopg's `Pipeline.sync` waits for ever where it
#: has more to send than the socket's buffer takes, some 600 events on a Unix socket.
_MAX_PIPELINED = 400
#: Whose events a view tracks.
_APPLICATION = "bench"


class InvoiceIssued(DomainEvent):
    originator_id: str
    invoice_id: str
    customer_id: str
    due: str
    currency: str
    lines: list[dict[str, Any]]
    total_cents: int
    note: str
    metadata: dict[str, str]

    def __post_init__(self) -> None:
        """Accept ids of any text; its own check wants UUIDs."""


class InvoiceIssuedByUuid(InvoiceIssued):
    """The extension for SQLAlchemy knows ids of the type UUID alone."""

    originator_id: UUID  # type: ignore[assignment]


class EventsourcingClient(Client):
    """One for all writers: it has a pool."""

    event: ClassVar[type[InvoiceIssued]] = InvoiceIssued

    def __init__(self, factory: Any, largest: int) -> None:
        self._factory = factory
        self._largest = largest  #: events of an append
        transcoder = JSONTranscoder()
        transcoder.register(DatetimeAsISO())
        transcoder.register(UUIDAsHex())
        self._mapper = factory.mapper(transcoder=transcoder)
        self._recorder = factory.application_recorder()
        self._events = factory.event_store(mapper=self._mapper, recorder=self._recorder)

    def _id(self, stream_id: str) -> object:
        return stream_id

    def _stream_id(self, originator_id: object) -> str:
        return str(originator_id)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        for first in range(version, version + count, self._largest):
            self._append(stream_id, first, min(self._largest, version + count - first))

    def _append(self, stream_id: str, version: int, count: int) -> None:
        originator_id = self._id(stream_id)
        self._events.put(
            [
                self.event(
                    originator_id=originator_id,
                    originator_version=number,
                    timestamp=datetime_now_with_tzinfo(),
                    metadata=new_metadata(),
                    **DATA,
                )
                for number in range(version + 1, version + count + 1)
            ]
        )

    async def read_stream(self, stream_id: str) -> int:
        return len(list(self._events.get(self._id(stream_id))))

    async def read_feed(self, count: int) -> int:
        done, position = 0, None
        while done < count:
            page = self._recorder.select_notifications(
                start=position,
                limit=min(_PAGE, count - done),
                inclusive_of_start=position is None,
            )
            if not page:
                break
            for notification in page:
                self._mapper.to_domain_event(notification)
            position = page[-1].id
            done += len(page)
        return done

    @asynccontextmanager
    async def subscribe(self, handle: Callable[[str], None]) -> AsyncIterator[None]:
        subscription = self._recorder.subscribe(gt=self._recorder.max_notification_id())

        def follow() -> None:
            for notification in subscription:
                event = self._mapper.to_domain_event(notification)
                handle(self._stream_id(event.originator_id))

        with subscription:
            thread = Thread(target=follow)
            thread.start()
            try:
                yield
            finally:
                subscription.stop()
                thread.join()

    @asynccontextmanager
    async def project(self, count: int, batch: int) -> AsyncIterator[int]:
        """As its `ProjectionRunner` does, with the subscription that reads ahead in a thread."""
        if batch != 1:
            raise Unsupported("its projections commit each event by itself")
        view = CustomerCounts(self._factory.datastore, tracking_table_name=f"t{uuid4().hex}")
        view.create_table()
        done = 0
        with self._recorder.subscribe(gt=view.max_tracking_id(_APPLICATION)) as subscription:
            for notification in subscription:
                event = self._mapper.to_domain_event(notification)
                view.count_event(event.customer_id, Tracking(_APPLICATION, notification.id))
                done += 1
                if done == count:
                    break
        try:
            yield done
        finally:
            view.drop_tables()


class CustomerCounts(PostgresTrackingRecorder):
    """A view in the tables of a tracking recorder: its way to one transaction for both."""

    def __init__(self, datastore: Any, *, tracking_table_name: str) -> None:
        super().__init__(datastore, tracking_table_name=tracking_table_name)
        self._view = SQL("{}.{}").format(
            Identifier(datastore.schema), Identifier(f"{tracking_table_name}_view")
        )
        self._tracking = SQL("{}.{}").format(
            Identifier(datastore.schema), Identifier(tracking_table_name)
        )
        self.sql_create_statements.append(
            SQL("CREATE TABLE {} (customer_id text PRIMARY KEY, events bigint)").format(self._view)
        )
        self._count = SQL(
            "INSERT INTO {} AS v VALUES (%s, 1)"
            " ON CONFLICT (customer_id) DO UPDATE SET events = v.events + 1"
        ).format(self._view)

    def count_event(self, customer_id: str, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(self._count, (customer_id,), prepare=True)
            self._insert_tracking(cursor, tracking)

    def drop_tables(self) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(SQL("DROP TABLE {}, {}").format(self._view, self._tracking))


class ByUuidClient(EventsourcingClient):
    event = InvoiceIssuedByUuid

    def project(self, count: int, batch: int) -> Any:
        raise Unsupported("its projections are not driven here")

    def _id(self, stream_id: str) -> UUID:
        _, _, name = stream_id.partition("-")
        try:
            return UUID(name)  # as new streams have
        except ValueError:
            return uuid5(NAMESPACE_URL, stream_id)

    def _stream_id(self, originator_id: object) -> str:
        return f"{CATEGORY}-{originator_id}"


class EventsourcingStore(Store):
    """eventsourcing's own module for PostgreSQL, on psycopg."""

    conflict = IntegrityError
    distributions: ClassVar[Sequence[str]] = ("eventsourcing", "psycopg", "psycopg-binary")
    client: ClassVar[type[EventsourcingClient]] = EventsourcingClient

    def __init__(self, *, function: bool = False, largest: int = BULK) -> None:
        self._function = function
        self._largest = largest

    def _environment(self, url: str, connections: int) -> dict[str, str]:
        server = conninfo_to_dict(url)
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "ORIGINATOR_ID_TYPE": "text",
            "POSTGRES_DBNAME": str(server["dbname"]),
            "POSTGRES_HOST": str(server["host"]),
            "POSTGRES_PORT": str(server.get("port", 5432)),
            "POSTGRES_USER": str(server["user"]),
            # Needed even where the server trusts.
            "POSTGRES_PASSWORD": str(server.get("password") or "none"),
            "POSTGRES_POOL_SIZE": str(connections),
            "POSTGRES_MAX_OVERFLOW": "2",  # a subscription's connection
            "POSTGRES_ENABLE_DB_FUNCTIONS": "yes" if self._function else "no",
        }

    async def set_up(self, url: str) -> None:
        with self._factory(url, 1, CREATE_TABLE="yes") as factory:
            factory.application_recorder()

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        # They are made: processes that do so at the same time fail now and then.
        connections = min(writers, MAX_CONNECTIONS)
        with self._factory(url, connections, CREATE_TABLE="no") as factory:
            yield [self.client(factory, self._largest)] * writers

    @contextmanager
    def _factory(self, url: str, connections: int, **more: str) -> Iterator[Any]:
        environment = self._environment(url, connections) | more
        factory: Any = InfrastructureFactory.construct(Environment("Bench", environment))
        try:
            yield factory
        finally:
            factory.close()


class SqlalchemyStore(EventsourcingStore):
    """Its extension, on SQLAlchemy's ORM."""

    distributions = (
        "eventsourcing",
        "eventsourcing-sqlalchemy",
        "SQLAlchemy",
        "psycopg",
        "psycopg-binary",
    )
    client = ByUuidClient

    def _environment(self, url: str, connections: int) -> dict[str, str]:
        return {
            "PERSISTENCE_MODULE": "eventsourcing_sqlalchemy",
            # Its pool can't be configured: SQLAlchemy's default, 15 connections.
            "SQLALCHEMY_URL": url.replace("postgresql://", "postgresql+psycopg://", 1),
        }


_STORES: dict[str, Callable[[], Store]] = {
    "plain": lambda: EventsourcingStore(largest=_MAX_PIPELINED),
    "function": lambda: EventsourcingStore(function=True),
    "sqlalchemy": SqlalchemyStore,
}

if __name__ == "__main__":
    # Topics are looked up by module and name, and `__main__` is not where they are.
    for _event in (InvoiceIssued, InvoiceIssuedByUuid):
        _event.__module__ = "benchmarks.peers.pyeventsourcing"
    serve(_STORES[sys.argv[1]]())
