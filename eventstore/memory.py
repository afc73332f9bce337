"""A store in memory, for unit tests: the answers of the SQL stores without a database.

Payloads are kept as JSON and decoded at each read, with keys and numbers as ``jsonb`` gives them
back, so that what PostgreSQL refuses or changes is refused or changed here too. There are no
transactions: each call stands for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, overload

from eventstore.appending import (
    AppendedStream,
    AppendResult,
    StreamAppend,
    check_requirements,
)
from eventstore.batches import (
    EncodedBatch,
    RecordedEvent,
    encode_batches,
    find_repeat_by_id,
    find_repeat_by_key,
    partial_repeat,
)
from eventstore.boundaries import QueryResult, QueryToken, check_query, check_token
from eventstore.codec import JsonPayloads
from eventstore.errors import (
    AppendConditionFailed,
    ConcurrencyConflict,
    SerializationError,
    StreamDeleted,
    StreamNotFound,
)
from eventstore.loading import LoadedStream
from eventstore.payloads import as_jsonb, decode_metadata, payload_type
from eventstore.personal.erasure import (
    ERASURES_STREAM,
    check_subject_id,
    erasure_of,
    refuse_to_delete_erasures,
)
from eventstore.personal.keys import InMemoryKeyStore, store_of
from eventstore.personal.sealing import refuse_opened
from eventstore.personal.vault import Vault, refuse_to_wait
from eventstore.reading import (
    PAGE_SIZE,
    EventFilter,
    ReadOptions,
    StreamCursor,
    check_feed_read,
)
from eventstore.recorded import Decoder, matching_today, recorded, undecoded_metadata
from eventstore.registry import codec_of
from eventstore.snapshots import Snapshot, check_snapshot
from eventstore.streams import (
    ANY,
    MAX_ID_LENGTH,
    MAX_TYPE_LENGTH,
    StreamInfo,
    check_expected_version,
    check_stream_id,
    check_text,
    require_version,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from uuid import UUID

    from eventstore.appending import Requirement, StreamAt
    from eventstore.boundaries import NoNew, Query
    from eventstore.errors import SubjectErased
    from eventstore.events import AnyEnvelope, EventEnvelope, EventMetadata
    from eventstore.personal.keys import KeyStore
    from eventstore.registry import EventRegistry
    from eventstore.snapshots import AnySnapshot
    from eventstore.streams import ExpectedVersion

T = TypeVar("T")


@dataclass(slots=True)
class _Stream:
    info: StreamInfo
    events: list[RecordedEvent] = field(default_factory=list)
    first_versions: dict[str, int] = field(default_factory=dict)  #: by idempotency key


class InMemoryEventStore:
    """An :class:`~eventstore.EventStore` that ends with the process. Thread-safe.

    Without a registry it takes and gives JSON-compatible dicts; with one, payloads are typed.
    """

    def __init__(self, registry: EventRegistry | None = None) -> None:
        self._codec = codec_of(registry)
        self._lock = Lock()
        self._feed: list[RecordedEvent] = []  # by position, which here has no holes
        self._by_id: dict[UUID, RecordedEvent] = {}
        self._streams: dict[str, _Stream] = {}
        self._snapshots: dict[tuple[str, str], Snapshot[bytes]] = {}
        self._key_store: KeyStore = InMemoryKeyStore()
        self._vault: Vault | None = None
        if self._codec.keys is not None:
            self._vault = Vault(self._codec.keys, self._key_store, refuse_to_wait)

    def append_to_stream(
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
        append = StreamAppend(stream_id, expected_version, events)
        result = self.append(append, fetch_missed=fetch_missed)
        return result.streams[0].version

    def append(
        self,
        *appends: StreamAppend,
        require: Requirement | Sequence[Requirement] = (),
        fetch_missed: bool = False,
    ) -> AppendResult:
        """Append to several streams, all or nothing, if what ``require`` asks for is so.

        With ``fetch_missed`` the conflict of a single stream brings the events not yet seen.
        """
        streams, conditions = check_requirements(require)
        try:
            return self._append(appends, streams, conditions)
        except ConcurrencyConflict as conflict:
            if not fetch_missed or len(appends) + len(streams) > 1 or not appends[0].events:
                raise
            missed = self._missed(conflict)
            raise ConcurrencyConflict(
                conflict.expected, conflict.actual, conflict.stream_id, missed
            ) from None

    def _append(
        self,
        appends: Sequence[StreamAppend],
        streams: Sequence[StreamAt],
        conditions: Sequence[NoNew],
    ) -> AppendResult:
        batches, refusal = self._seal(encode_batches(appends, streams, self._codec))
        result = self._write(batches, conditions, refusal)
        return AppendResult(result.streams[: len(appends)], result.already_appended)

    def _write(
        self,
        batches: Sequence[EncodedBatch],
        conditions: Sequence[NoNew] = (),
        refusal: SubjectErased | None = None,
    ) -> AppendResult:
        """Record the batches, unless they are known or refused."""
        with self._lock:
            places = self._find_first_places(batches)
            already_appended = places is not None
            if places is None:
                for batch in batches:
                    require_version(
                        batch.stream_id, batch.expected_version, *self._state(batch.stream_id)
                    )
                if refusal is not None:
                    raise refusal
                for condition in conditions:
                    self._refuse_new(condition)
                places = [self._placed(batch, self._record(batch)) for batch in batches]
        return AppendResult(tuple(places), already_appended)

    def _seal(self, batches: list[EncodedBatch]) -> tuple[list[EncodedBatch], SubjectErased | None]:
        """Return the batches as they are kept, and what forbids to keep some of their events."""
        if self._vault is None or all(batch.sealed for batch in batches):
            return batches, None
        sealed, refusals = zip(
            *(self._vault.sealed(batch.events) for batch in batches), strict=True
        )
        return [
            batch._replace(events=events) for batch, events in zip(batches, sealed, strict=True)
        ], next(filter(None, refusals), None)

    def _refuse_new(self, condition: NoNew) -> None:
        stored = condition.query.with_types(self._codec.stored_types)
        for was in self._feed[condition.after.position :]:
            if _matches_query(stored, was):
                raise AppendConditionFailed(was.sequence_number)

    def _missed(self, conflict: ConcurrencyConflict) -> tuple[AnyEnvelope, ...] | None:
        expected, actual = conflict.expected, conflict.actual
        if not isinstance(expected, int) or not 0 < actual - expected <= PAGE_SIZE:
            return None
        options = ReadOptions(from_version=expected + 1, to_version=actual)
        try:
            return tuple(self.read_stream(conflict.stream_id, options))
        except (SerializationError, StreamDeleted):
            return None

    def _find_first_places(self, batches: Sequence[EncodedBatch]) -> list[AppendedStream] | None:
        """Return where the same call went before, None if none of its events is known."""
        repeats = [(batch, self._find_repeat(batch)) for batch in batches]
        known = [(batch, recorded) for batch, recorded in repeats if recorded]
        if not known:
            return None
        if any(recorded is None for _, recorded in repeats):
            raise partial_repeat(*known[0])
        return [self._placed(batch, recorded or ()) for batch, recorded in repeats]

    def _find_repeat(self, batch: EncodedBatch) -> Sequence[RecordedEvent] | None:
        """Return what ``batch`` was recorded as before, None if it is new; () if it is empty."""
        if not batch.events:
            return ()
        stream = self._streams.get(batch.stream_id)
        if stream is not None and stream.info.deleted_at is not None:
            raise StreamDeleted(batch.stream_id, stream.info.deleted_at)
        recorded = find_repeat_by_id(batch, self._by_id)
        if recorded is None and stream is not None:
            recorded = find_repeat_by_key(batch, stream.events, stream.first_versions)
        return recorded

    def _record(self, batch: EncodedBatch) -> Sequence[RecordedEvent]:
        if not batch.events:
            return ()
        now = datetime.now(UTC)
        stream = self._streams.get(batch.stream_id)
        if stream is None:
            info = StreamInfo(stream_id=batch.stream_id, version=0, created_at=now, updated_at=now)
            stream = self._streams[batch.stream_id] = _Stream(info)
        recorded = [
            RecordedEvent(
                stream_id=batch.stream_id,
                event_version=stream.info.version + place,
                sequence_number=len(self._feed) + place,
                event=event,
            )
            for place, event in enumerate(batch.events, start=1)
        ]
        for was in recorded:
            self._by_id[was.event.event_id] = was
            if was.event.idempotency_key is not None:
                stream.first_versions.setdefault(was.event.idempotency_key, was.event_version)
        stream.events += recorded
        self._feed += recorded
        stream.info = replace(stream.info, version=recorded[-1].event_version, updated_at=now)
        return recorded

    def _placed(self, batch: EncodedBatch, recorded: Sequence[RecordedEvent]) -> AppendedStream:
        return AppendedStream(
            batch.stream_id,
            recorded[-1].event_version if recorded else self._state(batch.stream_id)[0],
            tuple(was.sequence_number for was in recorded),
        )

    def _state(self, stream_id: str) -> tuple[int, datetime | None]:
        stream = self._streams.get(stream_id)
        return (0, None) if stream is None else (stream.info.version, stream.info.deleted_at)

    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: type[T]
    ) -> Iterator[EventEnvelope[T]]: ...
    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: None = None
    ) -> Iterator[AnyEnvelope]: ...
    def read_stream(
        self, stream_id: str, options: ReadOptions = ReadOptions(), *, as_type: Any = None
    ) -> Iterator[AnyEnvelope]:
        """Return an iterator over the stream's events as ``options`` say.

        ``as_type`` reads every payload as that type, in place of the registry; ``bytes`` gives its
        JSON as it is. The iterator raises :class:`~eventstore.StreamDeleted` unless the options
        include deleted streams.
        """
        check_stream_id(stream_id)
        decoder = Decoder(as_type, self._codec)
        if StreamCursor(options).limit == 0:
            return iter(())
        return self._iterate_stream(stream_id, options, decoder)

    def _iterate_stream(
        self, stream_id: str, options: ReadOptions, decoder: Decoder
    ) -> Iterator[AnyEnvelope]:
        with self._lock:
            stream = self._streams.get(stream_id)
            if stream is None:
                return
            if stream.info.deleted_at is not None and not options.include_deleted:
                raise StreamDeleted(stream_id, stream.info.deleted_at)
            events = stream.events[max((options.from_version or 1) - 1, 0) : options.to_version]
        if options.backward:
            events.reverse()
        for was in islice(events, options.max_count):
            today = self._decoded(was, decoder)
            yield from reversed(list(today)) if options.backward else today

    def load_stream(
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
        check_stream_id(stream_id)
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key, MAX_ID_LENGTH)
        if snapshot_type is not None:
            check_text("snapshot_type", snapshot_type, MAX_TYPE_LENGTH)
        snapshot = None if snapshot_type is None else self.get_snapshot(stream_id, snapshot_type)
        with self._lock:
            stream = self._streams.get(stream_id)
            if stream is None:
                return LoadedStream()
            if stream.info.deleted_at is not None:
                raise StreamDeleted(stream_id, stream.info.deleted_at)
            seen = 0 if snapshot is None else snapshot.version
            events, version = stream.events[seen : seen + PAGE_SIZE], stream.info.version
            keyed = [
                was.event_version
                for was in stream.events
                if idempotency_key is not None and was.event.idempotency_key == idempotency_key
            ]
        decoder = Decoder(None, self._codec)
        return LoadedStream(
            version=version,
            last=events[-1].event_version if events else version,
            snapshot=snapshot,
            events=[today for was in events for today in self._decoded(was, decoder)],
            recorded=(keyed[0], keyed[-1]) if keyed else None,
        )

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
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: Any = None,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[AnyEnvelope]:
        """Return an iterator over the events after ``from_position``, in the order of the feed.

        It ends with the last event that is there when the iteration begins. ``page_size`` bounds
        what a store on a database holds in memory at a time. ``as_type`` is that of
        :meth:`read_stream`.
        """
        check_feed_read(from_position, max_count, filters, page_size)
        decoder = Decoder(as_type, self._codec)
        return self._iterate_feed(from_position, max_count, filters, decoder)

    def _iterate_feed(
        self,
        from_position: int,
        max_count: int | None,
        filters: EventFilter | None,
        decoder: Decoder,
    ) -> Iterator[AnyEnvelope]:
        with self._lock:
            events = self._feed[from_position:]
        filters = filters or EventFilter()
        stored_types = self._codec.stored_types(filters.event_types)
        wanted = self._codec.current_types(filters.event_types)
        matching = (was for was in events if _matches(filters, stored_types, was))
        for was in islice(matching, max_count):
            yield from self._decoded(was, decoder, wanted)

    def _decoded(
        self, was: RecordedEvent, decoder: Decoder, wanted: frozenset[str] = frozenset()
    ) -> Iterator[AnyEnvelope]:
        """Yield what a stored event says today: one event, several, or none."""
        event = was.event
        data, metadata = as_jsonb(event.event_data), as_jsonb(event.metadata).decode()
        if self._vault is not None and decoder.opens:
            decoder = self._vault.opening(decoder, [(event.event_type, data)])
        yield from _envelopes(was, decoder.today(event.event_type, data, metadata, wanted))

    def read_by_query(
        self, query: Query, *, after: QueryToken | None = None, as_type: Any = None
    ) -> QueryResult:
        """Return the events that match ``query``, by position, and the token of what was seen.

        ``after`` leaves out what an earlier read has seen. ``as_type`` is that of
        :meth:`read_stream`. Raises ValueError for the token of another query.
        """
        after = check_token(check_query(query), after)
        decoder = Decoder(as_type, self._codec)
        stored = query.with_types(self._codec.stored_types)
        with self._lock:
            found = [was for was in self._feed[after.position :] if _matches_query(stored, was)]
            token = QueryToken(query.fingerprint, len(self._feed))
        events = [today for was in found for today in self._decoded(was, decoder)]
        return QueryResult(tuple(matching_today(events, query, decoder)), token)

    def get_stream_info(self, stream_id: str) -> StreamInfo | None:
        """Return what is known of the stream, None if it never had an event."""
        check_stream_id(stream_id)
        with self._lock:
            stream = self._streams.get(stream_id)
            return None if stream is None else stream.info

    def delete_stream(self, stream_id: str, expected_version: ExpectedVersion = None) -> None:
        """Close the stream, keeping its events (a soft delete)."""
        refuse_to_delete_erasures(check_stream_id(stream_id))
        expected = check_expected_version(expected_version)
        with self._lock:
            require_version(stream_id, expected, *self._state(stream_id))
            stream = self._existing(stream_id)
            now = datetime.now(UTC)
            stream.info = replace(stream.info, deleted_at=now, updated_at=now)

    def restore_stream(self, stream_id: str) -> None:
        """Open a soft-deleted stream again; its versions go on from where they were."""
        check_stream_id(stream_id)
        with self._lock:
            stream = self._existing(stream_id)
            if stream.info.deleted_at is not None:
                stream.info = replace(stream.info, deleted_at=None, updated_at=datetime.now(UTC))

    def _existing(self, stream_id: str) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise StreamNotFound(stream_id)
        return stream

    def forget(self, subject_id: str, *, metadata: EventMetadata | None = None) -> bool:
        """Destroy the key of a subject: whatever is read of its personal data is erased.

        Return whether it was forgotten now, and not before. A
        :class:`~eventstore.personal.SubjectForgotten` event with ``metadata`` says so.
        """
        event = erasure_of(check_subject_id(subject_id), metadata)
        done = store_of(self._codec.keys, self._key_store).forget(subject_id)
        if isinstance(done, Awaitable):
            refuse_to_wait(done)
        batches = encode_batches([StreamAppend(ERASURES_STREAM, ANY, [event])], (), JsonPayloads())
        return not self._write(batches).already_appended

    def save_snapshot(self, snapshot: AnySnapshot) -> None:
        """Keep ``snapshot``, unless there is one of a later version."""
        check_snapshot(snapshot)
        data_type: Any = type(snapshot.data)
        data = payload_type(data_type).encode(snapshot.aggregate_type, snapshot.data)
        if self._vault is None:
            refuse_opened(snapshot.aggregate_type, data)
        else:
            data = self._vault.seal_snapshot(snapshot.aggregate_type, data)
        key = snapshot.aggregate_id, snapshot.aggregate_type
        with self._lock:
            kept = self._snapshots.get(key)
            version, _ = self._state(snapshot.aggregate_id)
            if kept is None or kept.version <= snapshot.version or 0 < version < kept.version:
                self._snapshots[key] = snapshot.model_copy(update={"data": data})

    @overload
    def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: type[T]
    ) -> Snapshot[T] | None: ...
    @overload
    def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: None = None
    ) -> AnySnapshot | None: ...
    def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: Any = None
    ) -> AnySnapshot | None:
        """Return the aggregate's snapshot with its data as ``as_type``, by default plain JSON.

        None if there is none that can be used: it is ahead of the stream of that id, or the stream
        is deleted. Raises :class:`~eventstore.SerializationError` for data of another type.
        """
        check_text("aggregate_id", aggregate_id, MAX_ID_LENGTH)
        check_text("aggregate_type", aggregate_type, MAX_TYPE_LENGTH)
        with self._lock:
            kept = self._snapshots.get((aggregate_id, aggregate_type))
            version, deleted_at = self._state(aggregate_id)
        if kept is None or deleted_at is not None or 0 < version < kept.version:
            return None
        codec = payload_type(Any if as_type is None else as_type)
        data = as_jsonb(kept.data)
        if self._vault is not None:
            data = self._vault.open_snapshot(aggregate_type, data)
        return Snapshot(
            aggregate_id=aggregate_id,
            aggregate_type=aggregate_type,
            version=kept.version,
            data=codec.decode(aggregate_type, data),
            created_at=kept.created_at,
        )


def _matches(filters: EventFilter, stored_types: frozenset[str], recorded: RecordedEvent) -> bool:
    event = recorded.event
    return (
        (not stored_types or event.event_type in stored_types)
        and (not filters.aggregate_types or event.aggregate_type in filters.aggregate_types)
        and recorded.stream_id.startswith(filters.stream_prefix)
        and filters.correlation_id
        in (None, decode_metadata(event.event_type, event.metadata).correlation_id)
    )


def _matches_query(stored: Query, recorded: RecordedEvent) -> bool:
    return stored.matches(recorded.event.event_type, recorded.event.tags)


def _envelopes(was: RecordedEvent, today: Iterable[tuple[str, Any, str]]) -> Iterator[AnyEnvelope]:
    event = was.event
    for event_type, payload, metadata in today:
        yield recorded(
            {
                "event_id": event.event_id,
                "stream_id": was.stream_id,
                "aggregate_id": event.aggregate_id,
                "aggregate_type": event.aggregate_type,
                "event_type": event_type,
                "event_data": payload,
                "event_version": was.event_version,
                "sequence_number": was.sequence_number,
                "occurred_at": event.occurred_at,
                "metadata": undecoded_metadata(event_type, metadata),
                "tags": event.tags,
            }
        )
