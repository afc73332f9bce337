"""The fence of the feed: what lets one integer be a checkpoint that never skips an event.

A sequence hands out numbers before the transactions that draw them commit, so a reader that asks
for ``sequence_number > checkpoint`` misses an event whose transaction commits late. The fence:

*Writer*, in the append statement, before a number is drawn: take a shared advisory lock, to the
end of the transaction, whose key says (this store's sequence, the sequence's last value K).

*Reader*: (1) read the sequence's last value H; (2) find L, the least such key now held; (3) in a
later statement, read the events with ``from < number <= min(H, L)``.

Every number that a writer draws is greater than its K. If the reader doesn't see its lock at (2),
the lock was taken later, and then the number was drawn after (1) and is greater than H; or it was
released earlier, and then the commit was visible before (3), since PostgreSQL publishes a commit
before it releases locks. The whole proof, with what it needs, is in
``docs/explanation/the-fence.md``.

Sources: PostgreSQL manual, "Advisory Locks" (13.3.5), "pg_locks" (53.12), "Sequence Manipulation
Functions" (9.17).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import BIT, OID

from eventstore.errors import FeedUnavailable
from eventstore.models import POSITION_SEQUENCE
from eventstore.operations.statements import run
from eventstore.operations.transactions import is_autocommit

if TYPE_CHECKING:
    from sqlalchemy import CTE, ColumnElement, Connection, TableClause

#: Keys are 32 bits wide and compared modulo this.
_KEY_SPACE: Final = 2**32
# A key that was taken between (1) and (2) is a little above H. One that lies further above is an
# old one from before the last wrap-around, so that no transaction which stays open while fewer
# than 2^32 - 2^24 numbers are drawn is ever overlooked.
_KEY_SLACK: Final = 2**24
#: Two-integer advisory locks have this ``objsubid`` in pg_locks, single bigint ones have 1.
_TWO_KEYS: Final = 2

# A sequence is read like a table, without regard to any snapshot. It stands in a MetaData of its
# own: there is nothing to create.
SEQUENCE: Final = Table(
    POSITION_SEQUENCE,
    MetaData(),
    Column("last_value", BigInteger),
    Column("is_called", Boolean),
    Column("tableoid", OID),
)


class Mark(NamedTuple):
    """How far the feed can be read."""

    position: int  #: every event up to here is committed, visible, or will never exist
    head: int  #: the last number that the sequence has handed out


def lock_of_writer(*, for_statement: bool) -> ColumnElement[bool]:
    """Return the condition on a row of :data:`SEQUENCE` that is true once the lock is held.

    Whoever draws a number must depend on a row that has passed it. In a transaction the lock is
    taken once: a transaction-local setting says that it is held, and goes back together with the
    lock when a savepoint is rolled back. Ten thousand appends in one transaction fill no lock
    table. ``for_statement`` leaves the setting out: a statement that is a transaction of its own
    has no use for it.
    """
    oid, last_number = _sequence_state()
    taken = func.pg_advisory_xact_lock_shared(cast(oid, Integer), _low_32_bits(last_number)).is_not(
        None
    )
    if for_statement:
        return taken
    setting = literal("eventstore.fence_").concat(cast(oid, Text))
    return case(
        (func.current_setting(setting, literal(True)) == literal("held"), literal(True)),
        else_=taken & func.set_config(setting, literal("held"), literal(True)).is_not(None),
    )


def read_mark(connection: Connection, schema: str | None) -> Mark:
    """Return how far the feed can be read now, by statements that begin after this one.

    Raises :class:`FeedUnavailable` where that can't be told: in a transaction whose snapshot is
    older than the mark (REPEATABLE READ, SERIALIZABLE), and on a standby, which doesn't see the
    locks of the primary.
    """
    row = run(connection, _mark_statement(), {}, schema=schema).one()
    if row.in_recovery:
        raise FeedUnavailable(
            "this server is a standby, where the writers' locks can't be seen; "
            "read the feed from the primary"
        )
    snapshot_may_be_old = row.isolation not in ("read committed", "read uncommitted")
    if snapshot_may_be_old and not is_autocommit(connection):
        raise FeedUnavailable(
            f"this transaction is {row.isolation.upper()}, so its snapshot may be older than the "
            "feed's mark; read the feed in a READ COMMITTED session"
        )
    return Mark(row.position, row.head)


def read_head(connection: Connection, schema: str | None) -> int:
    """Return the last number that was handed out: a quicker look than at the locks."""
    head: int = run(connection, _head_statement(), {}, schema=schema).scalar_one()
    return head


@cache
def _head_statement() -> Select[Any]:
    return select(_sequence_state()[1])


def sequence_head() -> CTE:
    """Return the sequence's ``oid`` and ``last_number``, read once, before the locks are."""
    oid, last_number = _sequence_state()
    return (
        select(oid.label("oid"), last_number.label("last_number"))
        .cte("head")
        .prefix_with("MATERIALIZED")
    )


class WriterLocks(NamedTuple):
    """The locks of other sessions that have appended and not ended."""

    locks: TableClause  #: pg_locks
    key: ColumnElement[int]  #: everything that the lock's holder draws is greater than this
    is_held: ColumnElement[bool]  #: the condition on a row of pg_locks to be such a lock


def writer_locks(head: CTE) -> WriterLocks:
    """Return where the writers' locks are found, given :func:`sequence_head`."""
    locks = table(
        "pg_locks",
        *(column(name) for name in ("locktype", "mode", "granted")),
        column("pid", Integer),
        column("database", OID),
        column("classid", OID),
        column("objid", OID),
        column("objsubid", Integer),
        schema="pg_catalog",
    )
    databases = table("pg_database", column("oid", OID), column("datname"), schema="pg_catalog")
    highest = head.c.last_number + _KEY_SLACK
    key = highest - (highest - cast(locks.c.objid, BigInteger)).op("&")(_KEY_SPACE - 1)
    is_held = and_(
        locks.c.locktype == "advisory",
        locks.c.mode == "ShareLock",
        locks.c.granted,
        locks.c.database
        == select(databases.c.oid)
        .where(databases.c.datname == func.current_database())
        .scalar_subquery(),
        locks.c.classid == head.c.oid,
        locks.c.objsubid == _TWO_KEYS,
        # A session sees what it has written itself; whatever it draws later is above H. A
        # prepared transaction's lock has no pid, and counts.
        locks.c.pid.is_distinct_from(func.pg_backend_pid()),
    )
    return WriterLocks(locks, key, is_held)


@cache
def _mark_statement() -> Select[Any]:
    """(1) and (2) in one statement: the locks are compared with the head, so it is read first."""
    head = sequence_head()
    _, key, is_held = writer_locks(head)
    least_held = select(func.min(key)).where(is_held).correlate(head).scalar_subquery()
    return select(
        func.least(head.c.last_number, least_held).label("position"),
        head.c.last_number.label("head"),
        func.current_setting("transaction_isolation").label("isolation"),
        func.pg_is_in_recovery().label("in_recovery"),
    )


def _sequence_state() -> tuple[ColumnElement[int], ColumnElement[int]]:
    """Return the sequence's oid, and the last number that it has handed out."""
    last_number = SEQUENCE.c.last_value - case((SEQUENCE.c.is_called, 0), else_=1)
    return SEQUENCE.c.tableoid, last_number


def _low_32_bits(number: ColumnElement[int]) -> ColumnElement[int]:
    return cast(cast(number, BIT(32)), Integer)
