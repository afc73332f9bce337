"""Tags: their rows, written beside the events, and the locks that make conditions on them exact.

*Whoever writes an event* holds a shared advisory lock on each of its tags, from before its number
is drawn to the end of its transaction. *Whoever makes a condition* holds an exclusive one on a tag
of each item of its query: an event that matches the item has all tags of it, so also that one. So
a matching event is either committed before the condition is checked, or its number is drawn after
the condition's transaction has ended. The whole proof, with what it needs, is in
``docs/explanation/consistency-boundaries.md``.

A transaction that writes events with many tags would fill the server's lock table. From a number of
locks on it takes the *gate* instead, one lock which all conditions share.

Everybody takes these locks in one order, so that no two calls wait for each other: first the lock
on the table ``streams`` that any write of it brings, then the tags in the order of their names,
then the gate, then the rows of streams.

Sources: PostgreSQL manual, "Explicit Locking" (13.3); J. Gray, R. Lorie, G. Putzolu, I. Traiger,
"Granularity of Locks and Degrees of Consistency in a Shared Data Base" (1976).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Integer,
    Select,
    String,
    Text,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects import postgresql

from eventstore.models import streams_table, tags_table
from eventstore.operations.fence import SEQUENCE, lock_of_writer
from eventstore.operations.statements import parameter, run
from eventstore.payloads import TAGS_KEY

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import CTE, ColumnElement, Connection, FromClause

#: So many locks on tags a transaction takes before it takes the gate. By default a server has room
#: for 64 locks for each connection that it allows (max_locks_per_transaction), in one pool.
_MAX_LOCKS: Final = 256
#: No tag is empty.
_GATE: Final = ""


def lock_tags(
    connection: Connection,
    shared: Collection[str],
    exclusive: Collection[str] = (),
    *,
    schema: str | None,
) -> None:
    """Take the locks of a writer of ``shared`` and of a condition on ``exclusive``.

    They are held to the end of the transaction, and wait for whoever holds the opposite.
    """
    tags = sorted({*shared, *exclusive})
    values = {"tags": tags, "exclusive": [tag in exclusive for tag in tags]}
    statement = _lock_tags(conditional=bool(exclusive))
    run(connection, statement, values, schema=schema)


def locks_of_writer(*, tagged: bool, for_statement: bool) -> tuple[FromClause, ColumnElement[bool]]:
    """Return the FROM of an append and the condition on its row that is true under its locks.

    Those are the fence's, and before it those on the tags of the parameter ``tags``, so that an
    append which waits for a condition doesn't hold the feed.
    """
    fence = lock_of_writer(for_statement=for_statement)
    if not tagged:
        return SEQUENCE, fence
    locks = tag_locks(conditional=False, for_statement=for_statement)
    return SEQUENCE.join(locks, true()), case((locks.c.held, fence), else_=false())


def tag_locks(*, conditional: bool, for_statement: bool) -> CTE:
    """Return the CTE ``tag_locks``; whoever depends on its one row, true, has the locks.

    Its parameter ``tags`` must be sorted. ``conditional`` takes the parameter ``exclusive`` too,
    which says for each tag whether it is a condition's. As for the fence, a transaction-local
    setting says how many locks there are, and goes back together with them when a savepoint is
    rolled back; ``for_statement`` leaves it out.
    """
    tags = parameter("tags", ARRAY(String))
    oid = SEQUENCE.c.tableoid
    setting = literal("eventstore.tags_").concat(cast(oid, Text))
    count: ColumnElement[int] = func.cardinality(tags)
    if not for_statement:
        # Once it was set, the setting is empty in later transactions.
        before = func.nullif(func.current_setting(setting, literal(True)), literal(""))
        count = func.coalesce(cast(before, Integer), literal_column("0")) + count
    store = (
        select(cast(oid, BigInteger).label("seed"), setting.label("setting"), count.label("count"))
        .select_from(SEQUENCE)
        .cte("store")
        .prefix_with("MATERIALIZED")
    )
    is_crowded = store.c.count > literal_column(str(_MAX_LOCKS))
    wanted = _wanted(tags, conditional=conditional)
    key = _key(wanted.c.tag, store)
    lock: ColumnElement[Any] = case(
        (~is_crowded, func.pg_advisory_xact_lock_shared(key).is_not(None))
    )
    if conditional:
        lock = case((wanted.c.exclusive, func.pg_advisory_xact_lock(key).is_not(None)), else_=lock)
    taken = (
        select(func.count(lock).label("count"))
        .select_from(store.join(wanted, true()))
        .cte("taken")
        .prefix_with("MATERIALIZED")
    )
    gate = _key(literal(_GATE), store)
    passing = func.pg_advisory_xact_lock_shared(gate).is_not(None) if conditional else true()
    held: ColumnElement[bool] = case(
        (is_crowded, func.pg_advisory_xact_lock(gate).is_not(None)), else_=passing
    )
    if not for_statement:
        counted = func.set_config(store.c.setting, cast(store.c.count, Text), literal(True))
        held = held & counted.is_not(None)
    return (
        # Looked at, so that the gate comes after the tags.
        select(case((taken.c.count >= literal_column("0"), held)).label("held"))
        .select_from(store.join(taken, true()))
        .cte("tag_locks")
        .prefix_with("MATERIALIZED")
    )


def insert_tags(recorded: CTE) -> postgresql.Insert:
    """Return the INSERT of the tags of ``recorded``: events just inserted, with their metadata."""
    tags = recorded.c.metadata.op("->")(literal(TAGS_KEY))
    return postgresql.insert(tags_table).from_select(
        ["tag", "sequence_number"],
        select(func.jsonb_array_elements_text(tags), recorded.c.sequence_number),
    )


def _wanted(tags: ColumnElement[Any], *, conditional: bool) -> FromClause:
    if conditional:
        exclusive = parameter("exclusive", ARRAY(Boolean))
        rows = func.unnest(tags, exclusive).table_valued("tag", "exclusive", name="wanted")
    else:
        rows = func.unnest(tags).table_valued("tag", name="wanted")
    return rows.render_derived()


def _key(tag: ColumnElement[str], store: CTE) -> ColumnElement[int]:
    """Return a key of 64 bits, of which those of the fence, two of 32 each, are kept apart.

    The seed tells stores in one database apart. Two tags with one key (in 2^64) only wait for one
    another.
    """
    return func.hashtextextended(tag, store.c.seed)


@cache
def _lock_tags(*, conditional: bool) -> Select[Any]:
    locks = tag_locks(conditional=conditional, for_statement=False)
    # No row: it is there for the lock on the table, which comes before any on a tag.
    nothing = (
        select(streams_table.c.stream_id).where(false()).with_for_update(read=True, key_share=True)
    )
    return select(locks.c.held).where(~nothing.exists())
