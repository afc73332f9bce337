"""The same revisions on Citus with schema-based sharding."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from eventstore import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "eventstore_citus_test"


@pytest.fixture
def citus() -> Iterator[Engine]:
    given = os.environ.get("EVENTSTORE_TEST_CITUS_DSN")
    if not given:
        pytest.skip(
            "set EVENTSTORE_TEST_CITUS_DSN to the URL of a Citus (12 or later) coordinator, "
            "such as a container of the image citusdata/citus"
        )
    url = make_url(given).set(drivername="postgresql+psycopg")
    engine = create_engine(url, poolclass=NullPool)
    drop = text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    with engine.begin() as connection:
        connection.execute(drop)
        connection.execute(text("SET LOCAL citus.enable_schema_based_sharding TO ON"))
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    yield engine
    with engine.begin() as connection:
        connection.execute(drop)


def test_a_distributed_schema(citus: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "alembic.eventstore"):
        migrate.upgrade(citus, schema=SCHEMA)
    assert "no triggers on distributed tables" in caplog.text
    migrate.check(citus, schema=SCHEMA)
    with citus.connect() as connection:
        distributed = connection.scalars(
            text(
                "SELECT table_name::text FROM citus_tables WHERE citus_table_type = 'schema'"
                f" AND table_name::text LIKE '{SCHEMA}.%' ORDER BY 1"
            )
        ).all()
    assert {f"{SCHEMA}.{table}" for table in ("events", "snapshots", "streams")} <= set(distributed)
    migrate.downgrade(citus, "base", schema=SCHEMA)
    migrate.upgrade(citus, schema=SCHEMA)


def test_the_guard_is_left_out_where_citus_is_installed(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        # The name is all that the revision looks at.
        connection.execute(
            text("UPDATE pg_extension SET extname = 'citus' WHERE extname = 'plpgsql'")
        )
    with caplog.at_level(logging.WARNING, "alembic.eventstore"):
        migrate.upgrade(engine)
    assert "no triggers on distributed tables" in caplog.text
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT tgname FROM pg_trigger")).all() == []
    migrate.downgrade(engine, "base")
