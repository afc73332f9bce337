"""eventsource-py on PostgreSQL, by asynchronous SQLAlchemy on asyncpg.

Events are pydantic models, validated when they are read. Of the four ids three have fields of
their own there; the fourth is in its metadata. Streams are UUIDs.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import date  # noqa: TC003 - pydantic reads it
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_URL, uuid5

import asyncpg
import eventsource
from eventsource import DomainEvent, OptimisticLockError, register_event
from eventsource.adapters.postgresql.store import PostgreSQLEventStore
from eventsource.adapters.sql.schemas import get_schema
from eventsource.domain import StreamId
from eventsource.ports import ExpectedVersion, FeedReadOptions
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.contents import AGGREGATE_TYPE, DATA, new_metadata
from benchmarks.worker import MAX_CONNECTIONS, Client, Store, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_PAGE: Final = 1_000
#: A column that its store writes, in a file beside its schema.
_ADDITIONAL: Final = Path("adapters/sql/schemas/additive/events_txid.sql")


class Line(BaseModel):
    article: str
    quantity: int
    cents: int


@register_event
class InvoiceIssued(DomainEvent):
    aggregate_type: str = AGGREGATE_TYPE
    invoice_id: str
    customer_id: str
    due: date
    currency: str
    lines: list[Line]
    total_cents: int
    note: str


_VALUES: Final[dict[str, Any]] = {
    **DATA,
    "lines": [Line.model_validate(line) for line in DATA["lines"]],
}


def _stream(stream_id: str) -> StreamId:
    return StreamId(uuid5(NAMESPACE_URL, stream_id), AGGREGATE_TYPE)


class EventsourceClient(Client):
    """One for all writers: its engine has a pool."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def append(self, stream_id: str, version: int, count: int) -> None:
        aggregate_id = uuid5(NAMESPACE_URL, stream_id)
        events = []
        for number in range(version + 1, version + count + 1):
            metadata = new_metadata()
            events.append(
                InvoiceIssued(
                    aggregate_id=aggregate_id,
                    aggregate_version=number,
                    correlation_id=metadata["correlation_id"],
                    causation_id=metadata["causation_id"],
                    actor_id=metadata["user_id"],
                    metadata={"source_service": metadata["source_service"]},
                    **_VALUES,
                )
            )
        expected = ExpectedVersion.exact(version)
        await self._store.append(StreamId(aggregate_id, AGGREGATE_TYPE), events, expected)

    async def read_stream(self, stream_id: str) -> int:
        return len([event async for event in self._store.read_stream(_stream(stream_id))])

    async def read_feed(self, count: int) -> int:
        done, position = 0, None
        while done < count:
            options = FeedReadOptions(limit=min(_PAGE, count - done))
            page = 0
            async for event in self._store.read_all(position, options):
                position = event.position
                page += 1
            if not page:
                break
            done += page
        return done


class EventsourceStore(Store):
    """Tasks that share an engine."""

    blocking = False
    conflict = OptimisticLockError
    distributions = ("eventsource-py", "SQLAlchemy", "asyncpg", "pydantic")

    async def set_up(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        additional = Path(eventsource.__file__).parent / _ADDITIONAL
        try:
            await connection.execute(get_schema("events"))
            await connection.execute(additional.read_text())
        finally:
            await connection.close()

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        engine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=min(writers, MAX_CONNECTIONS),
        )
        try:
            yield [EventsourceClient(PostgreSQLEventStore(engine))] * writers
        finally:
            await engine.dispose()


if __name__ == "__main__":
    serve(EventsourceStore())
