"""Wait on the server: for locks no longer than it does good, and for others to get on.

The server sleeps, not the client, so that the same operation serves a thread and an event loop.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Double, Select, Text, func, literal, select

from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session


def pause(session: Session, seconds: float) -> None:
    """Let the server wait for a time."""
    run(connection_of(session), _pause(), {"seconds": seconds}, schema=None)


@contextmanager
def short_lock_waits(session: Session, seconds: float) -> Iterator[None]:
    """Wait for no lock longer than this in the block (PostgreSQL manual, 20.11: lock_timeout).

    An error leaves the setting to the savepoint that is rolled back then.
    """
    connection = connection_of(session)
    before = run(connection, _lock_timeout(), {}, schema=None).scalar_one()
    milliseconds = str(max(1, int(seconds * 1000)))
    run(connection, _set_lock_timeout(), {"value": milliseconds}, schema=None)
    yield
    run(connection, _set_lock_timeout(), {"value": before}, schema=None)


@cache
def _pause() -> Select[Any]:
    return select(func.pg_sleep(parameter("seconds", Double)).is_(None))


@cache
def _lock_timeout() -> Select[Any]:
    return select(func.current_setting(literal("lock_timeout")))


@cache
def _set_lock_timeout() -> Select[Any]:
    setting = literal("lock_timeout")
    return select(func.set_config(setting, parameter("value", Text), literal(True)))
