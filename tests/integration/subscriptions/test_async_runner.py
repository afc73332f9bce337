"""The task runner keeps the promises of the thread runner, on both async drivers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from eventstore import ANY, SubscriptionError
from eventstore.operations.notifications import notify
from eventstore.subscriptions import (
    STOP,
    AsyncCommitNotifier,
    AsyncSubscriptionRunner,
    Delivery,
    Subscription,
    aio_notifications,
    parked_streams,
    replay_parked_async,
    wait_for_async,
)
from eventstore.subscriptions.aio_notifications import AsyncCommitListener
from tests.fixtures.events import new_event
from tests.fixtures.stores import DEADLINE_SECONDS, async_engine_of, async_store_on
from tests.fixtures.subscriptions import CUT, QUICK, TELL, append, checkpoint, see, seen

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine, TextClause

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


@pytest.mark.asyncio
async def test_parked_streams_are_replayed(db: Engine, async_url: URL) -> None:
    append(db, "bad", 3)
    append(db, "a", 1)
    async with async_engine_of(async_url) as engine:
        view = Subscription("view", see_async, retry=QUICK)
        await AsyncSubscriptionRunner(engine, [view]).run_until_current()
        (parked,) = await replay_parked_async(engine, view, "bad")
        assert (parked.position, parked.attempts) == (2, 4)

        async def cured(session: AsyncSession, event: AnyEnvelope) -> None:
            await session.run_sync(see, event)

        assert await replay_parked_async(engine, Subscription("view", cured)) == []
    assert seen(db) == [1, 2, 3, 4]
    assert checkpoint(db) == 4


class OwnSession(AsyncSession):
    """An application's own."""


@pytest.mark.asyncio
async def test_handlers_get_the_applications_own_sessions(db: Engine, async_url: URL) -> None:
    append(db, "a", 1)
    got: list[object] = []

    async def handler(session: AsyncSession, event: AnyEnvelope) -> None:
        isolation = await session.scalar(text("SHOW transaction_isolation"))
        got.append((isinstance(session, OwnSession), session.info, isolation))

    async with async_engine_of(async_url, isolation_level="SERIALIZABLE") as engine:
        sessions = async_sessionmaker(engine, class_=OwnSession, info={"a": 1})
        await AsyncSubscriptionRunner(sessions, [Subscription("view", handler)]).run_until_current()
    assert got == [(True, {"a": 1}, "read committed")]


@pytest.mark.asyncio
async def test_a_runner_stops_after_the_event_that_is_being_handled(
    db: Engine, async_url: URL
) -> None:
    append(db, "a", 100)
    handled: list[int] = []
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        handled.append(delivery.position)
        if delivery.position == 3:
            at_work.set()
            await go_on.wait()

    async with async_engine_of(async_url) as engine:
        runner = AsyncSubscriptionRunner(engine, [Subscription("view", handler, external=True)])
        await runner.start()
        await at_work.wait()
        stopping = asyncio.create_task(runner.stop())
        await runner._stopping.wait()
        go_on.set()
        await stopping
    assert handled == [1, 2, 3]
    assert checkpoint(db) == 3


@pytest.mark.asyncio
async def test_a_lost_listener_is_made_anew_and_looks_after_it_listens(
    db: Engine, async_url: URL
) -> None:
    heard = asyncio.Event()
    async with async_engine_of(async_url) as engine:
        listener = AsyncCommitListener(engine, None, heard.set)
        listener.start()
        for _ in range(3):
            await asyncio.wait_for(heard.wait(), DEADLINE_SECONDS)  # the first look after LISTEN
            heard.clear()
            await asyncio.to_thread(execute, db, TELL)
            await asyncio.wait_for(heard.wait(), DEADLINE_SECONDS)
            heard.clear()
            await asyncio.to_thread(execute, db, CUT)
        await asyncio.wait_for(heard.wait(), DEADLINE_SECONDS)
        assert listener.connected
        await listener.stop()
        assert not listener.connected


@pytest.mark.asyncio
async def test_a_runner_says_whether_it_listens(db: Engine, async_url: URL) -> None:
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_session: AsyncSession, _event: AnyEnvelope) -> None:
        at_work.set()
        await go_on.wait()

    append(db, "a", 1)
    async with async_engine_of(async_url) as engine:
        deaf = AsyncSubscriptionRunner(
            engine, [Subscription("deaf", see_async)], notifications=False
        )
        async with deaf:
            await deaf.run_until_current()
            assert not deaf.listening
        async with AsyncSubscriptionRunner(engine, [Subscription("view", handler)]) as runner:
            await asyncio.wait_for(at_work.wait(), DEADLINE_SECONDS)
            while not runner.listening:
                assert runner._listener._task is not None
                assert not runner._listener._task.done()
                await asyncio.to_thread(execute, db, text("SELECT pg_sleep(0.01)"))
            go_on.set()
        assert not runner.listening


def execute(engine: Engine, statement: TextClause) -> None:
    with engine.begin() as connection:
        connection.execute(statement)


@pytest.mark.asyncio
async def test_commits_are_told_to_other_processes_but_not_to_ones_own(
    db: Engine, async_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = asyncio.Event()
    async with async_engine_of(async_url) as engine:
        listener = AsyncCommitListener(engine, None, heard.set)
        listener.start()
        await asyncio.wait_for(heard.wait(), DEADLINE_SECONDS)
        heard.clear()
        async with AsyncCommitNotifier(engine), async_store_on(engine) as store:
            await store.append_to_stream("a", ANY, [new_event()])
        assert not heard.is_set()
        monkeypatch.setattr(
            aio_notifications,
            "notify",
            lambda session, channel, _own: notify(session, channel, "another process"),
        )
        async with AsyncCommitNotifier(engine):
            async with async_store_on(engine) as store:
                await store.append_to_stream("a", ANY, [new_event()])
            await asyncio.wait_for(heard.wait(), DEADLINE_SECONDS)
        await listener.stop()
