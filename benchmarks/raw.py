"""SQL written by hand on psycopg: the limit of what Python can do, on the tables of our store.

An append is one round trip: it checks the expected version, and nothing else. There is no fence,
no idempotency, and no answer to the question why an append failed.

    python -m benchmarks.raw autocommit | transaction | async | copy | bytes
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql
from uuid_utils.compat import uuid7

from benchmarks.contents import AGGREGATE_TYPE, BULK, EVENT_TYPE, new_metadata, new_stream_id
from benchmarks.tables import PAYLOAD, EventStoreTables, InvoiceIssued, Metadata
from benchmarks.worker import MAX_CONNECTIONS, Client, Unsupported, serve, share, share_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from uuid import UUID

PAGE: Final = 1_000

# The least an event store must do: move the stream's row if it is at the expected version, insert
# the events with the versions that follow, and tell their positions.
_MOVE_STREAM: Final = """
WITH stream AS (
    INSERT INTO streams AS s (stream_id, version) VALUES (%(stream)s, %(count)s)
    ON CONFLICT (stream_id) DO UPDATE SET version = s.version + %(count)s, updated_at = now()
    WHERE s.version = %(expected)s
    RETURNING version
)
"""
_EVENT_COLUMNS: Final = """events (event_id, stream_id, aggregate_id, aggregate_type, event_type,
    event_data, event_version, occurred_at, metadata)"""
_APPEND_ONE: Final = f"""{_MOVE_STREAM}
INSERT INTO {_EVENT_COLUMNS}
SELECT %(id)s, %(stream)s, %(stream)s, %(aggregate_type)s, %(event_type)s, %(data)s::jsonb,
    version, %(at)s, %(metadata)s::jsonb
FROM stream
RETURNING sequence_number
"""
_APPEND_MANY: Final = f"""{_MOVE_STREAM}
INSERT INTO {_EVENT_COLUMNS}
SELECT id, %(stream)s, %(stream)s, %(aggregate_type)s, type, data::jsonb,
    %(expected)s + ordinal, at, metadata::jsonb
FROM stream,
    unnest(%(ids)s::uuid[], %(event_types)s::text[], %(data)s::text[],
        %(at)s::timestamptz[], %(metadata)s::text[])
    WITH ORDINALITY AS event (id, type, data, at, metadata, ordinal)
RETURNING sequence_number
"""
_COPY_STREAMS: Final = "COPY streams (stream_id, version) FROM STDIN"
_COPY_EVENTS: Final = f"COPY {_EVENT_COLUMNS} FROM STDIN"
# JSON as text: pydantic decodes it, and psycopg must not do so before.
_COLUMNS: Final = """event_id, stream_id, event_type, event_data::text, event_version,
    sequence_number, occurred_at, metadata::text"""
_READ_STREAM: Final = f"SELECT {_COLUMNS} FROM events WHERE stream_id = %s ORDER BY event_version"
_READ_PAGE: Final = f"""
SELECT {_COLUMNS} FROM events WHERE sequence_number > %s ORDER BY sequence_number LIMIT %s
"""
_COPY_OUT: Final = f"""
COPY (SELECT {_COLUMNS} FROM events ORDER BY sequence_number LIMIT {{count}}) TO STDOUT
"""
_CHANNEL: Final = "events"


class Conflict(Exception):
    """The stream is at another version."""


class Recorded(NamedTuple):
    event_id: UUID
    stream_id: str
    event_type: str
    data: InvoiceIssued
    version: int
    position: int
    occurred_at: datetime
    metadata: Metadata


def append_statement(stream_id: str, version: int, count: int) -> tuple[str, dict[str, Any]]:
    common = {
        "stream": stream_id,
        "count": count,
        "expected": version,
        "aggregate_type": AGGREGATE_TYPE,
    }
    if count == 1:
        return _APPEND_ONE, common | {
            "id": uuid7(),
            "event_type": EVENT_TYPE,
            "data": PAYLOAD.model_dump_json(),
            "at": datetime.now(UTC),
            "metadata": Metadata(**new_metadata()).model_dump_json(),
        }
    return _APPEND_MANY, common | {
        "ids": [uuid7() for _ in range(count)],
        "event_types": [EVENT_TYPE] * count,
        "data": [PAYLOAD.model_dump_json() for _ in range(count)],
        "at": [datetime.now(UTC) for _ in range(count)],
        "metadata": [Metadata(**new_metadata()).model_dump_json() for _ in range(count)],
    }


def check_written(positions: Sequence[object], count: int) -> None:
    if not positions:
        raise Conflict
    if len(positions) != count:
        raise AssertionError(f"{len(positions)} of {count} events were written")


def decode(rows: list[tuple[Any, ...]]) -> list[Recorded]:
    decode_data, decode_metadata = InvoiceIssued.model_validate_json, Metadata.model_validate_json
    return [
        Recorded(
            event_id,
            stream_id,
            event_type,
            decode_data(data),
            version,
            position,
            occurred_at,
            decode_metadata(metadata),
        )
        for event_id, stream_id, event_type, data, version, position, occurred_at, metadata in rows
    ]


class RawClient(Client):
    """One connection, one prepared statement for each operation."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._notifies = False

    async def append(self, stream_id: str, version: int, count: int) -> None:
        if self._notifies:
            with self._connection.transaction():
                self._append(stream_id, version, count)
                self._connection.execute(f"NOTIFY {_CHANNEL}")
        else:
            self._append(stream_id, version, count)
            if not self._connection.autocommit:
                self._connection.commit()

    def _append(self, stream_id: str, version: int, count: int) -> None:
        cursor = self._connection.execute(*append_statement(stream_id, version, count))
        check_written(cursor.fetchall(), count)

    async def read_stream(self, stream_id: str) -> int:
        events = decode(self._connection.execute(_READ_STREAM, (stream_id,)).fetchall())
        if not self._connection.autocommit:
            self._connection.commit()
        return len(events)

    async def read_feed(self, count: int) -> int:
        return sum(len(page) for page in self._pages(count))

    async def read_feed_after(self, position: int, count: int) -> int:
        return sum(len(page) for page in self._pages(count, position))

    def _pages(self, count: int, position: int = 0) -> Iterator[list[Recorded]]:
        while count and (page := self._page(position, min(count, PAGE))):
            yield page
            position = page[-1].position
            count -= len(page)

    def _page(self, position: int, limit: int) -> list[Recorded]:
        return decode(self._connection.execute(_READ_PAGE, (position, limit)).fetchall())

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Notify in the transaction of each append."""
        self._notifies = True
        try:
            yield
        finally:
            self._notifies = False

    @asynccontextmanager
    async def subscribe(self, handle: Callable[[str], None]) -> AsyncIterator[None]:
        """LISTEN on a connection of its own; each append of this client notifies."""
        ended = Event()
        with psycopg.connect(
            self._connection.info.dsn,
            password=self._connection.info.password,
            autocommit=True,
            prepare_threshold=0,
        ) as connection:
            connection.execute(f"LISTEN {_CHANNEL}")
            newest = connection.execute("SELECT max(sequence_number) FROM events").fetchone()
            reader = RawClient(connection)
            position = (newest and newest[0]) or 0

            def follow() -> None:
                nonlocal position
                while not ended.is_set():
                    for _ in connection.notifies(timeout=0.1, stop_after=1):
                        pass
                    # Read in any case: what came while the last page was read wakes nobody.
                    for page in reader._pages(PAGE, position):
                        for event in page:
                            handle(event.stream_id)
                        position = page[-1].position

            thread = Thread(target=follow)
            thread.start()
            try:
                async with self.announcing():
                    yield
            finally:
                ended.set()
                thread.join()

    @asynccontextmanager
    async def project(self, count: int, batch: int) -> AsyncIterator[int]:
        connection, name = self._connection, f"view_{uuid4().hex}"
        view, checkpoint = (sql.Identifier(f"{name}{part}") for part in ("", "_checkpoint"))
        connection.execute(
            sql.SQL("CREATE TABLE {} (customer_id text PRIMARY KEY, events bigint)").format(view)
        )
        connection.execute(sql.SQL("CREATE TABLE {} (position bigint)").format(checkpoint))
        connection.execute(sql.SQL("INSERT INTO {} VALUES (0)").format(checkpoint))
        count_event = sql.SQL(
            "INSERT INTO {} AS v VALUES (%s, 1)"
            " ON CONFLICT (customer_id) DO UPDATE SET events = v.events + 1"
        ).format(view)
        move = sql.SQL("UPDATE {} SET position = %s").format(checkpoint)
        done = 0
        for page in self._pages(count):
            for first in range(0, len(page), batch):
                events = page[first : first + batch]
                with connection.transaction():
                    for event in events:
                        connection.execute(count_event, (event.data.customer_id,))
                    connection.execute(move, (events[-1].position,))
                done += len(events)
        try:
            yield done
        finally:
            connection.execute(sql.SQL("DROP TABLE {}, {}").format(view, checkpoint))


class CopyClient(RawClient):
    """Bulk by COPY, which checks nothing: the quickest way in that Python has."""

    async def bulk(self, count: int) -> None:
        streams = [new_stream_id() for _ in range(count // BULK)]
        with self._connection.transaction(), self._connection.cursor() as cursor:
            with cursor.copy(_COPY_STREAMS) as copy:
                for stream_id in streams:
                    copy.write_row((stream_id, BULK))
            with cursor.copy(_COPY_EVENTS) as copy:
                for stream_id in streams:
                    for version in range(1, BULK + 1):
                        copy.write_row(new_row(stream_id, version))


def new_row(stream_id: str, version: int) -> tuple[object, ...]:
    """Return an event's values in the order of `_EVENT_COLUMNS`."""
    return (
        uuid7(),
        stream_id,
        stream_id,
        AGGREGATE_TYPE,
        EVENT_TYPE,
        PAYLOAD.model_dump_json(),
        version,
        datetime.now(UTC),
        Metadata(**new_metadata()).model_dump_json(),
    )


class BytesClient(RawClient):
    """Reads that stop at JSON text: what decoding costs is the difference to `RawClient`."""

    async def read_stream(self, stream_id: str) -> int:
        return len(self._connection.execute(_READ_STREAM, (stream_id,)).fetchall())

    async def read_feed(self, count: int) -> int:
        statement = sql.SQL(_COPY_OUT).format(count=sql.Literal(count))
        with self._connection.cursor().copy(statement) as copy:
            return sum(1 for _ in copy)


class AsyncRawClient(Client):
    """As `RawClient`, on an asynchronous connection."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def append(self, stream_id: str, version: int, count: int) -> None:
        cursor = await self._connection.execute(*append_statement(stream_id, version, count))
        check_written(await cursor.fetchall(), count)

    async def read_stream(self, stream_id: str) -> int:
        cursor = await self._connection.execute(_READ_STREAM, (stream_id,))
        return len(decode(await cursor.fetchall()))

    async def read_feed(self, count: int) -> int:
        done = position = 0
        while done < count:
            values = (position, min(PAGE, count - done))
            cursor = await self._connection.execute(_READ_PAGE, values)
            page = decode(await cursor.fetchall())
            if not page:
                break
            position = page[-1].position
            done += len(page)
        return done


class RawStore(EventStoreTables):
    """Threads, each with a connection of its own."""

    conflict = Conflict
    distributions = ("psycopg", "psycopg-binary", "pydantic")

    def __init__(self, client: type[RawClient] = RawClient, *, autocommit: bool = True) -> None:
        self._client = client
        self._autocommit = autocommit

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        with ExitStack() as stack:
            clients = [
                self._client(
                    stack.enter_context(
                        # From the first call on, each statement is prepared.
                        psycopg.connect(url, autocommit=self._autocommit, prepare_threshold=0)
                    )
                )
                for _ in range(min(writers, MAX_CONNECTIONS))
            ]
            yield share(clients, writers)


class AsyncRawStore(EventStoreTables):
    """Tasks, each with a connection of its own."""

    blocking = False
    conflict = Conflict
    distributions = RawStore.distributions

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        async with AsyncExitStack() as stack:
            clients = [
                AsyncRawClient(
                    await stack.enter_async_context(
                        await psycopg.AsyncConnection.connect(
                            url, autocommit=True, prepare_threshold=0
                        )
                    )
                )
                for _ in range(min(writers, MAX_CONNECTIONS))
            ]
            yield share_async(clients, writers)


def main(kind: str) -> None:
    match kind:
        case "autocommit":
            serve(RawStore())
        case "transaction":
            serve(RawStore(autocommit=False))
        case "copy":
            serve(RawStore(CopyClient))
        case "bytes":
            serve(RawStore(BytesClient))
        case "async":
            serve(AsyncRawStore())
        case _:
            raise Unsupported(f"there is no raw contender {kind!r}")


if __name__ == "__main__":
    main(sys.argv[1])
