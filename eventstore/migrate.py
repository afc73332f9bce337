"""Bring a database to the schema that this version of the package needs, and tell where it is.

::

    migrate.upgrade(engine)                                      # commits
    migrate.upgrade(connection, schema="orders")                 # joins the caller's transaction
    await async_connection.run_sync(migrate.upgrade, schema="orders")

``schema`` names the schema of one store. Without it, a store is found on the search path, and a
new one goes where the search path puts new tables. The revisions live in ``alembic/`` and note
what they did in a table of their own, ``eventstore_alembic_version``, in the store's schema.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.schema import CreateSchema

from eventstore.errors import SchemaOutOfDate
from eventstore.models import HEAD_REVISION
from eventstore.operations.transactions import explicit_transaction, is_autocommit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

#: Ours alone: a host's ``alembic_version`` is never touched.
VERSION_TABLE: Final = "eventstore_alembic_version"
#: How long a migration waits for another one of the same store.
LOCK_TIMEOUT_SECONDS: Final = 60.0

Bind: TypeAlias = Engine | Connection

_POLL_SECONDS: Final = 0.1
#: Where PostgreSQL cuts an identifier.
_MAX_NAME_BYTES: Final = 63
#: Alembic keeps what it is doing in module globals: one command at a time in a process.
_in_this_process: Final = threading.Lock()


def upgrade(
    bind: Bind,
    *,
    schema: str | None = None,
    revision: str = "head",
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> None:
    """Migrate the store up to ``revision``, and create ``schema`` if it is missing.

    An engine is asked for a connection, and each revision is committed. A connection's transaction
    is joined and never committed; if the migration fails, the transaction is as it was before.
    A connection in AUTOCOMMIT has none to join: all or nothing is committed at once.

    However many processes do this at the same time, one does the work and the others find it
    done; who waits longer than ``lock_timeout_seconds`` gets a TimeoutError that names the holder.
    Raises ValueError for an engine that leads through a pooler, LookupError if the search path
    names no schema that exists, and Alembic's CommandError for an unknown revision, such as that
    of a database that a newer version has migrated.
    """
    _run(command.upgrade, bind, schema, revision, lock_timeout_seconds, create_schema=True)


def downgrade(
    bind: Bind,
    revision: str,
    *,
    schema: str | None = None,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
) -> None:
    """Migrate the store down to ``revision``; ``"base"`` drops it with all its events.

    Transactions, waiting and errors are those of :func:`upgrade`; a missing ``schema`` is a
    LookupError.
    """
    _run(command.downgrade, bind, schema, revision, lock_timeout_seconds, create_schema=False)


def current(bind: Bind, *, schema: str | None = None) -> str | None:
    """Return the revision that the store is at, None if it has not been migrated yet.

    Only what :func:`upgrade` or our own Alembic environment did is seen; a host that runs our
    revisions within its own history asks its own ``alembic_version``.
    """
    _check_bind(bind)
    own = bind.connect() if isinstance(bind, Engine) else nullcontext(bind)
    with own as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema}
        )
        return context.get_current_revision()


def check(bind: Bind, *, schema: str | None = None) -> None:
    """Raise :class:`~eventstore.errors.SchemaOutOfDate` unless the store is at the head revision.

    One or two cheap queries: fit for a service's start, or for its readiness probe.
    """
    revision = current(bind, schema=schema)
    if revision != HEAD_REVISION:
        raise SchemaOutOfDate(revision, HEAD_REVISION)


def script_location() -> Path:
    """Return the folder with ``env.py``: the wheel's, or ``alembic/`` of a checkout."""
    packaged = Path(str(files("eventstore") / "migrations"))
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "alembic"


@contextmanager
def prepared(
    bind: Bind,
    schema: str | None,
    *,
    create_schema: bool = False,
    lock_timeout_seconds: float | None = None,
) -> Iterator[Connection]:
    """Yield a connection for which the store's schema is the only one; ``env.py`` runs on it.

    No revision, model or comparison has to name a schema then, and none of another schema's
    tables is taken for ours. Without ``lock_timeout_seconds`` nothing is locked. At the end the
    caller's connection finds everything as it was, save for the lock, which stays with the
    transaction: until it is committed, nobody else can see what it did.
    """
    _check_bind(bind)
    if isinstance(bind, Engine):
        session = _own_session(bind)
        local = False
    else:
        session = _callers_transaction(bind)
        local = True
    with session as connection:
        name = _check_name(schema) if schema is not None else _schema_on_search_path(connection)
        if lock_timeout_seconds is not None:
            _lock(connection, name, lock_timeout_seconds, local=local)
        if not _exists(connection, name):
            if not create_schema:
                raise LookupError(f"schema {name!r} does not exist")
            connection.execute(CreateSchema(name))
        connection.execute(select(func.set_config("search_path", search_path(name), local)))
        if not local:
            connection.commit()
            connection.execution_options(isolation_level="READ COMMITTED")
        yield connection


def search_path(schema: str) -> str:
    """Return the search path on which ``schema`` is all there is.

    Temporary tables come first unless they are named, and could be taken for ours.
    """
    quoted = schema.replace('"', '""')
    return f'"{quoted}", pg_temp'


def _run(
    alembic_command: Callable[[Config, str], None],
    bind: Bind,
    schema: str | None,
    revision: str,
    lock_timeout_seconds: float,
    *,
    create_schema: bool,
) -> None:
    with (
        prepared(
            bind, schema, create_schema=create_schema, lock_timeout_seconds=lock_timeout_seconds
        ) as connection,
        _alone_in_this_process(connection, lock_timeout_seconds),
    ):
        config = Config(attributes={"connection": connection, "prepared": True})
        # A % would begin an interpolation.
        config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
        alembic_command(config, revision)


@contextmanager
def _own_session(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in AUTOCOMMIT that no pool gets back.

    So lock and search path, which have to outlive the transactions of the single revisions, end
    with the session. In AUTOCOMMIT no snapshot is kept while waiting for the lock: the holder's
    CREATE INDEX CONCURRENTLY would in turn wait for that.
    """
    with engine.connect() as connection:
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT", schema_translate_map=None)
            _check_direct(connection)
            yield connection
        finally:
            connection.invalidate()


def _check_direct(connection: Connection) -> None:
    """Raise ValueError behind a pooler, where the lock and the search path would stay with others.

    A pooler tells its clients a process id of its own (PgBouncer, "Cancel keys").
    """
    if connection.dialect.driver != "psycopg":
        return  # others don't tell what they were told
    driver: Any = connection.connection.driver_connection
    if driver.info.backend_pid != connection.scalar(select(func.pg_backend_pid())):
        raise ValueError(
            "the engine leads through a pooler, and a migration needs a session of its own: give "
            "an engine that leads to the server itself, or migrate in one transaction: "
            "`with engine.begin() as connection: upgrade(connection)`"
        )


@contextmanager
def _callers_transaction(connection: Connection) -> Iterator[Connection]:
    """Yield ``connection`` inside a savepoint, so that a failure leaves its transaction usable."""
    translation = connection.get_execution_options().get("schema_translate_map")
    with _transaction_in_autocommit(connection), connection.begin_nested():
        path = connection.scalar(select(func.current_setting("search_path")))
        connection.execution_options(schema_translate_map=None)
        try:
            yield connection
        finally:
            connection.execution_options(schema_translate_map=translation)
        connection.execute(select(func.set_config("search_path", path, True)))


def _transaction_in_autocommit(connection: Connection) -> AbstractContextManager[None]:
    return explicit_transaction(connection) if is_autocommit(connection) else nullcontext()


def _lock(connection: Connection, schema: str, timeout_seconds: float, *, local: bool) -> None:
    """Take the advisory lock of one store's migrations, to the transaction's or session's end.

    Asking again and again, rather than waiting inside PostgreSQL, keeps the time-out ours, and
    keeps no statement open that a CREATE INDEX CONCURRENTLY would have to wait for.
    """
    digest = blake2b(f"eventstore.migrate {schema}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest, signed=True)
    acquire = func.pg_try_advisory_xact_lock if local else func.pg_try_advisory_lock
    _wait(
        connection,
        lambda: bool(connection.scalar(select(acquire(key)))),
        timeout_seconds,
        lambda: (
            f"another migration of the event store in schema {schema!r} is running: "
            f"{_holder(connection, key)}"
        ),
    )


def _holder(connection: Connection, key: int) -> str:
    row = connection.execute(
        text(
            "SELECT a.pid, a.application_name, a.state FROM pg_locks AS l"
            " JOIN pg_stat_activity AS a ON a.pid = l.pid"
            " JOIN pg_database AS d ON d.oid = l.database"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
            " AND d.datname = current_database()"
            " AND (l.classid::bigint << 32) | l.objid::bigint = :key"
        ),
        {"key": key},
    ).one_or_none()
    if row is None:
        return "it has just ended"
    return f"pid {row.pid}, application_name {row.application_name!r}, state {row.state!r}"


@contextmanager
def _alone_in_this_process(connection: Connection, timeout_seconds: float) -> Iterator[None]:
    _wait(
        connection,
        lambda: _in_this_process.acquire(blocking=False),
        timeout_seconds,
        lambda: "another migration is running in this process",
    )
    try:
        yield
    finally:
        _in_this_process.release()


def _wait(
    connection: Connection,
    acquired: Callable[[], bool],
    timeout_seconds: float,
    obstacle: Callable[[], str],
) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not acquired():
        if time.monotonic() >= deadline:
            raise TimeoutError(
                f"{obstacle()}; waited {timeout_seconds:g} s: let it finish, or end its session, "
                "and migrate again"
            )
        _pause(connection)


def _pause(connection: Connection) -> None:
    """Sleep; under ``run_sync`` without stopping the event loop, in which the holder may live."""
    if connection.dialect.is_async:
        driver: Any = connection.connection.dbapi_connection
        driver.run_async(lambda _: asyncio.sleep(_POLL_SECONDS))
    else:
        time.sleep(_POLL_SECONDS)


def _schema_on_search_path(connection: Connection) -> str:
    """Return the schema of the store that the search path finds, else that of new tables."""
    name = connection.scalar(
        text(
            "SELECT coalesce((SELECT nspname FROM pg_class JOIN pg_namespace AS n"
            " ON n.oid = relnamespace WHERE pg_class.oid = to_regclass(:table)), current_schema())"
        ),
        {"table": VERSION_TABLE},
    )
    if name is None:
        raise LookupError(
            "no schema on the search path exists; name one: upgrade(..., schema='...')"
        )
    return str(name)


def _exists(connection: Connection, schema: str) -> bool:
    # Asked first, since CREATE SCHEMA IF NOT EXISTS wants a privilege also where one exists.
    found = connection.scalar(
        text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :schema)"),
        {"schema": schema},
    )
    return bool(found)


def _check_name(schema: str) -> str:
    if not schema or len(schema.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"schema must have 1 to {_MAX_NAME_BYTES} bytes, which is what PostgreSQL keeps of a "
            f"name, not {schema!r}"
        )
    return schema


def _check_bind(bind: Bind) -> None:
    if not isinstance(bind, Engine | Connection):
        raise TypeError(
            f"bind must be an Engine or a Connection, not {type(bind).__name__}; with an "
            "AsyncConnection: await connection.run_sync(migrate.upgrade)"
        )
    if bind.dialect.name != "postgresql":
        raise ValueError(f"the event store needs PostgreSQL, not {bind.dialect.name}")
