"""Whose fault an error is, an event's or nobody's, and how it is told without a payload."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from eventstore.errors import EventStoreError
from eventstore.operations.conflicts import constraint_of, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.operations.deliveries import StoredEvent

#: Of a traceback, its end: that is where the error was raised.
_MAX_TRACEBACK: Final = 8_000
_MAX_MESSAGE: Final = 1_000

# PostgreSQL manual, appendix A: connection exceptions, transaction rollback (a deadlock), lack of
# resources (connections, disk), a server that stops, starts, has crashed, or became read-only.
_OUTAGES: Final = ("08", "40", "53", "57P01", "57P02", "57P03", "25006")
#: The handler has left its transaction idle for longer than a lease.
_IDLE_IN_TRANSACTION: Final = "25P03"
#: The handler has gone on after a statement that failed.
_IN_FAILED_TRANSACTION: Final = "25P02"


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that could not be handled, and why."""

    event: StoredEvent
    error: str
    traceback: str
    attempts: int  #: at this event by itself


def failure_of(event: StoredEvent, error: Exception, attempts: int) -> Failure:
    """Describe an error: what it is and where it was raised, bounded, and without a payload."""
    where = "".join(traceback.format_tb(error.__traceback__))[-_MAX_TRACEBACK:]
    return Failure(event, describe(error), where, attempts)


def describe(error: BaseException) -> str:
    """Return the type of an error and what it says, unless that may show a payload."""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, ValidationError):
        return f"{name}: {error.error_count()} errors in {error.title}"
    if isinstance(error, DBAPIError):
        # The server's words hold values, and SQLAlchemy's the parameters.
        facts = ("SQLSTATE", sqlstate_of(error)), ("constraint", constraint_of(error))
        told = ", ".join(f"{what} {value}" for what, value in facts if value)
        return f"{name}: {told}" if told else name
    return f"{name}: {error}"[:_MAX_MESSAGE]


def is_passing(error: Exception) -> bool:
    """Tell whether trying again may help, where no event was being handled."""
    if isinstance(error, EventStoreError):
        return error.retryable
    return isinstance(error, DBAPIError | PoolTimeoutError | OSError)


def is_outage(error: BaseException) -> bool:
    """Tell whether a handler's error comes from a connection or a server, so that it may pass.

    Also if the handler has made another one of it: it is looked for among the causes.
    """
    return not is_idle_too_long(error) and any(
        _is_outage(each) or _is_connecting(each) for each in _with_causes(error)
    )


def is_outage_of_commit(error: BaseException) -> bool:
    """Tell the same of an error of the commit.

    Nobody connects there. A driver that says no more is that of another database, whose part of
    the session's transaction is refused: an outage of ours has ended our connection.
    """
    return not is_idle_too_long(error) and any(_is_outage(each) for each in _with_causes(error))


def is_lost_without_a_word(error: BaseException) -> bool:
    """Tell whether a connection has broken and the server has not said why, as in a crash."""
    return any(
        isinstance(each, DBAPIError) and each.connection_invalidated and sqlstate_of(each) is None
        for each in _with_causes(error)
    )


def is_idle_too_long(error: BaseException) -> bool:
    """Tell whether the server has ended a transaction that waited for its handler."""
    return any(
        isinstance(each, DBAPIError) and sqlstate_of(each) == _IDLE_IN_TRANSACTION
        for each in _with_causes(error)
    )


def is_left_broken(error: Exception) -> bool:
    """Tell whether a handler has returned although its transaction had failed."""
    if isinstance(error, DBAPIError):
        return sqlstate_of(error) == _IN_FAILED_TRANSACTION
    return isinstance(error, InvalidRequestError)


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, EventStoreError):
        return error.retryable
    if isinstance(error, DBAPIError):
        sqlstate = sqlstate_of(error) or ""
        return error.connection_invalidated or sqlstate.startswith(_OUTAGES)
    return isinstance(error, PoolTimeoutError)


def _is_connecting(error: BaseException) -> bool:
    """Tell whether no connection was made, as far as a driver tells.

    Not the server has said so. But where a connection lives, a driver that can't send a statement
    will never be able to.
    """
    return (
        isinstance(error, OperationalError)
        and error.statement is None
        and sqlstate_of(error) is None
    )


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, or while handling."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        hidden = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or hidden
