"""A batch of events as it will be stored, and how the repeat of an earlier batch is recognised.

A caller whose reply was lost appends the same batch again. It is the same if its events have the
same ids, or the same idempotency keys, and say the same: then the first places are the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from eventstore.appending import StreamAppend, StreamAt
from eventstore.boundaries import check_tags
from eventstore.correlation import enrich
from eventstore.errors import DuplicateEvent, IdempotencyMismatch
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.payloads import canonical_json, encode_metadata, with_tags
from eventstore.personal.carriers import MARK_BYTES
from eventstore.streams import (
    MAX_ID_LENGTH,
    MAX_TYPE_LENGTH,
    check_aware,
    check_expected_version,
    check_stream_id,
    check_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from eventstore.events import AnyEnvelope
    from eventstore.registry import PayloadCodec
    from eventstore.streams import ExpectedVersion, StreamState


class EncodedEvent(NamedTuple):
    """An event whose payload and metadata are JSON, with every default filled in.

    A tuple: a frozen dataclass takes eight times as long to make, and a batch has thousands.
    """

    event_id: UUID
    aggregate_id: str
    aggregate_type: str
    event_type: str
    event_data: bytes
    occurred_at: datetime
    metadata: bytes
    idempotency_key: str | None
    tags: tuple[str, ...] = ()  #: they stand in ``metadata`` too
    #: The payload with what is personal in plain text, as long as ``event_data`` is empty: until it
    #: is sealed. One that can't be, since a subject is forgotten, stays so.
    unsealed: bytes | None = None

    def says_the_same_as(self, other: EncodedEvent) -> bool:
        """Tell whether both have the same type and payload: metadata and tags don't matter.

        A payload that can't be sealed any more is not compared.
        """
        return self.event_type == other.event_type and (
            not self.event_data
            or canonical_json(self.event_data) == canonical_json(other.event_data)
        )


class EncodedBatch(NamedTuple):
    """Events for one stream, checked and encoded: what can be refused without a look at it, is."""

    stream_id: str
    expected_version: int | StreamState
    events: tuple[EncodedEvent, ...]  #: none: the stream is only to be at that version

    @property
    def keyed(self) -> bool:
        """Tell whether any event carries an idempotency key."""
        return any(event.idempotency_key is not None for event in self.events)

    @property
    def tags(self) -> set[str]:
        """The tags of all events."""
        return {tag for event in self.events for tag in event.tags}

    @property
    def sealed(self) -> bool:
        """Tell whether all of it can be stored: nothing personal is in plain text."""
        return all(event.event_data for event in self.events)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedEvent:
    """An event at its place in the stream and in the store."""

    stream_id: str
    event_version: int
    sequence_number: int
    event: EncodedEvent


def encode_batch(
    stream_id: str,
    expected_version: ExpectedVersion,
    events: Iterable[AnyEnvelope],
    codec: PayloadCodec,
) -> EncodedBatch:
    """Return ``events`` as they will be stored.

    Raises TypeError or ValueError for a wrong argument and
    :class:`~eventstore.SerializationError` for an event that can't be read back.
    """
    check_stream_id(stream_id)
    # A list is what comes; to ask the abstract classes takes longer than to encode its metadata.
    if not isinstance(events, list) and (
        isinstance(events, str | bytes | Mapping) or not isinstance(events, Iterable)
    ):
        raise TypeError(f"events must be a sequence of EventEnvelope, not {type(events).__name__}")
    return EncodedBatch(
        stream_id=stream_id,
        expected_version=check_expected_version(expected_version),
        events=tuple([encode_event(stream_id, event, codec) for event in events]),
    )


def encode_batches(
    appends: Sequence[StreamAppend], require: Sequence[StreamAt], codec: PayloadCodec
) -> list[EncodedBatch]:
    """Return the batches of one call: those of ``appends``, then one without events a requirement.

    Raises what :func:`encode_batch` does, ValueError if there is nothing to append or a stream
    stands twice, and :class:`~eventstore.DuplicateEvent` if an id does.
    """
    if not appends:
        raise ValueError("nothing to append: give at least one StreamAppend")
    for given, wanted in ((appends, StreamAppend), (require, StreamAt)):
        for each in given:
            if not isinstance(each, wanted):
                raise TypeError(f"{wanted.__name__} was expected, not {type(each).__name__}")
    writes = ((append.stream_id, append.expected_version, append.events) for append in appends)
    checks = ((at.stream_id, at.expected_version, ()) for at in require)
    batches = [encode_batch(*each, codec) for each in chain(writes, checks)]
    refuse_stream_twice(batch.stream_id for batch in batches)
    refuse_id_twice(batches)
    return batches


def encode_event(stream_id: str, event: AnyEnvelope, codec: PayloadCodec) -> EncodedEvent:
    """Return one event as it will be stored; raises what :func:`encode_batch` does."""
    check_envelope(event)
    return encode_checked(stream_id, event, codec)


def encode_checked(
    stream_id: str, event: AnyEnvelope, codec: PayloadCodec, *, in_context: bool = True
) -> EncodedEvent:
    """Return as :func:`encode_event` an event that :func:`check_envelope` has let through.

    ``in_context`` completes the metadata by the context; what happened elsewhere has another one.
    """
    metadata = event.metadata
    tags = tuple(dict.fromkeys(event.tags)) if event.tags else ()
    event_type, event_data = codec.encode(event)
    unsealed = None
    if event_type in codec.personal and MARK_BYTES in event_data:
        event_data, unsealed = b"", event_data
    encoded = encode_metadata(
        event_type,
        enrich(metadata) if in_context else metadata,
        codec.schema_version(event_type),
    )
    # By their places: by their names it takes twice as long.
    return EncodedEvent(
        event.event_id,
        event.aggregate_id or stream_id,
        event.aggregate_type,
        event_type,
        event_data,
        event.occurred_at.astimezone(UTC),
        with_tags(encoded, tags) if tags else encoded,
        metadata.idempotency_key,
        tags,
        unsealed,
    )


def check_envelope(event: AnyEnvelope) -> None:
    """Raise TypeError or ValueError for what ``model_copy(update=...)`` has not validated."""
    if not isinstance(event, EventEnvelope):
        raise TypeError(f"an event must be an EventEnvelope, not a {type(event).__qualname__}")
    if not isinstance(event.event_id, UUID):
        raise TypeError(f"event_id must be a UUID, not {event.event_id!r}")
    if not isinstance(event.metadata, EventMetadata):
        raise TypeError(f"metadata must be EventMetadata, not {type(event.metadata).__name__}")
    check_aware("occurred_at", event.occurred_at)
    check_text("aggregate_type", event.aggregate_type, MAX_TYPE_LENGTH)
    if event.aggregate_id != "":
        check_text("aggregate_id", event.aggregate_id, MAX_ID_LENGTH)
    if event.event_type != "":
        check_text("event_type", event.event_type, MAX_TYPE_LENGTH)
    if event.tags != ():
        check_tags(event.tags)
    if event.metadata.idempotency_key is not None:
        check_text("idempotency_key", event.metadata.idempotency_key, MAX_ID_LENGTH)


def refuse_stream_twice(stream_ids: Iterable[str]) -> None:
    """Raise ValueError for a stream that stands twice in ``stream_ids``."""
    seen: set[str] = set()
    for stream_id in stream_ids:
        if stream_id in seen:
            raise ValueError(f"stream {stream_id!r} stands twice in one append; join the two")
        seen.add(stream_id)


def refuse_id_twice(batches: Iterable[EncodedBatch]) -> None:
    """Raise :class:`~eventstore.DuplicateEvent` for an id that stands twice in ``batches``."""
    seen: set[int] = set()  # a UUID's own hash is made by Python, at each look
    for batch in batches:
        for event in batch.events:
            number = event.event_id.int
            if number in seen:
                raise DuplicateEvent(event.event_id)
            seen.add(number)


def find_repeat_by_id(
    batch: EncodedBatch, known: Mapping[UUID, RecordedEvent]
) -> Sequence[RecordedEvent] | None:
    """Return what ``batch`` was recorded as, None if the store knows none of its ids.

    Raises :class:`~eventstore.DuplicateEvent` if it knows some and the batch isn't the repeat of
    consecutive events of that stream.
    """
    pairs = [(event, known[event.event_id]) for event in batch.events if event.event_id in known]
    if not pairs:
        return None
    recorded = [was for _, was in pairs]
    for event, was in pairs:
        if was.stream_id != batch.stream_id or not event.says_the_same_as(was.event):
            raise DuplicateEvent(event.event_id)
    first = recorded[0].event_version
    versions = [was.event_version for was in recorded]
    if versions != list(range(first, first + len(batch.events))):
        raise DuplicateEvent(recorded[0].event.event_id)
    return recorded


def find_repeat_by_key(
    batch: EncodedBatch, history: Sequence[RecordedEvent], first_versions: Mapping[str, int]
) -> Sequence[RecordedEvent] | None:
    """Return what ``batch`` was recorded as, None if its stream knows none of its keys.

    ``history`` is all of the stream, ``first_versions`` where each key was first used in it.
    Raises :class:`~eventstore.IdempotencyMismatch` if the batch says something else than the one
    that used the first known key, or is shorter or longer.
    """
    keys = [event.idempotency_key for event in batch.events]
    key = next((key for key in keys if key is not None and key in first_versions), None)
    if key is None:
        return None
    begin = first_versions[key] - 1 - keys.index(key)
    end = begin + len(batch.events)
    if begin < 0 or end > len(history):
        raise IdempotencyMismatch(key, batch.stream_id)
    recorded = history[begin:end]
    goes_on = keys[-1] is not None and any(
        after.event.idempotency_key == keys[-1] for after in history[end : end + 1]
    )
    if goes_on or not all(
        event.idempotency_key == was.event.idempotency_key and event.says_the_same_as(was.event)
        for event, was in zip(batch.events, recorded, strict=True)
    ):
        raise IdempotencyMismatch(key, batch.stream_id)
    return recorded


def partial_repeat(
    batch: EncodedBatch, recorded: Sequence[RecordedEvent]
) -> DuplicateEvent | IdempotencyMismatch:
    """Return the error of a call in which ``batch`` was recorded before and others were not."""
    if batch.events[0].event_id == recorded[0].event.event_id:
        return DuplicateEvent(batch.events[0].event_id)
    keys = (event.idempotency_key for event in batch.events)
    return IdempotencyMismatch(next(key for key in keys if key is not None), batch.stream_id)
