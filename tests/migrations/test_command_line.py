"""``alembic`` at the root of the checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic import command
from sqlalchemy import URL, Engine, make_url

from eventstore import migrate
from eventstore.models import HEAD_REVISION

if TYPE_CHECKING:
    from alembic.config import Config

Alembic = Callable[..., subprocess.CompletedProcess[str]]


def test_upgrade_current_and_downgrade(alembic: Alembic, engine: Engine) -> None:
    alembic("upgrade", "head")
    migrate.check(engine)
    assert f"{HEAD_REVISION} (head)" in alembic("current").stdout
    assert "No new upgrade operations detected" in alembic("check").stdout
    alembic("downgrade", "base")
    assert migrate.current(engine) is None


def test_a_schema_is_named_by_x(alembic: Alembic, engine: Engine) -> None:
    done = alembic("-x", "schema=per%cent", "current", check=False)
    assert "schema 'per%cent' does not exist" in done.stderr
    count = len(list(migrate.script_location().glob("versions/[0-9]*.py")))
    alembic("-x", "schema=per%cent", "upgrade", f"+{count}")
    migrate.check(engine, schema="per%cent")
    assert migrate.current(engine) is None


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+asyncpg"])
def test_the_url_of_any_driver_will_do(
    config: Callable[..., Config], database_url: URL, engine: Engine, driver: str
) -> None:
    command.upgrade(config(database_url.set(drivername=driver)), "head")
    migrate.check(engine)


def test_without_a_database_all_places_for_one_are_named(alembic: Alembic) -> None:
    done = alembic("upgrade", "head", url=None, check=False)
    assert done.returncode != 0
    for place in ("EVENTSTORE_DATABASE_URL", "sqlalchemy.url", 'config.attributes["connection"]'):
        assert place in done.stderr


@pytest.mark.parametrize("schema", [None, 'we"ird %s'])
def test_the_script_does_what_the_command_does(
    alembic: Alembic,
    config: Callable[..., Config],
    database_url: URL,
    engine: Engine,
    schema: str | None,
) -> None:
    where = [] if schema is None else ["-x", f"schema={schema}"]
    script = alembic(*where, "upgrade", "head", "--sql", url=None).stdout
    with psycopg.connect(
        database_url.set(drivername="postgresql").render_as_string(hide_password=False),
        autocommit=True,
    ) as connection:
        connection.execute('CREATE SCHEMA "we""ird %s"')
        connection.execute(script)
    migrate.check(engine, schema=schema)
    command.check(config(database_url, schema))


def test_a_connection_in_the_attributes_comes_first(
    config: Callable[..., Config], engine: Engine
) -> None:
    host = config(make_url("postgresql://nobody@nowhere.invalid/none"), "es")
    with engine.connect() as connection:
        host.attributes["connection"] = connection
        command.upgrade(host, "head")
        assert migrate.current(engine, schema="es") is None
        connection.commit()
    migrate.check(engine, schema="es")


def test_the_option_comes_before_the_environment(
    config: Callable[..., Config],
    database_url: URL,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTSTORE_DATABASE_URL", "postgresql://nobody@nowhere.invalid/none")
    command.upgrade(config(database_url), "head")
    migrate.check(engine)


def test_another_database_is_refused(config: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="needs PostgreSQL, not sqlite"):
        command.upgrade(config(make_url("sqlite://")), "head")
