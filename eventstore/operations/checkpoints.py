"""Checkpoints: how far each partition of a subscription has scanned the feed.

A checkpoint is saved in the handler's transaction, by a statement that names the owner's epoch:
what the handler wrote and where it stands become true together, or not at all.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Delete,
    Select,
    String,
    Update,
    and_,
    case,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY

from eventstore.errors import SubscriptionError
from eventstore.models import events_table, parked_table, subscriptions_table
from eventstore.operations.deliveries import partition_of
from eventstore.operations.fence import read_mark
from eventstore.operations.leases import is_owned
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from eventstore.operations.leases import Lease


class Checkpoint(NamedTuple):
    """Where a partition of a subscription stands."""

    partition: int
    position: int  #: every event up to here was scanned
    releases: int  #: how many parked streams were let go so far


class Definition(NamedTuple):
    """What a subscription's checkpoints mean: it is kept, and must stay the same."""

    partitions: int = 1
    version: int = 1
    filter_fingerprint: str = ""


def create_subscription(
    session: Session,
    subscription: str,
    definition: Definition,
    start: int | datetime | None,
    *,
    schema: str | None,
) -> None:
    """Make the rows of a subscription that isn't there yet; one that is there goes on as it is.

    ``start`` is the position behind which it begins, the time of the first events, or None for
    what comes from now on. Raises :class:`SubscriptionError` if it was defined otherwise.
    """
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    name = {"subscription": subscription}
    if run(connection, _definitions(), name, schema=schema).first() is None:
        if not isinstance(start, int):
            # What isn't visible yet must not be passed over, so the mark comes first.
            until = read_mark(connection, schema).position
            values = {"since": start, "until": until}
            start = (
                until
                if start is None
                else run(connection, _before_time(), values, schema=schema).scalar_one()
            )
        row = {
            **name,
            **definition._asdict(),
            "numbers": list(range(definition.partitions)),
            "position": start,
        }
        run(connection, _create(), row, schema=schema)
    # Looked at in any case: somebody else may have been quicker, with another definition.
    for known in run(connection, _definitions(), name, schema=schema):
        _refuse_change(subscription, Definition(*known), definition)


def _refuse_change(subscription: str, known: Definition, given: Definition) -> None:
    changes = (
        (known.partitions, given.partitions, f"{known.partitions} partitions"),
        (known.version, given.version, f"version {known.version}"),
        (known.filter_fingerprint, given.filter_fingerprint, "another filter"),
    )
    for before, now, what in changes:
        if before != now:
            instead = "" if isinstance(now, str) else f", not {now}"
            raise SubscriptionError(
                subscription,
                f"it was made with {what}{instead}, and its checkpoints count for that alone: "
                "run this one under another name, or let it begin again by reset_subscription()",
            )


def reset_subscription(session: Session, subscription: str, *, schema: str | None) -> bool:
    """Forget checkpoints and parked streams; False if there was nothing to forget.

    Raises :class:`SubscriptionError` while somebody runs it.
    """
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    values = {"subscription": subscription}
    rows = run(connection, _lock_all(), values, schema=schema).all()
    for row in rows:
        if row.is_leased:
            raise SubscriptionError(subscription, f"it is run by {row.owner}; stop it first")
    run(connection, _forget_parked(), values, schema=schema)
    run(connection, _forget(), values, schema=schema)
    return bool(rows)


def has_scanned(
    session: Session,
    subscription: str,
    position: int,
    *,
    is_readable: bool = False,
    schema: str | None,
) -> bool:
    """Tell whether each partition has come as far as ``position``; False if it was never run.

    One that has no event between its checkpoint and that of the position has come so far, too:
    what other partitions get moves its checkpoint later. For a position that has no event, the
    caller says by ``is_readable`` that the feed can be read up to there.
    """
    connection = connection_of(session)
    values = {"subscription": subscription, "position": position, "is_readable": is_readable}
    rows = run(connection, _has_scanned(), values, schema=schema_of(connection, schema))
    return bool(rows.scalar_one())


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
    values = {**lease._asdict(), **before_values(before), "position": position}
    connection = connection_of(session)
    saved = run(connection, _save(), values, schema=schema_of(connection, schema))
    return saved.rowcount == 1


def before_values(checkpoint: Checkpoint) -> dict[str, int]:
    """Return what :func:`is_unmoved` compares a partition's row with."""
    return {"before": checkpoint.position, "releases": checkpoint.releases}


@cache
def _definitions() -> Select[Any]:
    row = subscriptions_table.c
    return (
        select(row.partitions, row.version, row.filter_fingerprint)
        .distinct()
        .where(row.name == parameter("subscription", String))
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
        parameter("version", BigInteger),
        parameter("filter_fingerprint", String),
        parameter("position", BigInteger),
    )
    columns = ["name", "partition", "partitions", "version", "filter_fingerprint", "checkpoint"]
    creating = postgresql.insert(subscriptions_table).from_select(columns, rows.order_by(number))
    return creating.on_conflict_do_nothing()


@cache
def _lock_all() -> Select[Any]:
    row = subscriptions_table.c
    is_leased = and_(row.owner.is_not(None), row.lease_expires_at > func.clock_timestamp())
    return (
        select(row.owner, is_leased.label("is_leased"))
        .where(row.name == parameter("subscription", String))
        .order_by(row.partition)
        .with_for_update()
    )


@cache
def _forget() -> Delete:
    return delete(subscriptions_table).where(
        subscriptions_table.c.name == parameter("subscription", String)
    )


@cache
def _forget_parked() -> Delete:
    return delete(parked_table).where(
        parked_table.c.subscription == parameter("subscription", String)
    )


@cache
def _has_scanned() -> Select[Any]:
    row, event = subscriptions_table.c, events_table.c
    position = parameter("position", BigInteger)
    is_there = select(event.event_id).where(event.sequence_number == position).exists()
    has_own = (
        select(event.event_id)
        .where(
            event.sequence_number > row.checkpoint,
            event.sequence_number <= position,
            partition_of(event.stream_id, row.partitions) == row.partition,
        )
        .correlate(subscriptions_table)
        .exists()
    )
    is_known = or_(parameter("is_readable", Boolean), is_there)
    has_come = or_(row.checkpoint >= position, and_(is_known, ~has_own))
    return select(func.coalesce(func.bool_and(has_come), literal(False))).where(
        row.name == parameter("subscription", String)
    )


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


def is_unmoved() -> ColumnElement[bool]:
    """Return the condition that a partition's row is still where its owner has left it."""
    row = subscriptions_table.c
    return and_(
        row.checkpoint == parameter("before", BigInteger),
        row.releases == parameter("releases", BigInteger),
    )


@cache
def _save() -> Update:
    row = subscriptions_table.c
    is_ahead = row.marked_position > parameter("position", BigInteger)
    return (
        update(subscriptions_table)
        .where(is_owned(), is_unmoved())
        .values(
            checkpoint=parameter("position", BigInteger),
            marked_position=case((is_ahead, row.marked_position), else_=null()),
            attempts=case((is_ahead, row.attempts), else_=0),
            updated_at=func.clock_timestamp(),
        )
    )
