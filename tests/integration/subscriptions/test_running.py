"""How a runner stops, waits and writes, whose sessions it uses, and what it refuses to run."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import BigInteger, create_engine, event, literal, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from eventstore import EventFilter, SubscriptionError
from eventstore.operations.deliveries import partition_of
from eventstore.subscriptions import (
    AsyncSubscriptionRunner,
    Delivery,
    RetryPolicy,
    Subscription,
    SubscriptionRunner,
    parked_streams,
    reset_subscription,
    subscription_status,
    wait_for,
)
from eventstore.subscriptions.roster import Roster
from tests.fixtures.stores import DEADLINE_SECONDS, statements_of
from tests.fixtures.subscriptions import QUICK, append, checkpoint, see, seen

if TYPE_CHECKING:
    from sqlalchemy import Engine, Pool

    from eventstore.events import AnyEnvelope


def run(engine: Any, *subscriptions: Subscription) -> None:
    SubscriptionRunner(engine, subscriptions, notifications=False).run_until_current()


@pytest.mark.parametrize("external", [False, True])
def test_a_runner_stops_after_the_event_that_is_being_handled(
    db: Engine, *, external: bool
) -> None:
    append(db, "a", 100)
    handled: list[int] = []
    at_work, go_on = threading.Event(), threading.Event()

    def handle(position: int) -> None:
        handled.append(position)
        if position == 3:
            at_work.set()
            assert go_on.wait(DEADLINE_SECONDS)

    def effect(delivery: Delivery) -> None:
        handle(delivery.position)

    def view(session: Session, each: AnyEnvelope) -> None:
        see(session, each)
        handle(each.sequence_number)

    handler = effect if external else view
    runner = SubscriptionRunner(db, [Subscription("view", handler, external=external)])
    runner.start()
    assert at_work.wait(DEADLINE_SECONDS)
    stopping = threading.Thread(target=runner.stop)
    stopping.start()
    assert runner._stopping.wait(DEADLINE_SECONDS)
    go_on.set()
    stopping.join()
    # What was done is kept, and nothing comes again.
    assert handled == [1, 2, 3]
    assert checkpoint(db) == 3
    if not external:
        assert seen(db) == [1, 2, 3]


def saves(statements: list[str]) -> int:
    return sum("SET checkpoint" in each for each in statements)


def test_nothing_is_written_while_nothing_moves_and_little_while_others_events_do(
    db: Engine,
) -> None:
    rare = Subscription("view", see, filters=EventFilter(event_types=["Rare"]))
    with statements_of(db) as sent, SubscriptionRunner(db, [rare]) as runner:
        append(db, "a", 1)
        runner.run_until_current()
        before, began = saves(sent), time.monotonic()
        for _ in range(30):
            append(db, "a", 1)
            assert runner._watch.feed.hints
        seconds = time.monotonic() - began
        assert saves(sent) - before <= seconds + 1
        runner.run_until_current()
        assert checkpoint(db) == 31
        before = saves(sent)
        append(db, "a", 1, event_type="Rare")
        assert wait_for(db, "view", 32, DEADLINE_SECONDS)
        assert saves(sent) == before + 1
    assert saves(sent) == before + 1


def test_who_waits_does_not_ask_after_each_batch(
    db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(db, "a", 200)
    asked: list[int] = []
    all_beyond = Roster.all_beyond

    def counted(roster: Roster, session: Session, position: int) -> bool:
        asked.append(position)
        return all_beyond(roster, session, position)

    monkeypatch.setattr(Roster, "all_beyond", counted)
    began = time.monotonic()
    run(db, Subscription("view", see, batch_size=1))
    # At first, when it is owned, at the end, and each 50 ms meanwhile.
    assert len(asked) <= 3 + (time.monotonic() - began) / 0.05
    assert checkpoint(db) == 200


def test_the_checkpoint_lags_for_a_second_at_most(db: Engine) -> None:
    rare = Subscription("view", see, filters=EventFilter(event_types=["Rare"]))
    with SubscriptionRunner(db, [rare]):
        append(db, "a", 1)
        assert wait_for(db, "view", 1, DEADLINE_SECONDS)


def test_other_partitions_are_not_waited_for(db: Engine) -> None:
    """They have none of the event, and their checkpoints may lag behind it."""
    append(db, "a", 1)
    with SubscriptionRunner(db, [Subscription("view", see, partitions=8)]):
        assert wait_for(db, "view", 1, DEADLINE_SECONDS)
    with db.begin() as connection:
        partition = connection.execute(
            text("UPDATE subscriptions SET checkpoint = 0 WHERE checkpoint = 1 RETURNING partition")
        )
        own = int.from_bytes(hashlib.sha256(b"a").digest()[:4], "big") % 8
        assert own in set(partition.scalars())
    assert not wait_for(db, "view", 1, 0.01)
    with db.begin() as connection:
        connection.execute(
            text("UPDATE subscriptions SET checkpoint = 1 WHERE partition = :own"), {"own": own}
        )
    assert wait_for(db, "view", 1, 0.01)
    assert not wait_for(db, "view", 2, 0.01)


@pytest.mark.parametrize("stream_id", ["a", "Konto-ü/7", "x" * 255])
def test_the_partition_of_a_stream_can_be_told_anywhere(db: Engine, stream_id: str) -> None:
    number = partition_of(literal(stream_id), literal(1000, BigInteger))
    with db.connect() as connection:
        digest = hashlib.sha256(stream_id.encode()).digest()
        assert connection.scalar(select(number)) == int.from_bytes(digest[:4], "big") % 1000


class OwnSession(Session):
    """An application's own."""


def test_handlers_get_the_applications_own_sessions(db: Engine) -> None:
    append(db, "a", 1)
    append(db, "bad", 1)
    got: list[Any] = []

    def handler(session: Session, each: AnyEnvelope) -> None:
        isolation = session.scalar(text("SHOW transaction_isolation"))
        is_own = isinstance(session, OwnSession)
        got.append((is_own, session.info, session.autoflush, isolation))
        see(session, each)
        if each.stream_id == "bad":
            raise ValueError("no")

    serializable = db.execution_options(isolation_level="SERIALIZABLE")
    sessions = sessionmaker(serializable, class_=OwnSession, info={"a": 1}, autoflush=False)
    run(sessions, Subscription("view", handler, retry=QUICK))
    assert got == [(True, {"a": 1}, False, "read committed")] * len(got)
    assert seen(db) == [1]
    with sessions() as session:
        assert [each.stream_id for each in parked_streams(session, "view")] == ["bad"]


@pytest.mark.parametrize("poolclass", [NullPool, QueuePool])
def test_a_runners_own_connections_are_made_as_the_engines(
    db: Engine, poolclass: type[Pool]
) -> None:
    append(db, "a", 1)
    url = db.url.set(drivername="postgresql").render_as_string(hide_password=False)
    created: list[Any] = []
    connected: list[Any] = []

    def create() -> Any:
        created.append(psycopg.connect(url))
        return created[-1]

    # Its own URL leads nowhere: whatever is connected was made by the creator.
    engine = create_engine(
        "postgresql+psycopg://nobody@127.0.0.1:1/nothing", creator=create, poolclass=poolclass
    )
    event.listen(engine, "connect", lambda connection, _record: connected.append(connection))
    with SubscriptionRunner(engine, [Subscription("view", see)]) as runner:
        runner.run_until_current()
    assert len(created) == len(connected) > 3
    assert seen(db) == [1]
    engine.dispose()


@pytest.mark.parametrize("given", [Session, None])
def test_other_makers_of_sessions_are_refused(given: Any) -> None:
    view = Subscription("view", see)
    with pytest.raises(TypeError, match="engine must be an Engine, or a sessionmaker"):
        SubscriptionRunner(given, [view])


@pytest.mark.parametrize("external", [False, True])
def test_a_handler_for_the_other_twin_is_refused_and_loses_no_event(
    db: Engine, *, external: bool
) -> None:
    append(db, "a", 1)

    async def coroutine(*_: object) -> None: ...

    awaits = Subscription("awaits", coroutine, external=external)
    with pytest.raises(SubscriptionError, match="is a coroutine function"):
        SubscriptionRunner(db, [awaits], notifications=False).run_until_current()

    async def run_async() -> None:
        engine = create_async_engine(db.url)
        plain = Subscription("plain", lambda *_: None, external=external)
        with pytest.raises(SubscriptionError, match="is no coroutine function"):
            await AsyncSubscriptionRunner(engine, [plain], notifications=False).run_until_current()
        await engine.dispose()

    asyncio.run(run_async())
    assert checkpoint(db, "awaits") == checkpoint(db, "plain") == 0
    with Session(db) as session:
        assert parked_streams(session, "plain") == []


def test_a_handler_that_would_end_its_thread_or_task_wedges_nothing(db: Engine) -> None:
    """Nobody would hear of that end, and the lease would be renewed for ever."""
    append(db, "bad", 1)
    append(db, "good", 1)
    retry = RetryPolicy(max_attempts=1)

    def leave(session: Session, each: AnyEnvelope) -> None:
        if each.stream_id == "bad":
            sys.exit()
        see(session, each)

    run(db, Subscription("thread", leave, retry=retry))

    async def cancelled(_session: AsyncSession, each: AnyEnvelope) -> None:
        if each.stream_id == "bad":
            waiting = asyncio.ensure_future(asyncio.Event().wait())
            waiting.cancel()
            await waiting

    async def run_async() -> None:
        engine = create_async_engine(db.url)
        spec = Subscription("task", cancelled, retry=retry)
        await AsyncSubscriptionRunner(engine, [spec], notifications=False).run_until_current()
        await engine.dispose()

    asyncio.run(run_async())
    with Session(db) as session:
        errors = [parked_streams(session, name)[0].error for name in ("thread", "task")]
    assert errors == [
        "RuntimeError: the handler has raised SystemExit",
        "RuntimeError: the handler has raised CancelledError",
    ]
    assert seen(db) == [2]


def test_a_task_that_is_cancelled_ends_and_renews_no_lease(db: Engine) -> None:
    append(db, "a", 1)

    async def run_async() -> None:
        engine = create_async_engine(db.url)
        at_work = asyncio.Event()

        async def wait(*_: object) -> None:
            at_work.set()
            await asyncio.Event().wait()

        async with AsyncSubscriptionRunner(engine, [Subscription("view", wait)]) as runner:
            await at_work.wait()
            runner._tasks[0].cancel()
            await asyncio.wait(runner._tasks[:1])
            (worker,) = runner._roster.workers
            assert worker.lease is None
        await engine.dispose()

    asyncio.run(run_async())
    assert checkpoint(db) == 0


def test_a_runner_may_be_stopped_twice(db: Engine) -> None:
    with SubscriptionRunner(db, [Subscription("view", see)]) as runner:
        runner.stop()

    async def stop_twice() -> None:
        engine = create_async_engine(db.url)
        async with AsyncSubscriptionRunner(engine, [Subscription("view", see)]) as async_runner:
            await async_runner.stop()
        await engine.dispose()

    asyncio.run(stop_twice())


def test_the_wrong_twin_is_refused(db: Engine) -> None:
    view = Subscription("view", see)
    aio = create_async_engine(db.url)
    for given in (aio, async_sessionmaker(aio)):
        with pytest.raises(TypeError, match="async twin"):
            SubscriptionRunner(given, [view])  # type: ignore[arg-type]
    for wrong in (db, sessionmaker(db)):
        with pytest.raises(TypeError, match="AsyncEngine"):
            AsyncSubscriptionRunner(wrong, [view])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": 2}, "made with version 1, not 2"),
        ({"partitions": 2}, "made with 1 partitions, not 2"),
        ({"filters": EventFilter(event_types=["Rare"])}, "made with another filter"),
    ],
)
def test_a_changed_subscription_is_refused_until_it_is_reset(
    db: Engine, changed: dict[str, Any], told: str
) -> None:
    append(db, "a", 1, event_type="Rare")
    run(db, Subscription("view", see))
    with pytest.raises(SubscriptionError, match=told) as error:
        run(db, Subscription("view", see, **changed))
    assert "reset_subscription()" in str(error.value)
    with Session(db) as session, session.begin():
        assert reset_subscription(session, "view")
        assert not reset_subscription(session, "other")
        session.execute(text("DELETE FROM seen"))
    run(db, Subscription("view", see, **changed))
    assert seen(db) == [1]
    with Session(db) as session:
        assert {each.version for each in subscription_status(session)} == {
            changed.get("version", 1)
        }


def test_one_that_is_run_can_not_be_reset(db: Engine) -> None:
    append(db)
    with SubscriptionRunner(db, [Subscription("view", see)]) as runner:
        runner.run_until_current()
        with Session(db) as session, pytest.raises(SubscriptionError, match="stop it first"):
            reset_subscription(session, "view")


def test_a_store_that_is_restored_meanwhile_stops_it_loudly(db: Engine) -> None:
    append(db, "a", 3)
    runner = SubscriptionRunner(db, [Subscription("view", see)], notifications=False)
    with pytest.raises(SubscriptionError, match="restored to an earlier time"), runner:
        runner.run_until_current()
        with db.begin() as connection:
            connection.execute(text("SELECT setval('events_sequence_number_seq', 1)"))
        for thread in runner._threads[:1]:
            thread.join(DEADLINE_SECONDS)
    with Session(db) as session:
        (status,) = subscription_status(session, "view")
    assert status.last_error is not None
    assert "restored" in status.last_error
    assert status.last_error_position is None
    assert not status.is_leased
