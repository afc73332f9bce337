"""Soft deletion: a stream is closed, nothing of it is removed, and it can be opened again."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, String, func, null, update

from eventstore.errors import StreamNotFound, TransactionConflict
from eventstore.models import streams_table
from eventstore.operations import verdict
from eventstore.operations.conflicts import SERIALIZATION_FAILURE
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.personal.erasure import refuse_to_delete_erasures
from eventstore.streams import check_expected_version, check_stream_id

if TYPE_CHECKING:
    from sqlalchemy import Update
    from sqlalchemy.orm import Session

    from eventstore.streams import ExpectedVersion

# Each one is lost to another transaction that changes the stream at that very moment.
_TRIES: Final = 10


def delete_stream(
    session: Session, stream_id: str, expected_version: ExpectedVersion, *, schema: str | None
) -> None:
    """Close the stream: reads and appends meet :class:`StreamDeleted` until it is restored."""
    refuse_to_delete_erasures(check_stream_id(stream_id))
    expected = check_expected_version(expected_version)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    exact = isinstance(expected, int)
    values: dict[str, Any] = {"stream_id": stream_id}
    if exact:
        values["expected"] = expected
    for _ in range(_TRIES):
        if run(connection, _delete(exact=exact), values, schema=schema).rowcount:
            return
        if verdict.check_stream(connection, stream_id, expected, schema=schema) == 0:
            raise StreamNotFound(stream_id)
        # Nothing speaks against it any more: another transaction has changed the stream between
        # the two statements.
    raise TransactionConflict(SERIALIZATION_FAILURE)


def restore_stream(session: Session, stream_id: str, *, schema: str | None) -> None:
    """Open a deleted stream again; its versions go on where they were."""
    check_stream_id(stream_id)
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    values = {"stream_id": stream_id}
    if run(connection, _restore(), values, schema=schema).rowcount:
        return
    if verdict.newest_version(connection, stream_id, schema=schema) == 0:
        raise StreamNotFound(stream_id)


@cache
def _delete(*, exact: bool) -> Update:
    conditions = [
        streams_table.c.stream_id == parameter("stream_id", String),
        streams_table.c.deleted_at.is_(None),
        streams_table.c.version > 0,
    ]
    if exact:
        conditions.append(streams_table.c.version == parameter("expected", BigInteger))
    return (
        update(streams_table)
        .where(*conditions)
        .values(deleted_at=func.now(), updated_at=func.now())
    )


@cache
def _restore() -> Update:
    return (
        update(streams_table)
        .where(
            streams_table.c.stream_id == parameter("stream_id", String),
            streams_table.c.deleted_at.is_not(None),
        )
        .values(deleted_at=null(), updated_at=func.now())
    )
