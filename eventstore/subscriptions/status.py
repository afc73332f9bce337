"""Ask how subscriptions are doing, and wait until one has come as far as an event."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from eventstore.errors import SubscriptionError
from eventstore.operations.checkpoints import has_scanned
from eventstore.operations.parking import is_parked
from eventstore.operations.status import PartitionStatus, read_status
from eventstore.streams import MAX_ID_LENGTH, check_number, check_schema, check_text
from eventstore.subscriptions.definition import check_seconds
from eventstore.subscriptions.driving import handling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

_SHORTEST_SECONDS = 0.001
_LONGEST_SECONDS = 0.05


def subscription_status(
    session: Session, subscription: str | None = None, *, schema: str | None = None
) -> list[PartitionStatus]:
    """Return where each partition of a subscription stands, or of all that were ever run.

    It counts the events that a partition is behind, which takes a while where they are millions.
    """
    if subscription is not None:
        check_text("subscription", subscription, MAX_ID_LENGTH)
    return read_status(session, subscription, schema=check_schema(schema))


def wait_for(
    engine: Engine,
    subscription: str,
    position: int,
    timeout_seconds: float,
    *,
    schema: str | None = None,
) -> bool:
    """Wait until a subscription has scanned the feed up to ``position``: read your own writes.

    False if it hasn't within the time, which says nothing of the append: the event is stored, and
    not yet visible. An event that the subscription filters out counts as scanned; one that waits in
    a parked stream doesn't.

    :raises SubscriptionError: it was called in a handler of the subscription, which would wait
        for itself.
    """
    check_schema(schema)
    pauses = pauses_between_looks(subscription, position, timeout_seconds)
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        for pause in pauses:
            reached = _has_reached(session, subscription, position, schema)
            if reached or pause is None:
                return reached
            time.sleep(pause)
    return False


async def wait_for_async(
    engine: AsyncEngine,
    subscription: str,
    position: int,
    timeout_seconds: float,
    *,
    schema: str | None = None,
) -> bool:
    """Do the same as :func:`wait_for`, awaiting."""
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415 - an extra

    check_schema(schema)
    pauses = pauses_between_looks(subscription, position, timeout_seconds)
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        for pause in pauses:
            reached = await session.run_sync(_has_reached, subscription, position, schema)
            if reached or pause is None:
                return reached
            await asyncio.sleep(pause)
    return False


def _has_reached(session: Session, subscription: str, position: int, schema: str | None) -> bool:
    return has_scanned(session, subscription, position, schema=schema) and not is_parked(
        session, subscription, position, schema=schema
    )


def pauses_between_looks(
    subscription: str, position: int, timeout_seconds: float
) -> Iterator[float | None]:
    """Check the arguments, and return the pauses between looks; None is after the last one."""
    check_text("subscription", subscription, MAX_ID_LENGTH)
    check_number("position", position)
    check_seconds("timeout_seconds", timeout_seconds)
    if handling.get() == subscription:
        raise SubscriptionError(
            subscription, "a handler can't wait for its own subscription, which waits for it"
        )
    return _growing(time.monotonic() + timeout_seconds)


def _growing(deadline: float) -> Iterator[float | None]:
    pause = _SHORTEST_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 1.5, _LONGEST_SECONDS)
    yield None
