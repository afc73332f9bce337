"""The caller's transaction: which connection it is on, and how to undo a part of it alone."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from eventstore.models import EventRecord
from eventstore.operations.conflicts import translate_at_commit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

#: libpq's PQTRANS_IDLE: no transaction is open (PostgreSQL manual, PQtransactionStatus).
_IDLE: Final = 0


def connection_of(session: Session) -> Connection:
    """Return the connection on which ``session`` reaches the events; begins if it hasn't yet.

    Raises ValueError for a database that is not PostgreSQL.
    """
    connection = session.connection(bind_arguments={"mapper": EventRecord})
    if connection.dialect.name != "postgresql":
        raise ValueError(
            f"the event store needs PostgreSQL, this session is bound to {connection.dialect.name}"
        )
    return connection


def transaction_of(session: Session) -> Connection:
    """Return the same for what is done as a whole or not at all; ValueError in AUTOCOMMIT."""
    connection = connection_of(session)
    if is_autocommit(connection):
        raise ValueError(
            "this is done in a transaction, as a whole or not at all; use a session that is not in "
            "AUTOCOMMIT"
        )
    return connection


def schema_of(connection: Connection, schema: str | None) -> str | None:
    """Return the schema that the caller named, or the one the connection's map gives for None."""
    if schema is not None:
        return schema
    translate_map = connection.get_execution_options().get("schema_translate_map")
    return translate_map.get(None) if translate_map else None


def is_autocommit(connection: Connection) -> bool:
    """Tell whether each statement is a transaction of its own.

    SQLAlchemy's setting alone doesn't tell: the caller may have sent a BEGIN by hand.
    """
    pooled = connection.connection
    raw: Any = pooled.dbapi_connection
    if raw is None or not connection.dialect.detect_autocommit_setting(raw):
        return False
    driver: Any = pooled.driver_connection
    if connection.dialect.driver == "asyncpg":
        return not driver.is_in_transaction()
    return bool(driver.info.transaction_status == _IDLE)


@contextmanager
def atomic(connection: Connection) -> Iterator[None]:
    """Undo what the block has done if it raises, and nothing else.

    In a transaction that is a savepoint; where each statement commits by itself, it is a
    transaction for the time of the block.
    """
    transaction = explicit_transaction if is_autocommit(connection) else _savepoint
    with transaction(connection):
        yield


@contextmanager
def in_transaction(connection: Connection) -> Iterator[None]:
    """Run the block in the caller's transaction, or where there is none, in one of its own."""
    if is_autocommit(connection):
        with explicit_transaction(connection):
            yield
    else:
        yield


@contextmanager
def explicit_transaction(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction on a connection that is in AUTOCOMMIT."""
    connection.exec_driver_sql("BEGIN")
    try:
        yield
    except BaseException:
        # A connection that was lost or cancelled has nothing to roll back, and can't say so: what
        # the block has raised is what matters.
        with suppress(SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


def begin_read_committed(session: Session) -> None:
    """Begin the session's transaction, whatever the isolation of its engine; unless it has begun.

    Each statement then sees what was committed before it, which the feed's fence needs.
    """
    if session.in_transaction():
        return
    session.begin()
    session.connection(
        bind_arguments={"mapper": EventRecord},
        execution_options={"isolation_level": "READ COMMITTED"},
    )


def commit(session: Session) -> None:
    """Commit a session of ours; a serialization failure may show only now, and is told by type."""
    try:
        session.commit()
    except DBAPIError as error:
        known = translate_at_commit(error)
        if known is None:
            raise
        raise known from error


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    with connection.begin_nested():
        yield
