"""What went wrong in other event stores: skipped events, feeds that stop, readers that sleep."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from eventstore.operations.fence import read_mark

from .waiting import append, committed, feed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

THE_FENCE = Path(__file__).parents[3] / "docs" / "explanation" / "the-fence.md"


@pytest.fixture
def elsewhere(server_url: URL) -> Iterator[Connection]:
    """A connection to another database of the server."""
    engine = create_engine(server_url, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def test_a_checkpoint_never_passes_an_open_append(engine: Engine) -> None:
    """R01."""
    with Session(engine) as open_:
        first = append(open_, "a")
        second = committed(engine, "b")
        assert feed(engine) == []
        open_.commit()
    assert feed(engine) == [first, second]


@pytest.mark.parametrize("before", [0, 1, 3])
def test_numbers_burned_at_the_head_hold_nothing(engine: Engine, before: int) -> None:
    """R02: on an empty table too."""
    numbers = [committed(engine, "s") for _ in range(before)]
    for _ in range(50):
        with Session(engine) as session:
            append(session, "s")
            session.rollback()

    with engine.connect() as connection:
        mark = read_mark(connection, None)
    assert mark.position == mark.head == before + 50
    assert feed(engine) == numbers
    good = committed(engine, "s")
    assert feed(engine) == [*numbers, good]


def test_a_table_whose_rows_were_all_removed(engine: Engine) -> None:
    """R02."""
    last = [committed(engine, "s") for _ in range(3)][-1]
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL eventstore.maintenance = 'on'")
        connection.exec_driver_sql("DELETE FROM events")
    assert feed(engine) == []
    good = committed(engine, "s")
    assert feed(engine, last) == [good]


def test_transactions_that_append_nothing_hold_nothing(
    engine: Engine, elsewhere: Connection
) -> None:
    """R04: another database, another table, a read-only transaction, a lock on a stream's row."""
    committed(engine, "other")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE unrelated (id int)")
    with ExitStack() as stack:
        elsewhere.exec_driver_sql("CREATE TEMP TABLE unrelated (id int)")
        for statement in (
            "INSERT INTO unrelated VALUES (1)",
            "SELECT pg_current_xact_id()",
            "SELECT count(*) FROM events",
            "SELECT FROM streams WHERE stream_id = 'other' FOR UPDATE",
        ):
            stack.enter_context(engine.connect()).exec_driver_sql(statement)
        old = stack.enter_context(
            engine.connect().execution_options(isolation_level="SERIALIZABLE")
        )
        old.exec_driver_sql("SELECT count(*) FROM events")

        numbers = [committed(engine, "s") for _ in range(10)]
        assert feed(engine)[1:] == numbers


def test_an_append_in_another_database_holds_nothing(server_url: URL, engine: Engine) -> None:
    """R04: its sequence may even have the same oid, as in a copied database."""
    name = f"{engine.url.database}_copy"
    server = create_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    engine.dispose()  # a template must have no sessions
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {engine.url.database}")
    try:
        copy = create_engine(server_url.set(database=name), poolclass=NullPool)
        with Session(copy) as session:
            append(session, "s")
            number = committed(engine, "s")
            assert feed(engine) == [number]
    finally:
        with server.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_what_was_behind_an_open_append_comes_without_another(engine: Engine) -> None:
    """R05: the poll after the fence has moved finds it; nothing has to be appended."""
    with Session(engine) as open_:
        append(open_, "a")
        number = committed(engine, "b")
        assert feed(engine) == []
        open_.rollback()
    assert feed(engine) == [number]


def test_no_session_of_ours_stays_in_a_transaction(engine: Engine) -> None:
    """R04."""
    committed(engine, "s")
    feed(engine)
    feed(engine.execution_options(isolation_level="AUTOCOMMIT"))
    with engine.connect() as connection:
        idle = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%%'"
        )
        assert idle.scalar_one() == 0


def holders(engine: Engine) -> list[tuple[int | None, str]]:
    """Run the query of the documentation."""
    query, *others = re.findall(r"```sql\n(SELECT.*?)```", THE_FENCE.read_text(), re.DOTALL)
    assert not others
    with engine.connect() as connection:
        rows = connection.execute(text(query)).mappings().all()
    assert all(row["open_for"] is not None for row in rows)
    return [(row["pid"], row["application_name"]) for row in rows]


def test_the_documented_query_names_who_holds_the_feed(engine: Engine, database_url: URL) -> None:
    """R04: by process id, application name and age; the oldest first."""
    assert holders(engine) == []
    named = create_engine(
        database_url, poolclass=NullPool, connect_args={"application_name": "nightly import"}
    )
    with Session(named) as first, Session(engine) as second:
        pid = first.connection().scalar(text("SELECT pg_backend_pid()"))
        append(first, "s")
        append(second, "other")
        assert holders(engine)[0] == (pid, "nightly import")
        assert len(holders(engine)) == 2
        second.rollback()
        assert holders(engine) == [(pid, "nightly import")]


def test_the_documented_query_names_a_prepared_transaction(
    engine: Engine, transaction_id: str
) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection, Session(connection) as session:
        connection.exec_driver_sql("BEGIN")
        append(session, "s")
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{transaction_id}'")
        assert holders(engine) == [(None, f"prepared: {transaction_id}")]
