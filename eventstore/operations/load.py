"""Load what an aggregate is folded from: its snapshot and the events after it, by one statement."""

from __future__ import annotations

from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Select,
    String,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
)

from eventstore.errors import StreamDeleted
from eventstore.loading import LoadedStream
from eventstore.models import events_table, snapshots_table, streams_table
from eventstore.operations.read import EVENT_ID, EVENT_VERSION, envelopes, event_columns
from eventstore.operations.statements import fetch, parameter
from eventstore.operations.subject_keys import open_snapshot, with_keys
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.payloads import payload_type
from eventstore.reading import PAGE_SIZE
from eventstore.recorded import Decoder
from eventstore.snapshots import Snapshot
from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH, check_stream_id, check_text

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec


def load_stream(
    session: Session,
    stream_id: str,
    snapshot_type: str | None,
    idempotency_key: str | None,
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> LoadedStream:
    """Return the stream's snapshot of that type, if there is one, and the events after it."""
    check_stream_id(stream_id)
    if snapshot_type is not None:
        check_text("snapshot_type", snapshot_type, MAX_TYPE_LENGTH)
    if idempotency_key is not None:
        check_text("idempotency_key", idempotency_key, MAX_ID_LENGTH)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    rows = fetch(
        connection,
        _tail(),
        {
            "stream_id": stream_id,
            "snapshot_type": snapshot_type,
            "key": idempotency_key,
            "limit": PAGE_SIZE,
        },
        schema=schema,
    )
    if not rows:
        return LoadedStream()
    has_events = rows[0][EVENT_ID] is not None
    if has_events:
        rows.sort(key=itemgetter(EVENT_VERSION))
    *_, version, deleted_at, seen, data, taken_at, keyed = rows[0]
    if deleted_at is not None:
        raise StreamDeleted(stream_id, zoned(deleted_at))
    snapshot = None
    if snapshot_type is not None and seen is not None:
        snapshot = Snapshot(
            aggregate_id=stream_id,
            aggregate_type=snapshot_type,
            version=seen,
            data=payload_type(Any).decode(
                snapshot_type, open_snapshot(connection, snapshot_type, data, codec, schema=schema)
            ),
            created_at=zoned(taken_at),
        )
    decoder = with_keys(connection, Decoder(None, codec), rows, schema=schema)
    return LoadedStream(
        version=version,
        last=rows[-1][EVENT_VERSION] if has_events else version,
        snapshot=snapshot,
        events=envelopes(rows, decoder) if has_events else [],
        recorded=(min(keyed), max(keyed)) if keyed else None,
    )


@cache
def _tail() -> Select[Any]:
    """The stream's state and snapshot beside the first page of events after the snapshot.

    In any order: ``_stream_page()`` of :mod:`~eventstore.operations.read` says why.
    A snapshot that is ahead of its stream is left from events that are no more: it isn't joined,
    nor is any for a type that is NULL. Its data stands in the first row alone, which is told by
    its version, since versions have no gaps.
    """
    stream, snapshot, version = streams_table.c, snapshots_table.c, events_table.c.event_version
    after = func.coalesce(snapshot.version, literal_column("0"))
    page = (
        select(*event_columns())
        .where(events_table.c.stream_id == stream.stream_id, version > after)
        .order_by(version)
        .limit(parameter("limit", BigInteger))
        .lateral("page")
    )
    usable = and_(
        snapshot.aggregate_id == stream.stream_id,
        snapshot.aggregate_type == parameter("snapshot_type", String),
        snapshot.version <= stream.version,
    )
    is_first = or_(page.c.event_version.is_(None), page.c.event_version == after + 1)
    return (
        select(
            *page.c,
            stream.version.label("stream_version"),
            in_utc(stream.deleted_at),
            snapshot.version.label("snapshot_version"),
            case((is_first, cast(snapshot.data, Text))).label("snapshot_data"),
            in_utc(snapshot.created_at).label("snapshot_created_at"),
            _versions_of_key().label("keyed"),
        )
        .select_from(streams_table.outerjoin(snapshots_table, usable).outerjoin(page, true()))
        .where(stream.stream_id == parameter("stream_id", String))
    )


def _versions_of_key() -> ColumnElement[Any]:
    """All versions, not the least and the greatest: those might be sought through the stream."""
    keyed = events_table.alias("keyed")
    return (
        select(func.array_agg(keyed.c.event_version))
        .where(
            keyed.c.stream_id == streams_table.c.stream_id,
            keyed.c.metadata.op("->>")("idempotency_key") == parameter("key", Text),
        )
        .scalar_subquery()
    )
