"""Databases for tests: a template with the event store's tables, and clones of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import NullPool, create_engine

from eventstore import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL


@contextmanager
def temporary_database(server: URL, *, template: str | None = None) -> Iterator[URL]:
    """Create a database on ``server``, a copy of ``template`` if one is named, and drop it again.

    ``server`` is the URL of any database that the role may connect to; it needs CREATEDB.
    """
    name = f"eventstore_test_{uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    source = "" if template is None else f' TEMPLATE "{template}"'
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"{source}')
    try:
        yield server.set(database=name)
    finally:
        with engine.connect() as connection:
            # FORCE: a test that failed may have left a connection.
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def migrated_database(server: URL, *, schema: str | None = None) -> Iterator[URL]:
    """Create a database with the event store's tables on ``server``, and drop it again."""
    with temporary_database(server) as database:
        engine = create_engine(database, poolclass=NullPool)
        migrate.upgrade(engine, schema=schema)
        yield database
