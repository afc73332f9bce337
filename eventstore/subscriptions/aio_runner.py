"""Run subscriptions with tasks: the twin of :mod:`eventstore.subscriptions.runner`.

It obeys the same state machine and performs the same steps; it only waits differently.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from eventstore.errors import EventStoreError
from eventstore.operations.checkpoints import create_subscription, load_checkpoints
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.read import read_feed_mark
from eventstore.registry import codec_of
from eventstore.streams import check_schema
from eventstore.subscriptions.catch_up import (
    Acquire,
    Await,
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
from eventstore.subscriptions.roster import Roster, check_subscriptions, loop_of, worker_name
from eventstore.subscriptions.wake_up import NOTHING_READ, Polls
from eventstore.subscriptions.worker import describe, is_passing

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from types import TracebackType
    from typing import Any, Self

    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

    from eventstore.registry import EventRegistry
    from eventstore.subscriptions.catch_up import Command
    from eventstore.subscriptions.definition import Subscription
    from eventstore.subscriptions.worker import Task, Worker

log = logging.getLogger("eventstore.subscriptions")


class AsyncSubscriptionRunner:
    """Subscriptions, run by tasks of this event loop until it is stopped.

    All that is said of :class:`~eventstore.subscriptions.SubscriptionRunner` holds; handlers are
    coroutine functions, and get an ``AsyncSession``. It doesn't LISTEN: what other processes
    append comes with the next poll, at most a tenth of a second later.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        subscriptions: Sequence[Subscription],
        *,
        registry: EventRegistry | None = None,
        schema: str | None = None,
    ) -> None:
        self._subscriptions = check_subscriptions(subscriptions)
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._codec = codec_of(registry)
        self._schema = check_schema(schema)
        name = worker_name()
        self._roster = Roster(self._subscriptions, name, self._codec, self._schema)
        self._mark = NOTHING_READ
        self._moved = asyncio.Condition()
        self._hint = asyncio.Event()
        self._stopping = asyncio.Event()
        self._errors: list[Exception] = []
        self._workers: list[asyncio.Task[None]] = []
        self._helpers: list[asyncio.Task[None]] = []

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

        :raises SubscriptionError: one was made with another number of partitions.
        """
        if self._workers:
            raise RuntimeError("the runner was started before; make a new one")
        async with AsyncSession(self._engine) as session:
            await session.run_sync(self._create)
            await session.commit()
        self._loop = asyncio.get_running_loop()
        listen(self._hear)
        self._helpers = [_task(self._poll()), _task(self._keep_leases())]
        self._workers = [_task(self._run(worker)) for worker in self._roster.workers]

    async def stop(self) -> None:
        """End after the batches that are being handled, and give the leases back."""
        self._stopping.set()
        await self._wake()
        await asyncio.gather(*self._workers)
        self._hint.set()
        await asyncio.gather(*self._helpers)
        if self._workers:
            unlisten(self._hear)

    def raise_error(self) -> None:
        """Raise what has ended one of the subscriptions, if anything has."""
        if self._errors:
            raise self._errors[0]

    async def run_until_current(self, timeout_seconds: float = 60.0) -> None:
        """Return once everything that could be read at the call has been scanned.

        It starts the runner, if that wasn't done, and stops it then. Events of parked streams
        count as scanned, those of transactions that are still open aren't awaited.

        :raises TimeoutError: it took longer.
        :raises SubscriptionError: a subscription has stopped.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        async with AsyncSession(self._engine) as session:
            mark = await session.run_sync(read_feed_mark, schema=self._schema)
        if self._workers:
            await self._wait_for(mark.position, timeout_seconds)
            return
        async with self:
            await self._wait_for(mark.position, timeout_seconds)

    async def _wait_for(self, target: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            async with AsyncSession(self._engine) as session:
                if await session.run_sync(self._all_beyond, target):
                    return
            self.raise_error()
            if time.monotonic() >= deadline:
                raise TimeoutError(f"not at position {target} after {timeout_seconds} seconds")
            await asyncio.sleep(0.01)

    def _hear(self) -> None:
        # A commit may be made in any thread.
        self._loop.call_soon_threadsafe(self._hint.set)

    def _create(self, session: Session) -> None:
        for spec in self._subscriptions:
            create_subscription(
                session, spec.name, spec.partitions, spec.start_position, schema=self._schema
            )

    def _all_beyond(self, session: Session, target: int) -> bool:
        return all(
            at.position >= target
            for spec in self._subscriptions
            for at in load_checkpoints(session, spec.name, schema=self._schema)
        )

    async def _run(self, worker: Worker) -> None:
        loop = loop_of(worker.subscription)
        command = loop.decide(Started())
        ended_by: Exception | None = None
        try:
            while not isinstance(command, Release | Halt):
                command = loop.decide(await self._obey(worker, command))
            await self._perform(worker, command)
            if isinstance(command, Halt):
                ended_by = worker.stopped()
        except Exception as error:  # noqa: BLE001 - it must not be lost with the task
            ended_by = error
        if ended_by is not None:
            worker.log_end(ended_by)
            self._errors.append(ended_by)

    async def _obey(self, worker: Worker, command: Command) -> Happening:
        if self._stopping.is_set():
            return StopRequested()
        if isinstance(command, Pause):
            await self._pause(command.seconds)
            return Woken()
        if isinstance(command, Await):
            await self._wait_beyond(worker)
            return Woken()
        if isinstance(command, Acquire) and not self._roster.may_acquire(worker):
            return Refused()
        if worker.must_yield and worker.lease is not None:
            await self._perform(worker, Release())
            return LeaseLost()
        return await self._perform(worker, command)

    async def _perform(self, worker: Worker, command: Task) -> Happening:
        try:
            async with AsyncSession(self._engine, expire_on_commit=False) as session:
                steps = worker.perform(command, self._mark)
                return await drive_async(session, worker.subscription, steps)
        except Exception as error:
            if not is_passing(error):
                raise
            worker.log_interruption(error)
            return Interrupted()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _wait_beyond(self, worker: Worker) -> None:
        async with self._moved:
            await self._moved.wait_for(
                lambda: (
                    self._mark.position > worker.position
                    or self._stopping.is_set()
                    or worker.must_yield
                )
            )

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _poll(self) -> None:
        polls = Polls()
        while not self._stopping.is_set():
            self._hint.clear()
            try:
                async with AsyncSession(self._autocommit) as session:
                    mark = await session.run_sync(read_feed_mark, schema=self._schema)
            except (SQLAlchemyError, EventStoreError, OSError) as error:
                log.warning(
                    "the feed can't be read at the moment: %s",
                    type(error).__qualname__,
                    extra={"action": "feed_poll_failed"},
                )
                pause = polls.after_failure()
            else:
                pause = polls.after(self._mark, mark)
                self._mark = mark
                await self._wake()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hint.wait(), pause)

    async def _keep_leases(self) -> None:
        pause = min(spec.lease_seconds for spec in self._subscriptions) / 3
        while not self._stopping.is_set():
            try:
                async with AsyncSession(self._autocommit) as session:
                    await session.run_sync(self._roster.renew)
                await self._wake()
            except (SQLAlchemyError, EventStoreError, OSError) as error:
                log.warning(
                    "leases can't be renewed at the moment: %s",
                    describe(error),
                    extra={"action": "renewal_failed"},
                )
            await self._pause(pause)
        with suppress(SQLAlchemyError, EventStoreError, OSError):
            async with AsyncSession(self._engine) as session:
                await session.run_sync(self._roster.retire)


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)
