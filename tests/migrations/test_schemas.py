"""Named schemas, several stores in one database, and search paths in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import URL, Connection, Engine, create_engine, inspect, text

from eventstore import migrate
from eventstore.models import HEAD_REVISION

if TYPE_CHECKING:
    from alembic.config import Config

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
    "eventstore_alembic_version",
}
ODD_NAMES = [
    "Orders",
    "two words",
    'we"ird',
    "select",
    "per%cent",
    "%(x)s",
    "a,b",
    "Übung",
    "x" * 63,
]

Relations = Callable[[Connection], set[tuple[str, str]]]


@pytest.mark.parametrize("schema", ODD_NAMES)
def test_any_name_will_do(engine: Engine, schema: str, relations: Relations) -> None:
    migrate.upgrade(engine, schema=schema)
    migrate.check(engine, schema=schema)
    with engine.connect() as connection:
        assert {where for where, _ in relations(connection)} == {schema}
    migrate.downgrade(engine, "base", schema=schema)
    assert migrate.current(engine, schema=schema) is None
    with engine.begin() as connection:
        migrate.upgrade(connection, schema=schema)
    assert set(inspect(engine).get_table_names(schema=schema)) == TABLES


@pytest.mark.parametrize("schema", ["", "x" * 64, "ü" * 32])
def test_a_name_that_postgresql_would_cut_is_refused(engine: Engine, schema: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        migrate.upgrade(engine, schema=schema)


def test_a_missing_schema_is_made_by_upgrade_only(engine: Engine) -> None:
    with pytest.raises(LookupError, match="schema 'es' does not exist"):
        migrate.downgrade(engine, "base", schema="es")
    assert migrate.current(engine, schema="es") is None
    migrate.upgrade(engine, schema="es")
    migrate.upgrade(engine, schema="es")


def test_a_search_path_that_leads_nowhere(engine: Engine, set_search_path: Callable[..., None]):
    set_search_path("nowhere")
    with pytest.raises(LookupError, match="no schema on the search path exists"):
        migrate.upgrade(engine)


def test_several_stores_in_one_database(engine: Engine) -> None:
    for schema in ("orders", "billing", None):
        migrate.upgrade(engine, schema=schema)
    migrate.downgrade(engine, "base", schema="orders")
    assert migrate.current(engine, schema="orders") is None
    for schema in ("billing", None):
        migrate.check(engine, schema=schema)


@pytest.mark.parametrize("path", ["public", "es, public", "public, es", "elsewhere"])
@pytest.mark.parametrize("temporary", [True, False])
def test_the_named_schema_it_is_whatever_else_is_in_sight(
    engine: Engine, relations: Relations, path: str, temporary: bool
) -> None:
    with engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA es; CREATE SCHEMA elsewhere"))
        connection.execute(text("CREATE TABLE elsewhere.events (id int)"))
        connection.execute(text("CREATE TABLE public.streams (id int)"))
        if temporary:
            connection.execute(text("CREATE TEMPORARY TABLE events (id int)"))
        connection.execute(text(f"SET search_path TO {path}"))
        before = relations(connection)
        migrate.upgrade(connection, schema="es")
        assert {where for where, _ in relations(connection) - before} == {"es"}
        migrate.downgrade(connection, "base", schema="es")
        left = relations(connection) - before
        assert {name for _, name in left} == {
            "eventstore_alembic_version",
            "eventstore_alembic_version_pkc",
        }


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("es, public", "es"),
        ("public, es", "es"),
        ('"$user", public', "es"),
        ("es, public", None),
        ('"$user", public', None),
        ("public, es", None),
    ],
)
def test_no_drift_in_a_role_named_like_the_schema(
    config: Callable[..., Config],
    engine: Engine,
    *,
    new_role: Callable[[str], URL],
    set_search_path: Callable[[str], None],
    path: str,
    schema: str | None,
) -> None:
    role = f"es_{str(engine.url.database)[-8:]}"
    url = new_role(role)
    with engine.begin() as connection:
        # The role may not create schemas: the one that is there must do.
        connection.execute(text(f"CREATE SCHEMA {role} AUTHORIZATION {role}"))
        connection.execute(text(f"CREATE SCHEMA es AUTHORIZATION {role}"))
        connection.execute(text(f"GRANT CREATE ON SCHEMA public TO {role}"))
        connection.execute(text("CREATE TABLE orders (id int PRIMARY KEY, note text)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('host')"))
    set_search_path(path)
    own = config(url, schema)
    command.upgrade(own, "head")
    command.check(own)
    command.downgrade(own, "base")
    command.upgrade(own, "head")
    command.check(own)

    owner = create_engine(url)
    migrate.check(owner, schema=schema)
    owner.dispose()
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == ["host"]


def test_the_search_path_finds_the_store_behind_another_schema(
    engine: Engine, set_search_path: Callable[[str], None]
) -> None:
    migrate.upgrade(engine, schema="es")
    engine.dispose()
    set_search_path("public, es")
    migrate.check(engine)
    migrate.upgrade(engine)
    assert inspect(engine).get_table_names(schema="public") == []
    assert migrate.current(engine) == HEAD_REVISION
