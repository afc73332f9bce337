"""Rebuild a projection beside the live one, and make it the live one: all of it in one call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sqlalchemy.orm import Session

from eventstore.projections.definition import check_projection
from eventstore.projections.projector import async_subscription_of, subscription_of
from eventstore.projections.versions import begin_rebuild, switch_version
from eventstore.reading import PAGE_SIZE
from eventstore.subscriptions.definition import check_seconds
from eventstore.subscriptions.runner import SubscriptionRunner

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from eventstore.projections.definition import Projection
    from eventstore.registry import EventRegistry

_DAY: Final = 86_400.0
_SHORTEST_SECONDS: Final = 1.0


def rebuild(
    engine: Engine,
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
    batch_size: int = PAGE_SIZE,
    lease_seconds: float = 30.0,
    timeout_seconds: float = _DAY,
) -> None:
    """Build a new version of a projection beside the live one, and make it the live one.

    Readers and writers go on meanwhile, and see the live version until all at once they see the
    new one. What was built is kept if the process dies or the time is over: call it again, and it
    goes on from there, once the lease of the one that died has run out. Several processes may do
    it at once, and share the partitions; runners of the new code help, and keep the version when
    this is over.

    It is also how a version is brought back: with the code of that version. For one that is live,
    it only brings it up to date.

    :raises SubscriptionError: streams are parked that the new version couldn't handle, or the
        version was begun by code that handles other events.
    :raises TimeoutError: it took longer.
    """
    check_projection(projection, awaits=False)
    deadline = time.monotonic() + check_seconds("timeout_seconds", timeout_seconds)
    spec = subscription_of(
        projection, registry, schema=schema, batch_size=batch_size, lease_seconds=lease_seconds
    )
    with Session(engine) as session, session.begin():
        begin_rebuild(session, projection, registry, schema=schema)
    with SubscriptionRunner(engine, [spec], registry=registry, schema=schema) as runner:
        runner.run_until_current(timeout_seconds)
        with Session(engine) as session, session.begin():
            switch_version(
                session,
                projection.name,
                projection.version,
                timeout_seconds=_left(deadline),
                schema=schema,
            )


async def rebuild_async(
    engine: AsyncEngine,
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
    batch_size: int = PAGE_SIZE,
    lease_seconds: float = 30.0,
    timeout_seconds: float = _DAY,
) -> None:
    """Do the same as :func:`rebuild`, by tasks."""
    # Here, since asyncio is an extra.
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415

    from eventstore.subscriptions.aio_runner import AsyncSubscriptionRunner  # noqa: PLC0415

    check_projection(projection, awaits=True)
    deadline = time.monotonic() + check_seconds("timeout_seconds", timeout_seconds)
    spec = async_subscription_of(
        projection, registry, schema=schema, batch_size=batch_size, lease_seconds=lease_seconds
    )
    async with AsyncSession(engine) as session, session.begin():
        await session.run_sync(begin_rebuild, projection, registry, schema=schema)
    async with AsyncSubscriptionRunner(engine, [spec], registry=registry, schema=schema) as runner:
        await runner.run_until_current(timeout_seconds)
        async with AsyncSession(engine) as session, session.begin():
            await session.run_sync(
                switch_version,
                projection.name,
                projection.version,
                timeout_seconds=_left(deadline),
                schema=schema,
            )


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), _SHORTEST_SECONDS)
