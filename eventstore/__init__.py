"""An event store on PostgreSQL for SQLAlchemy applications."""

from __future__ import annotations

from eventstore.aggregate_types import AggregateType
from eventstore.aggregates import Aggregate, applies
from eventstore.aio import AsyncSqlAlchemyEventStore, async_event_store
from eventstore.appending import AppendedStream, AppendResult, StreamAppend, StreamAt
from eventstore.boundaries import Query, QueryItem, QueryResult, QueryToken, no_new
from eventstore.bulk import ImportProgress, import_events
from eventstore.claims import Claim, Claims
from eventstore.codec import UnknownPayload
from eventstore.correlation import causation, caused_by
from eventstore.deciders import DecidedAggregate, Decider
from eventstore.decisions import async_execute_decision, execute_decision
from eventstore.errors import (
    AppendConditionFailed,
    ClaimRefused,
    ConcurrencyConflict,
    ConnectionUnusable,
    DuplicateEvent,
    EventStoreError,
    FeedUnavailable,
    IdempotencyMismatch,
    MasterKeyError,
    SchemaOutOfDate,
    SerializationError,
    StreamDeleted,
    StreamNotFound,
    SubjectErased,
    SubscriptionError,
    TransactionConflict,
    UnknownEventType,
    UpcastingError,
)
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.execution import Outcome, Retries
from eventstore.export import export_events, exported_events
from eventstore.folds import DecisionModel, Fold, combine
from eventstore.group_commit import AsyncGroupCommitWriter, GroupCommitWriter
from eventstore.loading import LoadedStream
from eventstore.memory import InMemoryEventStore
from eventstore.memory_aio import AsyncInMemoryEventStore
from eventstore.protocols import AsyncEventStore, EventStore
from eventstore.reading import EventFilter, ReadOptions
from eventstore.registry import EventRegistry
from eventstore.repository import AsyncRepository, Repository
from eventstore.snapshots import Snapshot
from eventstore.snapshotting import (
    AnyPolicy,
    EveryEvents,
    EveryInterval,
    OnEvents,
    SnapshotPolicy,
    Snapshots,
    SnapshotTail,
)
from eventstore.store import SqlAlchemyEventStore, event_store
from eventstore.streams import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion, StreamInfo
from eventstore.upcasting import Upcast

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Aggregate",
    "AggregateType",
    "AnyPolicy",
    "AppendConditionFailed",
    "AppendResult",
    "AppendedStream",
    "AsyncEventStore",
    "AsyncGroupCommitWriter",
    "AsyncInMemoryEventStore",
    "AsyncRepository",
    "AsyncSqlAlchemyEventStore",
    "Claim",
    "ClaimRefused",
    "Claims",
    "ConcurrencyConflict",
    "ConnectionUnusable",
    "DecidedAggregate",
    "Decider",
    "DecisionModel",
    "DuplicateEvent",
    "EventEnvelope",
    "EventFilter",
    "EventMetadata",
    "EventRegistry",
    "EventStore",
    "EventStoreError",
    "EveryEvents",
    "EveryInterval",
    "ExpectedVersion",
    "FeedUnavailable",
    "Fold",
    "GroupCommitWriter",
    "IdempotencyMismatch",
    "ImportProgress",
    "InMemoryEventStore",
    "LoadedStream",
    "MasterKeyError",
    "OnEvents",
    "Outcome",
    "Query",
    "QueryItem",
    "QueryResult",
    "QueryToken",
    "ReadOptions",
    "Repository",
    "Retries",
    "SchemaOutOfDate",
    "SerializationError",
    "Snapshot",
    "SnapshotPolicy",
    "SnapshotTail",
    "Snapshots",
    "SqlAlchemyEventStore",
    "StreamAppend",
    "StreamAt",
    "StreamDeleted",
    "StreamInfo",
    "StreamNotFound",
    "SubjectErased",
    "SubscriptionError",
    "TransactionConflict",
    "UnknownEventType",
    "UnknownPayload",
    "Upcast",
    "UpcastingError",
    "applies",
    "async_event_store",
    "async_execute_decision",
    "causation",
    "caused_by",
    "combine",
    "event_store",
    "execute_decision",
    "export_events",
    "exported_events",
    "import_events",
    "no_new",
]
