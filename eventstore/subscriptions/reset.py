"""Let a subscription begin again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore import operations
from eventstore.streams import MAX_ID_LENGTH, check_schema, check_text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def reset_subscription(session: Session, subscription: str, *, schema: str | None = None) -> bool:
    """Forget where a subscription stands, and what it has parked; False if it was never run.

    The next runner makes it anew, by its own filter, version, partitions and start. What its
    handler has written stays: empty that in the same transaction. The caller commits.

    :raises SubscriptionError: somebody runs it.
    """
    check_text("subscription", subscription, MAX_ID_LENGTH)
    return operations.reset_subscription(session, subscription, schema=check_schema(schema))
