"""What these tests share: events with tags, and two sessions at once."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.orm import Session, sessionmaker

if TYPE_CHECKING:
    from sqlalchemy import Engine


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def seed() -> int:
    """What all chance of a test comes from; EVENTSTORE_TEST_SEED repeats a run."""
    seed = int(os.environ.get("EVENTSTORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTSTORE_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return seed
