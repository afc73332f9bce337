"""The task runner keeps the promises of the thread runner, on both async drivers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from eventstore import ANY, SubscriptionError
from eventstore.subscriptions import (
    STOP,
    AsyncSubscriptionRunner,
    Delivery,
    Subscription,
    parked_streams,
    wait_for_async,
)
from tests.fixtures.events import new_event
from tests.fixtures.stores import async_engine_of, async_store_on
from tests.fixtures.subscriptions import QUICK, append, checkpoint, see, seen

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from eventstore.events import AnyEnvelope


async def see_async(session: AsyncSession, event: AnyEnvelope) -> None:
    if event.stream_id == "bad" and event.event_version == 2:
        raise ValueError("no")
    await session.run_sync(see, event)


@pytest.mark.asyncio
async def test_a_view_gets_every_event_once_and_failing_streams_are_parked(
    db: Engine, async_url: URL
) -> None:
    append(db, "a", 3)
    append(db, "bad", 3)
    append(db, "b", 2)
    view = Subscription("view", see_async, batch_size=3, retry=QUICK)
    async with async_engine_of(async_url) as engine:
        await AsyncSubscriptionRunner(engine, [view]).run_until_current()
        async with AsyncSession(engine) as session:
            (parked,) = await session.run_sync(parked_streams, "view")
    assert seen(db) == [1, 2, 3, 4, 7, 8]
    assert checkpoint(db) == 8
    assert (parked.stream_id, parked.position, parked.attempts) == ("bad", 5, 3)


@pytest.mark.asyncio
async def test_events_come_live_and_can_be_awaited(db: Engine, async_url: URL) -> None:
    async with async_engine_of(async_url) as engine:
        runner = AsyncSubscriptionRunner(engine, [Subscription("view", see_async, partitions=2)])
        async with runner:
            async with async_store_on(engine) as store:
                await store.append_to_stream("a", ANY, [new_event()])
            assert await wait_for_async(engine, "view", 1, 60)
            assert seen(db) == [1]
            assert not await wait_for_async(engine, "view", 2, 0.01)


@pytest.mark.asyncio
async def test_effects_outside_and_a_stop(db: Engine, async_url: URL) -> None:
    append(db, "a", 2)
    got: list[tuple[int, int]] = []

    async def handler(delivery: Delivery) -> None:
        await asyncio.sleep(0)
        got.append((delivery.position, delivery.attempt))
        if delivery.position == 2:
            raise ValueError("no")

    mails = Subscription("mails", handler, external=True, retry=QUICK, on_failure=STOP)
    async with async_engine_of(async_url) as engine:
        with pytest.raises(SubscriptionError, match="position 2: ValueError: no"):
            await AsyncSubscriptionRunner(engine, [mails]).run_until_current()
    assert got == [(1, 1), (2, 1), (2, 2), (2, 3), (2, 4)]
