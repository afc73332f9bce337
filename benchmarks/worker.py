"""A worker: drives one contender for the controller, which speaks `protocol.py` to it.

A contender is a `Store`, which opens as many `Client`s as there are writers. Their methods are
coroutines in any case, so that operations and measuring are written once. Those of a blocking
library never wait in the event loop's sense: each writer is a thread, which runs its coroutine
to the end in one step. Those of an asynchronous library are tasks in one event loop.

Workers run in the contenders' environments: this module needs the standard library alone.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import traceback
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Final, TextIO, TypeVar

from benchmarks import filling, operations, protocol
from benchmarks.protocol import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

T = TypeVar("T")

#: A delivery that takes longer has failed.
PATIENCE_SECONDS: Final = 20


class Unsupported(Exception):
    """The contender has no such thing; the message says what is missing."""


class Client:
    """A contender as one writer sees it: its methods hold what is timed.

    Those that are left out are skipped, with the reason that stands here.
    """

    async def append(self, stream_id: str, version: int, count: int) -> None:
        """Append ``count`` events to the stream, which is at ``version``, and commit them.

        :raises Exception: the store's `conflict`: the stream is at another version.
        """
        raise Unsupported("does not append")

    async def bulk(self, count: int) -> None:
        """Append so many events, in the quickest way there is, to new streams of 1,000 each."""
        for _ in range(count // filling.BULK):
            await self.append(operations.new_stream_id(), 0, filling.BULK)

    async def execute(self, stream_id: str) -> None:
        """Load the stream, decide, and append one event at the version that was loaded.

        :raises Exception: the store's `conflict`: others were quicker; it is called again.
        """
        await self.append(stream_id, await self.read_stream(stream_id), 1)

    async def read_stream(self, stream_id: str) -> int:
        """Hold all events of the stream at once, decoded, and return how many they are."""
        raise Unsupported("does not read")

    async def read_feed(self, count: int) -> int:
        """Pass the first ``count`` events of all streams, in order; return how many they were."""
        raise Unsupported("has no feed of all streams")

    def subscribe(self, handle: Callable[[str], None]) -> AbstractContextManager[object]:
        """Call ``handle`` with the stream of each event that is appended from now on."""
        raise Unsupported("no subscriptions")

    async def project(self, count: int) -> int:
        """Bring the first ``count`` events into a new view; return how many they were.

        The view counts a customer's events, in a table. Each event has a transaction, in which
        the position behind it is saved too.
        """
        raise Unsupported("no projections in the transaction of their checkpoint")


class Store(ABC):
    """A contender: a library, and the tables that it wants."""

    #: Whether a client's methods block their thread; else they are awaited.
    blocking: ClassVar[bool] = True
    #: What `Client.append` raises when the stream is at another version.
    conflict: ClassVar[type[Exception]]
    #: The distributions whose versions are told.
    distributions: ClassVar[Sequence[str]] = ()

    @abstractmethod
    async def set_up(self, url: str) -> None:
        """Make the tables in an empty database."""

    @abstractmethod
    def open(self, url: str, writers: int) -> AbstractAsyncContextManager[Sequence[Client]]:
        """Connect a client for each writer; one that many may use can stand there many times."""

    async def fill(self, url: str, events: int) -> None:
        """Write what the reads expect."""
        async with self.open(url, 1) as clients:
            await filling.fill(clients[0], events)


class Worker:
    """Answers requests, one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened = AsyncExitStack()
        self._clients: Sequence[Client] = ()

    async def answer(self, request: protocol.Request) -> protocol.Reply:
        try:
            return await self._answer(request)
        except (Unsupported, ImportError) as error:
            return protocol.Skipped(reason=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a library raises is told
            traceback.print_exc()
            first_line = str(error).partition("\n")[0]
            return protocol.Failed(reason=f"{type(error).__name__}: {first_line}"[:300])

    async def _answer(self, request: protocol.Request) -> protocol.Reply:
        match request:
            case protocol.Describe():
                versions = {name: version(name) for name in self._store.distributions}
                return protocol.Description(
                    versions={"Python": platform.python_version(), **versions}
                )
            case protocol.SetUp():
                await self._store.set_up(request.url)
            case protocol.Fill():
                await self._store.fill(request.url, request.events)
            case protocol.Open():
                opening = self._store.open(request.url, request.writers)
                self._clients = await self._opened.enter_async_context(opening)
            case protocol.Run(operation="deliver"):
                return await deliver(self._clients[0], request, blocking=self._store.blocking)
            case protocol.Run():
                return await run(self._store, self._clients, request)
            case protocol.Close():
                self._clients = ()
                await self._opened.aclose()
        return protocol.Done()


def serve(store: Store) -> None:
    """Answer the controller until it closes our standard input."""
    worker, replies = Worker(store), _take_stdout()
    with asyncio.Runner() as loop:
        for line in sys.stdin:
            replies.write(protocol.encode(loop.run(worker.answer(protocol.decode(line)))))
            replies.flush()
        loop.run(worker.answer(protocol.Close()))


def _take_stdout() -> TextIO:
    """Keep standard output for replies: what a library prints goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies


async def run(store: Store, clients: Sequence[Client], request: protocol.Run) -> Sample:
    """Let each client do the operation, over and over, all at the same time."""
    turn = operations.Turn(request, store.conflict)
    operation = operations.OPERATIONS[request.operation]
    before = memory_mb("VmRSS")
    start = perf_counter()
    end = start + request.seconds

    async def repeat(client: Client) -> tuple[int, list[float]]:
        events, now = 0, start
        latencies: list[float] = []
        while now < end or len(latencies) < request.calls:
            began = perf_counter()
            events += await operation(turn, client)
            now = perf_counter()
            latencies.append(now - began)
        return events, latencies

    if store.blocking:
        with ThreadPoolExecutor(len(clients)) as threads:
            done = list(threads.map(lambda client: run_blocking(repeat(client)), clients))
    else:
        done = await asyncio.gather(*map(repeat, clients))
    seconds = perf_counter() - start
    peak = memory_mb("VmHWM")
    return Sample(
        events=sum(events for events, _ in done),
        seconds=seconds,
        latencies=[latency for _, latencies in done for latency in latencies],
        conflicts=len(turn.conflicts),
        peak_mb=peak,
        grown_mb=None if before is None or peak is None else peak - before,
    )


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing but blocking calls, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a client of a blocking store has awaited something")


async def deliver(client: Client, request: protocol.Run, *, blocking: bool) -> Sample:
    """Append one event at a time, and time each from its commit to its handler.

    The commit is when the append returns, so that a handler may have been called before: then it
    took no time.
    """
    arrivals: SimpleQueue[tuple[str, float]] = SimpleQueue()
    latencies = []
    with client.subscribe(lambda stream_id: arrivals.put((stream_id, perf_counter()))):
        start = perf_counter()
        for _ in range(request.calls):
            stream_id = operations.new_stream_id()
            await client.append(stream_id, 0, 1)
            committed = perf_counter()
            if blocking:
                arrived = _arrival(arrivals, stream_id)
            else:
                arrived = await asyncio.to_thread(_arrival, arrivals, stream_id)
            latencies.append(max(0.0, arrived - committed))
        seconds = perf_counter() - start
    return Sample(events=request.calls, seconds=seconds, latencies=latencies)


def _arrival(arrivals: SimpleQueue[tuple[str, float]], stream_id: str) -> float:
    """Wait for the stream's event, and return when it came. Others' events may come before it."""
    while True:
        try:
            arrived, at = arrivals.get(timeout=PATIENCE_SECONDS)
        except Empty:
            raise TimeoutError(f"no delivery within {PATIENCE_SECONDS} s") from None
        if arrived == stream_id:
            return at


def memory_mb(field: str) -> float | None:
    """Return a figure of Linux about this process; None elsewhere.

    getrusage's peak won't do: it is inherited from the parent (getrusage(2), ru_maxrss).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) / 1024
