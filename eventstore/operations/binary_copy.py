"""COPY of rows into ``events``, in PostgreSQL's binary format.

The rows are put together here, not by psycopg's row writer: a payload is JSON in bytes already, and
would have to be wrapped for it, one object an event. Each field is its length and its bytes; all
integers are big-endian (PostgreSQL manual, COPY, "Binary Format"). A ``jsonb`` is a version number,
1, and the text of its JSON; a ``timestamptz`` counts microseconds from the year 2000 in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from eventstore.models import events_table
from eventstore.operations.driver_copy import driver_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from eventstore.batches import EncodedEvent

#: In the order in which :func:`pack_row` writes them; the database fills in the others.
_COLUMNS: Final = (
    events_table.c.event_id,
    events_table.c.event_version,
    events_table.c.occurred_at,
    events_table.c.stream_id,
    events_table.c.aggregate_id,
    events_table.c.aggregate_type,
    events_table.c.event_type,
    events_table.c.event_data,
    events_table.c.metadata,
)
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_TRAILER: Final = b"\xff\xff"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
# So many that a call costs little beside its rows, so few that the server has work all the time.
_ROWS_A_WRITE: Final = 100

# The number of fields, then those whose length is known, each behind its length.
_pack_fixed: Final = Struct("!h i16s iq iq").pack
_pack_length: Final = Struct("!i").pack
_pack_jsonb: Final = Struct("!ib").pack


def pack_row(stream_id: str, version: int, event: EncodedEvent) -> bytes:
    """Return the row of an event that gets this version in its stream."""
    since = event.occurred_at - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return b"".join(
        (
            _pack_fixed(len(_COLUMNS), 16, event.event_id.bytes, 8, version, 8, microseconds),
            _field(stream_id),
            _field(event.aggregate_id),
            _field(event.aggregate_type),
            _field(event.event_type),
            _pack_jsonb(len(event.event_data) + 1, 1),
            event.event_data,
            _pack_jsonb(len(event.metadata) + 1, 1),
            event.metadata,
        )
    )


@lru_cache(maxsize=4096)
def _field(text: str) -> bytes:
    """Return a text with its length; those of one event are often those of the one before."""
    encoded = text.encode()
    return _pack_length(len(encoded)) + encoded


def copy_events(connection: Connection, rows: Iterator[bytes], *, schema: str | None) -> int:
    """Write ``rows``, made by :func:`pack_row`, in their order; ``use_utf8`` comes before it.

    Returns how many bytes they were.

    Raises the typed error where PostgreSQL's has one, else SQLAlchemy's, as any other statement.
    """
    driver: Any = connection.connection.driver_connection
    statement = _statement(connection, schema)
    size = 0
    with (
        driver_errors(connection, statement),
        driver.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        copy.write(_HEADER)
        while chunk := b"".join(islice(rows, _ROWS_A_WRITE)):
            copy.write(chunk)
            size += len(chunk)
        copy.write(_TRAILER)
    return size


def _statement(connection: Connection, schema: str | None) -> str:
    preparer = connection.dialect.identifier_preparer
    table = preparer.quote(events_table.name)
    if schema is not None:
        table = f"{preparer.quote_schema(schema)}.{table}"
    columns = ", ".join(map(preparer.format_column, _COLUMNS))
    statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"
    # Without parameters, psycopg sends it as it is; SQLAlchemy has doubled the % of quoted names.
    return statement.replace("%%", "%")
