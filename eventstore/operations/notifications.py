"""NOTIFY as a hint that other processes may read the feed: without payload, on a channel a store.

A transaction that notifies takes one lock for the whole cluster at its commit (PostgreSQL's
``PreCommit_Notify``), so an append never does. The channel's name holds the oid of the sequence of
positions, which no other store of the database has.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Text, cast, func, literal, select

from eventstore.operations.fence import SEQUENCE
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def notification_channel(session: Session, *, schema: str | None) -> str:
    """Return the channel of this store."""
    connection = connection_of(session)
    rows = run(connection, _channel(), {}, schema=schema_of(connection, schema))
    channel: str = rows.scalar_one()
    return channel


def notify(session: Session, channel: str) -> None:
    """Tell whoever listens that there may be new events."""
    run(connection_of(session), _notify(), {"channel": channel}, schema=None)


@cache
def _channel() -> Select[Any]:
    return select(literal("eventstore_").concat(cast(SEQUENCE.c.tableoid, Text))).select_from(
        SEQUENCE
    )


@cache
def _notify() -> Select[Any]:
    return select(func.pg_notify(parameter("channel", Text), literal("")))
