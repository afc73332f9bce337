"""What a writer does in one call, for every contender the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import cycle
from random import randrange
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import uuid4

from benchmarks import filling

if TYPE_CHECKING:
    from benchmarks.protocol import Run
    from benchmarks.worker import Client


def new_stream_id() -> str:
    """Return the id of a new stream."""
    # Random, as real ids are: the keys of new streams fall all over the index.
    return f"{filling.CATEGORY}-{uuid4()}"


class Turn:
    """What the writers of one run have in common."""

    def __init__(self, run: Run, conflict: type[Exception]) -> None:
        self.events = run.events
        self.conflict = conflict
        self.conflicts: list[str] = []  #: the streams on which they were met
        self.contended_stream_id = new_stream_id()
        # Begun anywhere: a short run would else read the same few each time.
        first = randrange(len(filling.SHORT_STREAMS))
        self.next_short_stream: Callable[[], str] = cycle(
            filling.SHORT_STREAMS[first:] + filling.SHORT_STREAMS[:first]
        ).__next__


async def append(turn: Turn, client: Client) -> int:
    await client.append(new_stream_id(), 0, turn.events)
    return turn.events


async def bulk(turn: Turn, client: Client) -> int:
    await client.bulk(turn.events)
    return turn.events


async def read_long_stream(turn: Turn, client: Client) -> int:  # noqa: ARG001
    return _all(await client.read_stream(filling.LONG_STREAM), filling.LONG_STREAM_EVENTS)


async def read_short_stream(turn: Turn, client: Client) -> int:
    stream_id = turn.next_short_stream()
    return _all(await client.read_stream(stream_id), filling.SHORT_STREAM_EVENTS)


async def read_feed(turn: Turn, client: Client) -> int:
    return _all(await client.read_feed(turn.events), turn.events)


async def decide(turn: Turn, client: Client) -> int:
    """Execute a command on the one stream of all writers, again and again until it succeeds."""
    while True:
        try:
            await client.execute(turn.contended_stream_id)
        except turn.conflict:
            turn.conflicts.append(turn.contended_stream_id)
        else:
            return 1


async def project(turn: Turn, client: Client) -> int:
    return _all(await client.project(turn.events), turn.events)


def _all(count: int, expected: int) -> int:
    """Return the count; a contender that is fast because it misses events is none."""
    if count != expected:
        raise AssertionError(f"{count} events instead of {expected}")
    return count


#: Does one call, and returns how many events it has written or read.
Operation: TypeAlias = Callable[[Turn, "Client"], Awaitable[int]]

#: By their names in `protocol.Run`. "deliver" is not among them: it is not timed by the call, see
#: `worker.deliver`.
OPERATIONS: Final[dict[str, Operation]] = {
    "append": append,
    "bulk": bulk,
    "decide": decide,
    "project": project,
    "read_feed": read_feed,
    "read_long_stream": read_long_stream,
    "read_short_stream": read_short_stream,
}
