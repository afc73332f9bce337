"""What the fence's tests share besides the common fixtures: the seed of what is random."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine


@pytest.fixture
def database_url(store_database: URL) -> URL:
    """A fresh database, here with the tables."""
    return store_database


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def transaction_id(engine: Engine) -> Iterator[str]:
    """An id for a prepared transaction, which ends with the test: a database can't go before it."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        if connection.scalar(text("SHOW max_prepared_transactions")) == "0":
            pytest.skip("start the server with max_prepared_transactions = 10")
        gid = f"fence-{uuid4().hex}"
        yield gid
        if connection.scalar(text("SELECT 1 FROM pg_prepared_xacts WHERE gid = :g"), {"g": gid}):
            connection.execute(text(f"ROLLBACK PREPARED '{gid}'"))


@pytest.fixture
def seed() -> int:
    """What all chance of a test comes from; EVENTSTORE_TEST_SEED repeats a run."""
    seed = int(os.environ.get("EVENTSTORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTSTORE_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return seed
