"""The events of a batch on their way to the server: one JSON parameter, opened there as rows.

So there is no limit of 65,535 parameters, one plan for every size of batch, and half the time of
arrays (measured).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json
from sqlalchemy import BigInteger, String, Text, Uuid, cast, column, func, select
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from eventstore.operations.statements import parameter

if TYPE_CHECKING:
    from sqlalchemy import CTE

    from eventstore.batches import EncodedBatch

#: The columns of ``incoming``, by the short name that each event's JSON has for it.
_COLUMNS: Final[dict[str, tuple[str, Any]]] = {
    "o": ("ordinal", BigInteger),
    "i": ("event_id", Uuid),
    "a": ("aggregate_id", String),
    "g": ("aggregate_type", String),
    "t": ("event_type", String),
    "h": ("occurred_at", TIMESTAMP(timezone=True)),
    "k": ("idempotency_key", Text),
    "d": ("event_data", JSONB),
    "m": ("metadata", JSONB),
}

#: A jsonb array ends at 256 MiB, and may be larger than its text.
MAX_BATCH_BYTES: Final = 128 * 2**20


def rows_of(batch: EncodedBatch) -> str:
    """Return the value of the parameter ``events``."""
    rows = []
    for ordinal, event in enumerate(batch.events, start=1):
        values = to_json(
            {
                "o": ordinal,
                "i": event.event_id,
                "a": event.aggregate_id,
                "g": event.aggregate_type,
                "t": event.event_type,
                "h": event.occurred_at.isoformat(),
                "k": event.idempotency_key,
            }
        )
        # Payload and metadata are JSON already; they are set in as they are.
        rows.append(b'%b,"d":%b,"m":%b}' % (values[:-1], event.event_data, event.metadata))
    encoded = b"[%b]" % b",".join(rows)
    if len(encoded) > MAX_BATCH_BYTES:
        raise ValueError(
            f"the events for stream {batch.stream_id!r} have {len(encoded)} bytes as JSON, one "
            f"append takes {MAX_BATCH_BYTES}; append them in several calls of one transaction"
        )
    return encoded.decode()


def incoming() -> CTE:
    """Return the CTE ``incoming``: the rows of the parameter ``events``, opened once."""
    opened = (
        func.jsonb_to_recordset(cast(parameter("events", Text), JSONB))
        .table_valued(*(column(short, type_) for short, (_, type_) in _COLUMNS.items()))
        .render_derived(name="r", with_types=True)
    )
    return (
        select(*(opened.c[short].label(name) for short, (name, _) in _COLUMNS.items()))
        .cte("incoming")
        .prefix_with("MATERIALIZED")
    )
