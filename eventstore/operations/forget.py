"""Forget a subject: destroy its key and record that, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.appending import StreamAppend
from eventstore.codec import JsonPayloads
from eventstore.operations.append import append
from eventstore.operations.subject_keys import destroy_key
from eventstore.operations.transactions import atomic, connection_of, schema_of
from eventstore.personal.erasure import ERASURES_STREAM, check_subject_id, erasure_of
from eventstore.streams import ANY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.appending import AppendResult
    from eventstore.codec import PayloadCodec
    from eventstore.events import EventMetadata


def forget(
    session: Session,
    subject_id: str,
    metadata: EventMetadata | None,
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> AppendResult:
    """Destroy the subject's key and record it; ``already_appended`` if that was done before."""
    event = erasure_of(check_subject_id(subject_id), metadata)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    with atomic(connection):
        destroy_key(connection, subject_id, codec, schema=schema)
        return append(
            session,
            [StreamAppend(ERASURES_STREAM, ANY, [event])],
            (),
            # Also a store without a registry can forget.
            codec=JsonPayloads(),
            schema=schema,
            fetch_missed=False,
        )
