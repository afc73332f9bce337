"""How the tests wait: for a condition, with a deadline against hanging only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore.events import EventEnvelope
from eventstore.store import SqlAlchemyEventStore
from eventstore.streams import ANY

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

SECONDS = 60


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def waiting_for(engine: Engine, locktype: str) -> Callable[[], object]:
    """Tell whether some session of this database waits for a lock of that type."""

    def tell() -> object:
        with engine.connect() as connection:
            return connection.execute(
                text(
                    "SELECT 1 FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)"
                    " WHERE datname = current_database() AND NOT granted AND l.locktype = :type"
                ),
                {"type": locktype},
            ).first()

    return tell


def keys_held(connection: Connection) -> list[int]:
    """The keys of the fences that are held in this database, as pg_locks shows them."""
    found = connection.exec_driver_sql(
        "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND mode = 'ShareLock' AND objsubid = 2 AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
    )
    return list(found.scalars())


def new_event() -> EventEnvelope[Any]:
    return EventEnvelope(aggregate_type="a", event_type="t", event_data={})


def append(session: Session, stream_id: str, schema: str | None = None) -> int:
    """Append one event and return its position."""
    store = SqlAlchemyEventStore(session, schema=schema)
    event = new_event()
    store.append_to_stream(stream_id, ANY, [event])
    *_, recorded = store.read_stream(stream_id)
    assert recorded.event_id == event.event_id
    return recorded.sequence_number


def committed(engine: Engine, stream_id: str, schema: str | None = None) -> int:
    """Append one event in a transaction of its own and return its position."""
    with Session(engine) as session, session.begin():
        return append(session, stream_id, schema)


def feed(engine: Engine, checkpoint: int = 0, schema: str | None = None) -> list[int]:
    """Poll the feed once, in a transaction of its own."""
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session, schema=schema)
        return [event.sequence_number for event in store.read_all_forward(checkpoint)]
