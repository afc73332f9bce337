from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, text

ROOT = Path(__file__).parents[2]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(database_url: URL) -> Iterator[Engine]:
    """An engine on an empty database: here the tables are what is tested."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def new_role(server_url: URL, database_url: URL) -> Iterator[Callable[[str], URL]]:
    """Make a login role; it ends with the test, after everything it owns."""
    names: list[str] = []
    server = create_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    own = create_engine(database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def make(name: str) -> URL:
        with server.connect() as connection:
            connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'"))
        names.append(name)
        return database_url.set(username=name, password="secret")

    yield make
    for name in names:
        with own.connect() as connection:
            connection.execute(text(f"DROP OWNED BY {name} CASCADE"))
        with server.connect() as connection:
            connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def set_search_path(server_url: URL, database_url: URL) -> Callable[[str], None]:
    """Give every new session in the test's database this search path."""

    def set_for_database(path: str) -> None:
        server = create_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(
                text(f"ALTER DATABASE {database_url.database} SET search_path TO {path}")
            )

    return set_for_database


@pytest.fixture
def alembic(database_url: URL) -> Run:
    """Run the command line in the root of the checkout."""

    def run(
        *arguments: str, url: URL | None = database_url, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "EVENTSTORE_DATABASE_URL"}
        if url is not None:
            environment["EVENTSTORE_DATABASE_URL"] = url.render_as_string(hide_password=False)
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def config() -> Callable[..., Config]:
    """Configure Alembic as the command line does, to run in this process: quick."""

    def configure(url: URL, schema: str | None = None) -> Config:
        config = Config(attributes={"schema": schema})
        config.set_main_option("script_location", str(ROOT / "alembic").replace("%", "%%"))
        plain = url.render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", plain.replace("%", "%%"))
        return config

    return configure


@pytest.fixture
def relations() -> Callable[[Connection], set[tuple[str, str]]]:
    """List what was made in a database: (schema, name) of tables, sequences, indexes, functions."""

    def find(connection: Connection) -> set[tuple[str, str]]:
        rows = connection.execute(
            text(
                "SELECT nspname, relname FROM pg_class AS c"
                " JOIN pg_namespace AS n ON n.oid = relnamespace"
                " WHERE nspname !~ '^(pg_|information_schema)'"
                " UNION ALL SELECT nspname, proname FROM pg_proc"
                " JOIN pg_namespace AS n ON n.oid = pronamespace"
                " WHERE nspname !~ '^(pg_|information_schema)'"
            )
        )
        return {(schema, name) for schema, name in rows}

    return find
