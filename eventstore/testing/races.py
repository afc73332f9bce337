"""Races that happen the same way each time: real threads, stopped and let go at points you choose.

::

    def withdraw(point):
        with event_store(sessions, registry) as store:
            accounts = Repository(pausing(store, point), ACCOUNTS)
            return accounts.execute("1", Withdraw(80))

    with Race() as race:
        first, second = race.enter(withdraw), race.enter(withdraw)
        first.run_to("append")
        second.run_to("append")
        first.finish()
        outcome = second.finish()

Only one runner runs at a time, but for one that the database holds up: see
:meth:`Runner.run_until_blocked`. A store that is :func:`pausing` reaches a point before each of
its operations, of the operation's name; a job may name further ones by ``point("name")``.
"""

from __future__ import annotations

from functools import wraps
from inspect import iscoroutinefunction
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, overload

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from sqlalchemy import Engine

    from eventstore.protocols import AsyncEventStore, EventStore

R = TypeVar("R")

#: After this time without news a runner is taken for stuck. No race that works waits for it.
_STUCK_AFTER_SECONDS: Final = 60.0


class Race:
    """Some jobs, each in a thread of its own that stands still until it is told to run.

    At the end of the block, jobs that have not finished are abandoned: an exception is raised at
    the points where they stand, so that their transactions are rolled back.
    """

    def __init__(self) -> None:
        self._runners: list[Runner[Any]] = []

    def enter(self, job: Callable[[Callable[[str], None]], R]) -> Runner[R]:
        """Put a job at the start; it is given the function by which it names its points."""
        runner = Runner(job)
        self._runners.append(runner)
        return runner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for runner in self._runners:
            runner.abandon()
        for runner in self._runners:
            runner.join()


class Runner(Generic[R]):
    """One job of a race."""

    def __init__(self, job: Callable[[Callable[[str], None]], R]) -> None:
        self._job = job
        self._go = Semaphore(0)
        self._news: SimpleQueue[str | None] = SimpleQueue()  # points reached; None is the end
        self._passed: list[str] = []
        self._is_abandoned = False
        self._has_ended = False
        self._runs = False
        self._result: R | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def run_to(self, point: str) -> None:
        """Let it run until it reaches ``point``; AssertionError if it ends before that."""
        while (reached := self._next_news()) != point:
            if reached is None:
                if self._error is not None:
                    raise self._error
                raise AssertionError(f"{point!r} was never reached, only {self._passed}")

    def run_until_blocked(self, engine: Engine) -> None:
        """Let it run until it waits for a lock; AssertionError if it stops elsewhere.

        It stays there until the one that holds the lock goes on; then ``finish()`` it.
        """
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            others = connection.execute(_WAITING_SESSIONS).scalar_one()
            self._start()
            while connection.execute(_WAITING_SESSIONS).scalar_one() <= others:
                if not self._news.empty():
                    reached = self._next_news()
                    if reached is None and self._error is not None:
                        raise self._error
                    raise AssertionError(f"it was not blocked before {reached or 'its end'!r}")

    def finish(self) -> R:
        """Let it run to its end, and return what it returns or raise what it raises."""
        while self._next_news() is not None:
            pass
        self._thread.join()
        if self._error is not None:
            raise self._error
        return cast("R", self._result)

    def abandon(self) -> None:
        """End it where it stands."""
        self._is_abandoned = True
        self._go.release()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(_STUCK_AFTER_SECONDS)

    def _start(self) -> None:
        if not self._runs:
            self._runs = True
            self._go.release()

    def _next_news(self) -> str | None:
        """Let it run to the next point, and return the point's name; None is the end."""
        if self._has_ended:
            return None
        self._start()
        try:
            reached = self._news.get(timeout=_STUCK_AFTER_SECONDS)
        except Empty:
            raise AssertionError(
                f"it is stuck behind {self._passed}: does another runner hold a lock? "
                "run_until_blocked() expects that"
            ) from None
        self._runs = False
        if reached is None:
            self._has_ended = True
        else:
            self._passed.append(reached)
        return reached

    def _point(self, name: str) -> None:
        self._news.put(name)
        self._go.acquire()
        if self._is_abandoned:
            raise _AbandonedError

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._is_abandoned:
                self._result = self._job(self._point)
        except _AbandonedError:
            pass
        except BaseException as error:  # noqa: BLE001 - it belongs to the test's thread
            self._error = error
        finally:
            self._news.put(None)


class _AbandonedError(BaseException):
    """Unwinds a job at the point where it stands."""


@overload
def pausing(store: EventStore, point: Callable[[str], None]) -> EventStore: ...
@overload
def pausing(store: AsyncEventStore, point: Callable[[str], None]) -> AsyncEventStore: ...
def pausing(store: Any, point: Callable[[str], None]) -> Any:
    """Return ``store`` as one that reaches a point of its name before each operation.

    An async one stops its event loop there: let each job of the race have a loop of its own, by
    ``asyncio.run``.
    """
    return _PausingStore(store, point)


class _PausingStore:
    def __init__(self, store: Any, point: Callable[[str], None]) -> None:
        self._store = store
        self._point = point

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if not callable(attribute):
            return attribute

        @wraps(attribute)
        def operation(*args: Any, **kwargs: Any) -> Any:
            self._point(name)
            return attribute(*args, **kwargs)

        @wraps(attribute)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            self._point(name)
            return await attribute(*args, **kwargs)

        return awaited if iscoroutinefunction(attribute) else operation


_WAITING_SESSIONS: Final = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
