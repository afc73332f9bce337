"""Leases: which worker owns a partition of a subscription, judged by the database's clock.

A lease is a row with an owner, a time and an *epoch*, which rises with each new owner. Whoever
moves a checkpoint names its epoch in the same statement, so that an owner that was frozen or cut
off while another one took over can't move it any more: its transaction is rolled back (Kleppmann,
"How to do distributed locking", 2016: fencing tokens). There is no session lock and no open
connection in it, so that it works behind a pooler in transaction mode.

The lease is also the mark of a crash. An owner that stops gives it back; one that is found with a
lease that ran out has died at work, or seems to have, and the next one is told so.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Delete,
    Interval,
    Select,
    String,
    Text,
    Update,
    and_,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from eventstore.models import subscriptions_table, workers_table
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session


#: So many times could a renewal wait for a lock until the lease has run out.
_LOCK_WAITS: Final = 30


class Lease(NamedTuple):
    """What an owner shows wherever it changes its partition's row."""

    subscription: str
    partition: int
    owner: str
    epoch: int  #: the fencing number


class Acquired(NamedTuple):
    """A lease, and what its partition's row said when it was taken."""

    lease: Lease
    position: int  #: the partition's checkpoint
    releases: int  #: how many parked streams were let go so far
    died: bool  #: another owner didn't give the lease back
    marked_position: int | None  #: the event that was delivered by itself last
    attempts: int  #: how many deliveries of that one had begun

    @property
    def interrupted(self) -> bool:
        """Whether the last owner was in the midst of something."""
        return self.died or (self.marked_position or 0) > self.position


class Crew(NamedTuple):
    """The workers of a subscription, as one of them sees them."""

    workers: int
    rank: int  #: how many come before it in the order of their names


def acquire_lease(
    session: Session,
    subscription: str,
    partition: int,
    owner: str,
    lease_seconds: float,
    *,
    schema: str | None,
) -> Acquired | None:
    """Take the lease of a partition if it is free or has run out; None if it hasn't.

    A row that is locked at the moment, by an owner that commits or is frozen in doing so, is left
    alone.
    """
    connection = connection_of(session)
    values = {
        "subscription": subscription,
        "partition": partition,
        "owner": owner,
        "duration": timedelta(seconds=lease_seconds),
    }
    rows = run(connection, _acquire(), values, schema=schema_of(connection, schema))
    row = rows.one_or_none()
    if row is None:
        return None
    lease = Lease(subscription, partition, owner, row.epoch)
    return Acquired(
        lease, row.checkpoint, row.releases, row.died, row.marked_position, row.attempts
    )


def renew_lease(
    session: Session, lease: Lease, lease_seconds: float, *, schema: str | None
) -> bool:
    """Prolong a lease; False if it belongs to another owner by now.

    It waits but for a small part of the lease where somebody has locked the row, so that other
    leases are renewed meanwhile: then the server's error comes, ``lock_not_available``.
    """
    values = {
        **_values(lease),
        "duration": timedelta(seconds=lease_seconds),
        "lock_milliseconds": str(max(1, int(lease_seconds * 1000 / _LOCK_WAITS))),
    }
    connection = connection_of(session)
    renewed = run(connection, _renew(), values, schema=schema_of(connection, schema))
    return renewed.rowcount == 1


def release_lease(
    session: Session,
    lease: Lease,
    attempts: int = 0,
    unsure: int | None = None,
    *,
    schema: str | None,
) -> None:
    """Give a lease back, so that the next owner need not wait, and knows that all is well.

    ``attempts`` is how many at the marked event have come to an end. Without any, the events up to
    ``unsure`` may have had effects outside that no checkpoint tells of: that one is marked, so that
    the next owner says so.
    """
    values = {**_values(lease), "attempts": attempts, "unsure": unsure}
    connection = connection_of(session)
    run(connection, _release(), values, schema=schema_of(connection, schema))


def announce_worker(
    session: Session, subscription: str, worker: str, lease_seconds: float, *, schema: str | None
) -> Crew:
    """Say that a worker is there, for the time of a lease, and return who is there."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    values = {
        "subscription": subscription,
        "worker": worker,
        "duration": timedelta(seconds=lease_seconds),
    }
    run(connection, _forget_workers(), values, schema=schema)
    run(connection, _announce(), values, schema=schema)
    row = run(connection, _count_workers(), values, schema=schema).one()
    return Crew(row.workers, row.rank)


def retire_worker(session: Session, subscription: str, worker: str, *, schema: str | None) -> None:
    """Say that a worker is gone."""
    connection = connection_of(session)
    values = {"subscription": subscription, "worker": worker}
    run(connection, _retire(), values, schema=schema_of(connection, schema))


def is_owned() -> ColumnElement[bool]:
    """Return the condition on a partition's row that only its owner's lease meets."""
    row = subscriptions_table.c
    return and_(
        row.name == parameter("subscription", String),
        row.partition == parameter("partition", BigInteger),
        row.owner == parameter("owner", String),
        row.epoch == parameter("epoch", BigInteger),
    )


def _values(lease: Lease) -> dict[str, Any]:
    return lease._asdict()


def _expiry() -> ColumnElement[Any]:
    return func.clock_timestamp() + parameter("duration", Interval)


@cache
def _acquire() -> Update:
    """Take the row as it was beside what it becomes: the old owner says how it ended."""
    row = subscriptions_table.c
    free = (
        select(row.name, row.partition, row.owner)
        .where(
            row.name == parameter("subscription", String),
            row.partition == parameter("partition", BigInteger),
            or_(
                row.owner.is_(None),
                row.owner == parameter("owner", String),
                row.lease_expires_at < func.clock_timestamp(),
            ),
        )
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    return (
        update(subscriptions_table)
        .where(row.name == free.c.name, row.partition == free.c.partition)
        .values(owner=parameter("owner", String), epoch=row.epoch + 1, lease_expires_at=_expiry())
        .returning(
            row.epoch,
            row.checkpoint,
            row.releases,
            row.marked_position,
            row.attempts,
            and_(free.c.owner.is_not(None), free.c.owner != parameter("owner", String)).label(
                "died"
            ),
        )
    )


@cache
def _renew() -> Update:
    """Set the limit first: what doesn't refer to the row is evaluated before any row is read."""
    limit = func.set_config(
        literal("lock_timeout"), parameter("lock_milliseconds", Text), literal(True)
    )
    return (
        update(subscriptions_table)
        .where(select(limit).scalar_subquery().is_not(None), is_owned())
        .values(lease_expires_at=_expiry())
    )


@cache
def _release() -> Update:
    marked = subscriptions_table.c.marked_position
    return (
        update(subscriptions_table)
        .where(is_owned())
        .values(
            owner=null(),
            lease_expires_at=null(),
            attempts=parameter("attempts", BigInteger),
            # Of NULLs the greatest takes no notice.
            marked_position=func.greatest(marked, parameter("unsure", BigInteger)),
        )
    )


@cache
def _announce() -> postgresql.Insert:
    announcing = postgresql.insert(workers_table).values(
        subscription=parameter("subscription", String),
        worker=parameter("worker", String),
        expires_at=_expiry(),
    )
    return announcing.on_conflict_do_update(
        index_elements=[workers_table.c.subscription, workers_table.c.worker],
        set_={"expires_at": announcing.excluded.expires_at},
    )


@cache
def _forget_workers() -> Delete:
    """Remove those whose time is over, unless somebody else is about to."""
    expired = (
        select(workers_table.c.worker)
        .where(
            workers_table.c.subscription == parameter("subscription", String),
            workers_table.c.expires_at < func.clock_timestamp(),
        )
        .with_for_update(skip_locked=True)
    )
    return delete(workers_table).where(
        workers_table.c.subscription == parameter("subscription", String),
        workers_table.c.worker.in_(expired),
    )


@cache
def _count_workers() -> Select[Any]:
    row = workers_table.c
    is_before = row.worker < parameter("worker", String)
    counts: list[Any] = [
        func.count().label("workers"),
        func.count().filter(is_before).label("rank"),
    ]
    return (
        select(*counts)
        .select_from(workers_table)
        .where(row.subscription == parameter("subscription", String))
    )


@cache
def _retire() -> Delete:
    return delete(workers_table).where(
        workers_table.c.subscription == parameter("subscription", String),
        workers_table.c.worker == parameter("worker", String),
    )
