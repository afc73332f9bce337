"""Append events: one statement in the normal case, and an exact answer in every other.

The statement takes the fence, moves the stream's row from the expected version to the new one, and
inserts the events, each step fed by the one before. It writes all or nothing:

- What it sees to be wrong (keys that are known, another version, and, of several events, known ids)
  stops it before the first write, without an error that would abort the caller's transaction. The
  known id of a single event costs no look-up: its constraint finds it.
- ``ANY`` is held to the version that the statement's snapshot shows. Two retries of one batch that
  race meet at the stream's row, and the second finds another version there, so that it never
  writes by the looks of a snapshot in which the first was not committed yet.

When nothing was written, :mod:`~eventstore.operations.verdict` says why. If it finds no reason
(another writer was quicker), the append runs again behind the stream's row lock, where nothing
can change any more: the second try is the last.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Never, TypeVar

from sqlalchemy import (
    BigInteger,
    Select,
    String,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError

from eventstore.appending import AppendedStream, AppendResult
from eventstore.batches import encode_batch, encode_batches, refuse_id_twice
from eventstore.errors import ConcurrencyConflict, TransactionConflict
from eventstore.models import EVENT_ID_KEY, STREAM_VERSION_KEY, events_table, streams_table
from eventstore.operations import verdict
from eventstore.operations.commits import announce
from eventstore.operations.conflicts import SERIALIZATION_FAILURE, constraint_of
from eventstore.operations.fence import SEQUENCE, lock_of_writer
from eventstore.operations.incoming import (
    STORED,
    incoming,
    incoming_one,
    rows_of,
    values_of_one,
)
from eventstore.operations.missed import MissedEvents
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import atomic, connection_of, is_autocommit, schema_of
from eventstore.streams import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import CTE, ColumnElement, Connection, SelectBase, Update
    from sqlalchemy.orm import Session

    from eventstore.appending import StreamAppend, StreamAt
    from eventstore.batches import EncodedBatch
    from eventstore.events import AnyEnvelope
    from eventstore.registry import PayloadCodec
    from eventstore.streams import ExpectedVersion

_S = TypeVar("_S", Select[Any], postgresql.Insert)


def append_to_stream(
    session: Session,
    stream_id: str,
    expected_version: ExpectedVersion,
    events: Sequence[AnyEnvelope],
    *,
    codec: PayloadCodec,
    schema: str | None,
    fetch_missed: bool,
) -> int:
    """Append ``events`` to one stream and return its new version."""
    batch = encode_batch(stream_id, expected_version, events, codec)
    refuse_id_twice([batch])
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    if not batch.events:
        return verdict.check_stream(connection, stream_id, batch.expected_version, schema=schema)
    missed = MissedEvents(codec) if fetch_missed else None
    appended = append_batch(connection, batch, missed, schema=schema, positions=False)
    announce(session, connection)
    return appended.streams[0].version


def append(
    session: Session,
    appends: Sequence[StreamAppend],
    require: Sequence[StreamAt],
    *,
    codec: PayloadCodec,
    schema: str | None,
    fetch_missed: bool,
) -> AppendResult:
    """Append to several streams, all or nothing, if those of ``require`` are as they should be."""
    batches = encode_batches(appends, require, codec)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    if len(batches) == 1 and batches[0].events:
        missed = MissedEvents(codec) if fetch_missed else None
        appended = append_batch(connection, batches[0], missed, schema=schema)
        announce(session, connection)
        return appended
    if not any(batch.events for batch in batches):
        checked = verdict.check_streams(connection, batches, schema=schema)
        return AppendResult(checked[: len(appends)])
    result = _append_under_lock(connection, batches, schema=schema)
    announce(session, connection)
    return AppendResult(result.streams[: len(appends)], result.already_appended)


def append_batch(
    connection: Connection,
    batch: EncodedBatch,
    missed: MissedEvents | None = None,
    *,
    schema: str | None,
    positions: bool = True,
) -> AppendResult:
    """Write one batch by one statement; if it can't, find out why, or do it behind a lock.

    ``missed``: someone wants them with a conflict; ``positions``: someone wants to know them.
    """
    appended = _try(connection, batch, schema=schema, positions=positions)
    if appended is not None:
        return AppendResult((appended,))
    if missed is not None:
        missed.refuse_late(connection, batch, schema=schema)
    known = verdict.judge(connection, [batch], schema=schema)
    return known or _append_under_lock(connection, [batch], schema=schema)


def _try(
    connection: Connection, batch: EncodedBatch, *, schema: str | None, positions: bool
) -> AppendedStream | None:
    """Write the batch if nothing speaks against it; None if nothing was written."""
    if not is_autocommit(connection):
        return _write(connection, batch, schema=schema, clash=_Clash.PASSED_OVER)
    try:
        if isinstance(batch.expected_version, int) and not positions:
            return _write_at(connection, batch, batch.expected_version, schema=schema)
        return _write(connection, batch, schema=schema, clash=_Clash.ENDS_STATEMENT)
    except IntegrityError:
        return None  # the statement was a transaction of its own


def _append_under_lock(
    connection: Connection, batches: Sequence[EncodedBatch], *, schema: str | None
) -> AppendResult:
    """Lock the rows of all streams, judge, and write: nobody else can change the outcome."""
    batch = batches[0]
    try:
        with atomic(connection):
            stream_ids = [batch.stream_id for batch in batches]
            run(connection, _lock_streams(), {"stream_ids": stream_ids}, schema=schema)
            known = verdict.judge(connection, batches, schema=schema)
            if known is not None:
                return known
            written = []
            for batch in batches:
                appended = _write(connection, batch, schema=schema, clash=_Clash.RAISED)
                if appended is None:
                    # Only an id that was committed to another stream meanwhile stops it here.
                    verdict.judge(connection, batches, schema=schema)
                    raise AssertionError(f"append to the locked stream {batch.stream_id!r} failed")
                written.append(appended)
            return AppendResult(tuple(written))
    except IntegrityError as error:
        constraint = constraint_of(error)
        if constraint == EVENT_ID_KEY:
            verdict.judge(connection, batches, schema=schema)
            # The other event lies behind this transaction's snapshot.
            raise TransactionConflict(SERIALIZATION_FAILURE) from error
        if constraint == STREAM_VERSION_KEY:
            actual = verdict.newest_version(connection, batch.stream_id, schema=schema)
            raise ConcurrencyConflict(batch.expected_version, actual, batch.stream_id) from error
        raise


def _write(
    connection: Connection, batch: EncodedBatch, *, schema: str | None, clash: _Clash
) -> AppendedStream | None:
    """Run the append statement; None if nothing was written."""
    if not batch.events:
        version = verdict.check_stream(
            connection, batch.stream_id, batch.expected_version, schema=schema
        )
        return AppendedStream(batch.stream_id, version, ())
    shape, values = _shape_and_values(batch, clash)
    rows = run(connection, _append_statement(shape), values, schema=schema).all()
    if not rows:
        return None
    version = rows[0].version
    # Within a stream, positions rise with versions.
    positions = sorted(row.position for row in rows if row.position is not None)
    count = len(batch.events)
    if len(positions) == count:
        return AppendedStream(batch.stream_id, version, tuple(positions))
    if positions:
        _refuse_half_written(connection, batch, version - count, schema=schema)
    values = {"stream_id": batch.stream_id, "event_count": count}
    run(connection, _take_back(), values, schema=schema)
    return None


def _write_at(
    connection: Connection, batch: EncodedBatch, expected: int, *, schema: str | None
) -> AppendedStream | None:
    """Do the same in AUTOCOMMIT without asking back: how many rows there are says it all."""
    shape, values = _shape_and_values(batch, _Clash.ENDS_STATEMENT)
    written = run(connection, _recording_statement(shape), values, schema=schema).rowcount
    return AppendedStream(batch.stream_id, expected + written, ()) if written else None


def _shape_and_values(batch: EncodedBatch, clash: _Clash) -> tuple[_Shape, dict[str, Any]]:
    count = len(batch.events)
    exact = isinstance(batch.expected_version, int)
    keyed = batch.keyed
    single = count == 1 and not keyed
    shape = _Shape(
        exact=exact,
        creates=batch.expected_version in (0, ANY),
        keyed=keyed,
        single=single,
        clash=clash,
    )
    values: dict[str, Any] = {"stream_id": batch.stream_id, "event_count": count}
    if exact:
        values["expected"] = batch.expected_version
    return shape, values | (values_of_one(batch) if single else {"events": rows_of(batch)})


def _refuse_half_written(
    connection: Connection, batch: EncodedBatch, base: int, *, schema: str | None
) -> Never:
    """Raise the typed error, and leave the transaction so that it can only be rolled back.

    Another transaction was writing some of the batch's events to another stream, or its versions
    past the stream's row. The others are inserted and can't be taken back, so that the session
    must not be able to commit: its connection is discarded, with all that it did.
    """
    error = verdict.explain_clash(connection, batch, base, schema=schema)
    connection.invalidate()
    raise error


class _Clash(Enum):
    """What happens to an event whose id or version another transaction has committed meanwhile."""

    #: It is passed over and taken back, since an error would abort the caller's transaction.
    PASSED_OVER = auto()
    #: The constraint's error is raised inside a transaction.
    RAISED = auto()
    #: The constraint's error ends the statement, which is a transaction of its own.
    ENDS_STATEMENT = auto()


class _Shape(NamedTuple):
    """What an append needs: a statement without a part that it doesn't need is quicker."""

    exact: bool  #: a version is expected
    creates: bool  #: the stream may be new
    keyed: bool  #: some event has an idempotency key
    single: bool  #: one event, without a key
    clash: _Clash


@cache
def _append_statement(shape: _Shape) -> Select[Any]:
    """Select the new version, beside each position; no row if the stream didn't move."""
    opened, recording = _opened_and_recording(shape)
    if shape.clash is _Clash.PASSED_OVER:
        recording = recording.on_conflict_do_nothing()
    recorded = recording.returning(events_table.c.sequence_number).cte("recorded")
    return _named_first(
        shape,
        select(opened.c.version, recorded.c.sequence_number.label("position")).select_from(
            opened.outerjoin(recorded, true())
        ),
    )


@cache
def _recording_statement(shape: _Shape) -> postgresql.Insert:
    """Insert the events; none if the stream didn't move."""
    return _named_first(shape, _opened_and_recording(shape)[1])


def _opened_and_recording(shape: _Shape) -> tuple[CTE, postgresql.Insert]:
    """Fence, then the stream's row, then the events: each fed by the one before."""
    stream_id = parameter("stream_id", String)
    event_count = parameter("event_count", BigInteger)
    rows = None if shape.single else incoming()
    may_write = [lock_of_writer(for_statement=shape.clash is _Clash.ENDS_STATEMENT)]
    # A single one can be taken back as a whole; of several, a part could go in.
    if rows is not None and shape.clash is not _Clash.ENDS_STATEMENT:
        may_write.append(~verdict.knows_an_id(rows))
    if rows is not None and shape.keyed:
        may_write.append(~verdict.knows_a_key(rows))
    if not shape.creates:
        may_write.append(select(_seen().c.version).exists())
    opened = move_streams(
        select(stream_id, event_count).select_from(SEQUENCE).where(*may_write),
        is_expected=streams_table.c.version == _expected(exact=shape.exact),
    )
    first = opened.c.version - event_count
    if rows is None:
        events = select(*incoming_one(), stream_id, opened.c.version).select_from(opened)
    else:
        events = (
            select(*(rows.c[name] for name in STORED), stream_id, first + rows.c.ordinal)
            .select_from(opened.join(rows, true()))
            # Numbers are drawn in this order.
            .order_by(rows.c.ordinal)
        )
    recording = postgresql.insert(events_table).from_select(
        [*STORED, "stream_id", "event_version"], events
    )
    return opened, recording


def _expected(*, exact: bool) -> ColumnElement[int]:
    """Return the version to which the stream is held."""
    if exact:
        return parameter("expected", BigInteger)
    # A literal column: SQLAlchemy 2.0 doesn't look for constants inside ON CONFLICT.
    return func.coalesce(select(_seen().c.version).scalar_subquery(), literal_column("0"))


def move_streams(proposed: SelectBase, *, is_expected: ColumnElement[bool]) -> CTE:
    """Return the CTE ``opened``: the streams that were as expected, at their new versions.

    ``proposed`` gives each stream's id and how many events it gets.
    """
    opening = postgresql.insert(streams_table).from_select(["stream_id", "version"], proposed)
    is_placeholder = streams_table.c.version == literal_column("0")
    return (
        opening.on_conflict_do_update(
            index_elements=[streams_table.c.stream_id],
            # Citus refuses volatile functions here; the row that was proposed has the time.
            set_={
                "version": streams_table.c.version + opening.excluded.version,
                "updated_at": opening.excluded.updated_at,
                # A row at version 0 only served as a lock; the stream begins now.
                "created_at": case(
                    (is_placeholder, opening.excluded.created_at),
                    else_=streams_table.c.created_at,
                ),
            },
            where=streams_table.c.deleted_at.is_(None) & is_expected,
        )
        .returning(streams_table.c.stream_id, streams_table.c.version)
        .cte("opened")
    )


@cache
def _seen() -> CTE:
    """Return the CTE ``seen``: the stream's version in the statement's snapshot."""
    return (
        select(streams_table.c.version)
        .where(
            streams_table.c.stream_id == parameter("stream_id", String),
            streams_table.c.version > 0,
        )
        .cte("seen")
    )


def _named_first(shape: _Shape, statement: _S) -> _S:
    """Name ``seen`` before it is used inside ON CONFLICT.

    There, SQLAlchemy renders tables without their schema.
    """
    return statement if shape.exact and shape.creates else statement.add_cte(_seen())


@cache
def _take_back() -> Update:
    """Undo the stream's step by an append whose events were all passed over."""
    return (
        update(streams_table)
        .where(streams_table.c.stream_id == parameter("stream_id", String))
        .values(version=streams_table.c.version - parameter("event_count", BigInteger))
    )


@cache
def _lock_streams() -> postgresql.Insert:
    """Lock the streams' rows, in the order of their ids; a stream without one gets version 0.

    A row is there to be locked even for a stream that must not exist, so that two decisions which
    rely on one another's absence can't both pass.
    """
    stream_id = func.unnest(parameter("stream_ids", ARRAY(String))).column_valued("stream_id")
    locking = postgresql.insert(streams_table).from_select(
        ["stream_id", "version"], select(stream_id, literal(0)).order_by(stream_id)
    )
    return locking.on_conflict_do_update(
        index_elements=[streams_table.c.stream_id], set_={"version": streams_table.c.version}
    )
