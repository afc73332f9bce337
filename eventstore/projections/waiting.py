"""Wait until a projection shows an event: read your own writes, whoever keeps it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from eventstore.errors import SubscriptionError
from eventstore.operations.checkpoints import has_scanned
from eventstore.operations.parking import is_parked
from eventstore.operations.projections import Hold, load_live_version
from eventstore.operations.read import read_feed_mark
from eventstore.projections.definition import subscription_name
from eventstore.streams import check_schema
from eventstore.subscriptions.driving import handling
from eventstore.subscriptions.status import pauses_between_looks

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


def wait_for_projection(
    engine: Engine,
    name: str,
    position: int,
    timeout_seconds: float,
    *,
    schema: str | None = None,
) -> bool:
    """Wait until the live version of a projection shows what happened up to ``position``.

    False if it doesn't within the time, which says nothing of the append: the event is stored, and
    not yet visible. So it is while the event waits in a parked stream; one that the projection
    doesn't handle is shown once those before it are.

    :raises SubscriptionError: it was called in a method of the projection, which would wait for
        itself.
    """
    check_schema(schema)
    _refuse_within(name)
    pauses = pauses_between_looks(name, position, timeout_seconds)
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        for pause in pauses:
            shown = _is_shown(session, name, position, schema)
            if shown or pause is None:
                return shown
            time.sleep(pause)
    return False


async def wait_for_projection_async(
    engine: AsyncEngine,
    name: str,
    position: int,
    timeout_seconds: float,
    *,
    schema: str | None = None,
) -> bool:
    """Do the same as :func:`wait_for_projection`, awaiting."""
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415 - an extra

    check_schema(schema)
    _refuse_within(name)
    pauses = pauses_between_looks(name, position, timeout_seconds)
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        for pause in pauses:
            shown = await session.run_sync(_is_shown, name, position, schema)
            if shown or pause is None:
                return shown
            await asyncio.sleep(pause)
    return False


def _refuse_within(name: str) -> None:
    at_work = handling.get()
    if at_work is not None and at_work.rpartition("@")[0] == name:
        raise SubscriptionError(
            at_work, "a method can't wait for its own projection, which waits for it"
        )


def _is_shown(session: Session, name: str, position: int, schema: str | None) -> bool:
    live = load_live_version(session, name, Hold.NOT, schema=schema)
    if live is None or read_feed_mark(session, schema=schema).position < position:
        return False
    if live.is_inline:
        return True
    subscription = subscription_name(name, live.version)
    return has_scanned(
        session, subscription, position, is_readable=True, schema=schema
    ) and not is_parked(session, subscription, position, schema=schema)
