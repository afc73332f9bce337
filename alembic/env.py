"""The one Alembic environment of all callers.

They are the command line in a checkout, :mod:`eventstore.migrate` in an installed package, the
tests, and a host application that runs our scripts as a section of its own configuration.

- The connection: ``config.attributes["connection"]``, else the option ``sqlalchemy.url``, else
  the environment variable ``EVENTSTORE_DATABASE_URL``.
- The schema: ``config.attributes["schema"]``, else ``-x schema=NAME``, else the search path's.
"""

from __future__ import annotations

import os
from logging.config import fileConfig
from typing import TYPE_CHECKING

from alembic import context
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, func, make_url, select

from eventstore import migrate
from eventstore.models import Base

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

config = context.config
schema = config.attributes.get("schema") or context.get_x_argument(as_dictionary=True).get("schema")


def run_online() -> None:
    if config.attributes.get("prepared"):
        migrate_on(config.attributes["connection"])
        return
    try:
        target = context.get_revision_argument()
        migrates = True
    except KeyError:  # `current`, `check` and `revision` only look
        target, migrates = None, False
    with migrate.prepared(
        config.attributes.get("connection") or engine(),
        schema,
        create_schema=target is not None,
        lock_timeout_seconds=migrate.LOCK_TIMEOUT_SECONDS if migrates else None,
    ) as connection:
        migrate_on(connection)


def run_offline() -> None:
    context.configure(
        dialect_name="postgresql+psycopg",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table=migrate.VERSION_TABLE,
        transaction_per_migration=True,
    )
    if schema:
        context.execute(select(func.set_config("search_path", migrate.search_path(schema), False)))
    context.run_migrations()


def migrate_on(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=migrate.VERSION_TABLE,
        # The search path holds the store's schema only; of its tables, only ours are looked at.
        include_name=lambda name, kind, _parents: kind != "table" or name in Base.metadata.tables,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def engine() -> Engine:
    given = config.get_main_option("sqlalchemy.url") or os.environ.get("EVENTSTORE_DATABASE_URL")
    if not given:
        raise CommandError(
            "no database: set the environment variable EVENTSTORE_DATABASE_URL, the option "
            'sqlalchemy.url, or config.attributes["connection"]'
        )
    url = make_url(given)
    if url.get_backend_name() == "postgresql":
        # Whatever driver the application uses: psycopg is always there, and it is synchronous.
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(url, poolclass=NullPool)


# A host's .ini may leave logging to the application.
if config.config_file_name is not None and config.file_config.has_section("loggers"):
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    run_offline()
else:
    run_online()
