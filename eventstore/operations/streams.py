"""What is known of a stream besides its events."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, String, select

from eventstore.models import streams_table
from eventstore.operations.statements import parameter, run
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.streams import StreamInfo, check_stream_id

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def get_stream_info(session: Session, stream_id: str, *, schema: str | None) -> StreamInfo | None:
    """Return the stream's version and times, None if it never had an event."""
    check_stream_id(stream_id)
    connection = connection_of(session)
    values = {"stream_id": stream_id}
    rows = run(connection, _stream_info(), values, schema=schema_of(connection, schema))
    row = rows.one_or_none()
    if row is None:
        return None
    return StreamInfo(
        stream_id=stream_id,
        version=row.version,
        created_at=zoned(row.created_at),
        updated_at=zoned(row.updated_at),
        deleted_at=zoned(row.deleted_at),
    )


@cache
def _stream_info() -> Select[Any]:
    # A row at version 0 only serves as a lock: see operations.append.
    return select(
        streams_table.c.version,
        in_utc(streams_table.c.created_at),
        in_utc(streams_table.c.updated_at),
        in_utc(streams_table.c.deleted_at),
    ).where(
        streams_table.c.stream_id == parameter("stream_id", String),
        streams_table.c.version > 0,
    )
