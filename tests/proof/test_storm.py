"""Under load, processes are killed, frozen and cut off at random: for a minute, if thorough.

``EVENTSTORE_TEST_SEED`` repeats the decisions of a run.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from sqlalchemy import text

from eventstore.subscriptions import SubscriptionRunner
from tests.proof import ledger
from tests.proof.processes import Child
from tests.proof.thoroughness import IS_THOROUGH
from tests.proof.workers import append_until, keep_appending, run_subscriptions, subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

STORM_SECONDS = 60 if IS_THOROUGH else 10

#: A subscription that is stuck fails the test after so long.
DEADLINE_SECONDS = 120


class Storm:
    """Three processes that run the subscriptions and two that append; none of them is safe."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._seed = seed
        self._chance = random.Random(seed)
        self._count = 0
        self._workers = [self._new(run_subscriptions) for _ in range(3)]
        self._writers = [self._new(keep_appending) for _ in range(2)]
        self._frozen: list[Child] = []

    def rage(self, seconds: float) -> None:
        """Do harm for so long; then all that is left is thawed."""
        blows = [self._kill_worker] * 6 + [self._kill_writer] * 2 + [self._freeze, self._cut] * 2
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.uniform(0.1, 0.5))
            self._chance.choice(blows)()
        self._thaw()

    def calm(self) -> None:
        """Let everybody come to an end."""
        for child in (*self._workers, *self._writers):
            child.end()

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for child in (*self._workers, *self._writers):
            child.kill()

    def _kill_worker(self) -> None:
        self._replace(self._workers, run_subscriptions)
        self.happened["workers killed"] += 1

    def _kill_writer(self) -> None:
        self._replace(self._writers, keep_appending)
        self.happened["writers killed"] += 1

    def _freeze(self) -> None:
        """Freeze a worker, until all that it owns was taken over."""
        if not self._frozen:
            self._frozen = [self._chance.choice(self._workers)]
            self._frozen[0].freeze()
            self.happened["workers frozen"] += 1
            return
        self._thaw()

    def _thaw(self) -> None:
        for worker in self._frozen:
            worker.thaw()
        self._frozen = []

    def _cut(self) -> None:
        """Cut all connections of a worker, or of a writer."""
        child = self._chance.choice(self._workers + self._writers)
        cut = text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = :name AND datname = current_database()"
        )
        with self._engine.connect() as connection:
            connection.execute(cut, {"name": child.name})
        self.happened["processes cut off"] += 1

    def _replace(self, children: list[Child], work: Callable[..., None]) -> None:
        victim = self._chance.choice(children)
        children.remove(victim)
        victim.kill()
        if victim in self._frozen:
            self._frozen.remove(victim)
        children.append(self._new(work))

    def _new(self, work: Callable[..., None]) -> Child:
        self._count += 1
        name = f"{work.__name__}-{self._count}"
        return Child(self._engine, name, partial(work, seed=f"{self._seed}-{name}"))


def test_whatever_happens_the_view_equals_the_fold(ledger_db: Engine, seed: int) -> None:
    engine = ledger_db
    is_over = Event()
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        stack.callback(is_over.set)
        storm = Storm(engine, seed)
        stack.callback(storm.end)
        writing = [
            threads.submit(append_until, engine, is_over.is_set, f"{seed}-{number}")
            for number in range(2)
        ]
        storm.rage(STORM_SECONDS)
        is_over.set()
        storm.calm()
        for writer in writing:
            writer.result()
    specs = subscriptions(engine, f"{seed}-last")
    SubscriptionRunner(engine, specs).run_until_current(DEADLINE_SECONDS)
    recorded = ledger.recorded(engine)
    print(dict(storm.happened), f"{len(recorded)} events")  # noqa: T201
    for spec in specs:
        assert ledger.parked(engine, spec.name) == []
    assert len(recorded) > 100
    assert ledger.balances(engine) == ledger.fresh_fold(engine)
    for done in (ledger.applied(engine), ledger.notes(engine)):
        assert sorted(each.event_id for each in done) == sorted(recorded)
        for stream_id, versions in ledger.versions_by_stream(done).items():
            assert versions == list(range(1, len(versions) + 1)), stream_id
    assert {effect.event_id for effect in ledger.effects(engine)} == set(recorded)
