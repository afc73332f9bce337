"""Read pages: of one stream by version, of the feed by position.

Pages are found by the last key (``WHERE version > :last ORDER BY version LIMIT :n``), so that a
page costs the same wherever it lies, and each is a value: nothing is read lazily. Payloads come as
JSON text and are decoded once, into their type.
"""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Select,
    String,
    Text,
    cast,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY

from eventstore.errors import StreamDeleted
from eventstore.models import events_table, streams_table
from eventstore.operations.fence import read_head, read_mark
from eventstore.operations.statements import fetch, parameter, run, unplanned
from eventstore.operations.subject_keys import with_keys
from eventstore.operations.timestamps import NAIVE_MIN, UTC_MIN, in_utc, zoned
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.payloads import TAGS_MARK, tags_of
from eventstore.reading import EMPTY_PAGE, Page
from eventstore.recorded import Decoder, collector_paused, recorded, undecoded_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.operations.fence import Mark
    from eventstore.reading import EventFilter, FeedCursor, StreamCursor


def read_stream_page(
    session: Session,
    stream_id: str,
    cursor: StreamCursor,
    decoder: Decoder,
    *,
    schema: str | None,
) -> Page:
    """Return the next events of a stream; raise :class:`StreamDeleted` unless that was allowed."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    rows = fetch(
        connection,
        _stream_page(backward=cursor.backward),
        {
            "stream_id": stream_id,
            "lowest": cursor.lowest,
            "highest": cursor.highest,
            "limit": cursor.limit,
        },
        schema=schema,
    )
    if not rows:
        return EMPTY_PAGE
    deleted_at = zoned(rows[0][_DELETED_AT])
    if deleted_at is not None and not cursor.include_deleted:
        raise StreamDeleted(stream_id, deleted_at)
    if rows[0][EVENT_ID] is None:
        return EMPTY_PAGE  # the stream has no event in the range, but a state
    decoder = with_keys(connection, decoder, rows, schema=schema)
    rows.sort(key=itemgetter(EVENT_VERSION))
    if not cursor.backward:
        return _page(rows, decoder, frozenset(), rows[-1][EVENT_VERSION])
    page = _page(rows, decoder, frozenset(), rows[0][EVENT_VERSION])
    return page._replace(events=page.events[::-1])  # of one that was split, the last part first


def read_feed_position(session: Session, *, schema: str | None) -> int:
    """Return the position up to which the feed can be read now."""
    return read_feed_mark(session, schema=schema).position


def read_feed_mark(session: Session, *, schema: str | None) -> Mark:
    """Return how far the feed can be read now, and its newest number."""
    connection = connection_of(session)
    return read_mark(connection, schema_of(connection, schema))


def read_newer_mark(session: Session, known: Mark, *, schema: str | None) -> Mark:
    """Return the same, by a quicker look if nothing has happened since ``known`` was read."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    # Where everything that was numbered could be read, only a new number changes anything.
    if known.position == known.head == read_head(connection, schema):
        return known
    return read_mark(connection, schema)


def read_current_position(session: Session, *, schema: str | None) -> int:
    """Return the position up to which a reader has everything that is committed by now.

    The feed may not be readable so far yet: an older transaction may still be open.
    """
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    mark = read_mark(connection, schema)
    newest: int = run(connection, _newest(), {}, schema=schema).scalar_one()
    return max(mark.position, newest)


def read_feed_page(
    session: Session,
    cursor: FeedCursor,
    filters: EventFilter | None,
    decoder: Decoder,
    *,
    schema: str | None,
) -> Page:
    """Return the next events of the feed that match, none of them behind the cursor's bound."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    values: dict[str, Any] = {
        "after": cursor.position,
        "until": cursor.until,
        "limit": cursor.limit,
    }
    codec = decoder.codec
    given = filter_values(filters, codec)
    rows = fetch(
        connection,
        _feed_page(tuple(given)),
        values | given,
        schema=schema,
    )
    if not rows:
        return EMPTY_PAGE
    wanted = codec.current_types(filters.event_types) if filters else frozenset()
    decoder = with_keys(connection, decoder, rows, schema=schema)
    return _page(rows, decoder, wanted, rows[-1][SEQUENCE_NUMBER])


def read_recorded(
    session: Session,
    positions: Sequence[int],
    filters: EventFilter,
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> list[AnyEnvelope]:
    """Return the events at these positions that match, in their order."""
    given = filter_values(filters, codec)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    values = {"positions": positions} | given
    rows = fetch(connection, _at_positions(tuple(given)), values, schema=schema)
    decoder = with_keys(connection, Decoder(None, codec), rows, schema=schema)
    return envelopes(rows, decoder, codec.current_types(filters.event_types))


def _page(rows: list[Any], decoder: Decoder, wanted: frozenset[str], last: int) -> Page:
    with collector_paused():
        return Page(envelopes(rows, decoder, wanted), len(rows), last)


def envelopes(
    rows: Iterable[Any], decoder: Decoder, wanted: frozenset[str] = frozenset()
) -> list[AnyEnvelope]:
    """Return the events of rows that begin with :func:`event_columns`.

    Of one row, none or several; none of another type than those ``wanted``, if any are named.
    """
    return [
        recorded(
            {
                # asyncpg has a class of its own.
                "event_id": event_id if type(event_id) is UUID else UUID(int=event_id.int),
                "stream_id": stream_id,
                "aggregate_id": aggregate_id,
                "aggregate_type": aggregate_type,
                "event_type": event_type,
                "event_data": payload,
                "event_version": event_version,
                "sequence_number": sequence_number,
                "occurred_at": UTC_MIN + (occurred_at - NAIVE_MIN),  # as zoned(), without the call
                "metadata": undecoded_metadata(event_type, metadata),
                "tags": tags_of(metadata) if TAGS_MARK in metadata else (),  # hardly ever a call
            }
        )
        for (
            event_id,
            stream_id,
            aggregate_id,
            aggregate_type,
            stored_type,
            event_data,
            event_version,
            sequence_number,
            occurred_at,
            stored_metadata,
            *_,
        ) in rows
        for event_type, payload, metadata in decoder.today(
            stored_type, event_data, stored_metadata, wanted
        )
    ]


# The places of columns in a row.
EVENT_ID: Final = 0
EVENT_VERSION: Final = 6
SEQUENCE_NUMBER: Final = 7
_DELETED_AT: Final = -1


def event_columns() -> list[ColumnElement[Any]]:
    """Return the columns of events as :func:`envelopes` takes them."""
    return [
        events_table.c.event_id,
        events_table.c.stream_id,
        events_table.c.aggregate_id,
        events_table.c.aggregate_type,
        events_table.c.event_type,
        cast(events_table.c.event_data, Text).label("event_data"),
        events_table.c.event_version,
        events_table.c.sequence_number,
        in_utc(events_table.c.occurred_at),
        cast(events_table.c.metadata, Text).label("metadata"),
    ]


@cache
def _stream_page(*, backward: bool) -> Select[Any]:
    """The stream's state beside a page of its events, in any order: one round trip tells both.

    The page comes in order, but PostgreSQL can't know that a join with one row keeps it, and would
    sort all texts again: a fifth of its time.
    """
    version = events_table.c.event_version
    page = (
        select(*event_columns())
        .where(
            events_table.c.stream_id == streams_table.c.stream_id,
            version.between(parameter("lowest", BigInteger), parameter("highest", BigInteger)),
        )
        .order_by(version.desc() if backward else version)
        .limit(parameter("limit", BigInteger))
        .lateral("page")
    )
    return (
        select(*page.c, in_utc(streams_table.c.deleted_at))
        .select_from(streams_table.outerjoin(page, true()))
        .where(streams_table.c.stream_id == parameter("stream_id", String))
    )


@cache
def _feed_page(given: tuple[str, ...]) -> Select[Any]:
    """A page of the feed by the primary key: no filter ever makes it sort what lies behind."""
    position = events_table.c.sequence_number
    conditions = filter_conditions()
    return (
        select(*event_columns())
        .where(
            position > unplanned("after"),
            position <= unplanned("until"),
            *(conditions[name] for name in given),
        )
        .order_by(position)
        .limit(unplanned("limit"))
    )


@cache
def _newest() -> Select[Any]:
    return select(func.coalesce(func.max(events_table.c.sequence_number), literal(0)))


@cache
def _at_positions(given: tuple[str, ...]) -> Select[Any]:
    position = events_table.c.sequence_number
    conditions = filter_conditions()
    return (
        select(*event_columns())
        .where(
            position == func.any(parameter("positions", ARRAY(BigInteger))),
            *(conditions[name] for name in given),
        )
        .order_by(position)
    )


def filter_values(filters: EventFilter | None, codec: PayloadCodec) -> dict[str, Any]:
    """Return the values of the conditions that ``filters`` sets, by the conditions' names."""
    if filters is None:
        return {}
    values = {
        "event_types": sorted(codec.stored_types(filters.event_types)),
        "aggregate_types": sorted(filters.aggregate_types),
        "stream_prefix": filters.stream_prefix,
        "correlation_id": filters.correlation_id,
    }
    return {name: value for name, value in values.items() if value}


def filter_conditions() -> dict[str, ColumnElement[bool]]:
    """Return what each part of a filter asks of an event, its value a parameter of that name."""
    return {
        "event_types": events_table.c.event_type
        == func.any(parameter("event_types", ARRAY(String))),
        "aggregate_types": events_table.c.aggregate_type
        == func.any(parameter("aggregate_types", ARRAY(String))),
        # Not LIKE: a prefix may hold its wildcards.
        "stream_prefix": func.starts_with(
            events_table.c.stream_id, parameter("stream_prefix", Text)
        ),
        "correlation_id": events_table.c.metadata.op("->>")("correlation_id")
        == parameter("correlation_id", Text),
    }
