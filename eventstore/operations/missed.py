"""The events that a writer has missed: a conflict brings them, so that it need not load again."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Select, String, or_, select, true

from eventstore.errors import ConcurrencyConflict, SerializationError
from eventstore.models import events_table, streams_table
from eventstore.operations import verdict
from eventstore.operations.incoming import incoming, rows_of
from eventstore.operations.read import envelopes, event_columns
from eventstore.operations.statements import fetch, parameter
from eventstore.operations.subject_keys import with_keys
from eventstore.reading import PAGE_SIZE
from eventstore.recorded import Decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from eventstore.batches import EncodedBatch
    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope


class MissedEvents:
    """Brings the events that a late writer has missed with the conflict that it meets."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec

    def refuse_late(
        self, connection: Connection, batch: EncodedBatch, *, schema: str | None
    ) -> None:
        """Raise the conflict of a batch that was not written, if that is why.

        One statement answers the usual question, where :mod:`~eventstore.operations.verdict` asks
        several; any other is left to that one.
        """
        expected = batch.expected_version
        if not isinstance(expected, int):
            return
        values = {
            "stream_id": batch.stream_id,
            "expected": expected,
            "limit": PAGE_SIZE,
            "events": rows_of(batch),
        }
        rows = fetch(connection, _missed(keyed=batch.keyed), values, schema=schema)
        if not rows:
            return
        *_, actual, is_deleted, is_known = rows[0]
        if is_deleted or is_known:
            return
        if actual != expected:
            missed = None
            if 0 < actual - expected <= PAGE_SIZE:
                missed = self._decoded(connection, rows, schema=schema)
            raise ConcurrencyConflict(expected, actual, batch.stream_id, missed)

    def _decoded(
        self, connection: Connection, rows: Sequence[Any], *, schema: str | None
    ) -> tuple[AnyEnvelope, ...] | None:
        decoder = with_keys(connection, Decoder(None, self._codec), rows, schema=schema)
        try:
            return tuple(envelopes(rows, decoder))
        except SerializationError:
            return None  # the conflict is what matters; whoever loads the stream will learn of it


@cache
def _missed(*, keyed: bool) -> Select[Any]:
    """The stream's state beside its events after the expected version.

    And whether some event of the batch is known: then it may have been appended before.
    """
    stream, version = streams_table.c, events_table.c.event_version
    page = (
        select(*event_columns())
        .where(
            events_table.c.stream_id == stream.stream_id,
            version > parameter("expected", BigInteger),
        )
        .order_by(version)
        .limit(parameter("limit", BigInteger))
        .lateral("page")
    )
    rows = incoming()
    known = verdict.knows_an_id(rows)
    return (
        select(
            *page.c,
            stream.version,
            stream.deleted_at.is_not(None),
            or_(known, verdict.knows_a_key(rows)) if keyed else known,
        )
        .select_from(streams_table.outerjoin(page, true()))
        .where(stream.stream_id == parameter("stream_id", String))
        .order_by(page.c.event_version)
    )
