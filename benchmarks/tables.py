"""What hand-written SQL and our store share: the event's types, and tables filled by SQL."""

from __future__ import annotations

import json
from datetime import date  # noqa: TC003 - pydantic reads it
from typing import Final

import psycopg
from pydantic import BaseModel
from sqlalchemy import URL, NullPool, create_engine, make_url

from benchmarks import contents
from benchmarks.worker import Store
from eventstore import EventRegistry, migrate


class Line(BaseModel):
    article: str
    quantity: int
    cents: int


class InvoiceIssued(BaseModel):
    invoice_id: str
    customer_id: str
    due: date
    currency: str
    lines: list[Line]
    total_cents: int
    note: str


class Metadata(BaseModel):
    """What a hand-written store would have: the same ids, and nothing that it doesn't need."""

    correlation_id: str
    causation_id: str
    user_id: str
    source_service: str


registry = EventRegistry()
registry.register(contents.EVENT_TYPE, InvoiceIssued)
#: Stores payloads without reading them back first, as `raw` does.
unverified = EventRegistry(verify=False)
unverified.register(contents.EVENT_TYPE, InvoiceIssued)

# The application's own object is there before the clock starts; what a store makes of it (ids,
# metadata, envelopes, JSON) is timed.
PAYLOAD: Final = InvoiceIssued.model_validate(contents.DATA)

#: Of the streams beside those that are read.
_OTHER_STREAM_EVENTS: Final = 100
# Versions are computed, not counted: millions of rows are then neither sorted nor grouped.
_FILL_EVENTS: Final = """
INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type, event_data,
    event_version, occurred_at, metadata)
SELECT gen_random_uuid(), stream_id, stream_id, %(aggregate_type)s, %(event_type)s,
    %(data)s::jsonb, version, now(), %(metadata)s::jsonb || jsonb_build_object(
        'correlation_id', gen_random_uuid(), 'causation_id', gen_random_uuid())
FROM generate_series(0, %(count)s - 1) AS n,
    LATERAL (
        SELECT %(long_stream)s, n + 1 WHERE n < %(long)s
        UNION ALL
        SELECT (%(short_streams)s::text[])[(n - %(long)s) %% %(streams)s + 1],
            (n - %(long)s) / %(streams)s + 1
        WHERE n >= %(long)s AND n < %(least)s
        UNION ALL
        SELECT %(category)s || '-other-' || (n - %(least)s) / %(other)s,
            (n - %(least)s) %% %(other)s + 1
        WHERE n >= %(least)s
    ) AS event (stream_id, version)
"""
_FILL_STREAMS: Final = """
INSERT INTO streams (stream_id, version)
SELECT stream_id, max(event_version) FROM events GROUP BY stream_id
"""


def sqlalchemy_url(url: str) -> URL:
    """Return libpq's address as one for SQLAlchemy with psycopg."""
    return make_url(url).set(drivername="postgresql+psycopg")


class EventStoreTables(Store):
    """A contender that uses the event store's own tables."""

    async def set_up(self, url: str) -> None:
        migrate.upgrade(create_engine(sqlalchemy_url(url), poolclass=NullPool))

    async def fill(self, url: str, events: int) -> None:
        """Write what `contents.fill` would, up to millions of events in a minute or so."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                _FILL_EVENTS,
                {
                    "aggregate_type": contents.AGGREGATE_TYPE,
                    "event_type": contents.EVENT_TYPE,
                    "data": PAYLOAD.model_dump_json(),
                    "metadata": json.dumps(contents.METADATA),
                    "category": contents.CATEGORY,
                    "count": events,
                    "long": contents.LONG_STREAM_EVENTS,
                    "long_stream": contents.LONG_STREAM,
                    "least": contents.MIN_EVENTS,
                    "short_streams": list(contents.SHORT_STREAMS),
                    "streams": len(contents.SHORT_STREAMS),
                    "other": _OTHER_STREAM_EVENTS,
                },
            )
            connection.execute(_FILL_STREAMS)
