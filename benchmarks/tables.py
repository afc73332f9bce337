"""The tables that hand-written SQL and our store share: made by our migrations, filled by SQL."""

from __future__ import annotations

import json
from typing import Final

import psycopg
from sqlalchemy import URL, NullPool, create_engine, make_url

from benchmarks import filling, payload
from benchmarks.events import PAYLOAD
from benchmarks.worker import Store
from eventstore import migrate

_FILL_EVENTS: Final = """
INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type, event_data,
    event_version, occurred_at, metadata)
SELECT gen_random_uuid(), stream_id, stream_id, %(aggregate_type)s, %(event_type)s,
    %(data)s::jsonb, row_number() OVER (PARTITION BY stream_id ORDER BY n), now(),
    %(metadata)s::jsonb || jsonb_build_object(
        'correlation_id', gen_random_uuid(), 'causation_id', gen_random_uuid())
FROM generate_series(0, %(count)s - 1) AS n,
    LATERAL (SELECT CASE
        WHEN n < %(long)s THEN %(long_stream)s
        WHEN n < %(long)s + %(short)s * %(streams)s
            THEN (%(short_streams)s::text[])[n %% %(streams)s + 1]
        ELSE %(category)s || '-other-' || n / 100
    END) AS stream (stream_id)
ORDER BY n
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
        """Write what `filling.fill` would, up to millions of events in a minute."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                _FILL_EVENTS,
                {
                    "aggregate_type": payload.AGGREGATE_TYPE,
                    "event_type": payload.EVENT_TYPE,
                    "data": PAYLOAD.model_dump_json(),
                    "metadata": json.dumps(payload.METADATA),
                    "category": filling.CATEGORY,
                    "count": events,
                    "long": filling.LONG_STREAM_EVENTS,
                    "long_stream": filling.LONG_STREAM,
                    "short": filling.SHORT_STREAM_EVENTS,
                    "short_streams": list(filling.SHORT_STREAMS),
                    "streams": len(filling.SHORT_STREAMS),
                },
            )
            connection.execute(_FILL_STREAMS)
