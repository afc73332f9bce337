"""PostgreSQL's errors, recognised by SQLSTATE and constraint name, never by their words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventstore.errors import (
    ConnectionUnusable,
    EventStoreError,
    SchemaOutOfDate,
    TransactionConflict,
)
from eventstore.models import HEAD_REVISION

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

# PostgreSQL manual, appendix A: error codes.
SERIALIZATION_FAILURE: Final = "40001"
UNIQUE_VIOLATION: Final = "23505"
_DEADLOCK_DETECTED: Final = "40P01"
_READ_ONLY_SQL_TRANSACTION: Final = "25006"
_CONNECTION_FAILURE: Final = "08006"
_UNDEFINED_TABLE: Final = "42P01"
_UNDEFINED_COLUMN: Final = "42703"
_SERVER_GONE: Final = frozenset({"57P01", "57P02"})


def translate(error: DBAPIError, connection: Connection) -> EventStoreError | None:
    """Return our error for PostgreSQL's, None where we have no name for it.

    A connection that has become read-only is invalidated: after a failover the pool would go on
    handing it out, since it still answers ``SELECT 1``.
    """
    sqlstate = sqlstate_of(error)
    if sqlstate in (SERIALIZATION_FAILURE, _DEADLOCK_DETECTED):
        return TransactionConflict(sqlstate)
    if sqlstate == _READ_ONLY_SQL_TRANSACTION:
        connection.invalidate(error)
        return ConnectionUnusable(sqlstate)
    if sqlstate in _SERVER_GONE or error.connection_invalidated:
        return ConnectionUnusable(sqlstate or _CONNECTION_FAILURE)
    if sqlstate in (_UNDEFINED_TABLE, _UNDEFINED_COLUMN):
        return SchemaOutOfDate(None, HEAD_REVISION)
    return None


def translate_at_commit(error: DBAPIError) -> EventStoreError | None:
    """Return our error for one that a commit has met, where nothing need be of our tables."""
    sqlstate = sqlstate_of(error)
    if sqlstate in (SERIALIZATION_FAILURE, _DEADLOCK_DETECTED):
        return TransactionConflict(sqlstate)
    if sqlstate in _SERVER_GONE or error.connection_invalidated:
        return ConnectionUnusable(sqlstate or _CONNECTION_FAILURE)
    return None


def sqlstate_of(error: DBAPIError) -> str | None:
    """Return the five characters that PostgreSQL gives each kind of error."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None


def constraint_of(error: DBAPIError) -> str | None:
    """Return the name of the constraint that was violated."""
    diagnostics = getattr(error.orig, "diag", None)  # psycopg
    if diagnostics is None:
        diagnostics = getattr(error.orig, "__cause__", None)  # asyncpg, behind SQLAlchemy's adapter
    name = getattr(diagnostics, "constraint_name", None)
    return name if isinstance(name, str) else None
