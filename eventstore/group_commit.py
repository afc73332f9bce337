"""Group commit: appends of many threads, or of many tasks, share commits.

Each caller encodes its own events and waits; two threads (two tasks) write what has arrived, group
after group, each on a connection, and tell everybody the outcome. The rules are those of
:mod:`eventstore.grouping`, the SQL is :func:`~eventstore.operations.append_group`; here is only who
waits for whom.
"""

from __future__ import annotations

import asyncio
import os
from _thread import allocate_lock
from contextvars import Context
from threading import Condition, Semaphore, Thread, current_thread
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy import Engine

from eventstore import operations
from eventstore.grouping import GroupQueue, Submission
from eventstore.registry import codec_of
from eventstore.streams import check_number, check_schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncEngine

    from eventstore.events import AnyEnvelope
    from eventstore.grouping import Outcome, Settled
    from eventstore.registry import EventRegistry
    from eventstore.streams import ExpectedVersion

#: A thread that found nothing to do for so long ends; the next append starts another. So a
#: writer that nobody closes leaves nothing behind.
_IDLE_SECONDS: Final = 5.0
#: While one connection waits for the disk, the other keeps the server busy. More of them share
#: fewer appends each, and cost more than they bring (measured).
_WRITERS: Final = 2


class GroupCommitWriter:
    """Appends of many threads, written together: for services with many concurrent writers.

    Every call is a transaction of its own, as with a store in AUTOCOMMIT: it returns when its
    events are committed, and fails alone. Appends that arrive while others are being written form
    the next group, one statement for all of them. Share one writer among the threads of a
    process. It takes up to two connections of ``engine``, while there is something to write.

    ``registry`` and ``schema`` are those of the store. ``max_batch`` is how many appends a group
    may have; ``max_waiting`` is how many may be on their way: further callers wait at the door.

    Close it, or use it as a context manager: then what was accepted is written, and nothing more
    is accepted.
    """

    def __init__(
        self,
        engine: Engine,
        registry: EventRegistry | None = None,
        *,
        schema: str | None = None,
        max_batch: int = 256,
        max_waiting: int = 1024,
    ) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(
                f"engine must be an Engine, not {type(engine).__name__}; for an AsyncEngine "
                "there is AsyncGroupCommitWriter"
            )
        _check_dialect(engine)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._codec = codec_of(registry)
        self._schema = check_schema(schema)
        self._queue: GroupQueue[_Waiter] = GroupQueue(
            max_batch=_check_limit("max_batch", max_batch), writers=_WRITERS
        )
        self._door = Semaphore(_check_limit("max_waiting", max_waiting))
        self._arrived = Condition(allocate_lock())  # guards the queue and the threads
        self._threads: set[Thread] = set()
        self._idle_threads = 0
        self._process: int | None = None

    def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int:
        """Append ``events`` to a stream, commit, and return the stream's new version.

        Arguments, outcomes and errors are those of
        :meth:`SqlAlchemyEventStore.append_to_stream() <eventstore.SqlAlchemyEventStore>`. A call
        that is cancelled, or interrupted, has written its events wholly or not at all.

        :raises ConnectionUnusable: the connection was lost twice while the events were sent;
            append the same events again: if they were committed, they are recognised.
        :raises RuntimeError: the writer is closed, or was used before this process was forked.
        """
        batch, rows = operations.encode_append(stream_id, expected_version, events, self._codec)
        if self._is_elsewhere():
            raise RuntimeError(
                f"this writer belongs to process {self._process}, from which this one was forked; "
                "make a new writer, on a new engine, after the fork"
            )
        submission = Submission(batch=batch, rows=rows, waiter=_Waiter(), fetch_missed=fetch_missed)
        with self._door:
            try:
                with self._arrived:
                    self._queue.add(submission)
                    self._call_writer()
                outcome = submission.waiter.wait()
            except BaseException:
                # An interrupt (Ctrl-C) may come at any time.
                with self._arrived:
                    self._queue.withdraw(submission)
                raise
        return _version(outcome)

    def close(self) -> None:
        """Write what was accepted, and accept nothing more; appends then raise RuntimeError."""
        if self._is_elsewhere():
            return
        with self._arrived:
            self._queue.close()
            self._arrived.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _is_elsewhere(self) -> bool:
        """Tell whether the thread is in another process: nobody would ever answer here."""
        return self._process is not None and self._process != os.getpid()

    def _call_writer(self) -> None:
        if self._idle_threads:
            self._arrived.notify()
        elif len(self._threads) < _WRITERS:
            # A daemon: at the interpreter's exit nobody is left who would wait for an outcome.
            thread = Thread(target=self._work, name="eventstore group commit", daemon=True)
            thread.start()
            self._threads.add(thread)
            self._process = os.getpid()

    def _work(self) -> None:
        """Be one of the threads: write, wait, until the queue is closed or nothing comes."""
        while group := self._wait_for_group():
            try:
                with self._engine.connect() as connection:
                    while group:
                        outcomes = operations.append_group(
                            connection, group, codec=self._codec, schema=self._schema
                        )
                        with self._arrived:
                            settled = self._queue.settle(group, outcomes)
                            group = self._queue.take()
                        _tell_threads(settled)
            except Exception as error:  # noqa: BLE001 - it is the callers', who wait for an answer
                with self._arrived:
                    settled = self._queue.fail(group, error)
                _tell_threads(settled)

    def _wait_for_group(self) -> list[Submission[_Waiter]]:
        """Return the next group, empty if the thread may end."""
        with self._arrived:
            in_time = True
            while not (group := self._queue.take()) and in_time and not self._queue.is_closed:
                self._idle_threads += 1
                in_time = self._arrived.wait(_IDLE_SECONDS)
                self._idle_threads -= 1
            if not group:
                self._threads.discard(current_thread())
            return group


class AsyncGroupCommitWriter:
    """Appends of many tasks, written together: for services with many concurrent writers.

    Every call is a transaction of its own, as with a store in AUTOCOMMIT: it returns when its
    events are committed, and fails alone. Appends that arrive while others are being written form
    the next group, one statement for all of them. Share one writer among the tasks of an event
    loop. It takes up to two connections of ``engine``, while there is something to write.

    ``registry`` and ``schema`` are those of the store. ``max_batch`` is how many appends a group
    may have; ``max_waiting`` is how many may be on their way: further callers wait at the door.

    Close it, or use it as a context manager: then what was accepted is written, and nothing more
    is accepted.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        registry: EventRegistry | None = None,
        *,
        schema: str | None = None,
        max_batch: int = 256,
        max_waiting: int = 1024,
    ) -> None:
        if not hasattr(engine, "sync_engine"):
            raise TypeError(
                f"engine must be an AsyncEngine, not {type(engine).__name__}; for an Engine there "
                "is GroupCommitWriter"
            )
        _check_dialect(engine)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._codec = codec_of(registry)
        self._schema = check_schema(schema)
        self._queue: GroupQueue[asyncio.Future[Outcome]] = GroupQueue(
            max_batch=_check_limit("max_batch", max_batch), writers=_WRITERS
        )
        self._door = asyncio.Semaphore(_check_limit("max_waiting", max_waiting))
        self._tasks: list[asyncio.Task[None]] = []

    async def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int:
        """Append ``events`` to a stream, commit, and return the stream's new version.

        Arguments, outcomes and errors are those of
        :meth:`SqlAlchemyEventStore.append_to_stream() <eventstore.SqlAlchemyEventStore>`. A call
        that is cancelled, or interrupted, has written its events wholly or not at all.

        :raises ConnectionUnusable: the connection was lost twice while the events were sent;
            append the same events again: if they were committed, they are recognised.
        :raises RuntimeError: the writer is closed, or was used before this process was forked.
        """
        batch, rows = operations.encode_append(stream_id, expected_version, events, self._codec)
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        submission = Submission(batch=batch, rows=rows, waiter=waiter, fetch_missed=fetch_missed)
        await self._door.acquire()  # not by async with, which makes one coroutine more
        try:
            self._queue.add(submission)
            self._call_writer()
            outcome = await waiter
        except BaseException:
            self._queue.withdraw(submission)
            raise
        finally:
            self._door.release()
        return _version(outcome)

    async def close(self) -> None:
        """Write what was accepted, and accept nothing more; appends then raise RuntimeError."""
        self._queue.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _call_writer(self) -> None:
        busy = [task for task in self._tasks if not task.done()]
        if len(busy) < _WRITERS:
            # In no caller's context: it serves them all.
            self._tasks = [*busy, asyncio.create_task(self._work(), context=Context())]

    async def _work(self) -> None:
        """Be one of the tasks: write until nobody waits; the next append starts another."""
        group: list[Submission[asyncio.Future[Outcome]]] = []
        try:
            while group := self._queue.take():
                try:
                    async with self._engine.connect() as connection:
                        while group:
                            outcomes = await connection.run_sync(
                                operations.append_group,
                                group,
                                codec=self._codec,
                                schema=self._schema,
                            )
                            _tell_tasks(self._queue.settle(group, outcomes))
                            if not self._queue:
                                await asyncio.sleep(0)  # those who were told may come again
                            group = self._queue.take()
                except Exception as error:  # noqa: BLE001 - it is the callers', who wait for it
                    _tell_tasks(self._queue.fail(group, error))
        except BaseException:
            # Somebody has cancelled this task, as the end of asyncio.run() does with all of them.
            for submission in self._queue.abandon(group):
                submission.waiter.cancel()
            raise


class _Waiter:
    """What a thread waits on, once: a bare lock is the quickest way to wake it."""

    __slots__ = ("_outcome", "_told")

    def __init__(self) -> None:
        self._told = allocate_lock()
        self._told.acquire()
        self._outcome: Outcome = 0

    def wait(self) -> Outcome:
        self._told.acquire()
        return self._outcome

    def tell(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._told.release()


def _tell_threads(settled: Settled[_Waiter]) -> None:
    for submission, outcome in settled:
        submission.waiter.tell(outcome)


def _tell_tasks(settled: Settled[asyncio.Future[Outcome]]) -> None:
    for submission, outcome in settled:
        if not submission.waiter.done():  # a cancelled caller doesn't want to know
            submission.waiter.set_result(outcome)


def _version(outcome: Outcome) -> int:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _check_limit(name: str, value: int) -> int:
    if check_number(name, value) == 0:
        raise ValueError(f"{name} must be at least 1")
    return value


def _check_dialect(engine: Engine | AsyncEngine) -> None:
    if engine.dialect.name != "postgresql":
        raise ValueError(
            f"the event store needs PostgreSQL, this engine is for {engine.dialect.name}"
        )
