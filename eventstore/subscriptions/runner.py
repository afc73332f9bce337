"""Run subscriptions with threads: one for each partition, one that polls, one that renews leases.

A thread obeys its state machine (:mod:`eventstore.subscriptions.catch_up`) and performs what it is
told by the steps of its :class:`~eventstore.subscriptions.worker.Worker`. It holds a connection
only while it delivers.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore.errors import EventStoreError
from eventstore.operations.checkpoints import create_subscription, load_checkpoints
from eventstore.operations.read import read_feed_mark
from eventstore.operations.transactions import commit
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
from eventstore.subscriptions.definition import Subscription, check_seconds
from eventstore.subscriptions.driving import drive
from eventstore.subscriptions.notifications import CommitListener, CommitNotifier
from eventstore.subscriptions.roster import Roster, check_subscriptions, loop_of, worker_name
from eventstore.subscriptions.wake_up import FeedWatch
from eventstore.subscriptions.worker import (
    Worker,
    describe,
    is_passing,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Engine

    from eventstore.registry import EventRegistry
    from eventstore.subscriptions.catch_up import Command
    from eventstore.subscriptions.worker import Task

log = logging.getLogger("eventstore.subscriptions")


class SubscriptionRunner:
    """Subscriptions, run by threads of this process until it is stopped.

    Any number of processes may run the same subscriptions: the partitions are shared out among
    them, and those of a process that dies are taken over once its leases have run out. It opens
    sessions of its own on ``engine``, in READ COMMITTED: at most one for each partition, and four
    more. ``registry`` and ``schema`` are those of the store. ``notifications=False`` does without
    LISTEN and NOTIFY, as behind a pooler in transaction mode: other processes' events then come
    with the next poll, at most a tenth of a second later.
    """

    def __init__(
        self,
        engine: Engine,
        subscriptions: Sequence[Subscription],
        *,
        registry: EventRegistry | None = None,
        schema: str | None = None,
        notifications: bool = True,
    ) -> None:
        self._subscriptions = check_subscriptions(subscriptions)
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        # An owner that is frozen while it renews its lease must leave no lock behind.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._codec = codec_of(registry)
        self._schema = check_schema(schema)
        self._name = worker_name()
        self._roster = Roster(self._subscriptions, self._name, self._codec, self._schema)
        self._watch = FeedWatch(engine, self._schema)
        self._listener = CommitListener(engine, self._schema, self._watch.hint)
        self._notifier = CommitNotifier(engine, schema=schema)
        self._notifications = notifications
        self._stopping = threading.Event()
        self._progress = threading.Condition()
        self._errors: list[Exception] = []
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

        :raises SubscriptionError: one was made with another number of partitions.
        """
        if self._threads:
            raise RuntimeError("the runner was started before; make a new one")
        with Session(self._engine) as session:
            for spec in self._subscriptions:
                create_subscription(
                    session, spec.name, spec.partitions, spec.start_position, schema=self._schema
                )
            commit(session)
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
        """End after the batches that are being handled, and give the leases back."""
        self._stopping.set()
        self._watch.wake()
        for thread in self._threads:
            thread.join()
        if self._notifications and self._threads:
            self._listener.stop()
            self._notifier.stop()
        self._watch.stop()

    def raise_error(self) -> None:
        """Raise what has ended one of the subscriptions, if anything has."""
        if self._errors:
            raise self._errors[0]

    def run_until_current(self, timeout_seconds: float = 60.0) -> None:
        """Return once everything that could be read at the call has been scanned.

        It starts the runner, if that wasn't done, and stops it then. Events of parked streams
        count as scanned, those of transactions that are still open aren't awaited.

        :raises TimeoutError: it took longer.
        :raises SubscriptionError: a subscription has stopped.
        """
        check_seconds("timeout_seconds", timeout_seconds)
        with Session(self._engine) as session:
            target = read_feed_mark(session, schema=self._schema).position
        if self._threads:
            self._wait_for(target, timeout_seconds)
            return
        with self:
            self._wait_for(target, timeout_seconds)

    def _wait_for(self, target: int, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not self._all_beyond(target):
            self.raise_error()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not at position {target} after {timeout_seconds} seconds")
            with self._progress:
                # Others may own a partition, and tell nobody here.
                self._progress.wait(min(left, 0.05))

    def _all_beyond(self, target: int) -> bool:
        with Session(self._engine) as session:
            return all(
                at.position >= target
                for spec in self._subscriptions
                for at in load_checkpoints(session, spec.name, schema=self._schema)
            )

    def _run(self, worker: Worker) -> None:
        loop = loop_of(worker.subscription)
        ended_by: Exception | None = None
        command = loop.decide(Started())
        try:
            while not isinstance(command, Release | Halt):
                command = loop.decide(self._obey(worker, command))
            self._perform(worker, command)
            if isinstance(command, Halt):
                ended_by = worker.stopped()
        except Exception as error:  # noqa: BLE001 - it must not be lost with the thread
            ended_by = error
        if ended_by is not None:
            worker.log_end(ended_by)
            self._errors.append(ended_by)
        with self._progress:
            self._progress.notify_all()

    def _obey(self, worker: Worker, command: Command) -> Happening:
        if self._stopping.is_set():
            return StopRequested()
        if isinstance(command, Pause):
            self._stopping.wait(command.seconds)
            return Woken()
        if isinstance(command, Await):
            self._watch.wait_beyond(
                worker.position, lambda: self._stopping.is_set() or worker.must_yield
            )
            return Woken()
        if isinstance(command, Acquire) and not self._roster.may_acquire(worker):
            return Refused()
        if worker.must_yield and worker.lease is not None:
            self._perform(worker, Release())
            return LeaseLost()
        happening = self._perform(worker, command)
        with self._progress:
            self._progress.notify_all()
        return happening

    def _perform(self, worker: Worker, command: Task) -> Happening:
        try:
            with Session(self._engine) as session:
                steps = worker.perform(command, self._watch.mark)
                return drive(session, worker.subscription, steps)
        except Exception as error:
            if not is_passing(error):
                raise
            worker.log_interruption(error)
            return Interrupted()

    def _keep_leases(self) -> None:
        pause = min(spec.lease_seconds for spec in self._subscriptions) / 3
        while True:
            try:
                with Session(self._autocommit) as session:
                    self._roster.renew(session)
                self._watch.wake()
            except (SQLAlchemyError, EventStoreError) as error:
                log.warning(
                    "leases can't be renewed at the moment: %s",
                    describe(error),
                    extra={"action": "renewal_failed"},
                )
            if self._stopping.wait(pause):
                break
        with suppress(SQLAlchemyError, EventStoreError), Session(self._engine) as session:
            self._roster.retire(session)
