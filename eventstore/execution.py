"""How a command is executed: load, decide, append, and what follows when that is refused.

All of it is written once, as generators: they yield what a store is asked for, and are sent its
answer or thrown its error. Who drives them waits, or awaits (the model is psycopg 3, where the
protocol is a generator, and waiting is somebody else's business).

After a conflict that brings the missed events, a decider's state is folded forward and decided on
again, without another read. An aggregate that is an object has changed with its decision, and is
loaded anew. Where the missed events commute with the command, nothing is decided again: what was
decided is appended at the new version as it is, and an object is loaded after that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from eventstore.aggregates import Aggregate
from eventstore.errors import (
    ConcurrencyConflict,
    ConnectionUnusable,
    EventStoreError,
    IdempotencyMismatch,
    SerializationError,
    TransactionConflict,
)
from eventstore.events import AnyEnvelope
from eventstore.reading import PAGE_SIZE, ReadOptions
from eventstore.streams import check_number, require_version

if TYPE_CHECKING:
    from eventstore.aggregate_types import AggregateId, AggregateType, Envelopes
    from eventstore.appending import AppendResult, Requirement, StreamAppend
    from eventstore.boundaries import Query
    from eventstore.loading import LoadedStream
    from eventstore.snapshots import AnySnapshot
    from eventstore.streams import StreamState

C = TypeVar("C")
A = TypeVar("A", bound=Aggregate)
R = TypeVar("R")

#: Which missed events don't matter to a command: classes of payloads and names of event types, or
#: a rule.
Commutes: TypeAlias = Collection[type | str] | Callable[[AnyEnvelope], bool]


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[A]):
    """What a command has led to. A repeated command has the outcome of the first one."""

    aggregate: A  #: after the command
    events: tuple[Any, ...] = ()  #: the payloads that it led to; none if nothing happened
    version: int  #: of the aggregate's stream after them
    positions: tuple[int, ...] = ()  #: their places in the whole store
    already_appended: bool = False  #: they were recorded before, under the same idempotency key
    attempts: int = 1  #: how often was appended or tried to


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often a command is tried, and how long is waited before a transaction is run again.

    Delays double from ``first_delay_seconds`` up to ``max_delay_seconds`` and are drawn evenly
    between 0 and that ("full jitter": Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015). A conflict inside a transaction is met at once: the stream's row is
    locked from then on.
    """

    attempts: int = 10
    first_delay_seconds: float = 0.005
    max_delay_seconds: float = 0.5
    jitter: Callable[[], float] = random.random  #: a number from 0 to 1

    def __post_init__(self) -> None:
        if check_number("attempts", self.attempts) == 0:
            raise ValueError("attempts must be at least 1")

    def delay_seconds_after(
        self, error: EventStoreError, attempt: int, *, repeatable: bool
    ) -> float | None:
        """Return how long to wait after a transaction failed; None if it is not to be run again.

        A lost connection leaves it open whether the commit went through, so that only what the
        store recognises when it is sent again (``repeatable``) is.
        """
        cured = isinstance(error, TransactionConflict) or (
            repeatable and isinstance(error, ConnectionUnusable)
        )
        if not cured or attempt >= self.attempts:
            return None
        longest = min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** (attempt - 1))
        return self.jitter() * longest


#: The retries of a repository that is not told otherwise.
TEN_ATTEMPTS: Final = Retries()


@dataclass(frozen=True, slots=True)
class LoadStream:
    """Request: ``store.load_stream()``."""

    stream_id: str
    snapshot_type: str | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class ForEach:
    """Request: call ``visit`` with each event of ``store.read_stream()``."""

    stream_id: str
    options: ReadOptions
    visit: Callable[[AnyEnvelope], object]


@dataclass(frozen=True, slots=True)
class Append:
    """Request: ``store.append()``; a conflict is to bring what was missed."""

    appends: Sequence[StreamAppend]
    require: Requirement | Sequence[Requirement] = ()


@dataclass(frozen=True, slots=True)
class ReadByQuery:
    """Request: ``store.read_by_query()``."""

    query: Query


@dataclass(frozen=True, slots=True)
class SaveSnapshot:
    """Request: ``store.save_snapshot()``."""

    snapshot: AnySnapshot


Request: TypeAlias = LoadStream | ForEach | Append | ReadByQuery | SaveSnapshot
#: What is asked of a store, one request after the other, and what comes of it.
Steps: TypeAlias = Generator[Request, Any, R]


class Executor(Generic[C, A]):
    """Loads, saves and executes, for one type of aggregate.

    ``keep_snapshot`` takes the snapshots that are due; without it the store saves them.
    """

    def __init__(
        self,
        kind: AggregateType[C, A],
        envelopes: Envelopes,
        retries: Retries,
        keep_snapshot: Callable[[AnySnapshot], object] | None,
    ) -> None:
        self._kind = kind
        self._envelopes = envelopes
        self._retries = retries
        self._keep_snapshot = keep_snapshot

    def load(self, aggregate_id: AggregateId) -> Steps[A]:
        """Return the aggregate as it is now."""
        aggregate, _ = yield from self._load(aggregate_id, None)
        return aggregate

    def save(
        self,
        aggregates: Sequence[A],
        appends: Sequence[StreamAppend],
        require: Requirement | Sequence[Requirement],
    ) -> Steps[AppendResult]:
        """Append what the aggregates have pending."""
        result: AppendResult = yield Append(appends, require)
        for aggregate, append, place in zip(aggregates, appends, result, strict=True):
            before = place.version - len(append.events)
            if append.expected_version == before:
                yield from self._saved(aggregate, append, place.version)
            else:
                aggregate.superseded(before)
        return result

    def execute(
        self,
        aggregate_id: AggregateId,
        command: C,
        expected: int | StreamState,
        commutes: Callable[[AnyEnvelope], bool],
        idempotency_key: str | None,
        *,
        require: Requirement | Sequence[Requirement] = (),
    ) -> Steps[Outcome[A]]:
        """Return what the command leads to, or what it has led to under its key before."""
        aggregate: A | None = None
        append: StreamAppend | None = None
        for attempt in count(1):
            if append is None:
                if aggregate is None:
                    aggregate, found = yield from self._load(aggregate_id, idempotency_key)
                    if found.recorded is not None:
                        return (yield from self._recorded(aggregate_id, *found.recorded))
                yield from self._require(aggregate, expected, commutes)
                self._kind.handle(command, aggregate)
                if not aggregate.pending_events:
                    return Outcome(aggregate=aggregate, version=aggregate.version, attempts=attempt)
                append = self._envelopes.append_of(self._kind, aggregate, idempotency_key)
            try:
                result: AppendResult = yield Append([append], require)
            except (ConcurrencyConflict, IdempotencyMismatch) as error:
                # Another stream is one of ``require``: no decision on this one brings it back.
                if attempt >= self._retries.attempts or error.stream_id != append.stream_id:
                    raise
                aggregate, append = _after_refusal(error, aggregate, append, commutes)
                continue
            if result.already_appended:
                # Another attempt at this command was quicker, under the same key.
                aggregate = append = None
                continue
            place = result.streams[0]
            if aggregate is None:
                aggregate, _ = yield from self._load(aggregate_id, None, place.version)
            yield from self._saved(aggregate, append, place.version)
            return Outcome(
                aggregate=aggregate,
                events=tuple(event.event_data for event in append.events),
                version=place.version,
                positions=place.positions,
                attempts=attempt,
            )
        raise AssertionError("count() has ended")

    def _load(
        self, aggregate_id: AggregateId, idempotency_key: str | None, version: int | None = None
    ) -> Steps[tuple[A, LoadedStream]]:
        """Return the aggregate at ``version``, by default as it is now, and what was found."""
        stream_id = self._kind.stream_of(aggregate_id)
        found: LoadedStream = yield LoadStream(stream_id, self._kind.snapshot_type, idempotency_key)
        last = found.version if version is None else version
        aggregate = self._kind.restore(aggregate_id, found.snapshot)
        if aggregate is None or aggregate.version > last:
            found = yield LoadStream(stream_id, None, idempotency_key)
            last = found.version if version is None else version
            aggregate = self._kind.begin(aggregate_id)
        for event in found.events:
            if event.event_version <= last:
                aggregate.replay(event)
        if found.last < last:
            rest = ReadOptions(from_version=found.last + 1, to_version=last)
            yield ForEach(stream_id, rest, aggregate.replay)
        aggregate.replayed_to(last)
        return aggregate, found

    def _require(
        self,
        aggregate: A,
        expected: int | StreamState,
        commutes: Callable[[AnyEnvelope], bool],
    ) -> Steps[None]:
        """Refuse to decide on another version than expected, unless all missed events commute."""
        stream_id = self._kind.stream_of(aggregate.aggregate_id)
        try:
            require_version(stream_id, expected, aggregate.version, None)
        except ConcurrencyConflict as late:
            missed: list[AnyEnvelope] = []
            if isinstance(expected, int) and 0 < aggregate.version - expected <= PAGE_SIZE:
                since = ReadOptions(from_version=expected + 1, to_version=aggregate.version)
                yield ForEach(stream_id, since, missed.append)
                if all(map(commutes, missed)):
                    return
                late.missed = tuple(missed)
            raise

    def _recorded(self, aggregate_id: AggregateId, first: int, last: int) -> Steps[Outcome[A]]:
        """Return the outcome of a command whose events are those versions."""
        aggregate = self._kind.begin(aggregate_id)
        recorded: list[AnyEnvelope] = []

        def visit(event: AnyEnvelope) -> None:
            aggregate.replay(event)
            if event.event_version >= first:
                recorded.append(event)

        stream_id = self._kind.stream_of(aggregate_id)
        yield ForEach(stream_id, ReadOptions(to_version=last), visit)
        aggregate.replayed_to(last)
        return Outcome(
            aggregate=aggregate,
            events=tuple(event.event_data for event in recorded),
            version=last,
            # An upcaster may have made several of one event: they have one place.
            positions=tuple(dict.fromkeys(event.sequence_number for event in recorded)),
            already_appended=True,
        )

    def _saved(self, aggregate: A, append: StreamAppend, version: int) -> Steps[None]:
        """Tell the aggregate that its events are recorded; keep a snapshot if one is due."""
        aggregate.saved(version, append.events[0].occurred_at)
        new_events = [event.event_data for event in append.events]
        snapshot = self._kind.snapshot_due(aggregate, new_events, self._envelopes.clock())
        if snapshot is None:
            return
        if self._keep_snapshot is not None:
            self._keep_snapshot(snapshot)
        else:
            try:
                yield SaveSnapshot(snapshot)
            except SerializationError as error:
                self._kind.snapshot_refused(error)
                return
        aggregate.snapshot_taken()


def _after_refusal(
    error: ConcurrencyConflict | IdempotencyMismatch,
    aggregate: A | None,
    append: StreamAppend,
    commutes: Callable[[AnyEnvelope], bool],
) -> tuple[A | None, StreamAppend | None]:
    """Return the aggregate and the append to go on with; None for what must be made anew.

    An append without its aggregate is what was decided on a state that holds it already: the missed
    events can't be folded in before it.

    That a command's own key is known for something else says that another attempt at it was
    quicker, and has decided on another state.
    """
    if isinstance(error, IdempotencyMismatch) or error.missed is None:
        return None, None
    rebased: StreamAppend | None = None
    if all(map(commutes, error.missed)):
        rebased = replace(append, expected_version=error.actual)
    if aggregate is None or not aggregate.can_replay:
        return None, rebased
    for event in error.missed:
        aggregate.replay(event)
    aggregate.replayed_to(error.actual)
    if rebased is None:
        aggregate.forget_pending()
    return aggregate, rebased


def rule_of(commutes: Commutes) -> Callable[[AnyEnvelope], bool]:
    """Return ``commutes`` as a rule; TypeError for what says nothing about events."""
    if isinstance(commutes, type | str):
        raise TypeError(f"commutes must be a collection of event types, not {commutes!r} alone")
    if callable(commutes):
        return commutes
    if not isinstance(commutes, Collection):
        raise TypeError(f"commutes must be a collection of event types or a rule, not {commutes!r}")
    classes = tuple(each for each in commutes if isinstance(each, type))
    names = frozenset(each for each in commutes if isinstance(each, str))
    if len(classes) + len(names) != len(commutes):
        raise TypeError("commutes takes classes of payloads and names of event types")
    return lambda event: isinstance(event.event_data, classes) or event.event_type in names
