"""Every error of the package, in one tree.

::

    EventStoreError
    ├── ConcurrencyConflict        expected, actual, stream_id, missed
    ├── AppendConditionFailed      position
    ├── ClaimRefused               scope, holder
    ├── StreamNotFound             stream_id
    ├── StreamDeleted              stream_id, deleted_at
    ├── DuplicateEvent             event_id
    ├── IdempotencyMismatch        idempotency_key, stream_id
    ├── SerializationError         event_type, path
    │   ├── UnknownEventType
    │   └── UpcastingError         from_version, to_version
    ├── TransactionConflict        sqlstate (retryable: serialization failure or deadlock)
    ├── ConnectionUnusable         sqlstate (retryable on a new connection)
    ├── FeedUnavailable            reason
    ├── SubscriptionError          subscription
    ├── MasterKeyError             reason
    ├── SubjectErased              subject_id
    └── SchemaOutOfDate            current, head

The attributes are facts, the message is made of them and says what to do. No message holds a
payload. Every error can be pickled, so that it crosses process boundaries whole. Wrong arguments
raise :class:`TypeError` or :class:`ValueError`; what we can't name stays SQLAlchemy's own error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from eventstore.events import AnyEnvelope
    from eventstore.streams import ExpectedVersion


class EventStoreError(Exception):
    """Base of all errors of the event store."""

    #: The same call may succeed when the whole transaction is run again.
    retryable: ClassVar[bool] = False


class ConcurrencyConflict(EventStoreError):
    """The stream is not at the version that the caller expected; nothing was written.

    ``actual`` is the stream's version, 0 when it has no events. The caller's transaction stays
    usable: load the stream again, decide again, and append with the new version.

    ``missed`` are the events from the expected version to the actual one, for those who asked for
    them by ``fetch_missed=True``; None for others, where a version wasn't expected or lies ahead of
    the stream, and where they are more than a page (500): then load the stream again.
    """

    def __init__(
        self,
        expected: ExpectedVersion,
        actual: int,
        stream_id: str = "",
        missed: tuple[AnyEnvelope, ...] | None = None,
    ) -> None:
        # Without the events: whoever shows the arguments shows no payload.
        super().__init__(expected, actual, stream_id)
        self.expected = expected
        self.actual = actual
        self.stream_id = stream_id
        self.missed = missed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.expected, self.actual, self.stream_id, self.missed)

    def __str__(self) -> str:
        return (
            f"stream {self.stream_id!r} is at version {self.actual}, but {self.expected} was "
            "expected; load it again and decide on its present state"
        )


class AppendConditionFailed(EventStoreError):
    """An event has come that matches the query of an append's condition; nothing was written.

    ``position`` is that of the first one which the decision had not seen. The caller's transaction
    stays usable: read by the query again, decide again, and append with the new token.
    """

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position

    def __str__(self) -> str:
        return (
            f"the event at position {self.position} matches the query of the append's condition, "
            "and the decision has not seen it; read by the query again and decide again"
        )


class ClaimRefused(EventStoreError):
    """A value of ``scope`` is held by the stream ``holder`` (None: by nobody), not as required."""

    def __init__(self, scope: str, holder: str | None) -> None:
        super().__init__(scope, holder)
        self.scope = scope
        self.holder = holder

    def __str__(self) -> str:
        by = "nobody" if self.holder is None else f"stream {self.holder!r}"
        return f"the value of {self.scope!r} is held by {by}; take another, or let it be released"


class StreamNotFound(EventStoreError):
    """The stream has no events, and the caller said that it has."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(stream_id)
        self.stream_id = stream_id

    def __str__(self) -> str:
        return f"stream {self.stream_id!r} does not exist; append with NO_STREAM or ANY to begin it"


class StreamDeleted(EventStoreError):
    """The stream was soft-deleted at ``deleted_at``; its events are kept, but it is closed."""

    def __init__(self, stream_id: str, deleted_at: datetime) -> None:
        super().__init__(stream_id, deleted_at)
        self.stream_id = stream_id
        self.deleted_at = deleted_at

    def __str__(self) -> str:
        return (
            f"stream {self.stream_id!r} was deleted at {self.deleted_at.isoformat()}; "
            "restore_stream() opens it again, include_deleted=True reads it"
        )


class DuplicateEvent(EventStoreError):
    """``event_id`` is in the store with another payload, type or stream, or twice in one batch."""

    def __init__(self, event_id: UUID) -> None:
        super().__init__(event_id)
        self.event_id = event_id

    def __str__(self) -> str:
        return (
            f"event {self.event_id} was recorded before as something else, or stands twice in "
            "this batch; an event id names one event for ever: give a new event a new id"
        )


class IdempotencyMismatch(EventStoreError):
    """``idempotency_key`` was used on this stream by a batch that says something else."""

    def __init__(self, idempotency_key: str, stream_id: str) -> None:
        super().__init__(idempotency_key, stream_id)
        self.idempotency_key = idempotency_key
        self.stream_id = stream_id

    def __str__(self) -> str:
        return (
            f"idempotency key {self.idempotency_key!r} was used on stream {self.stream_id!r} by "
            "another batch of events; use a new key for a new request"
        )


class SerializationError(EventStoreError):
    """A payload or metadata can't be stored, or not be read back as what it was.

    ``path`` is the JSON path of the value at fault (``$`` is the payload, ``metadata`` the
    metadata), ``reason`` says what is wrong with it, never what it is.
    """

    def __init__(self, event_type: str, path: str, reason: str = "is not serialisable") -> None:
        super().__init__(event_type, path, reason)
        self.event_type = event_type
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"event type {self.event_type!r}: {self.path} {self.reason}"


class UnknownEventType(SerializationError):
    """The registry has no payload type for an event; register it in writer and reader alike."""

    def __init__(
        self, event_type: str, path: str = "$", reason: str = "has no registered type"
    ) -> None:
        super().__init__(event_type, path, reason)

    def __str__(self) -> str:
        return f"{super().__str__()}; add it with EventRegistry.register()"


class UpcastingError(SerializationError):
    """An old payload could not be brought from ``from_version`` to ``to_version``."""

    def __init__(
        self, event_type: str, path: str, reason: str, from_version: int, to_version: int
    ) -> None:
        super().__init__(event_type, path, reason)
        self.args = (event_type, path, reason, from_version, to_version)
        self.from_version = from_version
        self.to_version = to_version

    def __str__(self) -> str:
        return f"{super().__str__()} (from version {self.from_version} to {self.to_version})"


class TransactionConflict(EventStoreError):
    """The transaction can't go on: serialization failure (40001) or deadlock (40P01).

    Rarely a unique violation (23505) whose cause can't be told apart: a batch was half written
    while the sequence of positions was behind its events. Nothing of the transaction is kept. Roll
    back and run the whole of it again.
    """

    retryable = True

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return (
            f"PostgreSQL gave up this transaction (SQLSTATE {self.sqlstate}); "
            "roll back and run the whole transaction again"
        )


class ConnectionUnusable(EventStoreError):
    """The server is shutting down, was lost, or has become read-only (a failover).

    The connection has been invalidated: after a rollback the pool opens a new one.
    """

    retryable = True

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return (
            f"this connection can't write (SQLSTATE {self.sqlstate}) and was discarded; "
            "roll back and run the whole transaction again on a new connection"
        )


class FeedUnavailable(EventStoreError):
    """The feed can't be read soundly in this session; ``reason`` says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the feed can't be read here: {self.reason}"


class SubscriptionError(EventStoreError):
    """A subscription can't go on; ``reason`` says why and what to do."""

    def __init__(self, subscription: str, reason: str = "") -> None:
        super().__init__(subscription, reason)
        self.subscription = subscription
        self.reason = reason

    def __str__(self) -> str:
        return f"subscription {self.subscription!r}: {self.reason}"


class MasterKeyError(EventStoreError):
    """A master key is missing or is another one than was used; ``reason`` says which and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the master key of personal data can't be used: {self.reason}; give the current key "
            "first, and every older one that has wrapped keys which are not rotated yet"
        )


class SubjectErased(EventStoreError):
    """Personal data can't be stored for a subject that was forgotten; nothing was written."""

    def __init__(self, subject_id: str) -> None:
        super().__init__(subject_id)
        self.subject_id = subject_id

    def __str__(self) -> str:
        return (
            f"subject {self.subject_id!r} was forgotten, and its key with it; give a person who "
            "comes back a new subject id"
        )


class SchemaOutOfDate(EventStoreError):
    """The tables are missing or of another revision than this version of the package needs.

    ``current`` is the database's revision, None when there is none or it can't be told (a
    statement failed inside the caller's transaction).
    """

    def __init__(self, current: str | None, head: str) -> None:
        super().__init__(current, head)
        self.current = current
        self.head = head

    def __str__(self) -> str:
        return (
            f"the event store's tables are at revision {self.current or 'unknown or none'}, this "
            f"version needs {self.head}; run eventstore.migrate.upgrade(engine) or "
            "`alembic upgrade head`, and check the schema's name"
        )
