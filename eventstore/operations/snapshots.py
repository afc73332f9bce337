"""Snapshots: one row an aggregate, which only ever moves forward."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Select, String, Text, cast, or_, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from eventstore.models import snapshots_table, streams_table
from eventstore.operations.statements import parameter, run
from eventstore.operations.subject_keys import open_snapshot, seal_snapshot
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.payloads import payload_type
from eventstore.snapshots import Snapshot, check_snapshot
from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH, check_text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.snapshots import AnySnapshot


def save_snapshot(
    session: Session, snapshot: AnySnapshot, *, codec: PayloadCodec, schema: str | None
) -> None:
    """Keep ``snapshot`` unless a newer one of the aggregate is there."""
    check_snapshot(snapshot)
    python_type: Any = type(snapshot.data)
    data = payload_type(python_type).encode(snapshot.aggregate_type, snapshot.data)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    data = seal_snapshot(connection, snapshot.aggregate_type, data, codec, schema=schema)
    run(
        connection,
        _save(),
        {
            "aggregate_id": snapshot.aggregate_id,
            "aggregate_type": snapshot.aggregate_type,
            "version": snapshot.version,
            "data": data.decode(),
            "created_at": snapshot.created_at,
        },
        schema=schema,
    )


def get_snapshot(
    session: Session,
    aggregate_id: str,
    aggregate_type: str,
    as_type: Any,
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> AnySnapshot | None:
    """Return the aggregate's snapshot if it can be relied on."""
    check_text("aggregate_id", aggregate_id, MAX_ID_LENGTH)
    check_text("aggregate_type", aggregate_type, MAX_TYPE_LENGTH)
    connection = connection_of(session)
    values = {"aggregate_id": aggregate_id, "aggregate_type": aggregate_type}
    schema = schema_of(connection, schema)
    rows = run(connection, _usable(), values, schema=schema)
    row = rows.one_or_none()
    if row is None:
        return None
    data = open_snapshot(connection, aggregate_type, row.data, codec, schema=schema)
    python_type = Any if as_type is None else as_type
    return Snapshot(
        aggregate_id=aggregate_id,
        aggregate_type=aggregate_type,
        version=row.version,
        data=payload_type(python_type).decode(aggregate_type, data),
        created_at=zoned(row.created_at),
    )


@cache
def _save() -> postgresql.Insert:
    saving = postgresql.insert(snapshots_table).values(
        aggregate_id=parameter("aggregate_id", String),
        aggregate_type=parameter("aggregate_type", String),
        version=parameter("version", BigInteger),
        data=cast(parameter("data", Text), JSONB),
        created_at=parameter("created_at", TIMESTAMP(timezone=True)),
    )
    stream = (
        select(streams_table.c.version)
        .where(
            streams_table.c.stream_id == parameter("aggregate_id", String),
            streams_table.c.version > 0,
        )
        .cte("stream")
    )
    return saving.on_conflict_do_update(
        index_elements=[snapshots_table.c.aggregate_id, snapshots_table.c.aggregate_type],
        set_={name: saving.excluded[name] for name in ("version", "data", "created_at")},
        # One that is ahead of its stream is never used, and must not be in the way of one that is.
        where=or_(
            saving.excluded.version >= snapshots_table.c.version,
            select(stream.c.version).scalar_subquery() < snapshots_table.c.version,
        ),
        # The CTE is named first: inside ON CONFLICT, SQLAlchemy renders tables without schema.
    ).add_cte(stream)


@cache
def _usable() -> Select[Any]:
    """The aggregate's snapshot, unless its stream is deleted or has not come that far.

    A snapshot ahead of its stream is left from events that are no more (a store restored to an
    earlier time, a stream begun anew).
    """
    return (
        select(
            snapshots_table.c.version,
            cast(snapshots_table.c.data, Text).label("data"),
            in_utc(snapshots_table.c.created_at),
        )
        .outerjoin(
            streams_table,
            (streams_table.c.stream_id == snapshots_table.c.aggregate_id)
            & (streams_table.c.version > 0),
        )
        .where(
            snapshots_table.c.aggregate_id == parameter("aggregate_id", String),
            snapshots_table.c.aggregate_type == parameter("aggregate_type", String),
            streams_table.c.deleted_at.is_(None),
            or_(
                streams_table.c.version.is_(None),
                streams_table.c.version >= snapshots_table.c.version,
            ),
        )
    )
