"""Append events: one statement in the normal case, and an exact answer in every other.

The statement takes the fence, moves the stream's row from the expected version to the new one, and
inserts the events, each step fed by the one before. It writes all or nothing:

- What it sees to be wrong (ids or keys that are known, another version) stops it before the first
  write, without an error that would abort the caller's transaction.
- ``ANY`` is held to the version that the statement's snapshot shows. Two retries of one batch that
  race meet at the stream's row, and the second finds another version there, so that it never
  writes by the looks of a snapshot in which the first was not committed yet.

When nothing was written, :mod:`~eventstore.operations.verdict` says why. If it finds no reason
(another writer was quicker), the append runs again behind the stream's row lock, where nothing
can change any more: the second try is the last.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Never

from sqlalchemy import (
    BigInteger,
    Select,
    String,
    func,
    literal,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.exc import IntegrityError

from eventstore.appending import AppendedStream, AppendResult
from eventstore.batches import encode_batch, encode_batches, refuse_id_twice
from eventstore.errors import ConcurrencyConflict, TransactionConflict
from eventstore.models import EVENT_ID_KEY, STREAM_VERSION_KEY, events_table, streams_table
from eventstore.operations import verdict
from eventstore.operations.conflicts import SERIALIZATION_FAILURE, constraint_of
from eventstore.operations.fence import writer_lock
from eventstore.operations.incoming import incoming, rows_of
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import atomic, connection_of, is_autocommit, schema_of
from eventstore.streams import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Update
    from sqlalchemy.orm import Session

    from eventstore.appending import StreamAppend, StreamAt
    from eventstore.batches import EncodedBatch
    from eventstore.events import AnyEnvelope
    from eventstore.registry import PayloadCodec
    from eventstore.streams import ExpectedVersion


def append_to_stream(
    session: Session,
    stream_id: str,
    expected_version: ExpectedVersion,
    events: Sequence[AnyEnvelope],
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> int:
    """Append ``events`` to one stream and return its new version."""
    batch = encode_batch(stream_id, expected_version, events, codec)
    refuse_id_twice([batch])
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    if not batch.events:
        return verdict.check_stream(connection, stream_id, batch.expected_version, schema=schema)
    return _append_batch(connection, batch, schema=schema).streams[0].version


def append(
    session: Session,
    appends: Sequence[StreamAppend],
    require: Sequence[StreamAt],
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> AppendResult:
    """Append to several streams, all or nothing, if those of ``require`` are as they should be."""
    batches = encode_batches(appends, require, codec)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    if len(batches) == 1 and batches[0].events:
        return _append_batch(connection, batches[0], schema=schema)
    if not any(batch.events for batch in batches):
        checked = verdict.check_streams(connection, batches, schema=schema)
        return AppendResult(checked[: len(appends)])
    result = _append_under_lock(connection, batches, schema=schema)
    return AppendResult(result.streams[: len(appends)], result.already_appended)


def _append_batch(
    connection: Connection, batch: EncodedBatch, *, schema: str | None
) -> AppendResult:
    """Write one batch by one statement; if it can't, find out why, or do it behind a lock."""
    appended = _try(connection, batch, schema=schema)
    if appended is not None:
        return AppendResult((appended,))
    known = verdict.judge(connection, [batch], schema=schema)
    return known or _append_under_lock(connection, [batch], schema=schema)


def _try(
    connection: Connection, batch: EncodedBatch, *, schema: str | None
) -> AppendedStream | None:
    """Write the batch if nothing speaks against it; None if nothing was written."""
    if is_autocommit(connection):
        try:
            return _write(connection, batch, schema=schema, skip_known=False)
        except IntegrityError:
            return None  # the statement was a transaction of its own
    return _write(connection, batch, schema=schema, skip_known=True)


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
                appended = _write(connection, batch, schema=schema, skip_known=False)
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
    connection: Connection, batch: EncodedBatch, *, schema: str | None, skip_known: bool
) -> AppendedStream | None:
    """Run the append statement; None if it stopped before the first write.

    ``skip_known`` says what happens to an event whose id or version another transaction has
    committed since the statement began: it is passed over and taken back here, where an error
    would abort the caller's transaction; otherwise the constraint's error is raised.
    """
    if not batch.events:
        version = verdict.check_stream(
            connection, batch.stream_id, batch.expected_version, schema=schema
        )
        return AppendedStream(batch.stream_id, version, ())
    count = len(batch.events)
    exact = isinstance(batch.expected_version, int)
    values = {"stream_id": batch.stream_id, "event_count": count, "events": rows_of(batch)}
    if exact:
        values["expected"] = batch.expected_version
    statement = _append_statement(
        exact=exact,
        creates=batch.expected_version in (0, ANY),
        keyed=batch.keyed,
        skip_known=skip_known,
    )
    row = run(connection, statement, values, schema=schema).one()
    version, positions = row.version, row.positions or ()
    if version is None:
        return None
    if len(positions) == count:
        return AppendedStream(batch.stream_id, version, tuple(positions))
    if positions:
        _refuse_half_written(connection, batch, version - count, schema=schema)
    run(
        connection,
        _take_back(),
        {"stream_id": batch.stream_id, "event_count": count},
        schema=schema,
    )
    return None


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


@cache
def _append_statement(*, exact: bool, creates: bool, keyed: bool, skip_known: bool) -> Select[Any]:
    """Fence, then the stream's row, then the events: each fed by the one before.

    ``exact``: a version is expected; ``creates``: the stream may be new; ``keyed``: some event
    has an idempotency key. A statement without a part that it doesn't need is quicker.
    """
    stream_id = parameter("stream_id", String)
    event_count = parameter("event_count", BigInteger)
    rows = incoming()
    fence = writer_lock()
    seen = (
        select(streams_table.c.version)
        .where(streams_table.c.stream_id == stream_id, streams_table.c.version > 0)
        .cte("seen")
    )
    expected = (
        parameter("expected", BigInteger)
        if exact
        # A literal column: SQLAlchemy 2.0 doesn't look for constants inside ON CONFLICT.
        else func.coalesce(select(seen.c.version).scalar_subquery(), literal_column("0"))
    )
    may_write = [
        fence.c.held,
        ~verdict.knows_an_id(rows),
    ]
    if keyed:
        may_write.append(~verdict.knows_a_key(rows))
    if not creates:
        may_write.append(select(seen.c.version).exists())
    opening = postgresql.insert(streams_table).from_select(
        ["stream_id", "version"], select(stream_id, event_count).where(*may_write)
    )
    opened = (
        opening.on_conflict_do_update(
            index_elements=[streams_table.c.stream_id],
            # Citus refuses volatile functions here; the row that was proposed has the time.
            set_={
                "version": streams_table.c.version + opening.excluded.version,
                "updated_at": opening.excluded.updated_at,
            },
            where=streams_table.c.deleted_at.is_(None) & (streams_table.c.version == expected),
        )
        .returning(streams_table.c.version)
        .cte("opened")
    )
    recording = postgresql.insert(events_table).from_select(
        [
            "event_id",
            "stream_id",
            "aggregate_id",
            "aggregate_type",
            "event_type",
            "event_data",
            "event_version",
            "occurred_at",
            "metadata",
        ],
        select(
            rows.c.event_id,
            stream_id,
            rows.c.aggregate_id,
            rows.c.aggregate_type,
            rows.c.event_type,
            rows.c.event_data,
            opened.c.version - event_count + rows.c.ordinal,
            rows.c.occurred_at,
            rows.c.metadata,
        )
        .select_from(opened.join(rows, true()))
        # Numbers are drawn in this order.
        .order_by(rows.c.ordinal),
    )
    if skip_known:
        recording = recording.on_conflict_do_nothing()
    recorded = recording.returning(
        events_table.c.sequence_number, events_table.c.event_version
    ).cte("recorded")
    statement = select(
        select(opened.c.version).scalar_subquery().label("version"),
        select(
            func.array_agg(aggregate_order_by(recorded.c.sequence_number, recorded.c.event_version))
        )
        .scalar_subquery()
        .label("positions"),
    )
    # Named first: inside ON CONFLICT, SQLAlchemy renders tables without their schema.
    return statement if exact and creates else statement.add_cte(seen)


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
