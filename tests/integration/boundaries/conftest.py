"""What these tests share: events with tags, and two sessions at once."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from tests.fixtures.stores import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine


@pytest.fixture
def engine(store_database: URL) -> Iterator[Engine]:
    """An engine on a database of the test's own, where who waits in vain fails in the end."""
    options = f"-c lock_timeout={DEADLINE_SECONDS}s"
    engine = create_engine(store_database, pool_size=40, connect_args={"options": options})
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def seed() -> int:
    """What all chance of a test comes from; EVENTSTORE_TEST_SEED repeats a run."""
    seed = int(os.environ.get("EVENTSTORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTSTORE_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return seed
