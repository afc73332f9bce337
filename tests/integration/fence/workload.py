"""Writers and readers at work on one store: what the stress tests run, in threads and processes.

Run as a script it is one process of writers (and readers); see :class:`Process`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from eventstore.errors import ConcurrencyConflict
from eventstore.events import EventEnvelope
from eventstore.store import SqlAlchemyEventStore
from eventstore.streams import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

HOT_STREAMS = ("hot-0", "hot-1", "hot-2")


class Delivered(NamedTuple):
    position: int
    stream_id: str
    version: int
    event_id: str


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one reader asks: it keeps nothing but an integer."""

    page_size: int = 500
    max_count: int | None = None
    autocommit: bool = False  #: each statement by itself; otherwise a transaction a poll

    def follow(self, engine: Engine, writers_are_done: Event) -> list[Delivered]:
        """Poll until the writers are done and a poll that began later finds nothing."""
        if self.autocommit:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        checkpoint = 0
        delivered: list[Delivered] = []
        while True:
            last_poll = writers_are_done.is_set()
            with Session(engine) as session:
                page = [
                    Delivered(e.sequence_number, e.stream_id, e.event_version, str(e.event_id))
                    for e in SqlAlchemyEventStore(session).read_all_forward(
                        checkpoint, self.max_count, page_size=self.page_size
                    )
                ]
            if page:
                delivered += page
                checkpoint = page[-1].position
            elif last_poll:
                return delivered
            else:
                # Readers that never rest would leave two cores no time for writers.
                writers_are_done.wait(0.003)


@dataclass(kw_only=True)
class Writer:
    """Runs transactions of every kind until so many events are committed."""

    name: str
    seed: int
    events: int
    committed: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.happened = Counter(self.happened)  # JSON has made a dict of it

    def run(self, engine: Engine) -> Self:
        self._random = random.Random(f"{self.seed} {self.name}")
        while len(self.committed) < self.events:
            with Session(engine) as session:
                written = self._transaction(SqlAlchemyEventStore(session))
                if self._random.random() < 0.2:
                    session.rollback()
                    self.happened["rolled back"] += 1
                else:
                    session.commit()
                    self.happened["committed"] += 1
                    self.committed += written
        return self

    def as_json(self) -> dict[str, Any]:
        # Not `asdict`: it takes a Counter apart.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _transaction(self, store: SqlAlchemyEventStore) -> list[str]:
        """Append to some streams; in the order of their names, so that writers can't deadlock."""
        # Locked rows of contended streams make the others wait, so most work is on own ones.
        streams = sorted(self._random.sample((*HOT_STREAMS, *[self.name] * 5), k=3))
        written: list[str] = []
        for stream in streams[: self._random.randint(1, 3)]:
            kind = self._random.choice(["plain", "plain", "released", "rolled back", "nested"])
            self.happened[f"append {kind}"] += 1
            if kind == "plain":
                written += self._append(store, stream)
            else:
                written += self._in_savepoint(store, stream, kind)
            self._linger(store)
        return written

    def _in_savepoint(self, store: SqlAlchemyEventStore, stream: str, kind: str) -> list[str]:
        savepoint = store.session.begin_nested()
        written = self._append(store, stream)
        if kind == "nested":
            # Taken back inside, and sometimes outside too; then the lock has to be taken anew.
            inner = store.session.begin_nested()
            self._append(store, stream)
            inner.rollback()
            kind = self._random.choice(["released", "rolled back"])
        if kind == "rolled back":
            self._linger(store)
            savepoint.rollback()
            return []
        savepoint.commit()
        return written

    def _append(self, store: SqlAlchemyEventStore, stream: str) -> list[str]:
        events = [
            EventEnvelope(aggregate_type="stress", event_type="happened", event_data={"by": n})
            for n in range(self._random.randint(1, 3))
        ]
        expected = None
        if self._random.random() < 0.5:
            info = store.get_stream_info(stream)
            expected = info.version if info else 0
        try:
            store.append_to_stream(stream, ANY if expected is None else expected, events)
        except ConcurrencyConflict:
            self.happened["conflict"] += 1
            return []
        return [str(event.event_id) for event in events]

    def _linger(self, store: SqlAlchemyEventStore) -> None:
        """Wait inside the transaction: in Python, or in the server."""
        chance = self._random.random()
        seconds = self._random.uniform(0, 0.02) if chance > 0.02 else 0.2
        if chance < 0.2:
            time.sleep(seconds)
        elif chance < 0.35:
            store.session.execute(text("SELECT pg_sleep(:s)"), {"s": seconds})


def hold_foreign_transactions(engine: Engine, seed: int, writers_are_done: Event) -> int:
    """Take an xid early, stay open, commit late, again and again; return how often."""
    chance = random.Random(seed)
    count = 0
    while not writers_are_done.is_set():
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO unrelated DEFAULT VALUES"))
            writers_are_done.wait(chance.uniform(0.05, 0.5))
            count += 1
    return count


@dataclass
class Process:
    """Writers and at most one reader in an operating-system process of their own."""

    url: str
    writers: Sequence[Writer]
    reader: Reader | None = None

    def start(self) -> None:
        order = {
            "url": self.url,
            "writers": [writer.as_json() for writer in self.writers],
            "reader": self.reader and asdict(self.reader),
        }
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def written(self) -> list[Writer]:
        """Wait for the writers and return them as they have become."""
        assert self._child.stdout is not None
        return [Writer(**writer) for writer in json.loads(self._child.stdout.readline())]

    def delivered(self) -> list[Delivered]:
        """Say that all writers are done, and return what the reader got."""
        output, _ = self._child.communicate(timeout=120)
        assert self._child.returncode == 0
        return [Delivered(*event) for event in json.loads(output)]

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        with self._child:  # closes the pipes and waits
            self._child.kill()


def run_process(order: dict[str, Any]) -> None:
    """Be the process that ``order`` describes."""
    engine = create_engine(order["url"], pool_size=10)
    writers = [Writer(**writer) for writer in order["writers"]]
    writers_are_done = Event()
    with ThreadPoolExecutor() as threads:
        reading: Future[list[Delivered]] | None = None
        if order["reader"]:
            reader = Reader(**order["reader"])
            reading = threads.submit(reader.follow, engine, writers_are_done)
        try:
            written = [w.as_json() for w in threads.map(lambda writer: writer.run(engine), writers)]
            sys.stdout.write(json.dumps(written) + "\n")
            sys.stdout.flush()
            sys.stdin.read()  # until the parent closes it: all writers are done
        finally:
            writers_are_done.set()
        sys.stdout.write(json.dumps(reading.result() if reading else []))
    engine.dispose()


if __name__ == "__main__":
    run_process(json.loads(sys.argv[1]))
