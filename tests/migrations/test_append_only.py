"""Events stay as they were recorded; who may do what is a matter of roles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from eventstore import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fixtures.clean_databases import CleanDatabases

ROOT = Path(__file__).parents[2]

APPEND = text("""
    INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type, event_data,
                        event_version, occurred_at, metadata)
    VALUES (gen_random_uuid(), 's', 's', 'Order', 'placed', '{}', :version, now(), '{}')
""")
SAVE_SNAPSHOT = """
    INSERT INTO snapshots VALUES ('s', 'Order', 1, '{}', now())
    ON CONFLICT (aggregate_id, aggregate_type) DO UPDATE SET version = excluded.version
"""
CHANGES = [
    "UPDATE events SET event_type = 'other'",
    "UPDATE events SET event_type = 'other' WHERE false",
    "DELETE FROM events",
    "TRUNCATE events",
    "DELETE FROM event_tags",
    "TRUNCATE snapshots, events, streams CASCADE",
    "MERGE INTO events USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
]


def deploy(url: URL) -> Engine:
    """Make a store with an event in a schema that is the search path of the engine."""
    options = '-c search_path="we""ird"'
    engine = create_engine(url, poolclass=NullPool, connect_args={"options": options})
    migrate.upgrade(engine, schema='we"ird')
    with engine.begin() as connection:
        connection.execute(APPEND, {"version": 1})
    return engine


@pytest.fixture(scope="module")
def store(empty_databases: CleanDatabases) -> Iterator[Engine]:
    """For what is refused, and so leaves the event to the next test."""
    with empty_databases.one() as url:
        yield deploy(url)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("setting", [None, "off", ""])
def test_a_change_is_refused(store: Engine, change: str, setting: str | None) -> None:
    with store.connect() as connection:
        if setting is not None:
            connection.execute(text(f"SET LOCAL eventstore.maintenance = '{setting}'"))
        with pytest.raises(DBAPIError) as error:
            connection.execute(text(change))
    assert isinstance(error.value, IntegrityError)
    assert error.value.orig is not None
    assert error.value.orig.sqlstate == "23001"
    message = str(error.value.orig)
    assert re.search(r'(UPDATE|DELETE|TRUNCATE) refused: the events in "we""ird".event', message)
    assert "SET LOCAL eventstore.maintenance = 'on'" in message


@pytest.mark.parametrize("change", CHANGES)
def test_maintenance_is_allowed_for_one_transaction(database_url: URL, change: str) -> None:
    store = deploy(database_url)
    with store.connect() as connection:
        connection.execute(text("SET LOCAL eventstore.maintenance = 'on'"))
        connection.execute(text(change))
        connection.commit()
        with pytest.raises(IntegrityError):
            connection.execute(text(change))


def test_the_function_does_not_follow_the_callers_search_path(store: Engine) -> None:
    with store.connect() as connection:
        connection.execute(
            text(
                "CREATE SCHEMA trap;"
                " CREATE FUNCTION trap.current_setting(text, boolean) RETURNS text"
                " LANGUAGE sql AS 'SELECT ''on''';"
                " SET LOCAL search_path TO trap, pg_catalog"
            )
        )
        with pytest.raises(IntegrityError):
            connection.execute(text('DELETE FROM "we""ird".events'))


def grants(names: dict[str, str]) -> str:
    """The recipe in the documentation, for these roles and this schema."""
    page = (ROOT / "docs" / "how-to" / "migrations.md").read_text(encoding="utf-8")
    recipe = re.search(r"<!-- grants -->\s*```sql\n(.*?)```", page, re.DOTALL)
    assert recipe is not None
    sql = recipe[1]
    for placeholder, name in names.items():
        sql = re.sub(rf"\b{placeholder}\b", name, sql)
    return sql


def test_the_roles_of_the_documentation(engine: Engine, new_role: Callable[[str], URL]) -> None:
    suffix = str(engine.url.database)[-8:]
    app, reader = f"app_{suffix}", f"reader_{suffix}"
    as_app, as_reader = create_engine(new_role(app)), create_engine(new_role(reader))
    migrate.upgrade(engine, schema="orders")
    with engine.begin() as connection:
        connection.execute(text(grants({"orders_app": app, "orders_reader": reader})))

    migrate.check(as_app, schema="orders")
    with as_app.begin() as connection:
        connection.execute(text("SET search_path TO orders"))
        connection.execute(APPEND, {"version": 1})
        for allowed in (
            "INSERT INTO streams (stream_id, version) VALUES ('s', 1)",
            "UPDATE streams SET version = 2",
            "SELECT * FROM streams FOR UPDATE",
            "SELECT * FROM events",
            SAVE_SNAPSHOT,
            "INSERT INTO event_tags (tag, sequence_number) VALUES ('t', 1)",
            "LOCK TABLE streams IN EXCLUSIVE MODE",
            "SELECT last_value, is_called FROM events_sequence_number_seq",
        ):
            connection.execute(text(allowed))

    migrate.check(as_reader, schema="orders")
    with as_reader.begin() as connection:
        connection.execute(text("SET search_path TO orders"))
        for table in ("events", "event_tags", "streams", "snapshots"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 1
        connection.execute(text("SELECT last_value, is_called FROM events_sequence_number_seq"))

    refused = [(as_app, sql) for sql in (*CHANGES, "DELETE FROM streams", "DROP TABLE events")]
    refused += [(as_app, "SELECT setval('events_sequence_number_seq', 1)")]
    refused += [(as_app, "ALTER TABLE events DISABLE TRIGGER ALL")]
    refused += [(as_reader, "INSERT INTO streams (stream_id) VALUES ('t')")]
    refused += [(as_reader, "SELECT nextval('events_sequence_number_seq')")]
    for role, sql in refused:
        with role.connect() as connection:
            connection.execute(text("SET search_path TO orders"))
            connection.execute(text("SET LOCAL eventstore.maintenance = 'on'"))
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
                connection.execute(text(sql))
    as_app.dispose()
    as_reader.dispose()
