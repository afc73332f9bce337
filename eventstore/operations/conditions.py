"""Conditions of an append: hold off what could break them, then look.

The locks come in a statement before the one that looks, whose snapshot is then newer: what had a
tag's lock before is committed and seen, and what comes later waits. An item without tags may match
any event, of writers too that have no tags: for it the table ``streams`` is locked, which every
append writes to.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement

from eventstore.errors import AppendConditionFailed
from eventstore.models import streams_table
from eventstore.operations import verdict
from eventstore.operations.query import first_new
from eventstore.operations.statements import run
from eventstore.operations.tags import lock_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table
    from sqlalchemy.sql.compiler import SQLCompiler

    from eventstore.appending import AppendResult
    from eventstore.batches import EncodedBatch
    from eventstore.boundaries import NoNew
    from eventstore.codec import PayloadCodec


def enforce(
    connection: Connection,
    conditions: Sequence[NoNew],
    batches: Sequence[EncodedBatch],
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> AppendResult | None:
    """Make the conditions hold to the end of the transaction; then the batches can be appended.

    A result is returned if a condition doesn't hold because the batches were appended before: the
    events that it meets may be theirs. Raises :class:`AppendConditionFailed`, or what else speaks
    against the append, for any other.
    """
    _hold_off(connection, conditions, batches, schema=schema)
    for condition in conditions:
        position = first_new(connection, condition, codec, schema=schema)
        if position is not None:
            known = verdict.judge(connection, batches, schema=schema)
            if known is not None:
                return known
            raise AppendConditionFailed(position)
    return None


def _hold_off(
    connection: Connection,
    conditions: Sequence[NoNew],
    batches: Sequence[EncodedBatch],
    *,
    schema: str | None,
) -> None:
    items = [item for condition in conditions for item in condition.query.items]
    if not all(item.tags for item in items):
        # Nobody else appends now, so no tag need be locked.
        run(connection, _lock_streams_table(), {}, schema=schema)
        return
    own = {tag for batch in batches for tag in batch.tags}
    lock_tags(connection, own, {item.tags[0] for item in items}, schema=schema)


@cache
def _lock_streams_table() -> _LockTable:
    return _LockTable(streams_table)


class _LockTable(Executable, ClauseElement):
    """``LOCK TABLE``, for which SQLAlchemy has no construct.

    In the mode EXCLUSIVE, which leaves only reading to others. It takes the privilege to UPDATE,
    which every writer of streams has; of ``events`` it has not.
    """

    inherit_cache = True

    def __init__(self, table: Table) -> None:
        self.table = table


@compiles(_LockTable)
def _compile_lock_table(element: _LockTable, compiler: SQLCompiler, **_: Any) -> str:
    return f"LOCK TABLE {compiler.preparer.format_table(element.table)} IN EXCLUSIVE MODE"
