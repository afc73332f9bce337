"""logicblocks-event-store on PostgreSQL, by psycopg's asynchronous pool.

Appends are serialised by stream, its quicker guarantee: the default locks the whole log. It ships
no DDL: the table follows its column list, with the indexes that its queries need. Events have no
metadata there, so the four ids are a part of the payload. Reads stop at dicts.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
from logicblocks.event.store import EventStore, conditions
from logicblocks.event.store.adapters.base import EventSerialisationGuarantee
from logicblocks.event.store.adapters.postgres import PostgresEventStorageAdapter
from logicblocks.event.store.adapters.postgres.adapter import QuerySettings
from logicblocks.event.store.exceptions import UnmetWriteConditionError
from logicblocks.event.types import NewEvent
from psycopg_pool import AsyncConnectionPool

from benchmarks.contents import CATEGORY, DATA, EVENT_TYPE, new_metadata
from benchmarks.worker import MAX_CONNECTIONS, Client, Store, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_TABLES: Final = """
CREATE TABLE events (
    sequence_number bigserial PRIMARY KEY,
    id text NOT NULL UNIQUE,
    name text NOT NULL,
    stream text NOT NULL,
    category text NOT NULL,
    position bigint NOT NULL,
    payload jsonb NOT NULL,
    observed_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    UNIQUE (category, stream, position)
);
CREATE INDEX ON events (category, stream, sequence_number)
"""
_PAGE: Final = 1_000


class LogicblocksClient(Client):
    """One for all writers: it has a pool."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def _stream(self, stream_id: str) -> Any:
        return self._store.stream(category=CATEGORY, stream=stream_id)

    async def append(self, stream_id: str, version: int, count: int) -> None:
        # Its positions begin at 0.
        expected = conditions.position_is(version - 1) if version else conditions.stream_is_empty()
        events = [
            NewEvent(name=EVENT_TYPE, payload={**DATA, "metadata": new_metadata()})
            for _ in range(count)
        ]
        await self._stream(stream_id).publish(events=events, condition=expected)

    async def read_stream(self, stream_id: str) -> int:
        return len([event async for event in self._stream(stream_id).iterate()])

    async def read_feed(self, count: int) -> int:
        done = 0
        async for _ in self._store.log().iterate():
            done += 1
            if done == count:
                break
        return done


class LogicblocksStore(Store):
    """Tasks that share a pool."""

    blocking = False
    conflict = UnmetWriteConditionError
    distributions = ("logicblocks-event-store", "psycopg", "psycopg-binary", "psycopg-pool")

    async def set_up(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_TABLES)

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        size = min(writers, MAX_CONNECTIONS)
        # Its default logs every call; that is off, in its favour.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        async with AsyncConnectionPool(url, min_size=size, max_size=size, open=False) as pool:
            await pool.wait()
            adapter = PostgresEventStorageAdapter(
                connection_source=pool,
                serialisation_guarantee=EventSerialisationGuarantee.STREAM,
                query_settings=QuerySettings(scan_query_page_size=_PAGE),
            )
            yield [LogicblocksClient(EventStore(adapter))] * writers


if __name__ == "__main__":
    serve(LogicblocksStore())
