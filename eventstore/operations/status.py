"""How subscriptions are doing: where each partition stands, who works on it, and why it waits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Double,
    Integer,
    Select,
    String,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    table,
)

from eventstore.models import events_table, parked_table, subscriptions_table
from eventstore.operations.deliveries import partition_of
from eventstore.operations.fence import read_mark, sequence_head, writer_locks
from eventstore.operations.statements import parameter, run
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class FenceHolder:
    """A transaction that has appended and not ended: nothing behind its first event can be read."""

    pid: int | None  #: None for a prepared transaction
    application_name: str
    seconds: float  #: since the transaction began


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionStatus:
    """Where a partition of a subscription stands."""

    subscription: str
    partition: int
    partitions: int
    version: int  #: of the subscription
    position: int  #: its checkpoint
    readable: int  #: how far the feed can be read now
    head: int  #: the newest number that was handed out
    lag_events: int  #: committed events behind the checkpoint, those that it filters out included
    lag_seconds: float  #: the age of the first of them; 0 if there is none
    owner: str | None  #: the worker that holds the lease
    lease_expires_at: datetime | None  #: UTC
    is_leased: bool  #: somebody holds a lease that has not run out
    parked: int  #: its streams that are parked
    marked_position: int | None  #: of the event that is being tried by itself, if one is
    attempts: int  #: how often that was begun
    #: Of the event that was parked, skipped or stopped at last; or what interrupts the work again
    #: and again, such as an outage of a database, and is no event's fault.
    last_error: str | None
    last_error_position: int | None  #: of that event, if it is one's fault
    last_error_at: datetime | None  #: UTC
    interrupted_since: datetime | None  #: UTC, while ``last_error`` interrupts the work
    updated_at: datetime  #: UTC, of the last step
    fence_holder: FenceHolder | None  #: why the feed can't be read up to its head, if it can't


_COLUMNS: Final = (
    "subscription",
    "partition",
    "partitions",
    "version",
    "position",
    "lag_events",
    "lag_seconds",
    "owner",
    "lease_expires_at",
    "is_leased",
    "parked",
    "marked_position",
    "attempts",
    "last_error",
    "last_error_position",
    "last_error_at",
    "interrupted_since",
    "updated_at",
)


def read_status(
    session: Session, subscription: str | None, *, schema: str | None
) -> list[PartitionStatus]:
    """Return the state of each partition of a subscription, or of all subscriptions."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    mark = read_mark(connection, schema)
    holder = None
    if mark.position < mark.head:
        row = run(connection, _holder(), {}, schema=schema).one_or_none()
        holder = row and FenceHolder(**row._mapping)  # noqa: SLF001 - public in spite of its name
    rows = run(connection, _status(), {"subscription": subscription}, schema=schema)
    return [
        PartitionStatus(
            **{
                **{name: getattr(row, name) for name in _COLUMNS},
                "lease_expires_at": zoned(row.lease_expires_at),
                "last_error_at": zoned(row.last_error_at),
                "interrupted_since": zoned(row.interrupted_since),
                "updated_at": zoned(row.updated_at),
            },
            readable=mark.position,
            head=mark.head,
            fence_holder=holder,
        )
        for row in rows
    ]


@cache
def _status() -> Select[Any]:
    row = subscriptions_table.c
    name = parameter("subscription", String)
    behind = events_table.c.sequence_number > row.checkpoint
    first = (
        select(events_table.c.created_at)
        .where(behind)
        .order_by(events_table.c.sequence_number)
        .limit(literal(1))
        .scalar_subquery()
    )
    age = func.extract("epoch", func.clock_timestamp() - first)
    parked = (
        select(func.count())
        .where(
            parked_table.c.subscription == row.name,
            partition_of(parked_table.c.stream_id, row.partitions) == row.partition,
        )
        .correlate(subscriptions_table)
        .scalar_subquery()
    )
    return (
        select(
            row.name.label("subscription"),
            row.partition,
            row.partitions,
            row.version,
            row.checkpoint.label("position"),
            select(func.count())
            .select_from(events_table)
            .where(behind)
            .scalar_subquery()
            .label("lag_events"),
            cast(func.coalesce(func.greatest(age, 0), 0), Double).label("lag_seconds"),
            row.owner,
            in_utc(row.lease_expires_at),
            and_(row.owner.is_not(None), row.lease_expires_at > func.clock_timestamp()).label(
                "is_leased"
            ),
            parked.label("parked"),
            row.marked_position,
            row.attempts,
            row.last_error,
            row.last_error_position,
            in_utc(row.last_error_at),
            # Whatever ends a piece of work is a step, and newer than its error.
            in_utc(
                case((row.last_error_at > row.updated_at, row.last_error_at)).label(
                    "interrupted_since"
                )
            ),
            in_utc(row.updated_at),
        )
        .where(or_(name.is_(None), row.name == name))
        .order_by(row.name, row.partition)
    )


@cache
def _holder() -> Select[Any]:
    """The transaction that holds the feed's mark: the one with the least key."""
    head = sequence_head()
    locks, key, is_held = writer_locks(head)
    activity = table(
        "pg_stat_activity",
        column("pid", Integer),
        column("application_name", String),
        column("xact_start"),
        schema="pg_catalog",
    )
    age = func.extract("epoch", func.clock_timestamp() - activity.c.xact_start)
    return (
        select(
            locks.c.pid,
            func.coalesce(activity.c.application_name, literal("")).label("application_name"),
            cast(func.coalesce(age, 0), Double).label("seconds"),
        )
        .select_from(head.join(locks, is_held).outerjoin(activity, activity.c.pid == locks.c.pid))
        .order_by(key, activity.c.xact_start)
        .limit(literal(1, BigInteger))
    )
