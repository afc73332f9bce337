"""What a partition's row tells of attempts, and of what went wrong.

An attempt is written down before it is made, so that one which ends its process counts. An error
is kept until the next one, with its time: one that is newer than the last step still lasts.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Interval,
    Text,
    Update,
    func,
    literal,
    literal_column,
    null,
    true,
    update,
)

from eventstore.models import subscriptions_table
from eventstore.operations.checkpoints import before_values, is_unmoved
from eventstore.operations.leases import is_owned
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.operations.checkpoints import Checkpoint
    from eventstore.operations.leases import Lease


def mark_attempt(
    session: Session,
    lease: Lease,
    before: Checkpoint,
    position: int,
    attempts: int,
    *,
    schema: str | None,
) -> bool:
    """Note that the event is about to be tried for the so-many-th time; False if it may not be.

    That is on the same conditions as in
    :func:`~eventstore.operations.checkpoints.save_checkpoint`: an event that was applied by a
    commit whose reply was lost must not be tried again, since it may fail for that very reason.

    The caller commits. That commit need not reach the disk (``synchronous_commit``, PostgreSQL
    manual 20.5): it is to outlive the process, not the server.
    """
    values = {
        **lease._asdict(),
        **before_values(before),
        "position": position,
        "attempts": attempts,
    }
    connection = connection_of(session)
    rows = run(connection, _mark(), values, schema=schema_of(connection, schema))
    return rows.one_or_none() is not None


def note_error(
    session: Session, lease: Lease, error: str, position: int | None, *, schema: str | None
) -> None:
    """Keep the last error where the status shows it; no event is being tried any more.

    ``position`` is that of the event at fault, if one is.
    """
    values = {**lease._asdict(), "error": storable(error), "position": position}
    connection = connection_of(session)
    run(connection, _note(), values, schema=schema_of(connection, schema))


def note_interruption(
    session: Session, lease: Lease, error: str, seconds: float, *, schema: str | None
) -> None:
    """Keep what interrupts the work again and again, and has done so for this time.

    It is no step, nor an attempt at an event.
    """
    values = {
        **lease._asdict(),
        "error": storable(error),
        "duration": timedelta(seconds=seconds),
    }
    connection = connection_of(session)
    run(connection, _note_interruption(), values, schema=schema_of(connection, schema))


def storable(text: str) -> str:
    """Return a text that PostgreSQL can store: what it can't must not keep an error from us."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


@cache
def _mark() -> Update:
    row = subscriptions_table.c
    asynchronous = func.set_config(
        literal_column("'synchronous_commit'"), literal_column("'off'"), true()
    )
    return (
        update(subscriptions_table)
        .where(is_owned(), is_unmoved())
        .values(
            marked_position=parameter("position", BigInteger),
            attempts=parameter("attempts", BigInteger),
        )
        .returning(row.epoch, asynchronous)
    )


@cache
def _note() -> Update:
    # One time for both: only an interruption has one that is newer than the last step.
    now = func.statement_timestamp()
    return (
        update(subscriptions_table)
        .where(is_owned())
        .values(
            last_error=parameter("error", Text),
            last_error_position=parameter("position", BigInteger),
            last_error_at=now,
            marked_position=null(),
            attempts=literal(0),
            updated_at=now,
        )
    )


@cache
def _note_interruption() -> Update:
    return (
        update(subscriptions_table)
        .where(is_owned())
        .values(
            last_error=parameter("error", Text),
            last_error_position=null(),
            last_error_at=func.clock_timestamp() - parameter("duration", Interval),
        )
    )
