"""COPY goes past SQLAlchemy, to psycopg itself: what both directions need for that."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.exc import DBAPIError

from eventstore.operations.conflicts import translate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


def use_utf8(connection: Connection) -> None:
    """Speak UTF-8 to the end of the transaction: in the binary format too, texts are as agreed."""
    driver: Any = connection.connection.driver_connection
    if driver.info.encoding != "utf-8":
        connection.exec_driver_sql("SET LOCAL client_encoding = 'UTF8'")


@contextmanager
def driver_errors(connection: Connection, statement: str) -> Iterator[None]:
    """Raise the typed error where the driver's has one, else SQLAlchemy's."""
    try:
        yield
    except connection.dialect.loaded_dbapi.Error as error:
        wrapped = _as_sqlalchemy(error, connection, statement)
        raise translate(wrapped, connection) or wrapped from error


def _as_sqlalchemy(error: Any, connection: Connection, statement: str) -> DBAPIError:
    """Return the driver's error as SQLAlchemy raises it, and give up a connection that is lost."""
    dialect = connection.dialect
    is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
    if is_lost:
        connection.invalidate(error)
    wrapped = DBAPIError.instance(
        statement,
        None,
        error,
        dialect.loaded_dbapi.Error,
        connection_invalidated=is_lost,
        dialect=dialect,
    )
    return cast("DBAPIError", wrapped)
