"""What is done in one turn, for every contender the same, and how it is timed.

Workers in other environments import this: it needs the standard library alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle
from pathlib import Path
from queue import Empty, SimpleQueue
from random import randrange
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from benchmarks import contents
from benchmarks.protocol import Sample

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from benchmarks.protocol import Run
    from benchmarks.worker import Client, Store

T = TypeVar("T")

#: A delivery that takes longer has failed.
PATIENCE_SECONDS: Final = 20
#: The quickest delivery that is told.
LEAST_SECONDS: Final = 1e-6


class Turn:
    """What the writers of one run have in common."""

    def __init__(self, run: Run, conflict: type[Exception]) -> None:
        self.run = run
        self.events = run.events
        self.conflict = conflict
        self.conflicts: list[str] = []  #: the streams on which they were met
        self.contended_stream_id = contents.new_stream_id()
        # Begun anywhere: a short run would else read the same few each time.
        first = randrange(len(contents.SHORT_STREAMS))
        self.next_short_stream: Callable[[], str] = cycle(
            contents.SHORT_STREAMS[first:] + contents.SHORT_STREAMS[:first]
        ).__next__


async def append(turn: Turn, client: Client) -> int:
    await client.append(turn.run.stream_id or contents.new_stream_id(), 0, turn.events)
    return turn.events


async def bulk(turn: Turn, client: Client) -> int:
    await client.bulk(turn.events)
    return turn.events


async def read_long_stream(turn: Turn, client: Client) -> int:  # noqa: ARG001
    return _all(await client.read_stream(contents.LONG_STREAM), contents.LONG_STREAM_EVENTS)


async def read_short_stream(turn: Turn, client: Client) -> int:
    stream_id = turn.next_short_stream()
    return _all(await client.read_stream(stream_id), contents.SHORT_STREAM_EVENTS)


async def read_feed(turn: Turn, client: Client) -> int:
    return _all(await client.read_feed(turn.events), turn.events)


async def read_feed_anywhere(turn: Turn, client: Client) -> int:
    position = randrange(turn.run.stored - turn.events + 1)
    return _all(await client.read_feed_after(position, turn.events), turn.events)


async def decide(turn: Turn, client: Client) -> int:
    """Execute a command on the one stream of all writers, again and again until it succeeds."""
    while True:
        try:
            await client.execute(turn.contended_stream_id)
        except turn.conflict:
            turn.conflicts.append(turn.contended_stream_id)
        else:
            return 1


def _all(number: int, expected: int) -> int:
    """Return the number; a contender that is fast because it misses events is none."""
    if number != expected:
        raise AssertionError(f"{number} events instead of {expected}")
    return number


#: Does one call, and returns how many events it has written or read.
Operation: TypeAlias = Callable[[Turn, "Client"], Awaitable[int]]

#: By their names in `protocol.Run`. Not among them are "deliver" and "project", which aren't timed
#: by the call: :func:`deliver`, :func:`project`.
OPERATIONS: Final[dict[str, Operation]] = {
    "append": append,
    "bulk": bulk,
    "decide": decide,
    "read_feed": read_feed,
    "read_feed_anywhere": read_feed_anywhere,
    "read_long_stream": read_long_stream,
    "read_short_stream": read_short_stream,
}


class _Calls(NamedTuple):
    """What one writer has done."""

    events: int
    latencies: list[float]
    ended: float


async def run(store: Store, clients: Sequence[Client], request: Run) -> Sample:
    """Let each client do the operation, over and over, all at the same time."""
    turn = Turn(request, store.conflict)
    operation = OPERATIONS[request.operation]
    before = memory_mb("VmRSS")
    start = perf_counter()
    end = start + request.seconds

    async def repeat(writer: int) -> _Calls:
        events, now = 0, start
        latencies: list[float] = []
        # Else all would begin at the same time, again and again.
        offset = writer / len(clients)
        for number in count():
            if now >= end and number >= request.calls:
                break
            if request.per_second:
                due = start + (number + offset) / request.per_second
                began = await _until(due, blocking=store.blocking)
            else:
                began = perf_counter()
            events += await operation(turn, clients[writer])
            now = perf_counter()
            latencies.append(now - began)
        return _Calls(events, latencies, now)

    if store.blocking:
        with ThreadPoolExecutor(len(clients)) as threads:
            done = list(threads.map(lambda n: run_blocking(repeat(n)), range(len(clients))))
    else:
        done = await asyncio.gather(*map(repeat, range(len(clients))))
    seconds = perf_counter() - start
    peak = memory_mb("VmHWM")
    return Sample(
        events=sum(calls.events for calls in done),
        seconds=seconds,
        latencies=[latency for calls in done for latency in calls.latencies],
        conflicts=len(turn.conflicts),
        ended=max(calls.ended for calls in done),
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


async def _until(due: float, *, blocking: bool) -> float:
    """Wait until a call is due, and return when it began.

    A call that comes late because the one before it took too long began when it was due: else the
    slow ones would hide those that wait behind them ("coordinated omission").
    """
    left = due - perf_counter()
    if left <= 0:
        return due
    if blocking:
        time.sleep(left)  # noqa: ASYNC251 - the writer is a thread
    else:
        await asyncio.sleep(left)
    return perf_counter()


#: Appends an event to a new stream of this id, and returns when that was committed.
Append: TypeAlias = Callable[[str], Awaitable[float]]


async def deliver(client: Client, request: Run, append: Append, *, blocking: bool) -> Sample:
    """Append one event at a time, and time each from its commit to its handler.

    The commit is when the append returns, so that a handler may have been called before: then it
    took the least that is told, since ratios divide by it. The first event is not timed: a
    subscription has begun when that has come.
    """
    arrivals: SimpleQueue[tuple[str, float]] = SimpleQueue()
    latencies = []

    def handle(stream_id: str) -> None:
        arrivals.put((stream_id, perf_counter()))

    async def to_handler() -> float:
        stream_id = contents.new_stream_id()
        committed = await append(stream_id)
        if blocking:
            arrived = _arrival(arrivals, stream_id)
        else:
            arrived = await asyncio.to_thread(_arrival, arrivals, stream_id)
        return max(LEAST_SECONDS, arrived - committed)

    async with client.subscribe(handle):
        await to_handler()
        start = perf_counter()
        for _ in range(request.calls):
            latencies.append(await to_handler())  # noqa: PERF401 - one after the other
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


async def project(client: Client, request: Run) -> Sample:
    """Time a projection from its start until the last event's change of the view is committed."""
    start = perf_counter()
    async with client.project(request.events, request.batch) as viewed:
        seconds = perf_counter() - start
        _all(viewed, request.events)
    return Sample(events=request.events, seconds=seconds, latencies=[seconds])


def memory_mb(field: str) -> float | None:
    """Return a figure of Linux about this process; None elsewhere.

    getrusage's peak won't do: it is inherited from the parent (getrusage(2), ru_maxrss).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0]) / 1024
