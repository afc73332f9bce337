"""Import a batch of events of many streams, by COPY.

The rows of all streams are moved on, and so locked, in the order of their ids by one statement,
which takes the fence too and tells at which versions the streams were. Then the events are copied
with the versions that follow, each encoded when its turn comes: the server stores those before it
meanwhile, and no thread is needed to keep both at work. Only ids and keys remain to be checked:

- Whether ids are known is left to the constraint: an import into a store that has none of them
  pays for no look-up. Where it has been violated, or the caller expects it to be (an import that
  goes on where it was interrupted), the ids are looked up, and what is recorded is left out.
- No constraint knows of idempotency keys: they are looked up under the lock, if there are any.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    String,
    Text,
    Uuid,
    cast,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from eventstore.batches import encode_checked
from eventstore.errors import (
    ConcurrencyConflict,
    DuplicateEvent,
    EventStoreError,
    IdempotencyMismatch,
    StreamDeleted,
    TransactionConflict,
)
from eventstore.events import EventEnvelope
from eventstore.models import EVENT_ID_KEY, STREAM_VERSION_KEY, events_table, streams_table
from eventstore.operations.binary_copy import copy_events, pack_row
from eventstore.operations.commits import announce
from eventstore.operations.conflicts import SERIALIZATION_FAILURE, constraint_of
from eventstore.operations.driver_copy import use_utf8
from eventstore.operations.fence import SEQUENCE, lock_of_writer
from eventstore.operations.incoming import MAX_BATCH_BYTES
from eventstore.operations.statements import fetch, parameter, run
from eventstore.operations.subject_keys import seal_events
from eventstore.operations.tags import insert_tags, lock_tags
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.operations.transactions import atomic, connection_of, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Select, TableValuedAlias
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningInsert

    from eventstore.batches import EncodedEvent
    from eventstore.errors import SubjectErased
    from eventstore.events import AnyEnvelope
    from eventstore.registry import PayloadCodec

    #: Returns an event as it will be stored.
    _Encode: TypeAlias = Callable[["SourceEvent"], EncodedEvent]

#: What an event that is recorded already may meet, where it was taken for a new one.
_PERHAPS_RECORDED: Final = (StreamDeleted, IdempotencyMismatch, ConcurrencyConflict)


class SourceEvent(NamedTuple):
    """An event of the source, and the place that it is to be recorded at."""

    number: int  #: its place in the source, from 1
    stream_id: str
    version: int  #: the one that it must get; 0: whichever is next
    envelope: AnyEnvelope


class ImportedBatch(NamedTuple):
    """What became of a batch."""

    imported: int  #: events that were recorded
    already_imported: int  #: events that were there, or stood twice in the batch
    new_streams: int  #: streams that had no events
    position: int  #: of the last event that was recorded; 0 if none was
    keys: frozenset[tuple[str, str]]  #: stream and idempotency key of each event that has one
    size: int  #: bytes that the events, or the JSON of those that were there, have


def import_batch(
    session: Session,
    batch: Sequence[SourceEvent],
    codec: PayloadCodec,
    *,
    look_up: bool,
    open_keys: Collection[tuple[str, str]],
    schema: str | None,
) -> ImportedBatch:
    """Record those events of ``batch`` that the store doesn't have, in their order.

    ``look_up`` says whether to expect that it has some. An idempotency key that the stream has used
    is refused unless it is one of ``open_keys``, those of the batch before: a request's events may
    lie in two batches.

    Raises :class:`StreamDeleted`, :class:`DuplicateEvent` for an id that is recorded with another
    stream, type or payload, :class:`IdempotencyMismatch`, :class:`ConcurrencyConflict` for a
    version that the event doesn't get, and :class:`TransactionConflict`, also if another
    transaction was quicker to record one of the events; :class:`SubjectErased` for a new event with
    personal data of a subject that is forgotten. TypeError, ValueError and
    :class:`SerializationError` come with a note that names the event that can't be encoded.
    """
    # So an import whose first events can't be stored ends before it has a connection.
    ahead = look_up or codec.personal
    encoded = [_encode(each, codec) for each in batch] if ahead else None
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    use_utf8(connection)
    keys = _keys(batch)
    encode, refusal = _encoder(connection, batch, encoded, codec, schema=schema)
    events = _leave_out_repeats(batch, encode)
    recorded, known = None, _Known([], 0)
    if not look_up and refusal is None:
        with suppress(*_PERHAPS_RECORDED):
            recorded = _try(connection, events, encode, open_keys, schema=schema)
    if recorded is None:
        events, known = _part(connection, events, encode, schema=schema)
        if refusal is not None and not all(encode(each).event_data for each in events):
            raise refusal
        # Keys of which a part is recorded go on in the rest.
        recorded = _try(
            connection, events, encode, {*open_keys, *_keys(known.events)}, schema=schema
        )
    if recorded is None:
        # Looked up again, in a later transaction, it will be found.
        raise TransactionConflict(SERIALIZATION_FAILURE)
    announce(session, connection)
    return ImportedBatch(
        imported=len(events),
        already_imported=len(batch) - len(events),
        new_streams=recorded.new_streams,
        position=recorded.position,
        keys=keys,
        size=recorded.size + known.size,
    )


def which(number: int, envelope: object) -> str:
    """Return the note for an error that says which of so many events it is about."""
    if not isinstance(envelope, EventEnvelope):
        return f"event {number} of the import"
    return f"event {number} of the import: {envelope.event_id} for stream {envelope.stream_id!r}"


class _Recorded(NamedTuple):
    new_streams: int
    position: int
    size: int


class _Known(NamedTuple):
    events: list[SourceEvent]
    size: int


def _encoder(
    connection: Connection,
    batch: Sequence[SourceEvent],
    encoded: Sequence[EncodedEvent] | None,
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> tuple[_Encode, SubjectErased | None]:
    """Return what encodes the batch's events, and what forbids to store some of them.

    What is personal is sealed now: its keys can't be asked for while COPY has the connection.
    """
    if encoded is None:
        return partial(_encode, codec=codec), None
    sealed, refusal = seal_events(connection, encoded, codec, schema=schema)
    by_number = {each.number: event for each, event in zip(batch, sealed, strict=True)}
    return (lambda each: by_number[each.number]), refusal


def _encode(each: SourceEvent, codec: PayloadCodec) -> EncodedEvent:
    """Return the event as it will be stored: the importer's context is not that of history."""
    try:
        event = encode_checked(each.stream_id, each.envelope, codec, in_context=False)
        _refuse_too_large(event)
    except (EventStoreError, TypeError, ValueError) as error:
        error.add_note(which(each.number, each.envelope))
        raise
    return event


def _refuse_too_large(event: EncodedEvent) -> None:
    size = len(event.event_data or event.unsealed or b"") + len(event.metadata)
    if size > MAX_BATCH_BYTES:
        raise ValueError(f"the event has {size} bytes as JSON, at most {MAX_BATCH_BYTES} are taken")


def _keys(events: Iterable[SourceEvent]) -> frozenset[tuple[str, str]]:
    return frozenset(
        (stream_id, envelope.metadata.idempotency_key)
        for _, stream_id, _, envelope in events
        if envelope.metadata.idempotency_key is not None
    )


def _leave_out_repeats(batch: Sequence[SourceEvent], encode: _Encode) -> list[SourceEvent]:
    """Return the events, each id once; raise if one stands for two things."""
    first: dict[int, SourceEvent] = {}  # a UUID's own hash is made by Python, at each look
    for each in batch:
        before = first.setdefault(each.envelope.event_id.int, each)
        if before is not each and not (
            before.stream_id == each.stream_id and encode(before).says_the_same_as(encode(each))
        ):
            raise DuplicateEvent(each.envelope.event_id)
    return list(first.values())


def _part(
    connection: Connection,
    events: Sequence[SourceEvent],
    encode: _Encode,
    *,
    schema: str | None,
) -> tuple[list[SourceEvent], _Known]:
    """Return the new events and those that are recorded; raise if an id is, as something else."""
    ids = _rows_of({"event_id": each.envelope.event_id} for each in events)
    known = {event_id for (event_id,) in fetch(connection, _known_ids(), ids, schema=schema)}
    recorded = [each for each in events if each.envelope.event_id in known]
    rows = ""
    if recorded:
        rows = _contents_of(recorded, encode)
        different = run(connection, _different(), {"rows": rows}, schema=schema).scalar()
        if different is not None:
            raise DuplicateEvent(different)
    new = [each for each in events if each.envelope.event_id not in known]
    return new, _Known(recorded, len(rows))


def _try(
    connection: Connection,
    events: Sequence[SourceEvent],
    encode: _Encode,
    open_keys: Collection[tuple[str, str]],
    *,
    schema: str | None,
) -> _Recorded | None:
    """Record all events; None, and nothing of it is left, if the id of one is known."""
    if not events:
        return _Recorded(new_streams=0, position=0, size=0)
    try:
        with atomic(connection):
            return _record(connection, events, encode, open_keys, schema=schema)
    except IntegrityError as error:
        constraint = constraint_of(error)
        if constraint == EVENT_ID_KEY:
            return None
        if constraint == STREAM_VERSION_KEY:
            raise _overtaken(connection, events, schema=schema) from error
        raise


def _record(
    connection: Connection,
    events: Sequence[SourceEvent],
    encode: _Encode,
    open_keys: Collection[tuple[str, str]],
    *,
    schema: str | None,
) -> _Recorded:
    tags = {tag for each in events for tag in each.envelope.tags}
    if tags:
        lock_tags(connection, tags, schema=schema)
    versions = _advance(connection, events, schema=schema)
    new_streams = sum(version == 0 for version in versions.values())
    _refuse_used_keys(connection, _keys(events).difference(open_keys), schema=schema)
    size = copy_events(connection, _rows(events, versions, encode), schema=schema)
    if tags:
        ids = ({"event_id": each.envelope.event_id} for each in events if each.envelope.tags)
        run(connection, _insert_tags(), _rows_of(ids), schema=schema)
    last = {"event_id": events[-1].envelope.event_id}
    position = run(connection, _position(), last, schema=schema).scalar_one()
    return _Recorded(new_streams, position, size)


def _advance(
    connection: Connection, events: Sequence[SourceEvent], *, schema: str | None
) -> dict[str, int]:
    """Lock the streams' rows, move them on, and return the versions at which they were."""
    counts = Counter(each.stream_id for each in events)
    values = _rows_of({"stream_id": each, "event_count": counts[each]} for each in counts)
    versions = {}
    rows = fetch(connection, _advance_streams(), values, schema=schema)
    for stream_id, version, deleted_at in rows:
        if deleted_at is not None:
            raise StreamDeleted(stream_id, zoned(deleted_at))
        versions[stream_id] = version - counts[stream_id]
    return versions


def _rows(
    events: Iterable[SourceEvent], versions: dict[str, int], encode: _Encode
) -> Iterator[bytes]:
    """Yield the events' rows for COPY; counts ``versions`` on."""
    for each in events:
        _, stream_id, wanted, _ = each
        before = versions[stream_id]
        versions[stream_id] = version = before + 1
        if wanted not in (0, version):
            raise ConcurrencyConflict(wanted - 1, before, stream_id)
        yield pack_row(stream_id, version, encode(each))


def _refuse_used_keys(
    connection: Connection, keys: Collection[tuple[str, str]], *, schema: str | None
) -> None:
    if not keys:
        return
    values = _rows_of({"stream_id": each, "idempotency_key": key} for each, key in keys)
    used = run(connection, _used_key(), values, schema=schema).one_or_none()
    if used is not None:
        raise IdempotencyMismatch(used.idempotency_key, used.stream_id)


def _overtaken(
    connection: Connection, events: Sequence[SourceEvent], *, schema: str | None
) -> ConcurrencyConflict | TransactionConflict:
    """Return the error for a stream whose events are past the version in its row."""
    streams = _rows_of({"stream_id": each} for each in {each.stream_id for each in events})
    row = run(connection, _ahead(), streams, schema=schema).one_or_none()
    if row is None:
        return TransactionConflict(SERIALIZATION_FAILURE)
    return ConcurrencyConflict(row.version, row.newest, row.stream_id)


def _rows_of(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return the parameter that :func:`_given` opens on the server."""
    return {"rows": to_json(list(rows)).decode()}


def _contents_of(events: Iterable[SourceEvent], encode: _Encode) -> str:
    """Return the same parameter with payloads, which are JSON already."""
    rows = []
    for each in events:
        event = encode(each)
        # One that can't be sealed any more is NULL, and not compared.
        data = event.event_data or b"null"
        values = {
            "event_id": event.event_id,
            "stream_id": each.stream_id,
            "event_type": event.event_type,
        }
        rows.append(b'%b,"event_data":%b}' % (to_json(values)[:-1], data))
    return (b"[%b]" % b",".join(rows)).decode()


def _given(**columns: Any) -> TableValuedAlias:
    """Open the parameter ``rows``: a JSON array of objects, as rows with these columns.

    One JSON text is made and read in a fraction of the time that psycopg's arrays take.
    """
    return (
        func.jsonb_to_recordset(cast(parameter("rows", Text), JSONB))
        .table_valued(*(column(name, type_) for name, type_ in columns.items()))
        .render_derived(name="given", with_types=True)
    )


@cache
def _advance_streams() -> ReturningInsert[Any]:
    """The fence, then the streams' rows in the order of their ids, as all who lock several do.

    Positions are drawn by the COPY that follows in the same transaction: after the fence.
    """
    given = _given(stream_id=String, event_count=BigInteger)
    # Once, not for each row.
    fence = (
        select(lock_of_writer(for_statement=False).label("held"))
        .select_from(SEQUENCE)
        .cte("fence")
        .prefix_with("MATERIALIZED")
    )
    advancing = postgresql.insert(streams_table).from_select(
        ["stream_id", "version"],
        select(given.c.stream_id, given.c.event_count)
        .where(fence.c.held)
        .order_by(given.c.stream_id),
    )
    return advancing.on_conflict_do_update(
        index_elements=[streams_table.c.stream_id],
        set_={
            "version": streams_table.c.version + advancing.excluded.version,
            "updated_at": advancing.excluded.updated_at,
        },
    ).returning(
        streams_table.c.stream_id, streams_table.c.version, in_utc(streams_table.c.deleted_at)
    )


@cache
def _insert_tags() -> postgresql.Insert:
    """The tags of events that were copied."""
    given = _given(event_id=Uuid)
    event = (
        select(events_table.c.sequence_number, events_table.c.metadata)
        .where(events_table.c.event_id == given.c.event_id)
        .limit(literal_column("1"))  # keeps it a look-up by the index
        .correlate(given)
        .lateral("event")
    )
    return insert_tags(select(*event.c).select_from(given.join(event, true())).cte("recorded"))


@cache
def _known_ids() -> Select[Any]:
    """The ids that are recorded."""
    given = _given(event_id=Uuid)
    known = select(events_table.c.event_id).where(events_table.c.event_id == given.c.event_id)
    # A subquery for each is a look-up by the index, whatever the planner thinks of the table.
    return select(given.c.event_id).where(known.scalar_subquery().is_not(None))


@cache
def _different() -> Select[Any]:
    """The id of one of the recorded events that doesn't say the same, if there is any."""
    given = _given(event_id=Uuid, stream_id=String, event_type=String, event_data=JSONB)
    same = select(
        (events_table.c.stream_id == given.c.stream_id)
        & (events_table.c.event_type == given.c.event_type)
        & (events_table.c.event_data == given.c.event_data)
    ).where(events_table.c.event_id == given.c.event_id)
    return select(given.c.event_id).where(~same.scalar_subquery()).limit(literal_column("1"))


@cache
def _used_key() -> Select[Any]:
    """One of the keys that their streams have used, if there is any."""
    given = _given(stream_id=String, idempotency_key=Text)
    used = (
        select(events_table.c.event_version)
        .where(
            events_table.c.stream_id == given.c.stream_id,
            events_table.c.metadata.op("->>")("idempotency_key") == given.c.idempotency_key,
        )
        .limit(literal_column("1"))
    )
    return (
        select(given.c.stream_id, given.c.idempotency_key)
        .where(used.scalar_subquery().is_not(None))
        .limit(literal_column("1"))
    )


@cache
def _position() -> Select[Any]:
    return select(events_table.c.sequence_number).where(
        events_table.c.event_id == parameter("event_id", Uuid)
    )


@cache
def _ahead() -> Select[Any]:
    """A stream that has a newer event than its row says."""
    given = _given(stream_id=String)
    newest = (
        select(func.max(events_table.c.event_version))
        .where(events_table.c.stream_id == given.c.stream_id)
        .scalar_subquery()
    )
    version = func.coalesce(streams_table.c.version, literal_column("0"))
    return (
        select(given.c.stream_id, version.label("version"), newest.label("newest"))
        .select_from(given.outerjoin(streams_table, streams_table.c.stream_id == given.c.stream_id))
        .where(newest > version)
        .limit(literal_column("1"))
    )
