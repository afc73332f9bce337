"""Checkpoints: how far each partition of a subscription has scanned the feed.

A checkpoint is saved in the handler's transaction, by a statement that names the owner's epoch:
what the handler wrote and where it stands become true together, or not at all.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    DateTime,
    Select,
    String,
    Text,
    Update,
    case,
    func,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY

from eventstore.errors import SubscriptionError
from eventstore.models import events_table, subscriptions_table
from eventstore.operations.fence import read_mark
from eventstore.operations.leases import is_owned
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from eventstore.operations.leases import Lease


class Checkpoint(NamedTuple):
    """Where a partition of a subscription stands."""

    partition: int
    position: int  #: every event up to here was scanned
    releases: int  #: how many parked streams were let go so far


def create_subscription(
    session: Session,
    subscription: str,
    partitions: int,
    start: int | datetime | None,
    *,
    schema: str | None,
) -> None:
    """Make the rows of a subscription that isn't there yet; one that is there goes on as it is.

    ``start`` is the position behind which it begins, the time of the first events, or None for
    what comes from now on. Raises :class:`SubscriptionError` if it has another number of
    partitions.
    """
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    counts = run(connection, _partition_counts(), {"subscription": subscription}, schema=schema)
    known = set(counts.scalars())
    if known and known != {partitions}:
        raise SubscriptionError(
            subscription,
            f"has {known.pop()} partitions, not {partitions}; their number is part of what its "
            "checkpoints mean: give a subscription with another number another name",
        )
    if known:
        return
    if not isinstance(start, int):
        # What isn't visible yet must not be passed over, so the mark comes first.
        until = read_mark(connection, schema).position
        values = {"since": start, "until": until}
        start = (
            until
            if start is None
            else run(connection, _before_time(), values, schema=schema).scalar_one()
        )
    row: dict[str, Any] = {
        "subscription": subscription,
        "numbers": list(range(partitions)),
        "partitions": partitions,
        "position": start,
    }
    run(connection, _create(), row, schema=schema)


def load_checkpoints(
    session: Session, subscription: str, *, schema: str | None
) -> tuple[Checkpoint, ...]:
    """Return where each partition stands; empty if the subscription was never run."""
    connection = connection_of(session)
    values = {"subscription": subscription}
    rows = run(connection, _load(), values, schema=schema_of(connection, schema))
    return tuple(Checkpoint(row.partition, row.checkpoint, row.releases) for row in rows)


def load_owned(session: Session, lease: Lease, *, schema: str | None) -> Checkpoint | None:
    """Return where the owner's partition stands; None if the lease belongs to another one."""
    connection = connection_of(session)
    rows = run(connection, _load_owned(), lease._asdict(), schema=schema_of(connection, schema))
    row = rows.one_or_none()
    return None if row is None else Checkpoint(row.partition, row.checkpoint, row.releases)


def save_checkpoint(
    session: Session, lease: Lease, before: Checkpoint, position: int, *, schema: str | None
) -> bool:
    """Move a checkpoint on; False if it may not be: then what was done must be rolled back.

    That is, if the lease belongs to another owner; if the checkpoint isn't what it was before,
    since a commit that seemed to be lost wasn't; or if a parked stream was let go since the page
    was read, which left the stream's events out.
    """
    values = {
        **lease._asdict(),
        "before": before.position,
        "releases": before.releases,
        "position": position,
    }
    connection = connection_of(session)
    saved = run(connection, _save(), values, schema=schema_of(connection, schema))
    return saved.rowcount == 1


def mark_attempt(
    session: Session, lease: Lease, position: int, *, schema: str | None
) -> int | None:
    """Count one more attempt at the event, before it is made; None if the lease is lost.

    The caller commits. That commit need not reach the disk (``synchronous_commit``, PostgreSQL
    manual 20.5): it is to outlive the process, not the server.
    """
    values = {**lease._asdict(), "position": position}
    connection = connection_of(session)
    rows = run(connection, _mark(), values, schema=schema_of(connection, schema))
    row = rows.one_or_none()
    return None if row is None else row.attempts


def note_error(session: Session, lease: Lease, error: str, *, schema: str | None) -> None:
    """Keep the last error where the status shows it; no event is being tried any more."""
    values = {**lease._asdict(), "error": error}
    connection = connection_of(session)
    run(connection, _note(), values, schema=schema_of(connection, schema))


@cache
def _partition_counts() -> Select[Any]:
    return (
        select(subscriptions_table.c.partitions)
        .distinct()
        .where(subscriptions_table.c.name == parameter("subscription", String))
    )


@cache
def _before_time() -> Select[Any]:
    """Behind this position lie all events of that time and later; it is found by block ranges."""
    first = (
        select(func.min(events_table.c.sequence_number) - literal(1))
        .where(events_table.c.occurred_at >= parameter("since", DateTime(timezone=True)))
        .scalar_subquery()
    )
    return select(func.least(first, parameter("until", BigInteger)))


@cache
def _create() -> postgresql.Insert:
    number = func.unnest(parameter("numbers", ARRAY(BigInteger))).column_valued("number")
    rows = select(
        parameter("subscription", String),
        number,
        parameter("partitions", BigInteger),
        parameter("position", BigInteger),
    )
    columns = ["name", "partition", "partitions", "checkpoint"]
    creating = postgresql.insert(subscriptions_table).from_select(columns, rows.order_by(number))
    return creating.on_conflict_do_nothing()


@cache
def _load() -> Select[Any]:
    row = subscriptions_table.c
    return (
        select(row.partition, row.checkpoint, row.releases)
        .where(row.name == parameter("subscription", String))
        .order_by(row.partition)
    )


@cache
def _load_owned() -> Select[Any]:
    row = subscriptions_table.c
    return select(row.partition, row.checkpoint, row.releases).where(is_owned())


@cache
def _save() -> Update:
    row = subscriptions_table.c
    return (
        update(subscriptions_table)
        .where(
            is_owned(),
            row.checkpoint == parameter("before", BigInteger),
            row.releases == parameter("releases", BigInteger),
        )
        .values(
            checkpoint=parameter("position", BigInteger),
            marked_position=null(),
            attempts=literal(0),
            updated_at=func.clock_timestamp(),
        )
    )


@cache
def _mark() -> Update:
    row = subscriptions_table.c
    position = parameter("position", BigInteger)
    asynchronous = func.set_config(literal("synchronous_commit"), literal("off"), literal(True))
    return (
        update(subscriptions_table)
        .where(is_owned())
        .values(
            marked_position=position,
            attempts=case((row.marked_position == position, row.attempts), else_=0) + 1,
        )
        .returning(row.attempts, asynchronous)
    )


@cache
def _note() -> Update:
    return (
        update(subscriptions_table)
        .where(is_owned())
        .values(
            last_error=parameter("error", Text),
            marked_position=null(),
            attempts=literal(0),
            updated_at=func.clock_timestamp(),
        )
    )
