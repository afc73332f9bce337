"""Append the batches of many callers by one statement, each batch with an outcome of its own.

The statement is that of :mod:`~eventstore.operations.append_statement`, for many streams: locks,
then the streams' rows in the order of their ids, then the events, each step fed by the one before.
Every stream is held to the version that the statement's snapshot shows, whatever callers accept.

A stream that the statement leaves alone costs the others nothing. If all that speaks against its
append is the version, the statement says so: that is the outcome. Everything else (events or keys
that are known, a deleted stream, a writer that was quicker) is judged by the append of that one
batch, in a transaction of its own; so there is one judge of what an append means.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    String,
    case,
    false,
    func,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from eventstore.batches import encode_batch, refuse_id_twice
from eventstore.errors import ConnectionUnusable, EventStoreError
from eventstore.grouping import chains_of
from eventstore.models import events_table, streams_table
from eventstore.operations import verdict
from eventstore.operations.append import append_batch, seal_batches
from eventstore.operations.append_statement import move_streams
from eventstore.operations.commits import announce_committed
from eventstore.operations.incoming import STORED, incoming, refuse_too_large, row_of
from eventstore.operations.missed import MissedEvents
from eventstore.operations.statements import fetch
from eventstore.operations.tags import insert_tags, locks_of_writer
from eventstore.operations.transactions import schema_of
from eventstore.streams import MAX_VERSION, STREAM_EXISTS, StreamState, require_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import CTE, CompoundSelect, Connection

    from eventstore.batches import EncodedBatch
    from eventstore.events import AnyEnvelope
    from eventstore.grouping import Chain, Outcome, Submission, W
    from eventstore.operations.incoming import Columns
    from eventstore.registry import PayloadCodec
    from eventstore.streams import ExpectedVersion

#: Where an event goes, by the short names of its JSON.
_PLACE: Final[Columns] = {
    "s": ("stream_id", String),
    "b": ("behind", BigInteger),  # how many events of the chain follow this one
    # Of a chain's first event: the least and the greatest version that the stream may have.
    "l": ("low", BigInteger),
    "u": ("high", BigInteger),
}
#: What a deleted stream has for a version: nobody expects it.
_DELETED: Final = -1


def encode_append(
    stream_id: str,
    expected_version: ExpectedVersion,
    events: Sequence[AnyEnvelope],
    codec: PayloadCodec,
) -> tuple[EncodedBatch, tuple[str, ...]]:
    """Return the batch, and its events as the rows of a group's statement.

    All that can be done before the append has its place in a group is done here, by its caller.
    """
    batch = encode_batch(stream_id, expected_version, events, codec)
    refuse_id_twice([batch])
    stream = b'"s":%b,' % to_json(stream_id)
    rows = tuple([(stream + row_of(event)).decode() for event in batch.events])
    refuse_too_large(stream_id, sum(map(len, rows)))
    return batch, rows


def append_group(
    connection: Connection,
    group: Sequence[Submission[W]],
    *,
    codec: PayloadCodec,
    schema: str | None,
) -> dict[Submission[W], Outcome]:
    """Append what the group's submissions hold, and return the outcome of each.

    Those that are missing in the answer were not touched: what they mean depends on one that
    has its outcome now. ``connection`` must be in AUTOCOMMIT: what has an outcome is committed.

    Raises :class:`~eventstore.ConnectionUnusable` when the connection is lost; then any part of
    the group may have been committed.
    """
    schema = schema_of(connection, schema)
    append_alone = partial(_append_alone, connection, codec=codec, schema=schema)
    alone, together = _sort_out(group, codec)
    outcomes = {each: append_alone(each) for each in alone}
    chains = chains_of(together)
    versions = _write(connection, chains, schema=schema) if chains else {}
    for chain in chains:
        first = chain.submissions[0]
        known = versions.get(chain.stream_id)
        if isinstance(known, int):
            version = known - chain.event_count
            for submission in chain.submissions:
                version += len(submission.batch.events)
                outcomes[submission] = version
        elif known is None or first.fetch_missed:
            outcomes[first] = append_alone(first)
        else:
            outcomes[first] = known
    announce_committed()
    return outcomes


def _sort_out(
    group: Sequence[Submission[W]], codec: PayloadCodec
) -> tuple[list[Submission[W]], list[Submission[W]]]:
    """Return who is appended alone, and then who by the statement: in each stream by their turn.

    Who has no company is appended alone: the statement for one costs less than a group's for one. A
    check without events can't be a part of the statement, nor what is personal, which has to be
    sealed first. Behind others of its stream, such a one waits for their outcome, and so do those
    that come behind it.
    """
    if len(group) == 1:
        return list(group), []
    alone, together = [], []
    begun: set[str] = set()
    left_out: set[str] = set()
    for each in group:
        stream_id = each.batch.stream_id
        if stream_id in left_out:
            continue
        if each.batch.events and (not codec.personal or each.batch.sealed):
            together.append(each)
            begun.add(stream_id)
        elif stream_id in begun:
            left_out.add(stream_id)
        else:
            alone.append(each)
    return alone, together


def _append_alone(
    connection: Connection, submission: Submission[W], *, codec: PayloadCodec, schema: str | None
) -> Outcome:
    """Append one batch in a transaction of its own; what it raises is its outcome."""
    batch = submission.batch
    missed = MissedEvents(codec) if submission.fetch_missed else None
    try:
        if not batch.events:
            return verdict.check_stream(
                connection, batch.stream_id, batch.expected_version, schema=schema
            )
        (batch,), before = seal_batches(connection, [batch], codec, schema=schema)
        if before is not None:
            return before.streams[0].version
        appended = append_batch(connection, batch, missed, schema=schema, positions=False)
        return appended.streams[0].version
    except ConnectionUnusable:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no other caller's
        return error


def _write(
    connection: Connection, chains: Sequence[Chain[W]], *, schema: str | None
) -> dict[str, Outcome]:
    """Run the statement; return the new version of each stream, or the conflict that it met.

    A stream that is missing in the answer has to be judged by itself. So have all of them if the
    statement failed (an id was taken by another transaction meanwhile, a deadlock, a value that
    PostgreSQL can't take): nothing was written, and it is only one append's fault.
    """
    try:
        values: dict[str, Any] = {"events": _rows_of(chains)}
        tags = {tag for chain in chains for each in chain.submissions for tag in each.batch.tags}
        if tags:
            values["tags"] = sorted(tags)
        rows = fetch(connection, _group_statement(tagged=bool(tags)), values, schema=schema)
    except ConnectionUnusable:
        raise
    except (EventStoreError, DBAPIError):
        return {}
    expected = {chain.stream_id: chain.expected for chain in chains}
    return {
        stream_id: version if is_written else _conflict(stream_id, expected[stream_id], version)
        for stream_id, version, is_written in rows
    }


def _conflict(stream_id: str, expected: int | StreamState, actual: int) -> Exception:
    try:
        require_version(stream_id, expected, actual, None)
    except EventStoreError as error:
        return error
    raise AssertionError(f"version {actual} of stream {stream_id!r} is no conflict")


def _rows_of(chains: Iterable[Chain[W]]) -> str:
    """Return the value of the parameter ``events``."""
    rows = []
    for chain in chains:
        low, high = _bounds(chain.expected)
        behind = chain.event_count
        head = f'"l":{low},"u":{high},'
        for submission in chain.submissions:
            for row in submission.rows:
                behind -= 1
                rows.append(f'{{"b":{behind},{head}{row}')
                head = ""
    return f"[{','.join(rows)}]"


def _bounds(expected: int | StreamState) -> tuple[int, int]:
    """Return the least and the greatest version that a stream may have for this expectation."""
    if isinstance(expected, StreamState):
        return int(expected is STREAM_EXISTS), MAX_VERSION
    return expected, expected


@cache
def _group_statement(*, tagged: bool) -> CompoundSelect[Any]:
    """Fence, then the streams' rows, then the events; then what became of each stream."""
    rows = incoming(_PLACE)
    heads = _heads(rows)
    known = _known(rows)
    store, lock = locks_of_writer(tagged=tagged, for_statement=True)
    fence = (
        select(lock.label("held"))
        .select_from(store)
        .cte("fence")
        .prefix_with("MATERIALIZED")  # locked once, not once a stream
    )
    is_new = heads.c.stream_id.not_in(select(known.c.stream_id))
    is_expected = heads.c.version.between(heads.c.low, heads.c.high)
    opened = move_streams(
        select(heads.c.stream_id, heads.c.event_count)
        .select_from(heads.join(fence, fence.c.held))
        .where(is_expected, is_new)
        # Whoever locks several streams does it in this order.
        .order_by(heads.c.stream_id),
        # Not a look-up for each stream, but one hash table for all.
        is_expected=tuple_(streams_table.c.stream_id, streams_table.c.version).in_(
            select(heads.c.stream_id, heads.c.version)
        ),
    )
    events = (
        select(
            *(rows.c[name] for name in STORED),
            rows.c.stream_id,
            opened.c.version - rows.c.behind,
        )
        .select_from(opened.join(rows, rows.c.stream_id == opened.c.stream_id))
        # Numbers are drawn in this order.
        .order_by(rows.c.stream_id, rows.c.behind.desc())
    )
    recording = postgresql.insert(events_table).from_select(
        [*STORED, "stream_id", "event_version"], events
    )
    written = recording.cte("recorded")
    if tagged:
        written = recording.returning(events_table.c.sequence_number, events_table.c.metadata).cte(
            "recorded"
        )
    outcome = union_all(
        select(opened.c.stream_id, opened.c.version, true()),
        select(heads.c.stream_id, heads.c.version, false()).where(
            ~is_expected, heads.c.version != literal_column(str(_DELETED)), is_new
        ),
    ).add_cte(written)
    return outcome.add_cte(insert_tags(written).cte("tagged")) if tagged else outcome


def _known(rows: CTE) -> CTE:
    """Return the CTE ``known``: the streams for which an event or a key has come before."""
    has_known_key = verdict.has_known_key(rows, rows.c.stream_id)
    return (
        select(rows.c.stream_id)
        .where(verdict.has_known_id(rows) | (rows.c.idempotency_key.is_not(None) & has_known_key))
        .cte("known")
        .prefix_with("MATERIALIZED")
    )


def _heads(rows: CTE) -> CTE:
    """Return the CTE ``heads``: each stream of the group, and its version as the snapshot shows it.

    Looked up one by one, as ids are: see :func:`~eventstore.operations.verdict.has_known_id`.
    """
    seen = select(
        case(
            (streams_table.c.deleted_at.is_(None), streams_table.c.version),
            else_=literal_column(str(_DELETED)),
        )
    ).where(streams_table.c.stream_id == rows.c.stream_id)
    return (
        select(
            rows.c.stream_id,
            (rows.c.behind + 1).label("event_count"),
            rows.c.low,
            rows.c.high,
            func.coalesce(seen.scalar_subquery(), literal_column("0")).label("version"),
        )
        .where(rows.c.low.is_not(None))
        .cte("heads")
        .prefix_with("MATERIALIZED")
    )
