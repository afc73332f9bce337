"""What application code depends on: a store's operations, whatever keeps the events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

from eventstore.reading import PAGE_SIZE, EventFilter, ReadOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from eventstore.appending import AppendResult, Requirement, StreamAppend
    from eventstore.boundaries import Query, QueryResult, QueryToken
    from eventstore.events import AnyEnvelope, EventEnvelope, EventMetadata
    from eventstore.loading import LoadedStream
    from eventstore.snapshots import AnySnapshot, Snapshot
    from eventstore.streams import ExpectedVersion, StreamInfo

T = TypeVar("T")


@runtime_checkable
class EventStore(Protocol):
    """A store of events. The methods are described at :class:`~eventstore.SqlAlchemyEventStore`."""

    def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int: ...

    def append(
        self,
        *appends: StreamAppend,
        require: Requirement | Sequence[Requirement] = (),
        fetch_missed: bool = False,
    ) -> AppendResult: ...

    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: type[T]
    ) -> Iterator[EventEnvelope[T]]: ...
    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: None = None
    ) -> Iterator[AnyEnvelope]: ...

    def load_stream(
        self,
        stream_id: str,
        snapshot_type: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> LoadedStream: ...

    @overload
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: type[T],
        page_size: int = PAGE_SIZE,
    ) -> Iterator[EventEnvelope[T]]: ...
    @overload
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: None = None,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[AnyEnvelope]: ...

    def read_by_query(
        self, query: Query, *, after: QueryToken | None = None, as_type: Any = None
    ) -> QueryResult: ...

    def get_stream_info(self, stream_id: str) -> StreamInfo | None: ...

    def delete_stream(self, stream_id: str, expected_version: ExpectedVersion = None) -> None: ...

    def restore_stream(self, stream_id: str) -> None: ...

    def forget(self, subject_id: str, *, metadata: EventMetadata | None = None) -> bool: ...

    def save_snapshot(self, snapshot: AnySnapshot) -> None: ...

    @overload
    def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: type[T]
    ) -> Snapshot[T] | None: ...
    @overload
    def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: None = None
    ) -> AnySnapshot | None: ...


@runtime_checkable
class AsyncEventStore(Protocol):
    """The twin of :class:`EventStore` for asyncio: the same names, awaited or iterated."""

    async def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int: ...

    async def append(
        self,
        *appends: StreamAppend,
        require: Requirement | Sequence[Requirement] = (),
        fetch_missed: bool = False,
    ) -> AppendResult: ...

    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: type[T]
    ) -> AsyncIterator[EventEnvelope[T]]: ...
    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: None = None
    ) -> AsyncIterator[AnyEnvelope]: ...

    async def load_stream(
        self,
        stream_id: str,
        snapshot_type: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> LoadedStream: ...

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

    async def read_by_query(
        self, query: Query, *, after: QueryToken | None = None, as_type: Any = None
    ) -> QueryResult: ...

    async def get_stream_info(self, stream_id: str) -> StreamInfo | None: ...

    async def delete_stream(
        self, stream_id: str, expected_version: ExpectedVersion = None
    ) -> None: ...

    async def restore_stream(self, stream_id: str) -> None: ...

    async def forget(self, subject_id: str, *, metadata: EventMetadata | None = None) -> bool: ...

    async def save_snapshot(self, snapshot: AnySnapshot) -> None: ...

    @overload
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: type[T]
    ) -> Snapshot[T] | None: ...
    @overload
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: None = None
    ) -> AnySnapshot | None: ...
