"""Who is measured: SQL written by hand on psycopg, the limit, and our store, on the same tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

import psycopg
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from benchmarks.events import (
    AGGREGATE_TYPE,
    EVENT_METADATA,
    EVENT_TYPE,
    METADATA,
    InvoiceIssued,
    Metadata,
    registry,
)
from eventstore import NO_STREAM, EventEnvelope, SqlAlchemyEventStore, event_store

if TYPE_CHECKING:
    from uuid import UUID


class Mode(StrEnum):
    """What commits: each statement by itself, or BEGIN and COMMIT around it."""

    AUTOCOMMIT = "autocommit"
    TRANSACTION = "transaction"


class Client(Protocol):
    """A contender as one thread sees it."""

    def append(self, stream_id: str, payloads: Sequence[InvoiceIssued]) -> None:
        """Write a new stream, and commit it."""

    def read_stream(self, stream_id: str) -> int:
        """Hold all events of the stream as typed objects, and return how many they are."""

    def read_feed(self) -> int:
        """Pass all events there are as typed objects, and return how many they were."""


#: Opens as many clients as there are threads.
Contender: TypeAlias = Callable[[URL, Mode, int], AbstractContextManager[Sequence[Client]]]

# The least an event store must do: move the stream's row if it is at the expected version, insert
# the events with the versions that follow, and tell their positions.
_MOVE_STREAM: Final = """
WITH stream AS (
    INSERT INTO streams AS s (stream_id, version) VALUES (%(stream)s, %(count)s)
    ON CONFLICT (stream_id) DO UPDATE SET version = s.version + %(count)s, updated_at = now()
    WHERE s.version = %(expected)s
    RETURNING version
)
INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type, event_data,
    event_version, occurred_at, metadata)
"""
_APPEND_ONE: Final = f"""{_MOVE_STREAM}
SELECT %(id)s, %(stream)s, %(stream)s, %(aggregate_type)s, %(event_type)s, %(data)s::jsonb,
    version, %(at)s, %(metadata)s::jsonb
FROM stream
RETURNING sequence_number
"""
_APPEND_MANY: Final = f"""{_MOVE_STREAM}
SELECT id, %(stream)s, %(stream)s, %(aggregate_type)s, type, data::jsonb,
    %(expected)s + ordinal, at, metadata::jsonb
FROM stream,
    unnest(%(ids)s::uuid[], %(event_types)s::text[], %(data)s::text[],
        %(at)s::timestamptz[], %(metadata)s::text[])
    WITH ORDINALITY AS event (id, type, data, at, metadata, ordinal)
RETURNING sequence_number
"""
# JSON as text: pydantic decodes it, and psycopg must not do so before.
_COLUMNS: Final = """event_id, stream_id, event_type, event_data::text, event_version,
    sequence_number, occurred_at, metadata::text"""
_READ_STREAM: Final = f"SELECT {_COLUMNS} FROM events WHERE stream_id = %s ORDER BY event_version"
_READ_PAGE: Final = f"""
SELECT {_COLUMNS} FROM events WHERE sequence_number > %s ORDER BY sequence_number LIMIT 1000
"""


class Recorded(NamedTuple):
    event_id: UUID
    stream_id: str
    event_type: str
    data: InvoiceIssued
    version: int
    position: int
    occurred_at: datetime
    metadata: Metadata


class RawClient:
    """One connection, one prepared statement for each operation."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def append(self, stream_id: str, payloads: Sequence[InvoiceIssued]) -> None:
        count = len(payloads)
        common = {
            "stream": stream_id,
            "count": count,
            "expected": 0,
            "aggregate_type": AGGREGATE_TYPE,
        }
        if count == 1:
            statement = _APPEND_ONE
            values = {
                "id": uuid7(),
                "event_type": EVENT_TYPE,
                "data": payloads[0].model_dump_json(),
                "at": datetime.now(UTC),
                "metadata": METADATA.model_dump_json(),
            }
        else:
            statement = _APPEND_MANY
            values = {
                "ids": [uuid7() for _ in payloads],
                "event_types": [EVENT_TYPE] * count,
                "data": [payload.model_dump_json() for payload in payloads],
                "at": [datetime.now(UTC) for _ in payloads],
                "metadata": [METADATA.model_dump_json() for _ in payloads],
            }
        positions = self._connection.execute(statement, common | values).fetchall()
        if not self._connection.autocommit:
            self._connection.commit()
        if len(positions) != count:
            raise AssertionError(f"{len(positions)} of {count} events were written")

    def read_stream(self, stream_id: str) -> int:
        return len(_decode(self._connection.execute(_READ_STREAM, (stream_id,)).fetchall()))

    def read_feed(self) -> int:
        count = position = 0
        while page := _decode(self._connection.execute(_READ_PAGE, (position,)).fetchall()):
            position = page[-1].position
            count += len(page)
        return count


def _decode(rows: list[tuple[Any, ...]]) -> list[Recorded]:
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


class OurClient:
    """A session for each operation, as an application has one for each request."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def _store(self) -> AbstractContextManager[SqlAlchemyEventStore]:
        return event_store(self._sessions, registry)

    def append(self, stream_id: str, payloads: Sequence[InvoiceIssued]) -> None:
        with self._store() as store:
            store.append_to_stream(
                stream_id,
                NO_STREAM,
                [
                    EventEnvelope(
                        aggregate_type=AGGREGATE_TYPE, event_data=payload, metadata=EVENT_METADATA
                    )
                    for payload in payloads
                ],
            )

    def read_stream(self, stream_id: str) -> int:
        with self._store() as store:
            return len(list(store.read_stream(stream_id)))

    def read_feed(self) -> int:
        with self._store() as store:
            return sum(1 for _ in store.read_all_forward())


def conninfo(url: URL) -> str:
    """Return the address for libpq."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def raw(url: URL, mode: Mode, threads: int) -> Iterator[Sequence[Client]]:
    def connect() -> psycopg.Connection:
        # From the first call on, each statement is prepared.
        return psycopg.connect(
            conninfo(url), autocommit=mode is Mode.AUTOCOMMIT, prepare_threshold=0
        )

    with ExitStack() as stack:
        yield [RawClient(stack.enter_context(connect())) for _ in range(threads)]


@contextmanager
def ours(url: URL, mode: Mode, threads: int) -> Iterator[Sequence[Client]]:
    """One engine for all threads, as an application has it."""
    engine = create_engine(
        url,
        pool_size=threads,
        **({"isolation_level": "AUTOCOMMIT"} if mode is Mode.AUTOCOMMIT else {}),
    )
    client = OurClient(sessionmaker(engine))
    try:
        yield [client] * threads
    finally:
        engine.dispose()
