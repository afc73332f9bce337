"""A run: every contender chosen in every workload chosen, then growth."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks import machine, report
from benchmarks.contenders import BASELINE, Contender, Runtime, with_baselines
from benchmarks.controller import Unavailable
from benchmarks.databases import Databases, conninfo
from benchmarks.install import install
from benchmarks.lanes import WorkerLane, Workers, find_peer
from benchmarks.pgbench import Pgbench, find_pgbench, pgbench_version
from benchmarks.protocol import Describe, Description
from benchmarks.rounds import interleave
from benchmarks.workloads import GROWTH, WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL

    from benchmarks.lanes import Lane
    from benchmarks.protocol import Sample

#: Of workloads whose turns are long.
MAX_LONG_ROUNDS: Final = 3
#: Who is measured on stores of several sizes.
GROWING: Final = (BASELINE, "ours")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    contenders: Sequence[str]
    workloads: Sequence[str]
    options: report.Options
    #: The stores' sizes in events, the smallest first.
    growth: Sequence[int] = ()


def measure(plan: Plan, server: URL) -> report.Report:
    """Measure the plan on this server, and tell on standard error how far it is."""
    rows: list[report.Row] = []
    growth: list[report.Growth] = []
    conditions: dict[str, machine.Conditions] = {}
    with ExitStack() as made:
        workers = Workers(made)
        contenders, versions, skipped = prepare(with_baselines(plan.contenders), workers)
        databases = Databases(
            server,
            worker=lambda contender: workers.take(contender, 1)[0],
            programs=lambda contender: find_peer(contender).bin,
            made=made,
        )
        for name in plan.workloads:
            tell(name)
            conditions[name] = machine.conditions()
            compared, left_out = compare(
                WORKLOADS[name], contenders, databases, workers, plan.options
            )
            rows += compared
            skipped += left_out
        growing = [contender for contender in contenders if contender.name in GROWING]
        for name in GROWTH if len(plan.growth) > 1 else ():
            tell(f"growth of {name}")
            growth += grow(WORKLOADS[name], growing, databases, workers, plan)
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


def compare(
    workload: Workload,
    contenders: Sequence[Contender],
    databases: Databases,
    workers: Workers,
    options: report.Options,
) -> tuple[list[report.Row], list[report.Skip]]:
    """Return what the contenders reach beside their baselines, and who was left out."""
    run = workload.run(options.seconds, options.feed_events, options.bulk_events)
    rounds = min(options.rounds, MAX_LONG_ROUNDS) if workload.long else options.rounds
    chosen = [
        contender
        for contender in contenders
        if not contender.only or workload.name in contender.only
    ]
    turns: dict[str, Callable[[], Sample]] = {}
    skipped = {}
    for contender in chosen:
        try:
            url = (
                databases.filled(contender, options.feed_events)
                if workload.reads
                else databases.written(contender)
            )
        except Unavailable as error:
            workers.forget(contender)
            skipped[contender.name] = str(error)
        else:
            lane = make_lane(contender, url, workers)
            turns[contender.name] = partial(lane.turn, workload, run)
    taken = interleave(turns, rounds)
    skipped |= taken.skipped
    rows = []
    for contender in chosen:
        missing = {contender.baseline, BASELINE} - taken.samples.keys()
        if contender.name in taken.samples and not missing:
            rows.append(report.summarise(workload, contender, taken.samples))
        elif contender.name in taken.samples:
            skipped[contender.name] = f"nothing to compare with: no {' and no '.join(missing)}"
    return rows, [
        report.Skip(workload=workload.name, contender=name, reason=reason)
        for name, reason in skipped.items()
    ]


def grow(
    workload: Workload,
    contenders: Sequence[Contender],
    databases: Databases,
    workers: Workers,
    plan: Plan,
) -> list[report.Growth]:
    """Return what the contenders reach on stores of each size, beside the smallest."""
    options = plan.options
    run = workload.run(options.seconds, options.feed_events, options.bulk_events)
    smallest, *_ = plan.growth
    rows = []
    for contender in contenders:
        turns = {
            str(size): partial(
                make_lane(contender, databases.filled(contender, size), workers).turn,
                workload,
                run,
            )
            for size in plan.growth
        }
        samples = interleave(turns, options.rounds).samples
        rows += [
            report.grown(workload, contender, size, samples[str(size)], samples[str(smallest)])
            for size in plan.growth
            if {str(size), str(smallest)} <= samples.keys()
        ]
    return rows


def make_lane(contender: Contender, url: str, workers: Workers) -> Lane:
    if contender.runtime is Runtime.PGBENCH:
        return Pgbench(url)
    return WorkerLane(contender, url, workers)
