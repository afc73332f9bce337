"""What the reads find: one long stream, many short ones, and others up to a number of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.worker import Client

# The part before the dash is a category in Message DB, and the only feed that it can read.
CATEGORY: Final = "invoice"
LONG_STREAM: Final = f"{CATEGORY}-long"
LONG_STREAM_EVENTS: Final = 10_000
SHORT_STREAMS: Final = tuple(f"{CATEGORY}-short-{number}" for number in range(1_000))
SHORT_STREAM_EVENTS: Final = 10
#: What the long and the short streams hold; a filled store has at least these.
MIN_EVENTS: Final = LONG_STREAM_EVENTS + len(SHORT_STREAMS) * SHORT_STREAM_EVENTS
BULK: Final = 1_000  #: events of a stream that is written at once


async def fill(client: Client, events: int) -> None:
    """Write the streams by the contender's own appends, ``events`` in all.

    The events of the short streams lie apart in the table, as those of streams that grow over
    time: each stream gets its first event, then each its second, and so on.
    """
    for version in range(0, LONG_STREAM_EVENTS, BULK):
        await client.append(LONG_STREAM, version, BULK)
    for version in range(SHORT_STREAM_EVENTS):
        for stream_id in SHORT_STREAMS:
            await client.append(stream_id, version, 1)
    for number, written in enumerate(range(MIN_EVENTS, events, BULK)):
        await client.append(f"{CATEGORY}-other-{number}", 0, min(BULK, events - written))
