"""Eight writers and their rollbacks against readers that keep only an integer: nothing is skipped.

EVENTSTORE_TEST_STRESS_EVENTS sets how many events each writer commits (the more the longer),
EVENTSTORE_TEST_SEED repeats the decisions of a run.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from .faults import FAULTS
from .workload import Delivered, Process, Reader, Writer, hold_foreign_transactions

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

EVENTS_PER_WRITER = int(os.environ.get("EVENTSTORE_TEST_STRESS_EVENTS", "80"))

READERS = [
    Reader(page_size=1, max_count=40),
    Reader(page_size=7, autocommit=True),
    Reader(page_size=500),
]
READER_ELSEWHERE = Reader(page_size=50, max_count=130)


@dataclass
class Outcome:
    committed: set[str]  #: the ids that the writers say they have committed
    recorded: list[Delivered]  #: what the table holds in the end, by position
    delivered: list[list[Delivered]]  #: what each reader got, in the order in which it got it
    happened: Counter[str]

    def lost(self) -> list[int]:
        """How many events each reader has missed."""
        return [len(set(self.recorded) - set(events)) for events in self.delivered]


def stress(
    engine: Engine, database_url: URL, seed: int, *, events: int, fault: str = "none"
) -> Outcome:
    """Run eight writers and four readers, half of the writers and a reader in two processes.

    With a fault all writers are threads: losing events needs no processes, which take seconds
    to start.
    """
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE unrelated (id serial)"))
    url = database_url.render_as_string(hide_password=False)
    here = [Writer(name=f"own-{n}", seed=seed, events=events) for n in range(8)]
    readers = [*READERS, READER_ELSEWHERE]
    processes: list[Process] = []
    if fault == "none":
        processes = [Process(url, here[4:6], READER_ELSEWHERE), Process(url, here[6:])]
        here, readers = here[:4], READERS
    writers_are_done = Event()
    with ExitStack() as stack:
        stack.enter_context(FAULTS[fault]())
        for process in processes:
            process.start()
            stack.callback(process.end)
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=20))
        # Whatever fails, the readers must come to an end.
        stack.callback(writers_are_done.set)
        foreign = [
            threads.submit(hold_foreign_transactions, engine, seed + n, writers_are_done)
            for n in range(2)
        ]
        reading = [threads.submit(r.follow, engine, writers_are_done) for r in readers]
        written = list(threads.map(lambda writer: writer.run(engine), here))
        for process in processes:
            written += process.written()
        writers_are_done.set()
        delivered = [reader.result() for reader in reading]
        delivered += [found for process in processes if (found := process.delivered())]
        happened = sum((writer.happened for writer in written), Counter[str]())
        happened["foreign transactions"] = sum(future.result() for future in foreign)
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT sequence_number, stream_id, event_version, event_id::text FROM events"
                " ORDER BY sequence_number"
            )
        )
        recorded = [Delivered(*row) for row in rows]
    committed = {event_id for writer in written for event_id in writer.committed}
    return Outcome(committed, recorded, delivered, happened)


def test_readers_skip_nothing(engine: Engine, database_url: URL, seed: int) -> None:
    outcome = stress(engine, database_url, seed, events=EVENTS_PER_WRITER)

    assert {event.event_id for event in outcome.recorded} == outcome.committed
    assert len(outcome.recorded) >= 8 * EVENTS_PER_WRITER
    assert len(outcome.delivered) == 4
    assert outcome.lost() == [0, 0, 0, 0]
    # Each reader has exactly the table's order: rising positions, nothing twice.
    for delivered in outcome.delivered:
        assert delivered == outcome.recorded
    versions = defaultdict(list)
    for event in outcome.recorded:
        versions[event.stream_id].append(event.version)
    for stream_id, found in versions.items():
        assert found == list(range(1, len(found) + 1)), stream_id
    # The workload was the one that was meant.
    for kind in ("rolled back", "append released", "append rolled back", "append nested"):
        assert outcome.happened[kind] > 0
    assert outcome.happened["conflict"] > 0
    assert outcome.happened["foreign transactions"] > 2
    print(len(outcome.recorded), "events;", dict(outcome.happened))  # noqa: T201


@pytest.mark.parametrize("fault", ["writers_without_lock", "readers_without_locks"])
def test_without_the_fence_readers_lose_events(
    engine: Engine, database_url: URL, seed: int, fault: str
) -> None:
    outcome = stress(engine, database_url, seed, events=25, fault=fault)

    assert {event.event_id for event in outcome.recorded} == outcome.committed
    assert any(outcome.lost()), "the stress test would not notice a missing fence"
    print(f"of {len(outcome.recorded)} events the readers lost {outcome.lost()}")  # noqa: T201
