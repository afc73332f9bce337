"""An event store on PostgreSQL for SQLAlchemy applications."""

from __future__ import annotations

from eventstore.aio import AsyncSqlAlchemyEventStore, async_event_store
from eventstore.appending import AppendedStream, AppendResult, StreamAppend, StreamAt
from eventstore.errors import (
    ConcurrencyConflict,
    ConnectionUnusable,
    DuplicateEvent,
    EventStoreError,
    FeedUnavailable,
    IdempotencyMismatch,
    SchemaOutOfDate,
    SerializationError,
    StreamDeleted,
    StreamNotFound,
    SubscriptionError,
    TransactionConflict,
    UnknownEventType,
    UpcastingError,
)
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.group_commit import AsyncGroupCommitWriter, GroupCommitWriter
from eventstore.memory import AsyncInMemoryEventStore, InMemoryEventStore
from eventstore.protocols import AsyncEventStore, EventStore
from eventstore.reading import EventFilter, ReadOptions
from eventstore.registry import EventRegistry
from eventstore.snapshots import Snapshot
from eventstore.store import SqlAlchemyEventStore, event_store
from eventstore.streams import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, StreamInfo

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AppendResult",
    "AppendedStream",
    "AsyncEventStore",
    "AsyncGroupCommitWriter",
    "AsyncInMemoryEventStore",
    "AsyncSqlAlchemyEventStore",
    "ConcurrencyConflict",
    "ConnectionUnusable",
    "DuplicateEvent",
    "EventEnvelope",
    "EventFilter",
    "EventMetadata",
    "EventRegistry",
    "EventStore",
    "EventStoreError",
    "ExpectedVersion",
    "FeedUnavailable",
    "GroupCommitWriter",
    "IdempotencyMismatch",
    "InMemoryEventStore",
    "ReadOptions",
    "SchemaOutOfDate",
    "SerializationError",
    "Snapshot",
    "SqlAlchemyEventStore",
    "StreamAppend",
    "StreamAt",
    "StreamDeleted",
    "StreamInfo",
    "StreamNotFound",
    "SubscriptionError",
    "TransactionConflict",
    "UnknownEventType",
    "UpcastingError",
    "async_event_store",
    "event_store",
]
