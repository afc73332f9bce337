"""The twin of :mod:`eventstore.memory` for asyncio: the same store, its methods awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from eventstore.memory import InMemoryEventStore
from eventstore.reading import PAGE_SIZE, EventFilter, ReadOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from eventstore.appending import AppendResult, Requirement, StreamAppend
    from eventstore.boundaries import Query, QueryResult, QueryToken
    from eventstore.events import AnyEnvelope, EventEnvelope, EventMetadata
    from eventstore.loading import LoadedStream
    from eventstore.registry import EventRegistry
    from eventstore.snapshots import AnySnapshot, Snapshot
    from eventstore.streams import ExpectedVersion, StreamInfo

T = TypeVar("T")


class AsyncInMemoryEventStore:
    """An :class:`~eventstore.AsyncEventStore` that ends with the process.

    Without a registry it takes and gives JSON-compatible dicts; with one, payloads are typed.
    """

    def __init__(self, registry: EventRegistry | None = None) -> None:
        self._store = InMemoryEventStore(registry)

    async def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int:
        """Append ``events`` and return the stream's version after them.

        With ``fetch_missed`` a conflict brings the events that the caller has not seen.
        """
        return self._store.append_to_stream(
            stream_id, expected_version, events, fetch_missed=fetch_missed
        )

    async def append(
        self,
        *appends: StreamAppend,
        require: Requirement | Sequence[Requirement] = (),
        fetch_missed: bool = False,
    ) -> AppendResult:
        """Append to several streams, all or nothing, if what ``require`` asks for is so.

        With ``fetch_missed`` the conflict of a single stream brings the events not yet seen.
        """
        return self._store.append(*appends, require=require, fetch_missed=fetch_missed)

    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: type[T]
    ) -> AsyncIterator[EventEnvelope[T]]: ...
    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: None = None
    ) -> AsyncIterator[AnyEnvelope]: ...
    def read_stream(
        self, stream_id: str, options: ReadOptions = ReadOptions(), *, as_type: Any = None
    ) -> AsyncIterator[AnyEnvelope]:
        """Return an iterator over the stream's events as ``options`` say.

        ``as_type`` reads every payload as that type, in place of the registry; ``bytes`` gives its
        JSON as it is. The iterator raises :class:`~eventstore.StreamDeleted` unless the options
        include deleted streams.
        """
        return _iterate(self._store.read_stream(stream_id, options, as_type=as_type))

    async def load_stream(
        self,
        stream_id: str,
        snapshot_type: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> LoadedStream:
        """Return the stream's snapshot of that type, if it can be used, and the events after it.

        Of a long tail it is the first page; ``read_stream`` goes on. ``idempotency_key`` asks which
        events carry it. Raises :class:`~eventstore.StreamDeleted`.
        """
        return self._store.load_stream(stream_id, snapshot_type, idempotency_key=idempotency_key)

    @overload
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: type[T],
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[EventEnvelope[T]]: ...
    @overload
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[AnyEnvelope]: ...
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: Any = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[AnyEnvelope]:
        """Return an iterator over the events after ``from_position``, in the order of the feed.

        It ends with the last event that is there when the iteration begins. ``page_size`` bounds
        what a store on a database holds in memory at a time. ``as_type`` is that of
        :meth:`read_stream`.
        """
        return _iterate(
            self._store.read_all_forward(
                from_position, max_count, filters=filters, as_type=as_type, page_size=page_size
            )
        )

    async def read_by_query(
        self, query: Query, *, after: QueryToken | None = None, as_type: Any = None
    ) -> QueryResult:
        """Return the events that match ``query``, by position, and the token of what was seen.

        ``after`` leaves out what an earlier read has seen. ``as_type`` is that of
        :meth:`read_stream`. Raises ValueError for the token of another query.
        """
        return self._store.read_by_query(query, after=after, as_type=as_type)

    async def get_stream_info(self, stream_id: str) -> StreamInfo | None:
        """Return what is known of the stream, None if it never had an event."""
        return self._store.get_stream_info(stream_id)

    async def delete_stream(self, stream_id: str, expected_version: ExpectedVersion = None) -> None:
        """Close the stream, keeping its events (a soft delete)."""
        self._store.delete_stream(stream_id, expected_version)

    async def restore_stream(self, stream_id: str) -> None:
        """Open a soft-deleted stream again; its versions go on from where they were."""
        self._store.restore_stream(stream_id)

    async def forget(self, subject_id: str, *, metadata: EventMetadata | None = None) -> bool:
        """Destroy the key of a subject: whatever is read of its personal data is erased.

        Return whether it was forgotten now, and not before. A
        :class:`~eventstore.personal.SubjectForgotten` event with ``metadata`` says so.
        """
        return self._store.forget(subject_id, metadata=metadata)

    async def save_snapshot(self, snapshot: AnySnapshot) -> None:
        """Keep ``snapshot``, unless there is one of a later version."""
        self._store.save_snapshot(snapshot)

    @overload
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: type[T]
    ) -> Snapshot[T] | None: ...
    @overload
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: None = None
    ) -> AnySnapshot | None: ...
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: Any = None
    ) -> AnySnapshot | None:
        """Return the aggregate's snapshot with its data as ``as_type``, by default plain JSON.

        None if there is none that can be used: it is ahead of the stream of that id, or the stream
        is deleted. Raises :class:`~eventstore.SerializationError` for data of another type.
        """
        return self._store.get_snapshot(aggregate_id, aggregate_type, as_type)


async def _iterate(events: Iterator[AnyEnvelope]) -> AsyncIterator[AnyEnvelope]:
    for event in events:
        yield event
