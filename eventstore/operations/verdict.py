"""Why an append was not written: what its streams are like, and what they hold of it already.

The questions are asked in this order, and the first that is answered decides:

1. Is a stream deleted? (:class:`StreamDeleted`, also for a batch that was appended before.)
2. Are the batch's event ids, or its idempotency keys, known? All of it: it was appended before.
   Something else, or a part: :class:`DuplicateEvent`, :class:`IdempotencyMismatch`.
3. Is a stream at another version than expected? (:class:`ConcurrencyConflict`,
   :class:`StreamNotFound`)
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BigInteger, String, and_, cast, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from eventstore.appending import AppendedStream, AppendResult
from eventstore.errors import (
    ConcurrencyConflict,
    DuplicateEvent,
    IdempotencyMismatch,
    StreamDeleted,
    TransactionConflict,
)
from eventstore.models import events_table, streams_table
from eventstore.operations.conflicts import UNIQUE_VIOLATION
from eventstore.operations.incoming import incoming, rows_of
from eventstore.operations.statements import parameter, run
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.streams import require_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import CTE, ColumnElement, Connection, Select

    from eventstore.batches import EncodedBatch
    from eventstore.streams import StreamState


class _State(NamedTuple):
    version: int
    deleted_at: datetime | None


class _Known(NamedTuple):
    """A batch that was recorded before."""

    place: AppendedStream
    first_id: UUID
    key: str | None  #: the key by which it was recognised, None if by its ids

    def as_error(self) -> DuplicateEvent | IdempotencyMismatch:
        """Return the error of a call of which this is only a part."""
        if self.key is None:
            return DuplicateEvent(self.first_id)
        return IdempotencyMismatch(self.key, self.place.stream_id)


_MISSING = _State(0, None)


def judge(
    connection: Connection, batches: Sequence[EncodedBatch], *, schema: str | None
) -> AppendResult | None:
    """Raise the reason why the batches can't be written; None if there is none.

    A result is returned if they were written before. A batch without events is only a check of
    its stream, and is not asked about then.
    """
    states = _states(connection, [batch.stream_id for batch in batches], schema=schema)
    known: dict[str, _Known] = {}
    for batch in batches:
        state = states[batch.stream_id]
        if batch.events and state.deleted_at is not None:
            raise StreamDeleted(batch.stream_id, state.deleted_at)
        recorded = _find(connection, batch, schema=schema)
        if recorded is not None:
            known[batch.stream_id] = recorded
    if known:
        return _appended_before(batches, known, states)
    for batch in batches:
        require_version(batch.stream_id, batch.expected_version, *states[batch.stream_id])
    return None


def check_stream(
    connection: Connection, stream_id: str, expected: int | StreamState, *, schema: str | None
) -> int:
    """Raise what an append would meet on the stream, else return the stream's version."""
    state = _states(connection, [stream_id], schema=schema)[stream_id]
    require_version(stream_id, expected, *state)
    return state.version


def check_streams(
    connection: Connection, batches: Sequence[EncodedBatch], *, schema: str | None
) -> tuple[AppendedStream, ...]:
    """Raise what appends would meet on the batches' streams, else return their versions."""
    states = _states(connection, [batch.stream_id for batch in batches], schema=schema)
    for batch in batches:
        require_version(batch.stream_id, batch.expected_version, *states[batch.stream_id])
    return tuple(
        AppendedStream(batch.stream_id, states[batch.stream_id].version, ()) for batch in batches
    )


def newest_version(connection: Connection, stream_id: str, *, schema: str | None) -> int:
    """Return the version of the stream's newest event, whatever the stream's row says."""
    values = {"stream_id": stream_id}
    return int(run(connection, _newest_version(), values, schema=schema).scalar_one())


def explain_clash(
    connection: Connection, batch: EncodedBatch, base: int, *, schema: str | None
) -> DuplicateEvent | ConcurrencyConflict | TransactionConflict:
    """Return why only a part of the batch could be inserted behind version ``base``."""
    values: dict[str, Any] = {"stream_id": batch.stream_id, "events": rows_of(batch)}
    row: Any
    for row in run(connection, _by_id(), values, schema=schema):
        if (row.stream_id, row.event_version) != (batch.stream_id, base + row.ordinal):
            return DuplicateEvent(batch.events[int(row.ordinal) - 1].event_id)
    values = {
        "stream_id": batch.stream_id,
        "not_these": [str(event.event_id) for event in batch.events],
    }
    actual = int(run(connection, _newest_version_of_others(), values, schema=schema).scalar_one())
    if actual > base:
        return ConcurrencyConflict(batch.expected_version, actual, batch.stream_id)
    # Neither id nor version: the sequence was set back, or a constraint is not ours.
    return TransactionConflict(UNIQUE_VIOLATION)


def knows_an_id(rows: CTE) -> ColumnElement[bool]:
    """Return the condition that some event has the id of one of ``rows``."""
    return select(rows.c.ordinal).where(has_known_id(rows)).exists()


def knows_a_key(rows: CTE) -> ColumnElement[bool]:
    """Return the condition that the stream has an event with the key of one of ``rows``."""
    stream_id = parameter("stream_id", String)
    return select(rows.c.ordinal).where(has_known_key(rows, stream_id)).exists()


def has_known_id(rows: CTE) -> ColumnElement[bool]:
    """Return the condition that some event has the id of this one of ``rows``.

    Each id is looked up by a subquery of its own, which the planner can only do by the index. A
    join, or an array, is planned by guesses, and a plan that was made and kept while the table
    was empty would go on scanning it when it is large.
    """
    known = select(events_table.c.event_id).where(events_table.c.event_id == rows.c.event_id)
    return known.scalar_subquery().is_not(None)


def has_known_key(rows: CTE, stream_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that the stream has an event with the key of this one of ``rows``."""
    known = (
        select(events_table.c.event_version)
        .where(
            events_table.c.stream_id == stream_id,
            _idempotency_key() == rows.c.idempotency_key,
        )
        .limit(literal_column("1"))
    )
    return known.scalar_subquery().is_not(None)


def _idempotency_key() -> ColumnElement[str]:
    """Return the expression that the index of idempotency keys is on."""
    return events_table.c.metadata.op("->>")("idempotency_key")


def _appended_before(
    batches: Sequence[EncodedBatch], known: Mapping[str, _Known], states: Mapping[str, _State]
) -> AppendResult:
    """Return the first places of a call that was written before as a whole, else raise."""
    if any(batch.events and batch.stream_id not in known for batch in batches):
        raise next(iter(known.values())).as_error()
    return AppendResult(
        tuple(
            known[batch.stream_id].place
            if batch.events
            else AppendedStream(batch.stream_id, states[batch.stream_id].version, ())
            for batch in batches
        ),
        already_appended=True,
    )


def _states(
    connection: Connection, stream_ids: list[str], *, schema: str | None
) -> dict[str, _State]:
    rows = run(connection, _stream_states(), {"stream_ids": stream_ids}, schema=schema)
    found = {row.stream_id: _State(row.version, zoned(row.deleted_at)) for row in rows}
    return {stream_id: found.get(stream_id, _MISSING) for stream_id in stream_ids}


def _find(connection: Connection, batch: EncodedBatch, *, schema: str | None) -> _Known | None:
    """Return where the batch was recorded before, None if it is new."""
    if not batch.events:
        return None
    values: dict[str, Any] = {"stream_id": batch.stream_id, "events": rows_of(batch)}
    place = _find_by_id(connection, batch, values, schema=schema)
    if place is not None:
        return _Known(place, batch.events[0].event_id, None)
    return _find_by_key(connection, batch, values, schema=schema) if batch.keyed else None


def _find_by_id(
    connection: Connection, batch: EncodedBatch, values: dict[str, Any], *, schema: str | None
) -> AppendedStream | None:
    rows = run(connection, _by_id(), values, schema=schema).all()
    if not rows:
        return None
    for row in rows:
        if row.stream_id != batch.stream_id or not row.same:
            raise DuplicateEvent(batch.events[row.ordinal - 1].event_id)
    first = rows[0].event_version
    versions = [row.event_version for row in rows]
    if versions != list(range(first, first + len(batch.events))):
        raise DuplicateEvent(batch.events[rows[0].ordinal - 1].event_id)
    positions = tuple(row.sequence_number for row in rows)
    return AppendedStream(batch.stream_id, rows[-1].event_version, positions)


def _find_by_key(
    connection: Connection, batch: EncodedBatch, values: dict[str, Any], *, schema: str | None
) -> _Known | None:
    anchor = run(connection, _first_use_of_key(), values, schema=schema).one_or_none()
    if anchor is None:
        return None
    key = batch.events[anchor.ordinal - 1].idempotency_key
    first = {"first_version": anchor.event_version - anchor.ordinal + 1}
    rows = run(connection, _at_versions(), values | first, schema=schema).all()
    count = len(batch.events)
    last_key = batch.events[-1].idempotency_key
    is_longer = last_key is not None and len(rows) > count and rows[count].key == last_key
    if len(rows) < count or not all(row.same for row in rows[:count]) or is_longer:
        raise IdempotencyMismatch(str(key), batch.stream_id)
    positions = tuple(row.sequence_number for row in rows[:count])
    place = AppendedStream(batch.stream_id, rows[count - 1].event_version, positions)
    return _Known(place, batch.events[0].event_id, key)


@cache
def _stream_states() -> Select[Any]:
    return select(
        streams_table.c.stream_id,
        streams_table.c.version,
        in_utc(streams_table.c.deleted_at),
    ).where(streams_table.c.stream_id == func.any(parameter("stream_ids", ARRAY(String))))


@cache
def _newest_version() -> Select[Any]:
    return select(func.coalesce(func.max(events_table.c.event_version), 0)).where(
        events_table.c.stream_id == parameter("stream_id", String)
    )


@cache
def _newest_version_of_others() -> Select[Any]:
    """The same without the events of a batch: PostgreSQL has to read the stream for that."""
    not_these = func.all(parameter("not_these", ARRAY(String)))
    return _newest_version().where(cast(events_table.c.event_id, String) != not_these)


@cache
def _by_id() -> Select[Any]:
    """The incoming events whose id is recorded, and whether what is recorded says the same."""
    rows = incoming()
    known = (
        select(
            events_table.c.stream_id,
            events_table.c.event_version,
            events_table.c.sequence_number,
            _says_the_same(rows).label("same"),
        )
        .where(events_table.c.event_id == rows.c.event_id)
        .limit(literal_column("1"))  # keeps it a look-up: see knows_an_id
        .correlate(rows)
        .lateral("known")
    )
    return (
        select(rows.c.ordinal, *known.c)
        .select_from(rows.join(known, true()))
        .order_by(rows.c.ordinal)
    )


@cache
def _first_use_of_key() -> Select[Any]:
    """The first incoming event whose key the stream knows, and the oldest version that has it."""
    rows = incoming()
    known = (
        select(func.min(events_table.c.event_version).label("event_version"))
        .where(
            events_table.c.stream_id == parameter("stream_id", String),
            _idempotency_key() == rows.c.idempotency_key,
        )
        .correlate(rows)
        .lateral("known")
    )
    return (
        select(rows.c.ordinal, known.c.event_version)
        .select_from(rows.join(known, true()))
        .where(known.c.event_version.is_not(None))
        .order_by(rows.c.ordinal)
        .limit(literal_column("1"))
    )


@cache
def _at_versions() -> Select[Any]:
    """The recorded events beside which the incoming ones lie, and the one that follows them."""
    rows = incoming()
    first = parameter("first_version", BigInteger)
    last = select(func.max(rows.c.ordinal)).scalar_subquery()
    return (
        select(
            events_table.c.event_version,
            events_table.c.sequence_number,
            _idempotency_key().label("key"),
            (
                _says_the_same(rows)
                & _idempotency_key().is_not_distinct_from(rows.c.idempotency_key)
            ).label("same"),
        )
        .join_from(
            events_table,
            rows,
            events_table.c.event_version == first + rows.c.ordinal - 1,
            isouter=True,
        )
        .where(
            events_table.c.stream_id == parameter("stream_id", String),
            events_table.c.event_version.between(first, first + last),
        )
        .order_by(events_table.c.event_version)
    )


def _says_the_same(rows: Any) -> ColumnElement[bool]:
    """A payload that can't be sealed any more is NULL, and is not compared."""
    return and_(
        events_table.c.event_type == rows.c.event_type,
        func.coalesce(events_table.c.event_data == rows.c.event_data, true()),
    )
