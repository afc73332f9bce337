"""The tests' own databases: what one test has left is nothing that another one can find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from eventstore import NO_STREAM, SqlAlchemyEventStore, migrate
from tests.fixtures.clean_databases import CleanDatabases
from tests.fixtures.events import new_events

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def databases(server_url: URL, event_store_template: URL) -> Iterator[CleanDatabases]:
    databases = CleanDatabases(server_url, event_store_template)
    yield databases
    databases.close()


def run(url: URL, *statements: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def oid_of(url: URL) -> int:
    own = text("SELECT oid FROM pg_database WHERE datname = current_database()")
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return int(connection.execute(own).scalar_one())


def test_rows_and_what_a_test_has_made_are_gone(databases: CleanDatabases) -> None:
    with databases.one() as url:
        engine = create_engine(url)
        oid = oid_of(url)
        run(url, "CREATE TABLE mine (id serial PRIMARY KEY)", "CREATE SCHEMA mine")
        with Session(engine) as session, session.begin():
            SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, new_events(2))
    with databases.one() as url:
        assert oid_of(url) == oid
        for _ in ("a connection that was left open", "the old name"):
            with pytest.raises(OperationalError), engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        run(url, "CREATE TABLE mine (id serial PRIMARY KEY)", "CREATE SCHEMA mine")
        with Session(create_engine(url, poolclass=NullPool)) as session, session.begin():
            store = SqlAlchemyEventStore(session)
            assert list(store.read_all_forward()) == []
            assert store.append_to_stream("s", NO_STREAM, new_events(1)) == 1
            assert [event.sequence_number for event in store.read_stream("s")] == [1]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE events ADD COLUMN mine integer",
        "ALTER TABLE events SET (autovacuum_enabled = off)",
        "ALTER TABLE events DISABLE TRIGGER events_are_append_only",
        "ALTER TABLE events ALTER COLUMN event_type SET STATISTICS 10",
        "ALTER TABLE events CLUSTER ON pk_events",
        "ALTER TABLE subject_keys RENAME CONSTRAINT ck_subject_keys_key_or_forgotten TO mine",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER FUNCTION refuse_change_of_events() COST 10",
        "DROP INDEX ix_events_occurred_at",
        "CREATE INDEX mine ON events (occurred_at)",
        "CREATE TYPE mine AS ENUM ('a')",
        "CREATE VIEW mine AS SELECT 1 AS one",
        "GRANT SELECT ON events TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "ALTER SEQUENCE events_sequence_number_seq CACHE 10",
        "UPDATE eventstore_alembic_version SET version_num = 'es0001'",
        "UPDATE pg_extension SET extname = 'citus' WHERE extname = 'plpgsql'",
        "ANALYZE streams",
    ],
)
def test_what_cannot_be_undone_costs_the_database(databases: CleanDatabases, change: str) -> None:
    with databases.one() as url:
        oid = oid_of(url)
        with Session(create_engine(url, poolclass=NullPool)) as session, session.begin():
            SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, new_events(1))
        run(url, change)
    with databases.one() as url:
        assert oid_of(url) != oid


def test_settings_of_the_database_cost_it(databases: CleanDatabases) -> None:
    with databases.one() as url:
        oid = oid_of(url)
        run(url, f"ALTER DATABASE {url.database} SET search_path = mine")
    with databases.one() as url:
        assert oid_of(url) != oid


def exists(server_url: URL, database: str | None) -> bool:
    query = text("SELECT count(*) FROM pg_database WHERE datname = :name")
    with create_engine(server_url, poolclass=NullPool).connect() as connection:
        return bool(connection.execute(query, {"name": database}).scalar_one())


def test_what_raises_costs_the_database(databases: CleanDatabases, server_url: URL) -> None:
    with pytest.raises(ZeroDivisionError), databases.one() as url:
        connection = create_engine(url).connect()  # still open
        raise ZeroDivisionError
    assert not exists(server_url, url.database)
    connection.invalidate()


def test_what_cannot_be_cleaned_costs_the_database(
    databases: CleanDatabases, server_url: URL
) -> None:
    with pytest.raises(psycopg.OperationalError), databases.one() as url:
        run(server_url, f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
    assert not exists(server_url, url.database)


def test_an_empty_database_is_empty_again(server_url: URL) -> None:
    databases = CleanDatabases(server_url)
    with databases.one() as url:
        oid = oid_of(url)
        for schema in (None, "tenant"):
            migrate.upgrade(create_engine(url, poolclass=NullPool), schema=schema)
    with databases.one() as url:
        assert oid_of(url) == oid
        engine = create_engine(url, poolclass=NullPool)
        assert migrate.current(engine) is None
        migrate.upgrade(engine)
        migrate.check(engine)
    databases.close()
