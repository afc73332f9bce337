"""Run subscriptions with threads: one for each partition, one that polls, one that renews leases.

A thread obeys its state machine (:mod:`eventstore.subscriptions.catch_up`) and performs what it is
told by the steps of its :class:`~eventstore.subscriptions.worker.Worker`. It holds a connection
only while it delivers.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore.errors import EventStoreError
from eventstore.operations.read import read_current_position
from eventstore.registry import codec_of
from eventstore.streams import check_schema
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
from eventstore.subscriptions.definition import Subscription, check_seconds
from eventstore.subscriptions.driving import drive
from eventstore.subscriptions.engines import separate, sessions_of
from eventstore.subscriptions.failures import is_passing
from eventstore.subscriptions.notifications import CommitListener, CommitNotifier
from eventstore.subscriptions.roster import (
    Roster,
    check_subscriptions,
    log_failed_renewal,
    loop_of,
    worker_name,
)
from eventstore.subscriptions.wake_up import FeedWatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Engine
    from sqlalchemy.orm import sessionmaker

    from eventstore.registry import EventRegistry
    from eventstore.subscriptions.catch_up import Command
    from eventstore.subscriptions.worker import Task, Worker


class SubscriptionRunner:
    """Subscriptions, run by threads of this process until it is stopped.

    Any number of processes may run the same subscriptions: the partitions are shared out among
    them, and those of a process that dies are taken over once its leases have run out.

    ``engine`` is an Engine, or the application's own ``sessionmaker``, bound to one: then handlers
    get its sessions, always in READ COMMITTED. They take at most one connection of it for each
    partition; what the runner does beside has four of its own, made in the same way. ``registry``
    and ``schema`` are those of the store. ``notifications=False`` does without LISTEN and NOTIFY:
    other processes' events then come with the next poll, at most a tenth of a second later.
    """

    def __init__(
        self,
        engine: Engine | sessionmaker[Any],
        subscriptions: Sequence[Subscription],
        *,
        registry: EventRegistry | None = None,
        schema: str | None = None,
        notifications: bool = True,
    ) -> None:
        self._schema = check_schema(schema)
        self._subscriptions = check_subscriptions(subscriptions, registry, self._schema)
        self._sessions, engine = sessions_of(engine)
        # In AUTOCOMMIT: an owner that is frozen while it renews a lease must leave no lock behind.
        self._own = separate(engine)
        codec = codec_of(registry)
        self._roster = Roster(self._subscriptions, worker_name(), codec, self._schema)
        self._watch = FeedWatch(engine, self._schema)
        self._listener = CommitListener(engine, self._schema, self._watch.hint)
        self._notifier = CommitNotifier(engine, schema=schema)
        self._notifications = notifications
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None:
            self.raise_error()

    def start(self) -> None:
        """Make the subscriptions that aren't there yet, and begin.

        :raises SubscriptionError: one was made with other partitions, version or filter.
        """
        if self._threads:
            raise RuntimeError("the runner was started before; make a new one")
        try:
            with Session(self._own) as session:
                self._roster.create(session)
        except BaseException:
            self._own.dispose()  # nobody has to stop what has not begun
            raise
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(worker,),
                name=f"{worker.subscription.name}/{worker.partition}",
                daemon=True,
            )
            for worker in self._roster.workers
        ]
        self._threads.append(
            threading.Thread(target=self._keep_leases, name="eventstore-leases", daemon=True)
        )
        self._watch.start()
        if self._notifications:
            self._listener.start()
            self._notifier.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the events that are being handled, and give the leases back."""
        self._roster.stop()
        self._stopping.set()
        self._watch.wake()
        for thread in self._threads:
            thread.join()
        if self._notifications and self._threads:
            self._listener.stop()
            self._notifier.stop()
        self._watch.stop()
        self._own.dispose()

    @property
    def listening(self) -> bool:
        """Whether it hears of other processes' commits at once; else it polls for them."""
        return self._listener.connected

    def raise_error(self) -> None:
        """Raise what has ended one of the subscriptions, if anything has."""
        if self._errors:
            raise self._errors[0]

    def run_until_current(self, timeout_seconds: float = 60.0) -> None:
        """Return once everything that was committed before the call has been scanned.

        It starts the runner, if that wasn't done, and stops it then. Events of parked streams
        count as scanned. An open transaction that has appended before one of these events holds
        them back, and is waited for; one that has appended behind all of them isn't.

        :raises TimeoutError: it took longer.
        :raises SubscriptionError: a subscription has stopped.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        with Session(self._own) as session:
            target = read_current_position(session, schema=self._schema)
        if self._threads:
            self._wait_for(target, timeout_seconds)
            return
        with self:
            self._wait_for(target, timeout_seconds)

    def _wait_for(self, target: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        self._roster.awaited(is_awaited=True)
        self._watch.wake()
        try:
            while not self._all_beyond(target):
                self.raise_error()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not at position {target} after {timeout_seconds} seconds")
                with self._progress:
                    # Others may own a partition, and tell nobody here.
                    self._progress.wait(min(left, 0.05))
        finally:
            self._roster.awaited(is_awaited=False)

    def _all_beyond(self, target: int) -> bool:
        with Session(self._own) as session:
            return self._roster.all_beyond(session, target)

    def _run(self, worker: Worker) -> None:
        try:
            self._obey_until_the_end(worker)
            if worker.has_halted:
                self._errors.append(worker.stopped())
        except BaseException as error:  # noqa: BLE001 - it must not be lost with the thread
            worker.ended_by(error)
            self._errors.append(error)
            with suppress(Exception):
                self._perform(worker, Halt())
        finally:
            worker.abandon()
            with self._progress:
                self._progress.notify_all()

    def _obey_until_the_end(self, worker: Worker) -> None:
        loop = loop_of(worker.subscription)
        command = loop.decide(Started())
        while not isinstance(command, Release):
            command = loop.decide(self._obey(worker, command))
        if isinstance(self._perform(worker, command), Interrupted):
            # The pool's connection was lost, perhaps; on a new one the lease is given back.
            self._perform(worker, command)

    def _obey(self, worker: Worker, command: Command) -> Happening:
        if self._stopping.is_set():
            return StopRequested()
        if isinstance(command, Pause):
            self._stopping.wait(command.seconds)
            return Woken()
        if isinstance(command, Await):
            self._await(worker, command.seconds)
            return Woken()
        if isinstance(command, Acquire) and not self._roster.may_acquire(worker):
            return Refused()
        if worker.must_yield and worker.lease is not None:
            self._perform(worker, Release())
            return LeaseLost()
        happening = self._perform(worker, command)
        if isinstance(happening, Delivered):
            self._watch.seen(worker.position)
        # Not after each batch: who waits would ask the database, and hold up what he waits for.
        if not isinstance(happening, Delivered) or happening.caught_up:
            with self._progress:
                self._progress.notify_all()
        return happening

    def _await(self, worker: Worker, seconds: float | None) -> None:
        if worker.needs_mark:
            worker.needs_mark = False
            self._watch.look()
        self._watch.wait(worker.position, worker.hints, seconds, lambda: worker.is_wanted)

    def _perform(self, worker: Worker, command: Task) -> Happening:
        try:
            with self._sessions() as session:
                steps = worker.perform(command, self._watch.feed)
                return drive(session, worker.subscription, steps)
        except Exception as error:
            if not is_passing(error):
                raise
            worker.interrupted(error)
            return Interrupted()

    def _keep_leases(self) -> None:
        failed = False
        while not self._stopping.wait(self._roster.renewal_seconds(failed=failed)):
            try:
                with Session(self._own) as session:
                    failed = not self._roster.renew(session)
                self._watch.wake()
            except (SQLAlchemyError, EventStoreError) as error:
                failed = True
                log_failed_renewal(error)
        with suppress(SQLAlchemyError, EventStoreError), Session(self._own) as session:
            self._roster.retire(session)
