"""The benchmark's workers, told by fakes: what is measured, and what is said of those left out."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from benchmarks import contents, controller, install, lanes, pgbench, protocol
from benchmarks.contenders import CONTENDERS
from benchmarks.controller import Unavailable, WorkerFailed, WorkerProcess
from benchmarks.databases import Databases
from benchmarks.operations import run_blocking
from benchmarks.worker import AppendThere, Client, Store, Worker
from benchmarks.workloads import WORKLOADS, Sizes, warm_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

ROOT = Path(__file__).parents[2]


class OthersWereQuicker(Exception):
    """The fakes' conflict."""


class FakeClient(Client):
    """Streams in memory; the first append at each version meets a conflict."""

    def __init__(self, *, awaits: bool = False) -> None:
        self.awaits = awaits
        self.announces = False
        self.versions: dict[str, int] = {}
        self.met: set[tuple[str, int]] = set()
        self.handlers: list[Callable[[str], None]] = []

    async def append(self, stream_id: str, version: int, count: int) -> None:
        if self.awaits:
            await asyncio.sleep(0)
        if version and (stream_id, version) not in self.met:
            self.met.add((stream_id, version))
            raise OthersWereQuicker
        self.versions[stream_id] = version + count
        for handle in self.handlers:
            handle(stream_id)

    async def read_stream(self, stream_id: str) -> int:
        if self.awaits:
            await asyncio.sleep(0)
        return self.versions.get(stream_id, 0)

    @asynccontextmanager
    async def subscribe(self, handle: Callable[[str], None]) -> AsyncIterator[None]:
        self.handlers.append(handle)
        yield
        self.handlers.clear()

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        self.announces = True
        yield
        self.announces = False


class FakeStore(Store):
    conflict = OthersWereQuicker

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.opened = 0

    async def set_up(self, url: str) -> None:
        """Nothing to make."""

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        self.opened += 1
        yield [self.client] * writers
        self.opened -= 1


class FakeAsyncStore(FakeStore):
    blocking = False


def ask(store: Store, writers: int, request: protocol.Run) -> protocol.Reply:
    """Let a worker open the store, run the request, and close it again."""

    async def talk() -> protocol.Reply:
        worker = Worker(store)
        opened = await worker.answer(protocol.Open(url="", writers=writers))
        assert opened == protocol.Done()
        reply = await worker.answer(request)
        assert await worker.answer(protocol.Close()) == protocol.Done()
        return reply

    return asyncio.run(talk())


@pytest.mark.parametrize(
    "store", [FakeStore(FakeClient()), FakeAsyncStore(FakeClient(awaits=True))], ids=type
)
def test_every_writer_makes_its_calls_and_each_is_timed(store: FakeStore) -> None:
    sample = ask(store, 4, protocol.Run(operation="append", events=10, calls=3))
    assert isinstance(sample, protocol.Sample)
    assert sample.events == 4 * 3 * 10
    assert len(sample.latencies) == 4 * 3
    assert len(store.client.versions) == 4 * 3
    assert store.opened == 0


def test_conflicts_are_overcome_and_counted() -> None:
    sample = ask(FakeStore(FakeClient()), 1, protocol.Run(operation="decide", calls=5))
    assert isinstance(sample, protocol.Sample)
    assert (sample.events, sample.conflicts) == (5, 4)


def test_who_reads_too_few_events_fails() -> None:
    client = FakeClient()
    client.versions[contents.LONG_STREAM] = contents.LONG_STREAM_EVENTS - 1
    reply = ask(FakeStore(client), 1, protocol.Run(operation="read_long_stream"))
    assert isinstance(reply, protocol.Failed)
    assert "9999 events instead of 10000" in reply.reason


def test_what_a_client_leaves_out_is_skipped_with_a_reason() -> None:
    reply = ask(FakeStore(FakeClient()), 1, protocol.Run(operation="project", events=10))
    assert isinstance(reply, protocol.Skipped)
    assert "projections" in reply.reason


def test_a_delivery_before_the_appends_return_still_takes_some_time() -> None:
    client = FakeClient()
    sample = ask(FakeStore(client), 1, protocol.Run(operation="deliver", calls=7))
    assert isinstance(sample, protocol.Sample)
    assert len(sample.latencies) == 7
    assert len(client.versions) == 8  # the first one began the subscription
    assert min(sample.latencies) > 0  # a ratio divides by it


@pytest.mark.parametrize(
    "store", [FakeStore(FakeClient()), FakeAsyncStore(FakeClient(awaits=True))], ids=type
)
def test_calls_begin_at_their_rate_and_no_sooner(store: FakeStore) -> None:
    request = protocol.Run(operation="append", calls=4, per_second=100)
    sample = ask(store, 2, request)
    assert isinstance(sample, protocol.Sample)
    assert sample.events == 2 * 4
    # The second writer is half a beat later than the first.
    assert sample.seconds >= 0.034


def test_a_call_that_comes_late_was_waiting_since_it_was_due() -> None:
    class Slow(FakeClient):
        async def append(self, stream_id: str, version: int, count: int) -> None:
            due = time.perf_counter() + 0.01
            while time.perf_counter() < due:
                pass

    # Due at once, and 1, 2 ... ms later; each takes 10 ms.
    sample = ask(FakeStore(Slow()), 1, protocol.Run(operation="append", calls=5, per_second=1000))
    assert isinstance(sample, protocol.Sample)
    assert sample.latencies == sorted(sample.latencies)
    assert sample.latencies[-1] >= 0.05 - 0.004


def test_appends_that_are_heard_elsewhere_announce_themselves() -> None:
    client = FakeClient()

    async def talk() -> list[bool]:
        worker = Worker(FakeStore(client))
        heard = []
        for announces in (False, True):
            await worker.answer(protocol.Open(url="", writers=1, announces=announces))
            heard.append(client.announces)
            await worker.answer(protocol.Close())
        return [*heard, client.announces]

    assert asyncio.run(talk()) == [False, True, False]


def test_an_append_in_another_process_tells_when_it_was_committed() -> None:
    sample = protocol.encode(protocol.Sample(events=1, seconds=1, latencies=[1], ended=12.5))
    script = f"import sys; sys.stderr.write(input()); print({sample!r}, end='')"
    with worker_that(script) as process:
        assert asyncio.run(AppendThere(process)("invoice-1")) == 12.5


def test_a_client_that_waits_in_a_blocking_store_is_refused() -> None:
    with pytest.raises(RuntimeError, match="blocking store has awaited"):
        run_blocking(FakeClient(awaits=True).read_stream("a"))


def worker_that(script: str) -> WorkerProcess:
    return WorkerProcess([sys.executable, "-c", script], folder=ROOT)


def test_a_worker_that_dies_leaves_its_last_words() -> None:
    with (
        worker_that("raise SystemExit('no such database')") as worker,
        pytest.raises(WorkerFailed, match="ended with 1: no such database"),
    ):
        worker.ask(protocol.Describe(), protocol.Description)


def test_a_worker_that_prints_what_it_should_not_has_failed() -> None:
    with (
        worker_that("input(); print('hello')") as worker,
        pytest.raises(WorkerFailed, match="not a message"),
    ):
        worker.ask(protocol.Describe(), protocol.Description)


def test_a_worker_that_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "PATIENCE_SECONDS", 0.1)
    with (
        worker_that("while True: input()") as worker,
        pytest.raises(WorkerFailed, match="no answer within 0 s"),
    ):
        worker.ask(protocol.Describe(), protocol.Description)


def test_who_is_asked_for_many_events_may_take_longer() -> None:
    fill = protocol.Fill(url="", events=1_000_000)
    assert controller.patience_seconds(fill) > controller.patience_seconds(protocol.Close()) + 600


def test_a_skip_is_a_reason_for_a_person() -> None:
    skipped = protocol.encode(protocol.Skipped(reason="it has no feed"))
    with (
        worker_that(f"input(); print({skipped!r}, end='')") as worker,
        pytest.raises(Unavailable, match="it has no feed"),
    ):
        worker.ask(protocol.Describe(), protocol.Description)


def test_the_workers_of_one_that_failed_are_ended_with_their_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[WorkerProcess] = []

    def start(_: object) -> WorkerProcess:
        started.append(worker_that("while input(): pass"))
        return started[-1]

    monkeypatch.setattr(lanes, "start_worker", start)
    with ExitStack() as made:
        workers = lanes.Workers(made)
        workers.take(CONTENDERS["ours"], 2)
        workers.forget(CONTENDERS["ours"])
        for worker in started:
            with pytest.raises(ValueError, match="closed file"):
                worker.ask(protocol.Describe(), protocol.Description)
        assert workers.take(CONTENDERS["ours"], 1) == started[2:]


def test_a_store_that_cannot_be_made_leaves_its_contender_out() -> None:
    nobody = make_url("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with ExitStack() as made:
        databases = Databases(
            nobody, worker=lambda _: pytest.fail("asked"), programs=lambda _: ROOT, made=made
        )
        for _ in range(2):
            with pytest.raises(Unavailable, match="its store can't be made"):
                databases.written(CONTENDERS["ours"])


def test_calls_at_a_rate_begin_when_their_statements_have_a_plan() -> None:
    sizes = Sizes(feed_events=1, bulk_events=1)
    run = WORKLOADS["L32"].run(1, sizes, 0)
    # Five until psycopg prepares, five more until PostgreSQL keeps a plan.
    assert warm_up(run, 0.1).calls > 10
    assert warm_up(WORKLOADS["W32"].run(1, sizes, 0), 0.1).calls == 1


def test_a_program_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no-such-program can't be started"):
        WorkerProcess(["no-such-program"], folder=ROOT)


def test_without_node_its_peers_are_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "PEERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    peer = install.Peer(name="emmett", npm=("emmett@1",))
    with pytest.raises(Unavailable, match="no node or no npm on PATH"):
        install.install(peer)


def test_a_package_that_cannot_be_had_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "PEERS", tmp_path)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'is not in this registry' >&2\nexit 1\n")
    npm.chmod(0o755)
    (tmp_path / "node").symlink_to(npm)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    peer = install.Peer(name="emmett", npm=("emmett@1",))
    for _ in range(2):  # a second time too: nothing says that it was installed
        with pytest.raises(Unavailable, match="can't be installed: is not in this registry"):
            install.install(peer)


def test_without_pgbench_the_limit_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pgbench, "_candidates", lambda: iter([tmp_path / "pgbench"]))
    with pytest.raises(Unavailable, match="no pgbench"):
        pgbench.find_pgbench()


def test_latencies_come_from_pgbenchs_log(tmp_path: Path) -> None:
    log = tmp_path / "log.1"
    log.write_text("0 1 1250 0 1700000000 123456\n1 1 980 0 1700000000 124000\n")
    assert pgbench.read_log(log) == [0.00125, 0.00098]
