"""Make the rows that a subscription's checkpoints are kept in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.operations.checkpoints import Definition, create_subscription

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from eventstore.subscriptions.definition import Subscription


def create(
    session: Session, spec: Subscription, start: int | datetime | None, *, schema: str | None
) -> None:
    """Make the rows of a subscription, behind ``start``; if they are there, they stay as they are.

    :raises SubscriptionError: they were made with other partitions, version or filter.
    """
    definition = Definition(spec.partitions, spec.version, spec.filter_fingerprint)
    create_subscription(session, spec.name, definition, start, schema=schema)
