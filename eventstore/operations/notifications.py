"""NOTIFY as a hint that other processes may read the feed, on a channel a store.

A transaction that notifies takes one lock for the whole cluster at its commit (PostgreSQL's
``PreCommit_Notify``), so an append never does. The channel's name holds the oid of the sequence of
positions, which no other store of the database has. What is sent is the sender's name, by which it
knows its own.
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


def notify(session: Session, channel: str, sender: str) -> None:
    """Tell whoever listens that there may be new events."""
    values = {"channel": channel, "sender": sender}
    run(connection_of(session), _notify(), values, schema=None)


def server_process(session: Session) -> int:
    """Return the process id of the session's server process, as the server knows it."""
    pid: int = run(connection_of(session), _server_process(), {}, schema=None).scalar_one()
    return pid


@cache
def _channel() -> Select[Any]:
    return select(literal("eventstore_").concat(cast(SEQUENCE.c.tableoid, Text))).select_from(
        SEQUENCE
    )


@cache
def _notify() -> Select[Any]:
    return select(func.pg_notify(parameter("channel", Text), parameter("sender", Text)))


@cache
def _server_process() -> Select[Any]:
    return select(func.pg_backend_pid())
