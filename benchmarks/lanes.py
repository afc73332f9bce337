"""A contender on one store, taking its turns in worker processes."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks import protocol
from benchmarks.contenders import Contender, Runtime
from benchmarks.controller import Unavailable, WorkerProcess
from benchmarks.install import FOLDER, Peer, read_peers
from benchmarks.protocol import Sample
from benchmarks.workloads import warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.controller import ReplyT
    from benchmarks.protocol import Run
    from benchmarks.workloads import Workload

_WARM_UP_SECONDS: Final = 0.1


class Lane(Protocol):
    """Who takes a turn in each round."""

    def turn(self, workload: Workload, run: Run) -> Sample:
        """Do what the workload asks for.

        :raises Unavailable: it can't be done, nor could it the next time.
        """


def start_worker(contender: Contender) -> WorkerProcess:
    """Start a worker in the contender's environment, which is there.

    :raises Unavailable: it does not start.
    """
    module, *arguments = contender.worker
    command: list[str | Path]
    if contender.runtime is Runtime.NODE:
        node = shutil.which("node")
        if node is None:
            raise Unavailable("Node is not installed: no node on PATH")
        command = [node, FOLDER / "peers" / module, find_peer(contender).folder]
    else:
        python = find_peer(contender).interpreter if contender.peer else sys.executable
        command = [python, "-m", module, *arguments]
    return WorkerProcess(command, folder=FOLDER.parent)


def find_peer(contender: Contender) -> Peer:
    """Return the peer in whose environment the contender runs."""
    assert contender.peer is not None
    return read_peers()[contender.peer]


class Workers:
    """The worker processes of a run, kept from workload to workload."""

    def __init__(self, made: ExitStack) -> None:
        self._made = made
        self._processes: dict[str, list[WorkerProcess]] = {}

    def take(self, contender: Contender, count: int) -> Sequence[WorkerProcess]:
        """Return so many of the contender's workers.

        :raises Unavailable: they do not start.
        """
        processes = self._processes.setdefault(contender.name, [])
        while len(processes) < count:
            processes.append(self._made.enter_context(start_worker(contender)))
        return processes[:count]

    def forget(self, contender: Contender) -> None:
        """End them, and start others the next time: one that failed may keep its connections."""
        for process in self._processes.pop(contender.name, ()):
            process.stop()


class WorkerLane:
    """Keeps its worker processes from turn to turn, and its connections for one turn.

    All contenders together would have more connections than a server allows, and the pools and
    threads of one would be in the way of the others' turns.
    """

    def __init__(self, contender: Contender, url: str, workers: Workers) -> None:
        self._contender = contender
        self._url = url
        self._kept = workers

    def turn(self, workload: Workload, run: Run) -> Sample:
        writers = workload.writers // workload.processes
        with self._workers(workload) as workers:
            _all(workers, protocol.Open(url=self._url, writers=writers), protocol.Done)
            if workload.warms_up:
                _all(workers, warm_up(run, _WARM_UP_SECONDS), Sample)
            samples = _all(workers, run, Sample)
            _all(workers, protocol.Close(), protocol.Done)
        return join(samples)

    @contextmanager
    def _workers(self, workload: Workload) -> Iterator[Sequence[WorkerProcess]]:
        if workload.isolated:
            with start_worker(self._contender) as worker:
                yield [worker]
            return
        try:
            yield self._kept.take(self._contender, workload.processes)
        except Unavailable:
            self._kept.forget(self._contender)
            raise


def _all(
    workers: Sequence[WorkerProcess],
    request: protocol.Request,
    expected: type[ReplyT],
) -> list[ReplyT]:
    """Let all workers do the same at the same time."""
    for worker in workers:
        worker.send(request)
    return [worker.receive(expected) for worker in workers]


def join(samples: Sequence[Sample]) -> Sample:
    """Return what the processes of one contender have done together."""
    if len(samples) == 1:
        return samples[0]
    return Sample(
        events=sum(sample.events for sample in samples),
        seconds=max(sample.seconds for sample in samples),
        latencies=[latency for sample in samples for latency in sample.latencies],
        conflicts=sum(sample.conflicts for sample in samples),
    )
