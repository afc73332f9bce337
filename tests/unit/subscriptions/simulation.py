"""A worker and its state machine over a database in memory, where anything may happen at any step.

What the steps ask of a session is answered here; what PostgreSQL does for it is kept: READ
COMMITTED, rows that are locked, transactions that are rolled back, commits whose reply is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy.exc import OperationalError

from eventstore.codec import JsonPayloads
from eventstore.errors import ConnectionUnusable
from eventstore.operations.checkpoints import Checkpoint
from eventstore.operations.fence import Mark
from eventstore.operations.leases import Acquired, Lease
from eventstore.subscriptions import attempts as attempts_module
from eventstore.subscriptions import owner as owner_module
from eventstore.subscriptions import worker as worker_module
from eventstore.subscriptions.catch_up import (
    Await,
    CatchUp,
    Happening,
    Interrupted,
    Pause,
    Release,
    Started,
    StopRequested,
    Woken,
)
from eventstore.subscriptions.failures import Failure, describe, is_passing
from eventstore.subscriptions.steps import Ask, Commit, Hand
from eventstore.subscriptions.wake_up import Feed
from eventstore.subscriptions.worker import Worker

if TYPE_CHECKING:
    import pytest

    from eventstore.subscriptions import Subscription
    from eventstore.subscriptions.catch_up import Command

MISHAPS = ("lost before", "lost after", "crash before", "crash after", "taken over")
_OTHER = "other"


class Crash(BaseException):
    """The process is no more."""


@dataclass(frozen=True)
class Event:
    """What a worker needs of a stored event."""

    position: int
    stream_id: str

    @property
    def version(self) -> int:
        return self.position

    @property
    def event_id(self) -> UUID:
        return UUID(int=self.position)

    def decoded(self, _codec: Any, _filters: Any) -> list[Event]:
        return [self]


@dataclass
class State:
    """What is stored."""

    checkpoint: int = 0
    releases: int = 0
    owner: str | None = None
    epoch: int = 0
    marked: int | None = None
    attempts: int = 0
    error: tuple[str, int | None] | None = None
    parked: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    view: list[int] = field(default_factory=list)
    saves: int = 0


class Transaction:
    """A session: it sees what is committed, until it has written."""

    def __init__(self, database: Simulation) -> None:
        self._database = database
        self._own: State | None = None

    @property
    def state(self) -> State:
        return self._database.state if self._own is None else self._own

    def write(self) -> State:
        if self._own is None:
            state = self._database.state
            self._own = replace(state, parked={**state.parked}, view=[*state.view])
        return self._own

    @property
    def has_locked(self) -> bool:
        return self._own is not None

    def commit(self) -> None:
        if self._own is not None:
            self._database.state, self._own = self._own, None


class Simulation:
    """A feed, what is stored, and the mishaps that happen at numbered steps."""

    def __init__(
        self,
        subscription: Subscription,
        events: list[Event],
        *,
        bad: frozenset[int] = frozenset(),
        deadly: frozenset[int] = frozenset(),
        crashing: frozenset[int] = frozenset(),
        outages: dict[int, int] | None = None,
        mishaps: dict[int, str] | None = None,
        by_hints: bool = False,
    ) -> None:
        self.subscription = subscription
        self.events = events
        self.bad, self.deadly, self.crashing = bad, deadly, crashing
        self.outages = outages or {}  # how often the handler meets one, by positions
        self.mishaps = mishaps or {}
        self.by_hints = by_hints
        self.state = State()
        self.steps = self.processes = 0
        self.hints = 1
        self.stop_at: Command | None = None  #: the process is to end at this command, once
        self.is_late = False  #: something was handed over after the lease had run out
        self.handed: list[tuple[int, int]] = []
        self.reports: list[tuple[str, float]] = []  #: of interruptions, and for how long they last
        self.now = self.lease_ends = 0.0

    @property
    def feed(self) -> Feed:
        last = self.events[-1].position
        # In the end the mark comes too: no hint is ever all there is.
        return (
            Feed(Mark(0, last), self.hints)
            if self.by_hints and self.hints < 4
            else Feed(Mark(last, last), 0)
        )

    def run(self) -> Simulation:
        """Let one process after the other work, until everything is scanned or it has halted."""
        while True:
            self.processes += 1
            try:
                self._process()
            except Crash:
                continue
            if not self.of_feed(self.state, self.state.checkpoint) or self.state.error:
                return self

    def _process(self) -> None:
        spec = self.subscription
        worker = Worker(
            spec,
            0,
            f"w{self.processes}",
            JsonPayloads(),
            None,
            clock=lambda: self.now,
        )
        loop = CatchUp(
            batch_size=spec.batch_size,
            retry=spec.retry,
            on_failure=spec.on_failure,
            acquire_seconds=1,
            jitter=lambda: 1.0,
        )
        command = loop.decide(Started())
        for _ in range(300):
            if isinstance(command, Release):
                if isinstance(self.perform(worker, command), Interrupted):
                    self.perform(worker, command)
                return
            is_done = isinstance(command, Await) and not self.of_feed(self.state, worker.position)
            if command == self.stop_at:
                self.stop_at, is_done = None, True
            command = loop.decide(StopRequested() if is_done else self.obey(worker, command))
        raise AssertionError(f"it makes no progress: {self.mishaps}")

    def obey(self, worker: Worker, command: Command) -> Happening:
        if isinstance(command, Pause | Await):
            self.now += command.seconds or 1.0
            self.hints += 1
            return Woken()
        if worker.lease is not None:
            worker.renewed(worker.lease, self.now)
            self.lease_ends = self.now + self.subscription.lease_seconds
        return self.perform(worker, command)

    def perform(self, worker: Worker, command: Any) -> Happening:
        transaction = Transaction(self)
        steps = worker.perform(command, self.feed)
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._step(transaction, step)
                except Exception as error:  # noqa: BLE001
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            happening: Happening = end.value
            return happening
        except Exception as error:
            if not is_passing(error):
                raise
            worker.interrupted(error)
            return Interrupted()

    def _step(self, transaction: Transaction, step: Any) -> Any:
        self.steps += 1
        mishap = self.mishaps.get(self.steps, "")
        if isinstance(step, Hand) and self.now >= self.lease_ends:
            self.is_late = True
        if mishap == "taken over" and not transaction.has_locked:
            self._take_over()
        if mishap == "replayed" and not transaction.has_locked:
            self._replay()
        if mishap == "frozen":
            self.now += 2 * self.subscription.lease_seconds
            self._take_over()
        self._happen(mishap, "before")
        answer = self._answer(transaction, step)
        self._happen(mishap, "after")
        return answer

    @staticmethod
    def _happen(mishap: str, when: str) -> None:
        if mishap == f"lost {when}":
            raise ConnectionUnusable("57P01")
        if mishap == f"crash {when}":
            raise Crash

    def _answer(self, transaction: Transaction, step: Any) -> Any:
        match step:
            case Ask(operation):
                return operation(transaction)
            case Commit():
                transaction.commit()
            case Hand(event, attempt):
                position = event.position
                self.handed.append((position, attempt))
                if position in self.deadly:
                    raise Crash
                if self.outages.get(position):
                    self.outages[position] -= 1
                    raise ConnectionUnusable("57P01")
                if position in self.crashing:  # the server process, not ours
                    raise OperationalError("", {}, ValueError(), connection_invalidated=True)
                if position in self.bad:
                    raise ValueError("no")
                view = self.state if self.subscription.external else transaction.write()
                view.view.append(position)
        return None

    def _take_over(self) -> None:
        """Another owner's lease, work on one event, and end."""
        state = self.state
        state.owner, state.epoch = None, state.epoch + 1
        for event in self.of_feed(state, state.checkpoint):
            if event.position not in self.bad | self.deadly:
                state.checkpoint, state.marked, state.attempts = event.position, None, 0
                state.view.append(event.position)
            return

    def _replay(self) -> None:
        """Let every parked stream go, after what waits of it up to the checkpoint."""
        state = self.state
        parked, state.parked = state.parked, {}
        for stream_id, (first, *_) in parked.items():
            for event in self.of_feed(state, first - 1, state.checkpoint):
                if event.stream_id == stream_id:
                    self.handed.append((event.position, 1))
                    state.view.append(event.position)
        state.releases += 1

    def of_feed(self, state: State, after: int, until: int | None = None) -> list[Event]:
        """What is left to be delivered."""
        return [
            each
            for each in self.events
            if after < each.position <= (self.events[-1].position if until is None else until)
            and each.stream_id not in state.parked
        ]

    # The operations, as a worker calls them.

    def acquire_lease(
        self, session: Transaction, name: str, partition: int, owner: str, seconds: float, **_: Any
    ) -> Acquired:
        before = session.state.owner
        state = session.write()
        state.owner, state.epoch = owner, state.epoch + 1
        self.lease_ends = self.now + seconds
        return Acquired(
            Lease(name, partition, owner, state.epoch),
            state.checkpoint,
            state.releases,
            before not in (None, owner),
            state.marked,
            state.attempts,
        )

    def read_feed_mark(self, session: Transaction, **_: Any) -> Mark:
        mark = self.feed.mark
        return mark._replace(head=self.events[-1].position)

    def limit_idle(self, *_: Any) -> None: ...

    def read_slice(
        self,
        session: Transaction,
        *_: Any,
        after: int,
        until: int | None,
        limit: int,
        **__: Any,
    ) -> list[Any]:
        return self.of_feed(session.state, after, until)[:limit]

    def mark_attempt(
        self,
        session: Transaction,
        lease: Lease,
        before: Checkpoint,
        position: int,
        attempts: int,
        **_: Any,
    ) -> bool:
        if self.load_owned(session, lease) != before:
            return False
        state = session.write()
        state.marked, state.attempts = position, attempts
        return True

    def load_owned(self, session: Transaction, lease: Lease, **_: Any) -> Checkpoint | None:
        state = session.state
        if (state.owner, state.epoch) != (lease.owner, lease.epoch):
            return None
        return Checkpoint(0, state.checkpoint, state.releases)

    def save_checkpoint(
        self, session: Transaction, lease: Lease, before: Checkpoint, position: int, **_: Any
    ) -> bool:
        # Where the transaction has written already, it waits for nobody: it sees the newest row.
        committed = Transaction(self)
        if self.load_owned(committed, lease) != before:
            return False
        state = session.write()
        state.checkpoint, state.saves = position, state.saves + 1
        if state.marked is not None and state.marked <= position:
            state.marked, state.attempts = None, 0
        return True

    def note_error(
        self, session: Transaction, lease: Lease, error: str, position: int | None, **_: Any
    ) -> None:
        if self.load_owned(session, lease) is not None:
            state = session.write()
            state.error, state.marked, state.attempts = (error, position), None, 0

    def note_interruption(
        self, session: Transaction, lease: Lease, error: str, seconds: float, **_: Any
    ) -> None:
        if self.load_owned(session, lease) is not None:
            self.reports.append((error, seconds))

    def release_lease(
        self, session: Transaction, lease: Lease, attempts: int, unsure: int | None, **_: Any
    ) -> None:
        if self.load_owned(session, lease) is not None:
            state = session.write()
            state.owner, state.attempts = None, attempts
            if unsure is not None:
                state.marked = max(unsure, state.marked or 0)

    def park_stream(
        self, session: Transaction, _name: str, event: Event, *, error: str, attempts: int, **_: Any
    ) -> None:
        session.write().parked[event.stream_id] = event.position, attempts, error


def failure_of(event: Any, error: Exception, tried: int) -> Failure:
    return Failure(event, describe(error), "", tried)


def simulated(monkeypatch: pytest.MonkeyPatch, simulation: Simulation) -> Simulation:
    """Let the worker's operations be those of the simulation, and run it."""
    for name in (
        "acquire_lease",
        "limit_idle",
        "load_owned",
        "mark_attempt",
        "note_error",
        "note_interruption",
        "park_stream",
        "read_feed_mark",
        "read_slice",
        "release_lease",
        "save_checkpoint",
    ):
        module = worker_module if hasattr(worker_module, name) else owner_module
        monkeypatch.setattr(module, name, getattr(simulation, name))
    # To format tracebacks would take half of the time.
    monkeypatch.setattr(attempts_module, "failure_of", failure_of)
    return simulation.run()
