"""``python -m benchmarks.contention``: what it is worth that a conflict brings the missed events.

16 threads execute commands on one stream, in ways that differ in what follows a conflict. They take
turns on the same server, each turn on a new stream, so that all load streams of the same lengths.
Each execution has a transaction of its own.

To decide costs next to nothing here, and to fold an event too: what is measured is the store.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import sessionmaker

from benchmarks import machine, operations, report
from benchmarks.controller import Unavailable
from benchmarks.databases import check_durability, conninfo, postgresql
from benchmarks.measure import MIN_ROUNDS, interleave
from benchmarks.ours import INVOICES, OurStore, engine_options
from benchmarks.protocol import Run, Sample
from benchmarks.tables import PAYLOAD, InvoiceIssued, registry
from benchmarks.worker import Client
from benchmarks.workloads import Metric
from eventstore import AppendResult, Repository, Retries, SqlAlchemyEventStore, event_store
from eventstore.testing.databases import migrated_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from eventstore import StreamAppend

WRITERS: Final = 16
_WARM_UP_CALLS: Final = 1


class Missed(Client):
    """`execute` as it is: folds the missed events that a conflict brings, and decides again."""

    commutes: ClassVar[tuple[type, ...]] = ()
    retries: ClassVar = Retries()

    def __init__(self, engine: Engine) -> None:
        self._sessions = sessionmaker(engine)
        self._repository = Repository(self.store, INVOICES, retries=self.retries)
        self.conflicts: list[int] = []  #: that each execution has overcome

    def store(self) -> AbstractContextManager[SqlAlchemyEventStore]:
        return event_store(self._sessions, registry)

    async def execute(self, stream_id: str) -> None:
        outcome = self._repository.execute(stream_id, PAYLOAD, commutes=self.commutes)
        self.conflicts.append(outcome.attempts - 1)


class Commuting(Missed):
    """Appends what was decided at the new version: the missed events don't matter to it."""

    commutes = (InvoiceIssued,)


class StoreWithoutMissed(SqlAlchemyEventStore):
    """Its conflicts bring nothing: a repository loads the stream again."""

    def append(self, *appends: StreamAppend, require: Any = (), **_: Any) -> AppendResult:
        return super().append(*appends, require=require)


class Reload(Missed):
    """Loads and decides again in the same transaction, with the same number of attempts."""

    @contextmanager
    def store(self) -> Iterator[SqlAlchemyEventStore]:
        with super().store() as store:
            yield StoreWithoutMissed(store.session, registry)


class ReloadAnew(Reload):
    """Rolls back, and begins again with a new transaction: `operations.decide`, until it is done.

    The loop that is usual where a conflict is an error like others. It holds no lock on the stream
    when it begins again, so that it can lose more than once.
    """

    retries = Retries(attempts=1)


#: All are compared with the first one.
WAYS: Final[dict[str, type[Missed]]] = {
    "reload, same transaction": Reload,
    "reload, new transaction": ReloadAnew,
    "missed": Missed,
    "commutes": Commuting,
}


def main() -> int:
    """Measure, on an embedded PostgreSQL or on a server of yours, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", type=make_url)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each way, at most")
    parser.add_argument("--calls", type=int, default=10, help="of each writer in a turn")
    parser.add_argument("--seconds", type=float, default=40, help="after which no round begins")
    arguments = parser.parse_args()
    with postgresql(arguments.database_url) as server, migrated_database(server) as url:
        before = machine.conditions()
        try:
            samples = measure(url, arguments.rounds, arguments.calls, arguments.seconds)
        except Unavailable as error:
            sys.exit(str(error))
        moods = [before, machine.conditions()]
        facts = report.machine_facts(machine.look_at(conninfo(url), {}), moods)
        print(*wrap(", ".join(facts), 100), sep="\n")
    rounds = len(samples[next(iter(samples))])
    print(f"{rounds} rounds of {WRITERS} writers with {arguments.calls} calls each\n")
    print(*table(samples), sep="\n")
    return 0


def measure(
    url: URL, rounds: int, calls: int, seconds: float = math.inf
) -> Mapping[str, Sequence[Sample]]:
    """Return a sample of each way in each round that the time allows, and in three at least.

    :raises Unavailable: the server does not commit durably.
    """
    check_durability(conninfo(url))
    engine = create_engine(url, **engine_options(WRITERS, autocommit=False))
    try:
        clients = {name: way(engine) for name, way in WAYS.items()}
        for client in clients.values():
            take_turn(client, _WARM_UP_CALLS)
        turns = {name: partial(take_turn, client, calls) for name, client in clients.items()}
        deadline = time.monotonic() + seconds
        return interleave(turns, rounds, least=MIN_ROUNDS, deadline=deadline).samples
    finally:
        engine.dispose()


def take_turn(client: Missed, calls: int) -> Sample:
    """Let all writers execute so many commands on a new stream; tell all conflicts."""
    client.conflicts.clear()
    running = operations.run(OurStore(), [client] * WRITERS, Run(operation="decide", calls=calls))
    sample = operations.run_blocking(running)
    return replace(sample, conflicts=sample.conflicts + sum(client.conflicts))


def table(samples: Mapping[str, Sequence[Sample]]) -> Iterator[str]:
    """Yield the lines: medians of the rounds, and of their ratios to the first way."""
    yield _LINE.format("after a conflict", "executions/s", "ratio", "p50 ms", "p99 ms", "conflicts")
    base = next(iter(samples.values()))
    for name, own in samples.items():
        latencies = report.all_latencies(own)
        yield _LINE.format(
            name,
            f"{median(sample.rate for sample in own):.0f}",
            f"{report.ratio(own, base, Metric.RATE):.2f}",
            f"{median(latencies) * 1000:.1f}",
            report.optional(report.p99(latencies), ".1f"),
            f"{sum(sample.conflicts for sample in own) / len(latencies):.2f}",
        ).rstrip()


_LINE: Final = "{:<28}{:>14}{:>8}{:>10}{:>10}{:>12}"


if __name__ == "__main__":
    sys.exit(main())
