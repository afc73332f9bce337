"""What is measured, and the database in which the reads find their events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import uuid4

from benchmarks.contenders import Client, Mode
from benchmarks.events import AGGREGATE_TYPE, EVENT_TYPE, METADATA, PAYLOAD

if TYPE_CHECKING:
    import psycopg

#: Does one call, and returns how many events it has written or read.
Operation: TypeAlias = Callable[[Client], int]

LONG_STREAM: Final = 10_000
SHORT_STREAMS: Final = 1_000
SHORT_STREAM: Final = 10
#: What R1 and R2 need; the feed holds at least these.
MIN_FEED: Final = LONG_STREAM + SHORT_STREAMS * SHORT_STREAM


@dataclass(frozen=True, kw_only=True)
class Workload:
    name: str
    title: str
    operation: Operation
    reads: bool = False
    threads: int = 1
    modes: tuple[Mode, ...] = (Mode.AUTOCOMMIT,)
    #: One call in a new process, so that the peak of memory is that of the call alone.
    isolated: bool = False


def append(count: int, client: Client) -> int:
    # Random, as real ids are: the keys of new streams fall all over the index.
    client.append(f"invoice-{uuid4()}", [PAYLOAD] * count)
    return count


def read_long_stream(client: Client) -> int:
    return client.read_stream("long")


_next_short_stream = cycle([f"short-{number}" for number in range(SHORT_STREAMS)]).__next__


def read_short_stream(client: Client) -> int:
    return client.read_stream(_next_short_stream())


def read_feed(client: Client) -> int:
    return client.read_feed()


WORKLOADS: Final = (
    Workload(name="W1", title="1 event", operation=partial(append, 1), modes=tuple(Mode)),
    Workload(name="W2", title="10 events", operation=partial(append, 10), modes=tuple(Mode)),
    Workload(
        name="W8",
        title="1 event, 8 threads",
        operation=partial(append, 1),
        threads=8,
        modes=tuple(Mode),
    ),
    Workload(name="W4", title="bulk by 1,000", operation=partial(append, 1_000)),
    Workload(name="R1", title="stream of 10,000", operation=read_long_stream, reads=True),
    Workload(name="R2", title="streams of 10", operation=read_short_stream, reads=True),
    Workload(name="R3", title="feed", operation=read_feed, reads=True, isolated=True),
)

# The events of the short streams lie apart in the table, as those of streams that grow over time.
_FILL_EVENTS: Final = """
INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type, event_data,
    event_version, occurred_at, metadata)
SELECT gen_random_uuid(), stream_id, stream_id, %(aggregate_type)s, %(event_type)s,
    %(data)s::jsonb, row_number() OVER (PARTITION BY stream_id ORDER BY n), now(),
    %(metadata)s::jsonb
FROM generate_series(0, %(count)s - 1) AS n,
    LATERAL (SELECT CASE
        WHEN n < %(long)s THEN 'long'
        WHEN n < %(long)s + %(short)s * %(streams)s THEN 'short-' || n %% %(streams)s
        ELSE 'other-' || n / 100
    END) AS stream (stream_id)
ORDER BY n
"""
_FILL_STREAMS: Final = """
INSERT INTO streams (stream_id, version)
SELECT stream_id, max(event_version) FROM events GROUP BY stream_id
"""


def fill(connection: psycopg.Connection, count: int) -> None:
    """Write the streams that are read, and others up to ``count`` events in all."""
    connection.execute(
        _FILL_EVENTS,
        {
            "aggregate_type": AGGREGATE_TYPE,
            "event_type": EVENT_TYPE,
            "data": PAYLOAD.model_dump_json(),
            "metadata": METADATA.model_dump_json(),
            "count": count,
            "long": LONG_STREAM,
            "short": SHORT_STREAM,
            "streams": SHORT_STREAMS,
        },
    )
    connection.execute(_FILL_STREAMS)
    # Else autovacuum would do it while we measure.
    connection.execute("VACUUM (ANALYZE) streams, events")
