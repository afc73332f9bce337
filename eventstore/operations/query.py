"""Queries: the events that match by type and tag, and whether there are new ones.

An item with tags is looked up by its first tag, and the others are looked for at each of its
events. An item without tags goes along the feed. Each look-up is a subquery of its own, which the
planner can only do by the index: see :func:`~eventstore.operations.verdict.has_known_id`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_json
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Select,
    String,
    Text,
    and_,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from eventstore.boundaries import QueryResult, QueryToken
from eventstore.errors import FeedUnavailable
from eventstore.models import events_table, tags_table
from eventstore.operations.fence import read_mark
from eventstore.operations.read import SEQUENCE_NUMBER, envelopes, event_columns
from eventstore.operations.statements import fetch, parameter, run
from eventstore.operations.subject_keys import with_keys
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.reading import PAGE_SIZE
from eventstore.recorded import collector_paused, matching_today
from eventstore.streams import MAX_VERSION

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Subquery
    from sqlalchemy.orm import Session

    from eventstore.boundaries import NoNew, Query
    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.recorded import Decoder


def read_by_query(
    session: Session, query: Query, after: QueryToken, decoder: Decoder, *, schema: str | None
) -> QueryResult:
    """Return the events that match and that ``after`` has not seen, with the token of both."""
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    # Up to the mark, everything is visible to the statements that follow.
    mark = read_mark(connection, schema)
    shape, values = _shape_and_values(query, after, decoder.codec)
    values["limit"] = PAGE_SIZE
    seen = set(after.seen)
    events: list[AnyEnvelope] = []
    rows: list[Any] = []
    while not rows or len(rows) == PAGE_SIZE:
        rows = fetch(connection, _page(shape), values, schema=schema)
        if not rows:
            break
        opening = with_keys(connection, decoder, rows, schema=schema)
        with collector_paused():
            events += matching_today(envelopes(rows, opening), query, opening)
        seen.update(row[SEQUENCE_NUMBER] for row in rows)
        values["after"] = rows[-1][SEQUENCE_NUMBER]
    position = max(mark.position, after.position)
    above = frozenset(number for number in seen if number > position)
    return QueryResult(tuple(events), QueryToken(query.fingerprint, position, above))


def first_new(
    connection: Connection, condition: NoNew, codec: PayloadCodec, *, schema: str | None
) -> int | None:
    """Return the position of the first event that the condition forbids, None if there is none.

    Raises :class:`FeedUnavailable` in a transaction whose snapshot is older than this statement:
    it would not see what was committed since.
    """
    shape, values = _shape_and_values(condition.query, condition.after, codec)
    row = run(connection, _first(shape), {**values, "limit": 1}, schema=schema).one()
    if row.isolation not in ("read committed", "read uncommitted"):
        raise FeedUnavailable(
            f"this transaction is {row.isolation.upper()} and does not see what was committed "
            "since it began; append with a condition in a READ COMMITTED session"
        )
    position: int | None = row.position
    return position


class _Shape(NamedTuple):
    """Which kinds of items a query has."""

    tagged: bool
    untagged: bool


def _shape_and_values(
    query: Query, after: QueryToken, codec: PayloadCodec
) -> tuple[_Shape, dict[str, Any]]:
    stored = query.with_types(codec.stored_types)
    tagged = [item for item in stored.items if item.tags]
    untagged = [item for item in stored.items if not item.tags]
    any_type = any(not item.types for item in untagged)
    types = [] if any_type else sorted({each for item in untagged for each in item.types})
    items = [
        {"tag": item.tags[0], "further": item.tags[1:], "types": item.types or None}
        for item in tagged
    ]
    values = {"after": after.position, "seen": sorted(after.seen)}
    if tagged:
        values["items"] = to_json(items).decode()
    if untagged:
        values["types"] = types
    return _Shape(bool(tagged), bool(untagged)), values


@cache
def _page(shape: _Shape) -> Select[Any]:
    """The next events that match, in the order of their positions."""
    found = _found(shape)
    event = (
        select(*event_columns())
        .where(events_table.c.sequence_number == found.c.sequence_number)
        .limit(literal_column("1"))
        .correlate(found)
        .lateral("event")
    )
    return select(*event.c).select_from(found.join(event, true())).order_by(found.c.sequence_number)


@cache
def _first(shape: _Shape) -> Select[Any]:
    return select(
        func.min(_found(shape).c.sequence_number).label("position"),
        func.current_setting("transaction_isolation").label("isolation"),
    )


def _found(shape: _Shape) -> Subquery:
    """Return the next positions that match, each once."""
    kinds = [_tagged()] if shape.tagged else []
    if shape.untagged:
        kinds.append(_untagged())
    positions = union_all(*kinds).subquery("positions")
    position = positions.c.sequence_number
    return (
        select(position)
        .distinct()
        .order_by(position)
        .limit(parameter("limit", BigInteger))
        .subquery("found")
    )


def _tagged() -> Select[Any]:
    item = (
        func.jsonb_to_recordset(cast(parameter("items", Text), JSONB))
        .table_valued(
            column("tag", Text), column("further", ARRAY(Text)), column("types", ARRAY(Text))
        )
        .render_derived(name="item", with_types=True)
    )
    first, other = tags_table.alias("first"), tags_table.alias("other")
    position = first.c.sequence_number
    further = func.unnest(item.c.further).table_valued("tag", name="further").render_derived()
    has_it = (
        select(other.c.sequence_number)
        .where(other.c.tag == further.c.tag, other.c.sequence_number == position)
        .correlate(further, first)
        .scalar_subquery()
        .is_not(None)
    )
    lacks_one = select(further.c.tag).where(~has_it).correlate(item, first).exists()
    event_type = (
        select(events_table.c.event_type)
        .where(events_table.c.sequence_number == position)
        .scalar_subquery()
    )
    tagged = (
        select(position)
        .where(
            first.c.tag == item.c.tag,
            _is_wanted(position),
            ~lacks_one,
            or_(item.c.types.is_(None), event_type == func.any(item.c.types)),
        )
        .order_by(position)
        .limit(parameter("limit", BigInteger))
        .correlate(item)
        .lateral("tagged")
    )
    return select(tagged.c.sequence_number).select_from(item.join(tagged, true()))


def _untagged() -> Select[Any]:
    types = parameter("types", ARRAY(String))
    position = events_table.c.sequence_number
    untagged = (
        select(position)
        .where(
            _is_wanted(position),
            or_(
                func.cardinality(types) == literal_column("0"),
                events_table.c.event_type == func.any(types),
            ),
        )
        .order_by(position)
        .limit(parameter("limit", BigInteger))
        .subquery("untagged")
    )
    return select(untagged.c.sequence_number)


def _is_wanted(position: ColumnElement[int]) -> ColumnElement[bool]:
    after, seen = parameter("after", BigInteger), parameter("seen", ARRAY(BigInteger))
    # No position is above it; a range of two ends is what the planner takes for a small part of a
    # table that it has no statistics of.
    highest: ColumnElement[int] = literal_column(str(MAX_VERSION))
    return and_(position > after, position <= highest, position != func.all(seen))
