"""What somebody else than a subscription's owner does to its checkpoints."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Select,
    String,
    Update,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from eventstore.models import events_table, subscriptions_table
from eventstore.operations.deliveries import partition_of
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def has_handled(session: Session, subscription: str, position: int, *, schema: str | None) -> bool:
    """Tell whether a subscription has handled every event up to a position.

    ``position`` must be one up to which the feed can be read. A partition whose checkpoint lies
    below it has come so far if nothing of its own lies between. False if it was never run.
    """
    values = {"subscription": subscription, "position": position}
    connection = connection_of(session)
    handled = run(connection, _has_handled(), values, schema=schema_of(connection, schema))
    return bool(handled.scalar_one())


def take_over(session: Session, subscription: str, position: int, *, schema: str | None) -> bool:
    """Move all checkpoints to a position, and the leases out of their owners' hands.

    False if the subscription was never run, or was reset.
    """
    values = {"subscription": subscription, "position": position}
    connection = connection_of(session)
    moved = run(connection, _take_over(), values, schema=schema_of(connection, schema))
    return moved.rowcount > 0


@cache
def _has_handled() -> Select[Any]:
    row, event = subscriptions_table.c, events_table.c
    position = parameter("position", BigInteger)
    lies_between = (
        select(event.event_id)
        .where(
            event.sequence_number > row.checkpoint,
            event.sequence_number <= position,
            partition_of(event.stream_id, row.partitions) == row.partition,
        )
        .correlate(subscriptions_table)
        .exists()
    )
    has_come = or_(row.checkpoint >= position, ~lies_between)
    return select(func.coalesce(func.bool_and(has_come), literal(False))).where(
        row.name == parameter("subscription", String)
    )


@cache
def _take_over() -> Update:
    row = subscriptions_table.c
    return (
        update(subscriptions_table)
        .where(row.name == parameter("subscription", String))
        .values(
            checkpoint=parameter("position", BigInteger),
            owner=null(),
            lease_expires_at=null(),
            epoch=row.epoch + 1,
            marked_position=null(),
            attempts=literal(0),
            updated_at=func.clock_timestamp(),
        )
    )
