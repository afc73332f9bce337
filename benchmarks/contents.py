"""What every store is given: the event, as plain data (`payload.json`), and the streams to read.

250 bytes of payload, metadata of four ids. Two of those differ from event to event, as real ones
do, so that nobody profits from equal texts. What the reads find is one long stream, many short
ones, and others up to a number of events.

Workers in other environments import this: it needs the standard library alone.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.worker import Client

_EVENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("payload.json").read_text())

AGGREGATE_TYPE: Final[str] = _EVENT["aggregate_type"]
EVENT_TYPE: Final[str] = _EVENT["event_type"]
DATA: Final[dict[str, Any]] = _EVENT["data"]
METADATA: Final[dict[str, str]] = _EVENT["metadata"]

# The part before the dash is a category in Message DB, and the only feed that it can read.
CATEGORY: Final = "invoice"
LONG_STREAM: Final = f"{CATEGORY}-long"
LONG_STREAM_EVENTS: Final = 10_000
SHORT_STREAMS: Final = tuple(f"{CATEGORY}-short-{number}" for number in range(1_000))
SHORT_STREAM_EVENTS: Final = 10
#: What the long and the short streams hold; a filled store has at least these.
MIN_EVENTS: Final = LONG_STREAM_EVENTS + len(SHORT_STREAMS) * SHORT_STREAM_EVENTS
BULK: Final = 1_000  #: events of a stream that is written at once

_numbers: Final = count(getrandbits(46))


def new_metadata() -> dict[str, str]:
    """Return metadata with a correlation id and a causation id of its own."""
    number = f"{next(_numbers):012x}"
    return {
        **METADATA,
        "correlation_id": f"0192f3a1-6f6e-7c3b-9a54-{number}",
        "causation_id": f"0192f3a1-6f70-7f11-8c1d-{number}",
    }


def new_stream_id() -> str:
    """Return the id of a new stream."""
    # Random, as real ids are: the keys of new streams fall all over the index. But not by uuid4(),
    # which asks the kernel and takes a tenth of what is measured.
    return f"{CATEGORY}-{getrandbits(128):032x}"


async def fill(client: Client, events: int) -> None:
    """Write the streams that are read by the contender's own appends, ``events`` in all.

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
