"""What somebody else than a subscription's owner does to its checkpoints."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    String,
    Update,
    func,
    literal,
    null,
    update,
)

from eventstore.models import subscriptions_table
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def take_over(session: Session, subscription: str, position: int, *, schema: str | None) -> bool:
    """Move all checkpoints to a position, and the leases out of their owners' hands.

    False if the subscription was never run, or was reset.
    """
    values = {"subscription": subscription, "position": position}
    connection = connection_of(session)
    moved = run(connection, _take_over(), values, schema=schema_of(connection, schema))
    return moved.rowcount > 0


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
