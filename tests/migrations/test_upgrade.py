"""``eventstore.migrate`` on engines and connections, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore import SchemaOutOfDate, migrate
from eventstore.models import HEAD_REVISION

TABLES = {
    "events",
    "event_tags",
    "streams",
    "snapshots",
    "subscriptions",
    "subject_keys",
    "subscription_workers",
    "parked_streams",
    "projections",
}
Relations = Callable[[Connection], set[tuple[str, str]]]


def tables(bind: Engine | Connection, schema: str | None = None) -> set[str]:
    return set(inspect(bind).get_table_names(schema=schema)) - {"eventstore_alembic_version"}


def test_an_engine_is_upgraded_and_committed(engine: Engine) -> None:
    assert migrate.current(engine) is None
    migrate.upgrade(engine)
    assert tables(engine) == TABLES
    assert migrate.current(engine) == HEAD_REVISION
    migrate.upgrade(engine)


def test_up_down_and_up_again(engine: Engine, relations: Relations) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        first = relations(connection)
    migrate.downgrade(engine, "base")
    assert tables(engine) == set()
    assert migrate.current(engine) is None
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert relations(connection) == first


def test_downgrade_leaves_what_is_not_ours(engine: Engine, relations: Relations) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id int PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        connection.execute(text("CREATE SCHEMA es CREATE TABLE es_orders (id int)"))
        before = relations(connection)
    for schema in (None, "es"):
        migrate.upgrade(engine, schema=schema)
        migrate.downgrade(engine, "base", schema=schema)
    with engine.connect() as connection:
        left = relations(connection) - before
        assert {name for _, name in left} == {
            "eventstore_alembic_version",
            "eventstore_alembic_version_pkc",
        }


def test_check_tells_what_is_missing(engine: Engine) -> None:
    with pytest.raises(SchemaOutOfDate) as error:
        migrate.check(engine)
    assert (error.value.current, error.value.head) == (None, HEAD_REVISION)
    migrate.upgrade(engine)
    migrate.check(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE eventstore_alembic_version SET version_num = 'es9999'"))
        with pytest.raises(SchemaOutOfDate) as error:
            migrate.check(connection)
    assert error.value.current == "es9999"
    with pytest.raises(CommandError, match="es9999"):
        migrate.upgrade(engine)


@contextmanager
def autobegun(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        yield connection


@contextmanager
def not_begun(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


@contextmanager
def begun(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        connection.begin()
        yield connection


@pytest.mark.parametrize("connect", [not_begun, autobegun, begun])
def test_the_callers_transaction_is_joined(
    engine: Engine, connect: Callable[[Engine], Iterator[Connection]]
) -> None:
    with connect(engine) as connection:
        migrate.upgrade(connection)
        assert tables(connection) == TABLES
        assert tables(engine) == set()
        connection.rollback()
    assert tables(engine) == set()

    with connect(engine) as connection:
        migrate.upgrade(connection)
        connection.commit()
    assert tables(engine) == TABLES


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"])
def test_engines_of_any_isolation_level(database_url: URL, level: str) -> None:
    engine = create_engine(database_url, isolation_level=level)
    migrate.upgrade(engine)
    assert migrate.current(engine) == HEAD_REVISION
    with engine.begin() as connection:
        migrate.downgrade(connection, "base")
    assert migrate.current(engine) is None
    engine.dispose()


def test_a_revision_that_fails_leaves_nothing_behind(engine: Engine) -> None:
    with engine.begin() as connection:
        # The last table that the revision makes is in the way.
        connection.execute(text("CREATE TABLE snapshots (id int)"))
    with pytest.raises(ProgrammingError, match="already exists"):
        migrate.upgrade(engine)
    assert tables(engine) == {"snapshots"}
    assert migrate.current(engine) is None


def test_a_connection_in_autocommit_gets_all_or_nothing(
    database_url: URL, relations: Relations
) -> None:
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE snapshots (id int)"))
        before = relations(connection)
        with pytest.raises(ProgrammingError, match="already exists"):
            migrate.upgrade(connection)
        assert relations(connection) == before
        connection.execute(text("DROP TABLE snapshots"))
        migrate.upgrade(connection)
    assert migrate.current(engine) == HEAD_REVISION
    engine.dispose()


def test_the_callers_session_is_as_it_was(engine: Engine) -> None:
    def state(connection: Connection) -> tuple[str | None, int | None, str]:
        return (
            connection.scalar(text("SHOW search_path")),
            connection.scalar(
                text(
                    "SELECT count(*) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
                )
            ),
            connection.get_execution_options()["schema_translate_map"][None],
        )

    with engine.connect() as connection:
        connection.execution_options(schema_translate_map={None: "elsewhere"})
        connection.execute(text("SET search_path TO host, shared"))
        connection.commit()
        connection.execute(text("SET LOCAL search_path TO tenant"))

        migrate.upgrade(connection, schema="es")
        # The lock stays until others can see the tables.
        assert state(connection) == ("tenant", 1, "elsewhere")
        connection.commit()
        assert state(connection) == ("host, shared", 0, "elsewhere")
    assert tables(engine, "es") == TABLES


def test_an_engine_gets_no_session_back(engine: Engine) -> None:
    engine = engine.execution_options(schema_translate_map={None: "elsewhere"})
    migrate.upgrade(engine, schema="es")
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW search_path")) == '"$user", public'
    assert tables(engine, "es") == TABLES


def test_a_failure_leaves_the_callers_transaction_usable(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA es CREATE TABLE snapshots (id int)"))
        connection.execute(text("SET search_path TO es"))
        for wrong in ("head", "no such revision"):
            with pytest.raises(Exception, match=r"snapshots|no such revision"):
                migrate.upgrade(connection, revision=wrong)
            assert connection.scalar(text("SHOW search_path")) == "es"
        connection.execute(text("DROP TABLE snapshots"))
        migrate.upgrade(connection)
    assert tables(engine, "es") == TABLES


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_asynchronous_connections(database_url: URL, driver: str) -> None:
    async def scenario() -> None:
        engine = create_async_engine(database_url.set(drivername=f"postgresql+{driver}"))
        async with engine.connect() as connection:
            await connection.run_sync(migrate.upgrade, schema="es")
            await connection.rollback()
            assert await connection.run_sync(migrate.current, schema="es") is None
        async with engine.begin() as connection:
            await connection.run_sync(migrate.upgrade, schema="es")
        async with engine.connect() as connection:
            await connection.run_sync(migrate.check, schema="es")
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.run_sync(migrate.downgrade, "base", schema="es")
            assert await connection.run_sync(migrate.current, schema="es") is None
        await engine.dispose()

    asyncio.run(scenario())


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_tasks_of_one_event_loop_wait_without_stopping_it(database_url: URL, driver: str) -> None:
    async def scenario() -> list[str | None]:
        engine = create_async_engine(database_url.set(drivername=f"postgresql+{driver}"))

        async def upgrade(schema: str) -> str | None:
            async with engine.begin() as connection:
                await connection.run_sync(migrate.upgrade, schema=schema, lock_timeout_seconds=20)
                return await connection.run_sync(migrate.current, schema=schema)

        done = await asyncio.gather(*map(upgrade, ["es", "es", "other", "other"]))
        await engine.dispose()
        return done

    assert asyncio.run(scenario()) == [HEAD_REVISION] * 4


def test_threads_of_one_process(engine: Engine) -> None:
    errors: list[BaseException] = []

    def upgrade(schema: str) -> None:
        try:
            migrate.upgrade(engine, schema=schema)
        except BaseException as error:  # noqa: BLE001 - a thread's errors are lost otherwise
            errors.append(error)

    threads = [threading.Thread(target=upgrade, args=[f"es{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [migrate.current(engine, schema=f"es{n}") for n in range(4)] == [HEAD_REVISION] * 4


def test_what_is_no_postgresql_bind_is_refused() -> None:
    with pytest.raises(ValueError, match="needs PostgreSQL, not sqlite"):
        migrate.upgrade(create_engine("sqlite://"))
    for call in (migrate.upgrade, migrate.current, migrate.check):
        with pytest.raises(TypeError, match=r"not AsyncEngine; .*run_sync"):
            call(create_async_engine("postgresql+psycopg://"))  # type: ignore[operator]


def test_importing_the_store_does_not_import_alembic() -> None:
    loaded = "import eventstore, sys; sys.exit('alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)
