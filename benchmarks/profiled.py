"""What is profiled: our store's main paths, one process for each, with whatever revision is there.

    python -m benchmarks.profiled set_up URL
    python -m benchmarks.profiled PATH URL SECONDS

It uses what all revisions have in common.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Final, TypeAlias

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from benchmarks.contents import (
    AGGREGATE_TYPE,
    LONG_STREAM,
    MIN_EVENTS,
    new_metadata,
    new_stream_id,
)
from benchmarks.raw import RawStore
from benchmarks.tables import PAYLOAD, InvoiceIssued, registry, sqlalchemy_url
from eventstore import EventEnvelope, EventMetadata, SqlAlchemyEventStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

_FEED_EVENTS: Final = 5_000
_WARM_UP_SECONDS: Final = 0.5

#: Does one call on a session of its own, and returns how many events it has written or read.
Path: TypeAlias = "Callable[[Session], int]"


def new_events(count: int) -> list[EventEnvelope[InvoiceIssued]]:
    return [
        EventEnvelope(
            aggregate_type=AGGREGATE_TYPE,
            event_data=PAYLOAD,
            metadata=EventMetadata.model_validate(new_metadata()),
        )
        for _ in range(count)
    ]


def append(session: Session, count: int) -> int:
    SqlAlchemyEventStore(session, registry).append_to_stream(new_stream_id(), 0, new_events(count))
    return count


def read_stream(session: Session) -> int:
    return len(list(SqlAlchemyEventStore(session, registry).read_stream(LONG_STREAM)))


def read_feed(session: Session) -> int:
    store = SqlAlchemyEventStore(session, registry)
    return sum(1 for _ in store.read_all_forward(max_count=_FEED_EVENTS))


PATHS: Final[dict[str, Path]] = {
    "append one": lambda session: append(session, 1),
    "append ten": lambda session: append(session, 10),
    "read a stream": read_stream,
    "read the feed": read_feed,
}


def repeat(path: Path, sessions: sessionmaker[Session], seconds: float) -> int:
    """Return how many events were written or read."""
    events, end = 0, perf_counter() + seconds
    while perf_counter() < end:
        with sessions() as session:
            events += path(session)
    return events


def profiled(path: Path, sessions: sessionmaker[Session], seconds: float) -> dict[str, float]:
    """Return the events, and the time that our process has computed. What is below is profiled."""
    begun = process_time()
    events = repeat(path, sessions, seconds)
    return {"events": events, "cpu_seconds": process_time() - begun}


def main(path: str, url: str, seconds: str = "0") -> None:
    if path == "set_up":
        asyncio.run(RawStore().set_up(url))
        asyncio.run(RawStore().fill(url, MIN_EVENTS))
        return
    engine = create_engine(sqlalchemy_url(url), isolation_level="AUTOCOMMIT")
    sessions = sessionmaker(engine)
    repeat(PATHS[path], sessions, _WARM_UP_SECONDS)
    print(json.dumps(profiled(PATHS[path], sessions, float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
