"""Pages of the feed for a subscription: its partition's events, but those of parked streams."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BigInteger, Select, String, Text, cast, func, literal, select
from sqlalchemy.dialects.postgresql import BIT

from eventstore.models import events_table, parked_table
from eventstore.operations.read import (
    EVENT_ID,
    EVENT_VERSION,
    SEQUENCE_NUMBER,
    envelopes,
    event_columns,
    filter_conditions,
    filter_values,
)
from eventstore.operations.statements import fetch, parameter, run, unplanned
from eventstore.operations.subject_keys import with_keys
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.recorded import Decoder, collector_paused

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.reading import EventFilter

_STREAM_ID = 1


class StoredEvent:
    """An event as it is stored: it can be named, even if it can't be decoded."""

    __slots__ = ("_decoder", "_row")

    def __init__(self, row: tuple[Any, ...], decoder: Decoder) -> None:
        self._row = row
        self._decoder = decoder

    @property
    def event_id(self) -> UUID:
        """The event's id."""
        event_id: UUID = self._row[EVENT_ID]
        return event_id

    @property
    def stream_id(self) -> str:
        """The stream it belongs to."""
        stream_id: str = self._row[_STREAM_ID]
        return stream_id

    @property
    def version(self) -> int:
        """Its place in the stream."""
        version: int = self._row[EVENT_VERSION]
        return version

    @property
    def position(self) -> int:
        """Its place in the whole store."""
        position: int = self._row[SEQUENCE_NUMBER]
        return position

    def decoded(self, codec: PayloadCodec, filters: EventFilter | None) -> list[AnyEnvelope]:
        """Return what it says today; raises :class:`~eventstore.SerializationError`."""
        wanted = codec.current_types(filters.event_types) if filters else frozenset()
        return envelopes([self._row], self._decoder, wanted)


class Slice(NamedTuple):
    """Which part of the feed a partition of a subscription gets."""

    subscription: str
    partition: int
    partitions: int
    filters: EventFilter | None


def read_slice(
    session: Session,
    part: Slice,
    codec: PayloadCodec,
    *,
    after: int,
    until: int | None,
    limit: int,
    idle_seconds: float,
    schema: str | None,
) -> list[StoredEvent]:
    """Return the slice's next events between two positions, not those of parked streams.

    ``after`` is a position up to which the feed can be read. With ``until`` None it is read as far
    as numbers follow one another without a gap: where each number is visible, none can appear any
    more, so that these events can be had without a look at the fence.

    From here to its end, the transaction may wait for its client for ``idle_seconds`` at a time:
    the server ends one that was frozen, with its locks and its snapshot.
    """
    given = filter_values(part.filters, codec)
    values = {
        "subscription": part.subscription,
        "after": after,
        "until": until,
        "limit": limit,
        "idle_milliseconds": str(max(1, int(idle_seconds * 1000))),
    }
    if part.partitions > 1:
        values |= {"partition": part.partition, "partitions": part.partitions}
    statement = _slice(tuple(given), part.partitions > 1, until is not None)
    return _stored(session, statement, values | given, codec, schema)


def limit_idle(session: Session, idle_seconds: float) -> None:
    """Let the transaction wait for its client for this time, as :func:`read_slice` does."""
    values = {"idle_milliseconds": str(max(1, int(idle_seconds * 1000)))}
    run(connection_of(session), _limit(), values, schema=None)


def read_parked_events(
    session: Session,
    stream_id: str,
    filters: EventFilter | None,
    codec: PayloadCodec,
    *,
    after: int,
    until: int,
    limit: int,
    schema: str | None,
) -> list[StoredEvent]:
    """Return the next events of one stream that match, between two positions."""
    given = filter_values(filters, codec)
    values = {"stream_id": stream_id, "after": after, "until": until, "limit": limit}
    return _stored(session, _stream(tuple(given)), values | given, codec, schema)


def _stored(
    session: Session,
    statement: Select[Any],
    values: dict[str, Any],
    codec: PayloadCodec,
    schema: str | None,
) -> list[StoredEvent]:
    connection = connection_of(session)
    schema = schema_of(connection, schema)
    with collector_paused():
        rows = fetch(connection, statement, values, schema=schema)
        decoder = with_keys(connection, Decoder(None, codec), rows, schema=schema)
        return [StoredEvent(row, decoder) for row in rows]


@cache
def _slice(given: tuple[str, ...], partitioned: bool, bounded: bool) -> Select[Any]:
    conditions = filter_conditions()
    position = events_table.c.sequence_number
    parked = select(parked_table.c.stream_id).where(
        parked_table.c.subscription == parameter("subscription", String)
    )
    chosen = [conditions[name] for name in given]
    if partitioned:
        number = partition_of(events_table.c.stream_id, parameter("partitions", BigInteger))
        chosen.append(number == parameter("partition", BigInteger))
    return (
        select(*event_columns())
        .where(
            # Without a reference to the row it is evaluated once, even if there is no event.
            _limit().scalar_subquery().is_not(None),
            position > unplanned("after"),
            position <= (unplanned("until") if bounded else _end_of_run()),
            *chosen,
            # Not NOT EXISTS: that might become a join, which would sort what lies behind.
            events_table.c.stream_id.not_in(parked),
        )
        .order_by(position)
        .limit(unplanned("limit"))
    )


def _end_of_run() -> ColumnElement[int]:
    """Return the last of the numbers that follow ``after`` one by one, or ``after``.

    Of the next ``limit`` numbers alone: between two bounds no statistics of a table that has grown
    can make the planner sort what lies behind.
    """
    after = unplanned("after")
    number = events_table.c.sequence_number
    place = func.row_number().over(order_by=number)
    next_ones = (
        select(number.label("number"), place.label("place"))
        .where(number > after, number <= after + unplanned("limit"))
        .subquery("next_ones")
    )
    in_row = next_ones.c.number == after + next_ones.c.place
    last = select(func.max(next_ones.c.number)).where(in_row).scalar_subquery()
    return func.coalesce(last, after)


@cache
def _limit() -> Select[Any]:
    """PostgreSQL manual, 20.11: ``idle_in_transaction_session_timeout``."""
    setting = literal("idle_in_transaction_session_timeout")
    return select(
        func.set_config(setting, parameter("idle_milliseconds", Text), literal(True)).label("limit")
    )


def partition_of(
    stream_id: ColumnElement[str], partitions: ColumnElement[int]
) -> ColumnElement[int]:
    """Return the number of the partition that a stream is in: the same in every process.

    The hash is the first 32 bits of SHA-256 of the name in UTF-8, which no version of PostgreSQL
    will ever change: ``hashtextextended`` is not documented, and ``md5`` fails where only FIPS
    140 is allowed.
    """
    digest = func.sha256(func.convert_to(stream_id, literal("UTF8")))
    digits = func.substr(func.encode(digest, literal("hex")), literal(1), literal(8))
    number = cast(cast(literal("x").concat(digits), BIT(32)), BigInteger)
    return func.mod(number, partitions, type_=BigInteger)


@cache
def _stream(given: tuple[str, ...]) -> Select[Any]:
    conditions = filter_conditions()
    position = events_table.c.sequence_number
    return (
        select(*event_columns())
        .where(
            events_table.c.stream_id == parameter("stream_id", String),
            position > parameter("after", BigInteger),
            position <= parameter("until", BigInteger),
            *(conditions[name] for name in given),
        )
        .order_by(events_table.c.event_version)
        .limit(parameter("limit", BigInteger))
    )
