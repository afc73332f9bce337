"""Append events: one statement in the normal case, and an exact answer in every other.

The statement, :mod:`~eventstore.operations.append_statement`, writes all or nothing. When nothing
was written, :mod:`~eventstore.operations.verdict` says why. If it finds no reason (another writer
was quicker), the append runs again behind the stream's row lock, where nothing can change any more:
the second try is the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Never

from sqlalchemy.exc import IntegrityError

from eventstore.appending import AppendedStream, AppendResult, check_requirements
from eventstore.batches import encode_batch, encode_batches, refuse_id_twice
from eventstore.errors import ConcurrencyConflict, TransactionConflict
from eventstore.models import EVENT_ID_KEY, STREAM_VERSION_KEY
from eventstore.operations import verdict
from eventstore.operations.append_statement import (
    Clash,
    append_statement,
    lock_streams,
    recording_statement,
    shape_and_values,
    take_back,
)
from eventstore.operations.commits import announce
from eventstore.operations.conditions import enforce
from eventstore.operations.conflicts import SERIALIZATION_FAILURE, constraint_of
from eventstore.operations.missed import MissedEvents
from eventstore.operations.statements import run
from eventstore.operations.subject_keys import seal
from eventstore.operations.tags import lock_tags
from eventstore.operations.transactions import (
    atomic,
    connection_of,
    in_transaction,
    is_autocommit,
    schema_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from eventstore.appending import Requirement, StreamAppend
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
    fetch_missed: bool,
) -> int:
    """Append ``events`` to one stream and return its new version."""
    batch = encode_batch(stream_id, expected_version, events, codec)
    refuse_id_twice([batch])
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    if not batch.events:
        return verdict.check_stream(connection, stream_id, batch.expected_version, schema=schema)
    (batch,), before = seal_batches(connection, [batch], codec, schema=schema)
    if before is not None:
        return before.streams[0].version
    missed = MissedEvents(codec) if fetch_missed else None
    appended = append_batch(connection, batch, missed, schema=schema, positions=False)
    announce(session, connection)
    return appended.streams[0].version


def append(
    session: Session,
    appends: Sequence[StreamAppend],
    require: Requirement | Sequence[Requirement],
    *,
    codec: PayloadCodec,
    schema: str | None,
    fetch_missed: bool,
) -> AppendResult:
    """Append to several streams, all or nothing, if what ``require`` asks for is so."""
    streams, conditions = check_requirements(require)
    encoded = encode_batches(appends, streams, codec)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    batches, before = seal_batches(connection, encoded, codec, schema=schema)
    if before is not None:
        return AppendResult(before.streams[: len(appends)], before.already_appended)
    missed = MissedEvents(codec) if fetch_missed else None
    if conditions:
        with in_transaction(connection):
            known = enforce(connection, conditions, batches, codec=codec, schema=schema)
            result = known or _append_batches(
                connection, batches, missed, schema=schema, tags_held=True
            )
    else:
        result = _append_batches(connection, batches, missed, schema=schema)
    if any(batch.events for batch in batches):
        announce(session, connection)
    return AppendResult(result.streams[: len(appends)], result.already_appended)


def _append_batches(
    connection: Connection,
    batches: Sequence[EncodedBatch],
    missed: MissedEvents | None,
    *,
    schema: str | None,
    tags_held: bool = False,
) -> AppendResult:
    if len(batches) == 1 and batches[0].events:
        return append_batch(connection, batches[0], missed, schema=schema, tags_held=tags_held)
    if not any(batch.events for batch in batches):
        return AppendResult(verdict.check_streams(connection, batches, schema=schema))
    return _append_under_lock(connection, batches, schema=schema, tags_held=tags_held)


def seal_batches(
    connection: Connection,
    batches: Sequence[EncodedBatch],
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> tuple[Sequence[EncodedBatch], AppendResult | None]:
    """Return the batches as they can be stored, or where they were before a subject was forgotten.

    Raises :class:`~eventstore.SubjectErased` if they are new.
    """
    sealed, refusal = seal(connection, batches, codec, schema=schema)
    if refusal is None:
        return sealed, None
    before = verdict.judge(connection, sealed, schema=schema)
    if before is None:
        raise refusal
    return sealed, before


def append_batch(
    connection: Connection,
    batch: EncodedBatch,
    missed: MissedEvents | None = None,
    *,
    schema: str | None,
    positions: bool = True,
    tags_held: bool = False,
) -> AppendResult:
    """Write one batch by one statement; if it can't, find out why, or do it behind a lock.

    ``missed``: someone wants them with a conflict; ``positions``: someone wants to know them;
    ``tags_held``: the transaction has locked whoever could mind the events' tags out.
    """
    appended = _try(connection, batch, schema=schema, positions=positions, tags_held=tags_held)
    if appended is not None:
        return AppendResult((appended,))
    if missed is not None:
        missed.refuse_late(connection, batch, schema=schema)
    known = verdict.judge(connection, [batch], schema=schema)
    return known or _append_under_lock(connection, [batch], schema=schema, tags_held=tags_held)


def _try(
    connection: Connection,
    batch: EncodedBatch,
    *,
    schema: str | None,
    positions: bool,
    tags_held: bool,
) -> AppendedStream | None:
    """Write the batch if nothing speaks against it; None if nothing was written."""
    if not is_autocommit(connection):
        clash = Clash.PASSED_OVER
        return _write(connection, batch, schema=schema, clash=clash, tags_held=tags_held)
    try:
        if isinstance(batch.expected_version, int) and not positions and not batch.tags:
            return _write_at(connection, batch, batch.expected_version, schema=schema)
        return _write(connection, batch, schema=schema, clash=Clash.ENDS_STATEMENT)
    except IntegrityError:
        return None  # the statement was a transaction of its own


def _append_under_lock(
    connection: Connection,
    batches: Sequence[EncodedBatch],
    *,
    schema: str | None,
    tags_held: bool,
) -> AppendResult:
    """Lock the rows of all streams, judge, and write: nobody else can change the outcome."""
    batch = batches[0]
    tags = {tag for batch in batches for tag in batch.tags}
    try:
        with atomic(connection):
            if tags and not tags_held:
                lock_tags(connection, tags, schema=schema)
            stream_ids = [batch.stream_id for batch in batches]
            run(connection, lock_streams(), {"stream_ids": stream_ids}, schema=schema)
            known = verdict.judge(connection, batches, schema=schema)
            if known is not None:
                return known
            written = []
            for batch in batches:
                clash = Clash.RAISED
                appended = _write(connection, batch, schema=schema, clash=clash, tags_held=True)
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
    connection: Connection,
    batch: EncodedBatch,
    *,
    schema: str | None,
    clash: Clash,
    tags_held: bool = False,
) -> AppendedStream | None:
    """Run the append statement; None if nothing was written."""
    if not batch.events:
        version = verdict.check_stream(
            connection, batch.stream_id, batch.expected_version, schema=schema
        )
        return AppendedStream(batch.stream_id, version, ())
    shape, values = shape_and_values(batch, clash)
    if tags_held and shape.tagged:
        values["tags"] = []
    rows = run(connection, append_statement(shape), values, schema=schema).all()
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
    run(connection, take_back(), values, schema=schema)
    return None


def _write_at(
    connection: Connection, batch: EncodedBatch, expected: int, *, schema: str | None
) -> AppendedStream | None:
    """Do the same in AUTOCOMMIT without asking back: how many rows there are says it all."""
    shape, values = shape_and_values(batch, Clash.ENDS_STATEMENT)
    written = run(connection, recording_statement(shape), values, schema=schema).rowcount
    return AppendedStream(batch.stream_id, expected + written, ()) if written else None


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
