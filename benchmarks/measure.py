"""Run an operation for a while, and note what it took."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.contenders import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL

    from benchmarks.contenders import Client, Contender
    from benchmarks.workloads import Operation


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One contender's turn in one round."""

    events: int
    seconds: float
    latencies: Sequence[float]  #: seconds, of each call
    peak_mb: float | None = None  #: of the whole process
    grown_mb: float | None = None  #: what the call has added to it

    @property
    def rate(self) -> float:
        return self.events / self.seconds


def run_for(seconds: float, operation: Operation, clients: Sequence[Client]) -> Sample:
    """Call ``operation`` until the time is over, but once at least; a thread for each client."""

    def repeat(client: Client) -> tuple[int, list[float]]:
        events, now = 0, start
        latencies: list[float] = []
        while now < end or not latencies:
            before = perf_counter()
            events += operation(client)
            now = perf_counter()
            latencies.append(now - before)
        return events, latencies

    with ThreadPoolExecutor(len(clients)) as threads:
        start = perf_counter()
        end = start + seconds
        turns = list(threads.map(repeat, clients))
        took = perf_counter() - start
    return Sample(
        events=sum(events for events, _ in turns),
        seconds=took,
        latencies=[latency for _, latencies in turns for latency in latencies],
    )


def run_isolated(operation: Operation, contender: Contender, url: URL) -> Sample:
    """Call ``operation`` once, in a process of its own."""
    # Not forked: a child would begin with its parent's memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(_run_once, operation, contender, url).result()


def _run_once(operation: Operation, contender: Contender, url: URL) -> Sample:
    with contender(url, Mode.AUTOCOMMIT, 1) as clients:
        before = _memory_mb("VmRSS")
        sample = run_for(0, operation, clients)
        peak = _memory_mb("VmHWM")
    grown = None if before is None or peak is None else peak - before
    return replace(sample, peak_mb=peak, grown_mb=grown)


def _memory_mb(field: str) -> float | None:
    """Return a figure of Linux about this process; None elsewhere.

    getrusage's peak won't do: it is inherited from the parent (getrusage(2), ru_maxrss).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) / 1024
