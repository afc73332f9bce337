"""An async store behind the sync protocol, so that one suite of plain tests serves both."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from eventstore.reading import PAGE_SIZE, EventFilter, ReadOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventstore.appending import AppendResult, Requirement, StreamAppend
    from eventstore.boundaries import Query, QueryResult, QueryToken
    from eventstore.events import AnyEnvelope, EventMetadata
    from eventstore.loading import LoadedStream
    from eventstore.protocols import AsyncEventStore, EventStore
    from eventstore.snapshots import AnySnapshot
    from eventstore.streams import ExpectedVersion, StreamInfo


@contextmanager
def in_event_loop(opening: AbstractAsyncContextManager[AsyncEventStore]) -> Iterator[EventStore]:
    """Open an async store in an event loop of its own, and run each call there to its end."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        store = runner.run(stack.enter_async_context(opening))
        try:
            yield BlockingEventStore(store, runner)
        finally:
            runner.run(stack.aclose())


class BlockingEventStore:
    """An :class:`~eventstore.EventStore` that waits for an :class:`~eventstore.AsyncEventStore`."""

    def __init__(self, store: AsyncEventStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int:
        """Append ``events`` and return the stream's version after them."""
        return self._runner.run(
            self._store.append_to_stream(
                stream_id, expected_version, events, fetch_missed=fetch_missed
            )
        )

    def append(
        self,
        *appends: StreamAppend,
        require: Requirement | Sequence[Requirement] = (),
        fetch_missed: bool = False,
    ) -> AppendResult:
        """Append to several streams, all or nothing."""
        return self._runner.run(
            self._store.append(*appends, require=require, fetch_missed=fetch_missed)
        )

    def load_stream(
        self,
        stream_id: str,
        snapshot_type: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> LoadedStream:
        """Return the stream's snapshot and the events after it."""
        return self._runner.run(
            self._store.load_stream(stream_id, snapshot_type, idempotency_key=idempotency_key)
        )

    def read_stream(
        self, stream_id: str, options: ReadOptions = ReadOptions(), *, as_type: Any = None
    ) -> Iterator[Any]:
        """Return an iterator over the stream's events."""
        return self._iterate(self._store.read_stream(stream_id, options, as_type=as_type))

    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: Any = None,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[Any]:
        """Return an iterator over the feed."""
        return self._iterate(
            self._store.read_all_forward(
                from_position, max_count, filters=filters, as_type=as_type, page_size=page_size
            )
        )

    def read_by_query(
        self, query: Query, *, after: QueryToken | None = None, as_type: Any = None
    ) -> QueryResult:
        """Return the events that match, and their token."""
        return self._runner.run(self._store.read_by_query(query, after=after, as_type=as_type))

    def _iterate(self, events: AsyncIterator[AnyEnvelope]) -> Iterator[AnyEnvelope]:
        while (event := self._runner.run(_next(events))) is not None:
            yield event

    def get_stream_info(self, stream_id: str) -> StreamInfo | None:
        """Return what is known of the stream."""
        return self._runner.run(self._store.get_stream_info(stream_id))

    def delete_stream(self, stream_id: str, expected_version: ExpectedVersion = None) -> None:
        """Close the stream."""
        self._runner.run(self._store.delete_stream(stream_id, expected_version))

    def restore_stream(self, stream_id: str) -> None:
        """Open the stream again."""
        self._runner.run(self._store.restore_stream(stream_id))

    def forget(self, subject_id: str, *, metadata: EventMetadata | None = None) -> bool:
        """Destroy the key of a subject."""
        return self._runner.run(self._store.forget(subject_id, metadata=metadata))

    def save_snapshot(self, snapshot: AnySnapshot) -> None:
        """Keep the snapshot."""
        self._runner.run(self._store.save_snapshot(snapshot))

    def get_snapshot(self, aggregate_id: str, aggregate_type: str, as_type: Any = None) -> Any:
        """Return the aggregate's snapshot."""
        return self._runner.run(self._store.get_snapshot(aggregate_id, aggregate_type, as_type))


async def _next(events: AsyncIterator[AnyEnvelope]) -> AnyEnvelope | None:
    return await anext(events, None)
