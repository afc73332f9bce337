"""UmaDB: a server of its own, in Rust, with a client for Python; no PostgreSQL.

A stream is a tag, and the expected version a condition on it. Payload and metadata are one JSON
document; reads stop at dicts.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from umadb import AppendCondition, CancelledByUserError, Event, IntegrityError, Query, QueryItem
from umadb import Client as Connection

from benchmarks.contents import DATA, EVENT_TYPE, new_metadata
from benchmarks.worker import Client, Store, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence


def of_stream(stream_id: str) -> Query:
    return Query([QueryItem(tags=[stream_id])])


class UmaDbClient(Client):
    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = Connection(url)
        #: Its versions are positions of the last event that was seen.
        self._seen: dict[str, int] = {}

    async def append(self, stream_id: str, version: int, count: int) -> None:
        after = self._seen[stream_id] if version else None
        events = [
            Event(
                event_type=EVENT_TYPE,
                data=json.dumps({"data": DATA, "metadata": new_metadata()}).encode(),
                tags=[stream_id],
            )
            for _ in range(count)
        ]
        condition = AppendCondition(of_stream(stream_id), after=after)
        self._seen[stream_id] = self._connection.append(events, condition)

    async def read_stream(self, stream_id: str) -> int:
        events = [
            (event.position, json.loads(event.event.data))
            for event in self._connection.read(of_stream(stream_id))
        ]
        if events:
            self._seen[stream_id] = events[-1][0]
        return len(events)

    async def read_feed(self, count: int) -> int:
        decoded: Iterator[Any] = (
            json.loads(event.event.data) for event in self._connection.read(limit=count)
        )
        return sum(1 for _ in decoded)

    @asynccontextmanager
    async def subscribe(self, handle: Callable[[str], None]) -> AsyncIterator[None]:
        connection = Connection(self._url)
        subscription = connection.subscribe(after=self._connection.head())

        def follow() -> None:
            with suppress(CancelledByUserError):
                for event in subscription:
                    json.loads(event.event.data)
                    handle(event.event.tags[0])

        # It has no end of its own: the thread ends with the worker.
        Thread(target=follow, daemon=True).start()
        yield
        connection.close()  # not before: the subscription would fall silent


class UmaDbStore(Store):
    """Threads, each with a client of its own."""

    conflict = IntegrityError
    distributions = ("umadb",)

    async def set_up(self, url: str) -> None:
        """Nothing: its server begins empty."""

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        yield [UmaDbClient(url) for _ in range(writers)]


if __name__ == "__main__":
    serve(UmaDbStore())
