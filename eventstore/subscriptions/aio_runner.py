"""Run subscriptions with tasks: the twin of :mod:`eventstore.subscriptions.runner`.

It obeys the same state machine and performs the same steps; it only waits differently.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from eventstore.errors import EventStoreError
from eventstore.operations.read import read_current_position
from eventstore.registry import codec_of
from eventstore.streams import check_schema
from eventstore.subscriptions.aio_notifications import (
    AsyncCommitListener,
    AsyncCommitNotifier,
    pause,
)
from eventstore.subscriptions.aio_wake_up import AsyncFeedWatch
from eventstore.subscriptions.catch_up import (
    Acquire,
    Await,
    Delivered,
    Halt,
    Happening,
    Interrupted,
    LeaseLost,
    Pause,
    Refused,
    Release,
    Started,
    StopRequested,
    Woken,
)
from eventstore.subscriptions.definition import check_seconds
from eventstore.subscriptions.driving import drive_async
from eventstore.subscriptions.engines import async_sessions_of, separate_async
from eventstore.subscriptions.failures import is_passing
from eventstore.subscriptions.roster import (
    Roster,
    check_subscriptions,
    log_failed_renewal,
    loop_of,
    worker_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Self

    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

    from eventstore.registry import EventRegistry
    from eventstore.subscriptions.catch_up import Command
    from eventstore.subscriptions.definition import Subscription
    from eventstore.subscriptions.worker import Task, Worker


class AsyncSubscriptionRunner:
    """Subscriptions, run by tasks of this event loop until it is stopped.

    All that is said of :class:`~eventstore.subscriptions.SubscriptionRunner` holds, for an
    AsyncEngine or an ``async_sessionmaker``; handlers are coroutine functions, and get an
    ``AsyncSession``.
    """

    def __init__(
        self,
        engine: AsyncEngine | async_sessionmaker[Any],
        subscriptions: Sequence[Subscription],
        *,
        registry: EventRegistry | None = None,
        schema: str | None = None,
        notifications: bool = True,
    ) -> None:
        self._schema = check_schema(schema)
        self._subscriptions = check_subscriptions(subscriptions, registry, self._schema)
        self._sessions, engine = async_sessions_of(engine)
        # In AUTOCOMMIT: an owner that is frozen while it renews a lease must leave no lock behind.
        self._own = separate_async(engine)
        codec = codec_of(registry)
        self._roster = Roster(self._subscriptions, worker_name(), codec, self._schema)
        self._watch = AsyncFeedWatch(engine, self._schema)
        self._listener = AsyncCommitListener(engine, self._schema, self._watch.hint)
        self._notifier = AsyncCommitNotifier(engine, schema=schema)
        self._notifications = notifications
        self._stopping = asyncio.Event()
        self._progress = asyncio.Event()
        self._errors: list[Exception] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        if error is None:
            self.raise_error()

    async def start(self) -> None:
        """Make the subscriptions that aren't there yet, and begin.

        :raises SubscriptionError: one was made with other partitions, version or filter.
        """
        if self._tasks:
            raise RuntimeError("the runner was started before; make a new one")
        try:
            async with AsyncSession(self._own) as session:
                await session.run_sync(self._roster.create)
        except BaseException:
            await self._own.dispose()  # nobody has to stop what has not begun
            raise
        self._watch.start()
        if self._notifications:
            self._listener.start()
            await self._notifier.start()
        loop = asyncio.get_running_loop()
        self._tasks = [
            *(loop.create_task(self._run(worker)) for worker in self._roster.workers),
            loop.create_task(self._keep_leases()),
        ]

    async def stop(self) -> None:
        """End after the events that are being handled, and give the leases back."""
        self._roster.stop()
        self._stopping.set()
        self._watch.wake()
        # A task that somebody else has cancelled must not keep the others' connections open.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._notifications and self._tasks:
            await self._listener.stop()
            await self._notifier.stop()
        await self._watch.stop()
        await self._own.dispose()

    @property
    def listening(self) -> bool:
        """Whether it hears of other processes' commits at once; else it polls for them."""
        return self._listener.connected

    def raise_error(self) -> None:
        """Raise what has ended one of the subscriptions, if anything has."""
        if self._errors:
            raise self._errors[0]

    async def run_until_current(self, timeout_seconds: float = 60.0) -> None:
        """Return once everything that was committed before the call has been scanned.

        It starts the runner, if that wasn't done, and stops it then. Events of parked streams
        count as scanned. An open transaction that has appended before one of these events holds
        them back, and is waited for; one that has appended behind all of them isn't.

        :raises TimeoutError: it took longer.
        :raises SubscriptionError: a subscription has stopped.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        async with AsyncSession(self._own) as session:
            target = await session.run_sync(read_current_position, schema=self._schema)
        if self._tasks:
            await self._wait_for(target, timeout_seconds)
            return
        async with self:
            await self._wait_for(target, timeout_seconds)

    async def _wait_for(self, target: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        self._roster.awaited(is_awaited=True)
        self._watch.wake()
        try:
            while True:
                self._progress.clear()
                async with AsyncSession(self._own) as session:
                    if await session.run_sync(self._roster.all_beyond, target):
                        return
                self.raise_error()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not at position {target} after {timeout_seconds} seconds")
                # Others may own a partition, and tell nobody here.
                await pause(self._progress, min(left, 0.05))
        finally:
            self._roster.awaited(is_awaited=False)

    async def _run(self, worker: Worker) -> None:
        try:
            await self._obey_until_the_end(worker)
            if worker.has_halted:
                self._errors.append(worker.stopped())
        except Exception as error:  # noqa: BLE001 - it must not be lost with the task
            worker.ended_by(error)
            self._errors.append(error)
            with suppress(Exception):
                await self._perform(worker, Halt())
        finally:
            worker.abandon()
            self._progress.set()

    async def _obey_until_the_end(self, worker: Worker) -> None:
        loop = loop_of(worker.subscription)
        command = loop.decide(Started())
        while not isinstance(command, Release):
            command = loop.decide(await self._obey(worker, command))
        if isinstance(await self._perform(worker, command), Interrupted):
            # The pool's connection was lost, perhaps; on a new one the lease is given back.
            await self._perform(worker, command)

    async def _obey(self, worker: Worker, command: Command) -> Happening:
        if self._stopping.is_set():
            return StopRequested()
        if isinstance(command, Pause):
            await pause(self._stopping, command.seconds)
            return Woken()
        if isinstance(command, Await):
            await self._await(worker, command.seconds)
            return Woken()
        if isinstance(command, Acquire) and not self._roster.may_acquire(worker):
            return Refused()
        if worker.must_yield and worker.lease is not None:
            await self._perform(worker, Release())
            return LeaseLost()
        happening = await self._perform(worker, command)
        if isinstance(happening, Delivered):
            self._watch.seen(worker.position)
        # Not after each batch: who waits would ask the database, and hold up what he waits for.
        if not isinstance(happening, Delivered) or happening.caught_up:
            self._progress.set()
        return happening

    async def _await(self, worker: Worker, seconds: float | None) -> None:
        if worker.needs_mark:
            worker.needs_mark = False
            self._watch.look()
        await self._watch.wait(worker.position, worker.hints, seconds, lambda: worker.is_wanted)

    async def _perform(self, worker: Worker, command: Task) -> Happening:
        try:
            async with self._sessions() as session:
                steps = worker.perform(command, self._watch.feed)
                return await drive_async(session, worker.subscription, steps)
        except Exception as error:
            if not is_passing(error):
                raise
            worker.interrupted(error)
            return Interrupted()

    async def _keep_leases(self) -> None:
        failed = False
        while not await pause(self._stopping, self._roster.renewal_seconds(failed=failed)):
            try:
                async with AsyncSession(self._own) as session:
                    failed = not await session.run_sync(self._roster.renew)
                self._watch.wake()
            except (SQLAlchemyError, EventStoreError, OSError) as error:
                failed = True
                log_failed_renewal(error)
        with suppress(SQLAlchemyError, EventStoreError, OSError):
            async with AsyncSession(self._own) as session:
                await session.run_sync(self._roster.retire)
