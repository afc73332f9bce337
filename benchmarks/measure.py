"""A run: every contender chosen in every workload chosen, then growth.

Everybody takes a turn in each round, so that a neighbour's or the disk's mood meets all.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from benchmarks import contents, machine, report
from benchmarks.contenders import BASELINE, Contender, Runtime, with_baselines
from benchmarks.controller import Unavailable
from benchmarks.databases import Databases, check_durability, conninfo
from benchmarks.install import install
from benchmarks.lanes import WorkerLane, Workers, find_peer
from benchmarks.pgbench import Pgbench, find_pgbench, pgbench_version
from benchmarks.protocol import Describe, Description
from benchmarks.workloads import GROWTH, WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import URL

    from benchmarks.lanes import Lane
    from benchmarks.protocol import Sample

KeyT = TypeVar("KeyT", bound=Hashable)

#: A median of fewer rounds says nothing, however short the time is.
MIN_ROUNDS: Final = 3
#: Of workloads whose turns are long, the least and the most.
LONG_ROUNDS: Final = (2, 3)
#: Who is measured on stores of several sizes,
GROWING: Final = (BASELINE, "ours")
#: and who is besides, in the workload that it is there for.
ALSO_GROWING: Final = {"W32": "ours-group-async", "W4": "ours-copy"}
#: Two or three take turns there, where a workload has twenty contenders: a smaller share of the
#: time, and no more rounds than make a median.
GROWTH_SHARE: Final = 0.5
GROWTH_ROUNDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    contenders: Sequence[str]
    workloads: Sequence[str]
    options: report.Options
    #: The sizes in events of stores that are compared with an empty one.
    growth: Sequence[int] = ()


class Clock:
    """Shares out what is left of a run's time among the tasks that are left."""

    def __init__(self, minutes: float | None, shares: float) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + minutes * 60
        self._shares = shares

    def next_deadline(self, shares: float = 1) -> float:
        """Return when the next task should end, which has so many of the shares."""
        now = time.monotonic()
        time_left = max(0.0, self._end - now) * shares / max(shares, self._shares)
        self._shares -= shares
        return now + time_left


@dataclass(frozen=True, kw_only=True)
class Taken(Generic[KeyT]):
    """What the turns have taken."""

    samples: dict[KeyT, list[Sample]] = field(default_factory=dict)  #: one for each round
    skipped: dict[KeyT, str] = field(default_factory=dict)  #: the reasons


def interleave(
    turns: Mapping[KeyT, Callable[[], Sample]],
    rounds: int,
    *,
    least: int = 1,
    deadline: float = math.inf,
) -> Taken[KeyT]:
    """Let everybody take a turn in each round, in an order that rotates from round to round.

    There are at least ``least`` rounds, and no other begins after the deadline. Who fails is out:
    what it did before is not told either, since the rounds' ratios need the same rounds.
    """
    taken: Taken[KeyT] = Taken(samples={key: [] for key in turns})
    for number in range(rounds):
        if number >= least and time.monotonic() >= deadline:
            break
        for key in rotate(list(taken.samples), number):
            try:
                sample = turns[key]()
            except Unavailable as error:
                taken.skipped[key] = str(error)
                del taken.samples[key]
            else:
                taken.samples[key].append(sample)
    return taken


def rotate(keys: list[KeyT], number: int) -> list[KeyT]:
    """Return the keys, begun with another one for each number."""
    first = number % len(keys) if keys else 0
    return keys[first:] + keys[:first]


def measure(plan: Plan, server: URL) -> report.Report:
    """Measure the plan on this server, and tell on standard error how far it is.

    :raises Unavailable: the server does not commit durably.
    """
    rows: list[report.Row] = []
    growth: list[report.Growth] = []
    conditions: dict[str, machine.Conditions] = {}
    check_durability(conninfo(server))
    growing = GROWTH if plan.growth else ()
    clock = Clock(plan.options.minutes, len(plan.workloads) + GROWTH_SHARE * len(growing))
    with ExitStack() as made:
        workers = Workers(made)
        contenders, versions, skipped = prepare(with_baselines(plan.contenders), workers)
        databases = Databases(
            server,
            worker=lambda contender: workers.take(contender, 1)[0],
            programs=lambda contender: find_peer(contender).bin,
            made=made,
        )
        run = _Run(plan, databases, workers)
        run.fill(contenders)
        for name in plan.workloads:
            tell(name)
            conditions[name] = machine.conditions()
            compared, left_out = run.compare(WORKLOADS[name], contenders, clock.next_deadline())
            rows += compared
            skipped += left_out
        for workload in growing:
            tell(f"growth of {workload.name}")
            grown, left_out = run.grow(workload, contenders, clock.next_deadline(GROWTH_SHARE))
            growth += grown
            skipped += left_out
    tell("\n")
    return report.Report(
        machine=machine.look_at(conninfo(server), versions),
        options=plan.options,
        conditions=conditions,
        rows=rows,
        growth=growth,
        skipped=skipped,
    )


def tell(progress: str) -> None:
    print(progress, end=" ", flush=True, file=sys.stderr)


def prepare(
    contenders: Sequence[Contender], workers: Workers
) -> tuple[list[Contender], dict[str, dict[str, str]], list[report.Skip]]:
    """Return those whose environment can be had and who start, their versions, and the others."""
    ready, versions, skipped = [], {}, []
    for contender in contenders:
        try:
            versions[contender.name] = describe(contender, workers)
        except Unavailable as error:
            tell(f"{contender.name} skipped: {error}\n")
            skipped.append(report.Skip(workload=None, contender=contender.name, reason=str(error)))
        else:
            ready.append(contender)
    return ready, versions, skipped


def describe(contender: Contender, workers: Workers) -> dict[str, str]:
    """Install what the contender needs, start it, and return its versions.

    :raises Unavailable: it can't be had here.
    """
    if contender.runtime is Runtime.PGBENCH:
        return {"pgbench": pgbench_version(find_pgbench())}
    if contender.peer:
        install(find_peer(contender))
    return workers.take(contender, 1)[0].ask(Describe(), Description).versions


class _Run:
    """The stores and the workers of a run, and what is done with them."""

    def __init__(self, plan: Plan, databases: Databases, workers: Workers) -> None:
        self._plan = plan
        self._options = plan.options
        self._databases = databases
        self._workers = workers

    def fill(self, contenders: Sequence[Contender]) -> None:
        """Make the stores that are read, so that no workload's time is spent on that."""
        tell("filling")
        reads = any(WORKLOADS[name].reads for name in self._plan.workloads)
        for contender in contenders:
            try:
                if reads:
                    self._filled(contender)
                for size in self._plan.growth if contender.name in GROWING else ():
                    self._databases.filled(contender, size)
            except Unavailable:
                self._workers.forget(contender)  # it is told in each workload

    def _filled(self, contender: Contender) -> str:
        feed_events = contender.sizes(self._options.sizes).feed_events
        return self._databases.filled(contender, feed_events)

    def compare(
        self, workload: Workload, contenders: Sequence[Contender], deadline: float
    ) -> tuple[list[report.Row], list[report.Skip]]:
        """Return what the contenders reach beside their baselines, and who was left out."""
        chosen = [contender for contender in contenders if workload.name in contender.only]
        turns: dict[str, Callable[[], Sample]] = {}
        skipped = {}
        for contender in chosen:
            try:
                if workload.reads:
                    url = self._filled(contender)
                else:
                    url = self._databases.written(contender)
            except Unavailable as error:
                skipped[contender.name] = str(error)
            else:
                stored = contender.sizes(self._options.sizes).feed_events
                turns[contender.name] = self._turn(workload, contender, url, stored)
        least, rounds = MIN_ROUNDS, self._options.rounds
        if workload.long:
            least, rounds = LONG_ROUNDS[0], min(LONG_ROUNDS[1], rounds)
        taken = interleave(turns, rounds, least=least, deadline=deadline)
        skipped |= taken.skipped
        rows = []
        for contender in chosen:
            if contender.name in taken.samples and BASELINE in taken.samples:
                rows.append(report.summarise(workload, contender, taken.samples))
            elif contender.name in taken.samples:
                skipped[contender.name] = f"nothing to compare with: no {BASELINE}"
        return rows, [
            report.Skip(workload=workload.name, contender=name, reason=reason)
            for name, reason in skipped.items()
        ]

    def grow(
        self, workload: Workload, contenders: Sequence[Contender], deadline: float
    ) -> tuple[list[report.Growth], list[report.Skip]]:
        """Return what the contenders reach on stores of each size, and what was left out.

        They stand beside an empty store, which has what is read, and nothing else.
        """
        names = {*GROWING, ALSO_GROWING.get(workload.name)}
        least = contents.MIN_EVENTS if workload.reads else 0
        turns: dict[tuple[Contender, int], Callable[[], Sample]] = {}
        skipped = {}
        for contender in contenders:
            for size in (least, *self._plan.growth) if contender.name in names else ():
                try:
                    if size:
                        url = self._databases.filled(contender, size)
                    else:
                        url = self._databases.written(contender, workload.name)
                except Unavailable as error:
                    skipped[contender, size] = str(error)
                else:
                    turns[contender, size] = self._turn(workload, contender, url, size)
        rounds = min(GROWTH_ROUNDS, self._options.rounds)
        taken = interleave(turns, rounds, least=MIN_ROUNDS, deadline=deadline)
        skipped |= taken.skipped
        growth = []
        for (contender, size), own in taken.samples.items():
            if empty := taken.samples.get((contender, least)):
                growth.append(report.grown(workload, contender, size, own, empty))
            else:
                skipped[contender, size] = "nothing to compare with: no empty store"
        return growth, [
            report.Skip(
                workload=report.at(workload.name, size), contender=contender.name, reason=reason
            )
            for (contender, size), reason in skipped.items()
        ]

    def _turn(
        self, workload: Workload, contender: Contender, url: str, stored: int
    ) -> Callable[[], Sample]:
        run = workload.run(self._options.seconds, contender.sizes(self._options.sizes), stored)
        lane: Lane
        if contender.runtime is Runtime.PGBENCH:
            lane = Pgbench(url)
        else:
            lane = WorkerLane(contender, url, self._workers)
        return partial(lane.turn, workload, run)
