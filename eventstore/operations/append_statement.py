"""The statement of an append, in the shapes that appends have.

It takes the locks on tags, if there are any, and the fence, moves the stream's row from the
expected version to the new one, and inserts the events, each step fed by the one before. It writes
all or nothing:

- What it sees to be wrong (keys that are known, another version, and, of several events, known ids)
  stops it before the first write, without an error that would abort the caller's transaction. The
  known id of a single event costs no look-up: its constraint finds it.
- ``ANY`` is held to the version that the statement's snapshot shows. Two retries of one batch that
  race meet at the stream's row, and the second finds another version there, so that it never
  writes by the looks of a snapshot in which the first was not committed yet.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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

from eventstore.models import events_table, streams_table
from eventstore.operations import verdict
from eventstore.operations.incoming import (
    STORED,
    incoming,
    incoming_one,
    rows_of,
    values_of_one,
)
from eventstore.operations.statements import parameter
from eventstore.operations.tags import insert_tags, locks_of_writer
from eventstore.streams import ANY

if TYPE_CHECKING:
    from sqlalchemy import CTE, ColumnElement, SelectBase, Update

    from eventstore.batches import EncodedBatch

_S = TypeVar("_S", Select[Any], postgresql.Insert)


class Clash(Enum):
    """What happens to an event whose id or version another transaction has committed meanwhile."""

    #: It is passed over and taken back, since an error would abort the caller's transaction.
    PASSED_OVER = auto()
    #: The constraint's error is raised inside a transaction.
    RAISED = auto()
    #: The constraint's error ends the statement, which is a transaction of its own.
    ENDS_STATEMENT = auto()


class Shape(NamedTuple):
    """What an append needs: a statement without a part that it doesn't need is quicker."""

    exact: bool  #: a version is expected
    creates: bool  #: the stream may be new
    keyed: bool  #: some event has an idempotency key
    tagged: bool  #: some event has a tag
    single: bool  #: one event, without a key
    clash: Clash


def shape_and_values(batch: EncodedBatch, clash: Clash) -> tuple[Shape, dict[str, Any]]:
    """Return the shape of the statement that appends ``batch``, and its parameters."""
    count = len(batch.events)
    exact = isinstance(batch.expected_version, int)
    keyed = batch.keyed
    tags = sorted(batch.tags)
    single = count == 1 and not keyed
    shape = Shape(
        exact=exact,
        creates=batch.expected_version in (0, ANY),
        keyed=keyed,
        tagged=bool(tags),
        single=single,
        clash=clash,
    )
    values: dict[str, Any] = {"stream_id": batch.stream_id, "event_count": count}
    if exact:
        values["expected"] = batch.expected_version
    if tags:
        values["tags"] = tags
    return shape, values | (values_of_one(batch) if single else {"events": rows_of(batch)})


@cache
def append_statement(shape: Shape) -> Select[Any]:
    """Select the new version, beside each position; no row if the stream didn't move."""
    opened, recording = _opened_and_recording(shape)
    if shape.clash is Clash.PASSED_OVER:
        recording = recording.on_conflict_do_nothing()
    position = events_table.c.sequence_number
    also = [events_table.c.metadata] if shape.tagged else []
    recorded = recording.returning(position, *also).cte("recorded")
    statement = _named_first(
        shape,
        select(opened.c.version, recorded.c.sequence_number.label("position")).select_from(
            opened.outerjoin(recorded, true())
        ),
    )
    return statement.add_cte(insert_tags(recorded).cte("tagged")) if shape.tagged else statement


@cache
def recording_statement(shape: Shape) -> postgresql.Insert:
    """Insert the events; none if the stream didn't move."""
    return _named_first(shape, _opened_and_recording(shape)[1])


def _opened_and_recording(shape: Shape) -> tuple[CTE, postgresql.Insert]:
    """Fence, then the stream's row, then the events: each fed by the one before."""
    stream_id = parameter("stream_id", String)
    event_count = parameter("event_count", BigInteger)
    rows = None if shape.single else incoming()
    for_statement = shape.clash is Clash.ENDS_STATEMENT
    store, fence = locks_of_writer(tagged=shape.tagged, for_statement=for_statement)
    may_write = [fence]
    # A single one can be taken back as a whole; of several, a part could go in.
    if rows is not None and not for_statement:
        may_write.append(~verdict.knows_an_id(rows))
    if rows is not None and shape.keyed:
        may_write.append(~verdict.knows_a_key(rows))
    if not shape.creates:
        may_write.append(select(_seen().c.version).exists())
    opened = move_streams(
        select(stream_id, event_count).select_from(store).where(*may_write),
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


def _named_first(shape: Shape, statement: _S) -> _S:
    """Name ``seen`` before it is used inside ON CONFLICT.

    There, SQLAlchemy renders tables without their schema.
    """
    return statement if shape.exact and shape.creates else statement.add_cte(_seen())


@cache
def take_back() -> Update:
    """Undo the stream's step by an append whose events were all passed over."""
    return (
        update(streams_table)
        .where(streams_table.c.stream_id == parameter("stream_id", String))
        .values(version=streams_table.c.version - parameter("event_count", BigInteger))
    )


@cache
def lock_streams() -> postgresql.Insert:
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
