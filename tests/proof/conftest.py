"""What the proof's tests share besides the common fixtures."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.proof import ledger

if TYPE_CHECKING:
    from sqlalchemy import Engine


@pytest.fixture
def ledger_db(engine: Engine) -> Engine:
    """A database of the test's own, with the view's tables."""
    ledger.Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def seed() -> int:
    """What all chance of a test comes from; EVENTSTORE_TEST_SEED repeats a run."""
    seed = int(os.environ.get("EVENTSTORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTSTORE_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return seed
