"""The events of a batch on their way to the server: one JSON parameter, opened there as rows.

So there is no limit of 65,535 parameters, one plan for every size of batch, and half the time of
arrays (measured). An event that comes alone is sent as a parameter a column: to open one row costs
the server more than to write it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic_core import to_json
from sqlalchemy import BigInteger, String, Text, Uuid, cast, column, func, select
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from eventstore.operations.statements import parameter

if TYPE_CHECKING:
    from sqlalchemy import CTE, ColumnElement

    from eventstore.batches import EncodedBatch, EncodedEvent

Columns: TypeAlias = "dict[str, tuple[str, Any]]"

#: Columns of ``incoming``, by the short name that each event's JSON has for them: what an event is,
_EVENT: Final[Columns] = {
    "i": ("event_id", Uuid),
    "a": ("aggregate_id", String),
    "g": ("aggregate_type", String),
    "t": ("event_type", String),
    "h": ("occurred_at", TIMESTAMP(timezone=True)),
    "k": ("idempotency_key", Text),
    "d": ("event_data", JSONB),
    "m": ("metadata", JSONB),
}
#: and where it goes: its ordinal in the batch.
_PLACE: Final[Columns] = {"o": ("ordinal", BigInteger)}

#: What is stored of an event, but for its stream and version.
STORED: Final = (
    "event_id",
    "aggregate_id",
    "aggregate_type",
    "event_type",
    "event_data",
    "occurred_at",
    "metadata",
)

#: A jsonb array ends at 256 MiB, and may be larger than its text.
MAX_BATCH_BYTES: Final = 128 * 2**20


def rows_of(batch: EncodedBatch) -> str:
    """Return the value of the parameter ``events``."""
    rows = [
        b'{"o":%d,%b' % (ordinal, row_of(event))
        for ordinal, event in enumerate(batch.events, start=1)
    ]
    encoded = b"[%b]" % b",".join(rows)
    refuse_too_large(batch.stream_id, len(encoded))
    return encoded.decode()


def row_of(event: EncodedEvent) -> bytes:
    """Return the event's JSON object without its first brace: its place is to be set before it."""
    key = event.idempotency_key
    # Payload and metadata are JSON already; they are set in as they are. A payload that could not
    # be sealed becomes NULL, which the table refuses.
    return b'"i":"%032x","h":"%b",%b"k":%b,"d":%b,"m":%b}' % (
        event.event_id.int,
        event.occurred_at.isoformat().encode(),
        _names(event.aggregate_id, event.aggregate_type, event.event_type),
        b"null" if key is None else to_json(key),
        event.event_data or b"null",
        event.metadata,
    )


@lru_cache(maxsize=4096)
def _names(aggregate_id: str, aggregate_type: str, event_type: str) -> bytes:
    """Return what is often that of the event before, as members of its JSON object."""
    return b'"a":%b,"g":%b,"t":%b,' % (
        to_json(aggregate_id),
        to_json(aggregate_type),
        to_json(event_type),
    )


def values_of_one(batch: EncodedBatch) -> dict[str, Any]:
    """Return the values of the parameters of :func:`incoming_one`."""
    (event,) = batch.events
    refuse_too_large(batch.stream_id, len(event.event_data) + len(event.metadata))
    return {
        "event_id": event.event_id,
        "aggregate_id": event.aggregate_id,
        "aggregate_type": event.aggregate_type,
        "event_type": event.event_type,
        "event_data": event.event_data.decode(),
        "occurred_at": event.occurred_at,
        "metadata": event.metadata.decode(),
    }


def incoming_one() -> list[ColumnElement[Any]]:
    """Return the columns :data:`STORED` of an event that comes alone, each a parameter."""
    types: dict[str, Any] = dict(_EVENT.values())
    return [
        cast(parameter(name, Text), JSONB).label(name)
        if types[name] is JSONB
        else parameter(name, types[name])
        for name in STORED
    ]


def refuse_too_large(stream_id: str, size: int) -> None:
    """Raise ValueError for a batch of more JSON than PostgreSQL opens."""
    if size > MAX_BATCH_BYTES:
        raise ValueError(
            f"the events for stream {stream_id!r} have {size} bytes as JSON, one "
            f"append takes {MAX_BATCH_BYTES}; append them in several calls of one transaction"
        )


def incoming(place: Columns = _PLACE) -> CTE:
    """Return the CTE ``incoming``: the rows of the parameter ``events``, opened once.

    Each is an event, and the columns that say where it goes.
    """
    columns = {**place, **_EVENT}
    opened = (
        func.jsonb_to_recordset(cast(parameter("events", Text), JSONB))
        .table_valued(*(column(short, type_) for short, (_, type_) in columns.items()))
        .render_derived(name="r", with_types=True)
    )
    return select(*(opened.c[short].label(name) for short, (name, _) in columns.items())).cte(
        "incoming"
    )
