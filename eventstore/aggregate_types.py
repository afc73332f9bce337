"""What a repository needs to know of one type of aggregate, whichever style it is written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, cast, overload
from uuid import UUID

from eventstore.aggregates import Aggregate, carry_out
from eventstore.appending import StreamAppend
from eventstore.correlation import enrich
from eventstore.deciders import DecidedAggregate, Decider
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.snapshotting import SnapshotTail, StateWriter
from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from eventstore.errors import SerializationError
    from eventstore.snapshots import AnySnapshot
    from eventstore.snapshotting import Snapshots

C = TypeVar("C")
A = TypeVar("A", bound=Aggregate)
S = TypeVar("S")
E = TypeVar("E")
_C = TypeVar("_C")
_A = TypeVar("_A", bound=Aggregate)

#: An aggregate's id, as the domain has it.
AggregateId: TypeAlias = "str | UUID"


class AggregateType(Generic[C, A]):
    """A type of aggregate: its name, its model, and where its events and snapshots are kept.

    The model is a subclass of :class:`~eventstore.Aggregate`, whose commands are callables that
    take one (``lambda account: account.withdraw(10)``), or a :class:`~eventstore.Decider`, whose
    commands are values. ``stream_id`` says which stream an aggregate has, by default
    ``"<name>-<id>"``; ``tags`` which tags an event gets, by the aggregate's id and the payload.
    Make one for each type, as a constant: it holds no connection.
    """

    @overload
    def __init__(
        self: AggregateType[_C, DecidedAggregate[_C, S, E]],
        name: str,
        model: Decider[_C, S, E],
        *,
        stream_id: Callable[[str], str] | None = None,
        snapshots: Snapshots | None = None,
        tags: Callable[[str, E], Iterable[str]] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: AggregateType[Callable[[_A], object], _A],
        name: str,
        model: type[_A],
        *,
        stream_id: Callable[[str], str] | None = None,
        snapshots: Snapshots | None = None,
        tags: Callable[[str, Any], Iterable[str]] | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        model: Any,
        *,
        stream_id: Callable[[str], str] | None = None,
        snapshots: Snapshots | None = None,
        tags: Callable[[str, Any], Iterable[str]] | None = None,
    ) -> None:
        if tags is not None and not callable(tags):
            raise TypeError(
                f"tags must be a function of an aggregate's id and an event, not {tags!r}"
            )
        self.name = check_text("name", name, MAX_TYPE_LENGTH)
        self._style = _style_of(model)
        self._stream_id = stream_id or (lambda aggregate_id: f"{name}-{aggregate_id}")
        self._tags = tags
        self._writer: StateWriter | None = None
        if snapshots is not None:
            self._writer = snapshots.writer_for(self._style.state_type)

    @property
    def snapshot_type(self) -> str | None:
        """The aggregate type whose snapshots are wanted; None if there are none."""
        return None if self._writer is None else self.name

    def stream_of(self, aggregate_id: AggregateId) -> str:
        """Return the id of the aggregate's stream."""
        return self._stream_id(_text_of(aggregate_id))

    def tags_of(self, aggregate_id: str, payload: object) -> Iterable[str]:
        """Return the tags of a new event of the aggregate."""
        return () if self._tags is None else self._tags(aggregate_id, payload)

    def begin(self, aggregate_id: AggregateId) -> A:
        """Return an aggregate of which nothing has happened yet."""
        return self._begun(self._style.begin(), aggregate_id, 0)

    def restore(self, aggregate_id: AggregateId, snapshot: AnySnapshot | None) -> A | None:
        """Return the aggregate of a snapshot, or one without events if there is none.

        None if the snapshot is of no use: a warning has been logged, and the events are to be
        replayed from the first one on.
        """
        if snapshot is None or self._writer is None:
            return self.begin(aggregate_id)
        restored = self._writer.restore(snapshot, self._style.restore)
        if restored is None:
            return None
        return self._begun(restored, aggregate_id, snapshot.version)

    def _begun(self, aggregate: Aggregate, aggregate_id: AggregateId, version: int) -> A:
        aggregate.begun(_text_of(aggregate_id), version)
        return cast("A", aggregate)

    def check(self, aggregate: A) -> A:
        """Return an aggregate that can be saved.

        TypeError for one of another type, ValueError for one that has no id.
        """
        if not self._style.owns(aggregate):
            raise TypeError(
                f"this repository is for {self.name!r}, not for {type(aggregate).__qualname__}; "
                "several types are saved by one store.append() of their repositories' changes()"
            )
        if not aggregate.aggregate_id:
            raise ValueError(
                f"this {self.name!r} has no id; get it from begin(aggregate_id) of its repository"
            )
        return aggregate

    def handle(self, command: C, aggregate: A) -> None:
        """Let the aggregate decide; what follows waits to be saved."""
        self._style.handle(command, aggregate)

    def snapshot_due(
        self, aggregate: A, new_events: Sequence[object], now: datetime
    ) -> AnySnapshot | None:
        """Return the snapshot that the policy wants after an append, if it does."""
        if self._writer is None:
            return None
        tail = SnapshotTail(
            version=aggregate.version,
            snapshot_version=aggregate.snapshot_version,
            since=aggregate.unsnapshotted_since,
            now=now,
            new_events=new_events,
        )
        if not self._writer.wants(tail):
            return None
        return self._writer.snapshot_of(
            self._style.state_of(aggregate),
            stream_id=self.stream_of(aggregate.aggregate_id),
            aggregate_type=self.name,
            version=aggregate.version,
            now=now,
        )

    def snapshot_refused(self, error: SerializationError) -> None:
        """Log, once, that the store can't keep this type's snapshots."""
        if self._writer is not None:
            self._writer.refused(self.name, error)


@dataclass(frozen=True, slots=True)
class Envelopes:
    """What makes envelopes of payloads: a clock and a source of ids, which tests may replace."""

    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]

    def append_of(
        self, kind: AggregateType[Any, A], aggregate: A, idempotency_key: str | None = None
    ) -> StreamAppend:
        """Return what appends the aggregate's pending events, if it is still at its version."""
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key, MAX_ID_LENGTH)
        metadata = enrich(EventMetadata(idempotency_key=idempotency_key))
        events = [
            EventEnvelope(
                event_id=self.new_id(),
                aggregate_id=aggregate.aggregate_id,
                aggregate_type=kind.name,
                event_data=payload,
                occurred_at=self.clock(),
                metadata=metadata,
                tags=kind.tags_of(aggregate.aggregate_id, payload),
            )
            for payload in aggregate.pending_events
        ]
        return StreamAppend(kind.stream_of(aggregate.aggregate_id), aggregate.version, events)


class _Style(Protocol):
    """How a model's aggregates begin, decide, and show their state."""

    state_type: Any  #: the type of their snapshots' state; None if it must be said

    def begin(self) -> Aggregate: ...
    def restore(self, state: Any) -> Aggregate: ...
    def state_of(self, aggregate: Any) -> object: ...
    def handle(self, command: Any, aggregate: Any) -> None: ...
    def owns(self, aggregate: object) -> bool: ...


class _Classes:
    """Aggregates that are objects of a class, and their own state."""

    def __init__(self, model: type[Aggregate]) -> None:
        self.state_type = self._model = model

    def begin(self) -> Aggregate:
        return self._model()

    def restore(self, state: Aggregate) -> Aggregate:
        return state

    def state_of(self, aggregate: Aggregate) -> object:
        return aggregate

    def handle(self, command: Any, aggregate: Aggregate) -> None:
        carry_out(command, aggregate)

    def owns(self, aggregate: object) -> bool:
        return isinstance(aggregate, self._model)


class _Deciders:
    """Aggregates that a decider decides for."""

    state_type = None

    def __init__(self, model: Decider[Any, Any, Any]) -> None:
        self._model = model

    def begin(self) -> Aggregate:
        return self._model.begin()

    def restore(self, state: object) -> Aggregate:
        return DecidedAggregate(self._model, state)

    def state_of(self, aggregate: DecidedAggregate[Any, Any, Any]) -> object:
        return aggregate.state

    def handle(self, command: object, aggregate: DecidedAggregate[Any, Any, Any]) -> None:
        aggregate.handle(command)

    def owns(self, aggregate: object) -> bool:
        return isinstance(aggregate, DecidedAggregate) and aggregate.decider is self._model


def _text_of(aggregate_id: object) -> str:
    if not isinstance(aggregate_id, str | UUID):
        raise TypeError(
            f"aggregate_id must be a str or a UUID, not {type(aggregate_id).__qualname__}"
        )
    return check_text("aggregate_id", str(aggregate_id), MAX_ID_LENGTH)


def _style_of(model: object) -> _Style:
    if isinstance(model, Decider):
        return _Deciders(model)
    if isinstance(model, type) and issubclass(model, Aggregate):
        return _Classes(model)
    raise TypeError(f"model must be a subclass of Aggregate or a Decider, not {model!r}")
