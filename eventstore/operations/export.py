"""Export the feed by COPY: the server writes the lines, and Python passes the bytes on."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, Select, cast, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from eventstore.models import events_table
from eventstore.operations.driver_copy import driver_errors, use_utf8
from eventstore.operations.read import filter_conditions, filter_values
from eventstore.operations.statements import parameter, text_of
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.payloads import TAGS_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.reading import EventFilter

# One column, and neither a quote nor a delimiter that occurs in JSON: each line is the JSON itself,
# while COPY's own text format would double its backslashes.
_FORMAT: Final = r"(FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02', ENCODING 'UTF8')"


def export_range(
    session: Session,
    write: Callable[[bytes], object],
    after: int,
    until: int,
    filters: EventFilter | None,
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> None:
    """Give ``write`` the events behind ``after`` up to ``until``, one JSON object a line."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    use_utf8(connection)
    given = filter_values(filters, codec)
    query = text_of(connection, _lines(tuple(given)), schema=schema)
    statement = f"COPY ({query}) TO STDOUT {_FORMAT}"
    values = {"after": after, "until": until, **given}
    driver: Any = connection.connection.driver_connection
    with (
        driver_errors(connection, statement),
        driver.cursor() as cursor,
        # psycopg puts the values in, quoted: COPY takes no parameters.
        cursor.copy(statement, values) as copy,
    ):
        for block in copy:
            write(bytes(block))  # psycopg gives a view


@cache
def _lines(given: tuple[str, ...]) -> Select[Any]:
    """The fields of an envelope under their names, in the order of the feed."""
    position = events_table.c.sequence_number
    conditions = filter_conditions()
    metadata, key = events_table.c.metadata, literal(TAGS_KEY)
    event = (
        select(
            events_table.c.event_id,
            events_table.c.stream_id,
            events_table.c.aggregate_id,
            events_table.c.aggregate_type,
            events_table.c.event_type,
            events_table.c.event_data,
            events_table.c.event_version,
            position,
            events_table.c.occurred_at,
            (metadata.op("-")(key)).label("metadata"),
            func.coalesce(metadata.op("->")(key), cast(literal("[]"), JSONB)).label("tags"),
        )
        .where(
            position > parameter("after", BigInteger),
            position <= parameter("until", BigInteger),
            *(conditions[name] for name in given),
        )
        .order_by(position)
        .subquery("event")
    )
    return select(func.row_to_json(event.table_valued()))
