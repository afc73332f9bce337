"""A connection is lost at every step that a runner makes: nothing is skipped, doubled or parked.

The steps are those that the runner was seen to make: all its statements and commits, whichever
connection they are on (polling, reading, marking, saving, renewing leases, listening, notifying).
"""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.event import listen
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from eventstore.operations.read import read_feed_mark
from eventstore.subscriptions import (
    STOP,
    AsyncSubscriptionRunner,
    Delivery,
    RetryPolicy,
    Subscription,
    SubscriptionRunner,
    parked_streams,
    wait_for,
)
from tests.fixtures.subscriptions import QUICK, append
from tests.proof import ledger
from tests.proof.cutting import WATCHED, Cut, Cutter
from tests.proof.thoroughness import IS_THOROUGH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncSession

    from eventstore.events import AnyEnvelope

DEADLINE_SECONDS = 60
LEASE_SECONDS = 1.0
THREADS = "threads"
#: Of the cuts, for a run that is not thorough: while it runs, and as it starts and ends.
SOME = 10


class Handlers:
    """A view and effects outside; some events fail once, and some always."""

    def __init__(self) -> None:
        self.effects: list[UUID] = []
        self._failed: set[tuple[str, int]] = set()

    def view(self, session: Session, event: AnyEnvelope) -> None:
        self._perhaps_fail("view", event)
        ledger.take_note(session, event)

    def effect(self, delivery: Delivery) -> None:
        self._perhaps_fail("effects", delivery.event)
        self.effects.append(delivery.event_id)

    async def async_view(self, session: AsyncSession, event: AnyEnvelope) -> None:
        await session.run_sync(self.view, event)

    async def async_effect(self, delivery: Delivery) -> None:
        self.effect(delivery)

    def _perhaps_fail(self, name: str, event: AnyEnvelope) -> None:
        key = (name, event.sequence_number)
        is_first = key not in self._failed
        self._failed.add(key)
        if event.stream_id.startswith("bad") or (event.stream_id == "shaky" and is_first):
            raise ValueError("no")


@contextmanager
def running(url: URL, handlers: Handlers, cutter: Cutter) -> Iterator[None]:
    """Run the subscriptions by threads, or by tasks of another thread."""
    if url.drivername == THREADS:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"), pool_size=20, execution_options=WATCHED
        )
        with SubscriptionRunner(engine, subscriptions(handlers.view, handlers.effect)):
            yield
        engine.dispose()
        return
    stop = threading.Event()
    started: Future[None] = Future()

    async def run() -> None:
        engine = create_async_engine(url, pool_size=20, execution_options=WATCHED)
        specs = subscriptions(handlers.async_view, handlers.async_effect)
        cutter.is_watching = False
        async with AsyncSubscriptionRunner(engine, specs):
            cutter.is_watching = True
            started.set_result(None)
            await asyncio.to_thread(stop.wait)
        await engine.dispose()

    with ThreadPoolExecutor(1) as thread:
        try:
            running = thread.submit(asyncio.run, run())
            wait([started, running], return_when=FIRST_COMPLETED)
            yield
        finally:
            stop.set()
        running.result()


def subscriptions(view: Any, effect: Any) -> list[Subscription]:
    options: dict[str, Any] = {"retry": QUICK, "lease_seconds": LEASE_SECONDS, "batch_size": 3}
    return [
        Subscription("view", view, partitions=2, **options),
        Subscription("effects", effect, external=True, **options),
    ]


class Load:
    """What makes the runner do all that it can do, and what must come of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bad: list[str] = []

    def deliver(self) -> None:
        append(self._engine, "a", 2)
        append(self._engine, "b", 2)
        self._bad.append(f"bad-{len(self._bad)}")
        append(self._engine, self._bad[-1])
        append(self._engine, "shaky")  # the last: what is parked has not been handled
        with Session(self._engine) as session:
            head = read_feed_mark(session, schema=None).head
        for name in ("view", "effects"):
            assert wait_for(self._engine, name, head, DEADLINE_SECONDS), name

    def await_renewal(self) -> None:
        """Return once every lease was renewed."""
        expiries = text("SELECT array_agg(lease_expires_at) FROM subscriptions")
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            before = connection.scalar(expiries)
            while set(before) & set(connection.scalar(expiries)):
                connection.execute(text("SELECT pg_sleep(0.01)"))

    def check(self, handlers: Handlers) -> None:
        good = text("SELECT event_id FROM events WHERE stream_id NOT LIKE 'bad%'")
        with self._engine.connect() as connection:
            expected = sorted(connection.scalars(good))
        assert sorted(note.event_id for note in ledger.notes(self._engine)) == expected
        assert sorted(set(handlers.effects)) == expected
        for name in ("view", "effects"):
            with Session(self._engine) as session:
                parked = parked_streams(session, name)
            # A lost connection is no attempt, and no error of an event.
            assert {
                each.stream_id: (each.attempts, each.error) for each in parked
            } == dict.fromkeys(self._bad, (QUICK.max_attempts, "ValueError: no"))


@pytest.fixture(params=[THREADS, "postgresql+psycopg", "postgresql+asyncpg"])
def watched_url(request: pytest.FixtureRequest, ledger_db: Engine) -> URL:
    """The URL for a runner by threads, or by tasks on either driver."""
    return ledger_db.url.set(drivername=request.param)


def test_a_connection_is_lost_at_any_step(ledger_db: Engine, watched_url: URL, seed: int) -> None:
    chance = random.Random(seed)
    load, handlers, cutter = Load(ledger_db), Handlers(), Cutter(ledger_db.url)
    with cutter.watching():
        with running(watched_url, handlers, cutter):
            load.deliver()
            starting, cutter.steps = cutter.steps, set()
            load.deliver()
            load.await_renewal()
            steps = set(cutter.steps)
            assert len(steps) > 15
            cuts = chosen_cuts(steps, chance)
            tried = len(cuts)
            missed = [cut for cut in cuts if not comes_to(cutter, [cut], load.deliver)]
            (in_handler,) = (step for step in steps if step.startswith("INSERT INTO notes_taken"))
            # More often than an event may fail.
            mishap = [Cut(in_handler, is_after=False)] * (QUICK.max_attempts + 1)
            cutter.arm(*mishap)
            load.deliver()
            assert cutter.done.is_set()
            cut_listener(ledger_db)
            load.deliver()

        def run_once() -> None:
            with running(watched_url, handlers, cutter):
                load.deliver()

        seen, cutter.steps = starting | cutter.steps, set()
        run_once()
        calm = set(cutter.steps)
        cuts = chosen_cuts((seen | calm) - steps, chance)
        tried += len(cuts)
        for cut in cuts:
            # The report of an outage takes an outage.
            moments = [cut] if cut.step in calm else [*mishap, cut]
            if not comes_to(cutter, moments, run_once):
                missed.append(cut)
    load.check(handlers)
    # Steps that were made by chance may not come again.
    assert len(missed) < max(5, tried // 8), missed


@pytest.mark.parametrize("is_single", [False, True])
def test_a_commit_that_only_seemed_lost_stops_nothing(
    ledger_db: Engine, *, is_single: bool
) -> None:
    """The handler refuses what was applied before, and its first failure would end the run."""
    append(ledger_db, "a", 3)
    engine = create_engine(ledger_db.url)
    fails_in_batch, loses = [is_single], [True]
    handed: list[int] = []

    def handler(session: Session, event: AnyEnvelope) -> None:
        if fails_in_batch and fails_in_batch.pop():
            raise ValueError("no")
        ledger.apply(session, event)
        handed.append(event.event_version)

    def commit(connection: Connection) -> None:
        if handed and loses and loses.pop():
            connection.exec_driver_sql("COMMIT")
            driver: Any = connection.connection.driver_connection
            with ledger_db.begin() as other:
                other.execute(
                    text("SELECT pg_terminate_backend(:pid, 60000)"),
                    {"pid": driver.info.backend_pid},
                )
            connection.exec_driver_sql("SELECT 1")

    listen(engine, "commit", commit)
    retry = RetryPolicy(max_attempts=1)
    view = Subscription("view", handler, retry=retry, on_failure=STOP)
    with SubscriptionRunner(engine, [view], notifications=False) as runner:
        runner.run_until_current()
        # The checkpoint had moved; whether the subscription has stopped is seen by what follows.
        append(ledger_db, "a")
        runner.run_until_current()
    engine.dispose()
    assert loses == []
    assert ledger.balances(ledger_db) == ledger.fresh_fold(ledger_db)


def comes_to(cutter: Cutter, cuts: list[Cut], work: Callable[[], None]) -> bool:
    """Make the cuts while it works; False for a step that had been made by chance alone."""
    print(cuts[-1])  # noqa: T201 - pytest shows it with a failure
    cutter.arm(*cuts)
    for _ in range(20):
        work()
        if cutter.done.wait(LEASE_SECONDS / 20):
            work()
            return True
    return False


def chosen_cuts(steps: set[str], chance: random.Random) -> list[Cut]:
    """All cuts if thorough, else some by chance; and those that might do a handler's work twice."""
    cuts = [Cut(step, is_after) for step in sorted(steps) for is_after in (False, True)]
    chance.shuffle(cuts)
    cuts.sort(key=lambda cut: not cut.step.startswith("COMMIT of INSERT INTO notes"))
    return cuts if IS_THOROUGH else cuts[:SOME]


def cut_listener(engine: Engine) -> None:
    """Cut the connection that listens, and return once another one does."""
    listening = text(
        "SELECT min(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        pid = connection.scalar(listening)
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": pid})
        while connection.scalar(listening) is None:
            connection.execute(text("SELECT pg_sleep(0.01)"))
