"""Data that an older version wrote is all there after the migration to the newest one.

Each file in ``dumps`` is named for the revision at which it was written. Add one whenever there is
a new revision; never change one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, inspect, text

from eventstore import migrate

DUMPS = sorted((Path(__file__).parent / "dumps").glob("*.sql"))


def test_there_is_a_dump() -> None:
    assert DUMPS


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.stem)
def test_old_data_migrates(engine: Engine, dump: Path) -> None:
    migrate.upgrade(engine, revision=dump.stem)
    with engine.begin() as connection:
        connection.exec_driver_sql(dump.read_text(encoding="utf-8"))
        columns = {
            table: [column["name"] for column in inspect(connection).get_columns(table)]
            for table in ("streams", "events", "snapshots")
        }
        before = {table: rows(connection, table, names) for table, names in columns.items()}
    assert all(before.values())

    migrate.upgrade(engine)

    migrate.check(engine)
    with engine.begin() as connection:
        assert before == {table: rows(connection, table, names) for table, names in columns.items()}
        # The next event comes after all that were there.
        assert connection.scalar(text("SELECT nextval('events_sequence_number_seq')")) > max(
            row[columns["events"].index("sequence_number")] for row in before["events"]
        )


def rows(connection: Connection, table: str, columns: list[str]) -> list[tuple[object, ...]]:
    query = text(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2")
    return [tuple(row) for row in connection.execute(query)]
