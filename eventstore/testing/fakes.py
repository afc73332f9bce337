"""A clock that stands still and ids that count, for a repository whose events must be foreseeable.

::

    clock, ids = FakeClock(), SequentialIds()
    accounts = Repository(store, ACCOUNTS, clock=clock, new_id=ids)
    clock.advance(days=1)
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

from eventstore.streams import check_aware


class FakeClock:
    """A clock that says the same time until it is advanced; called, it tells it."""

    def __init__(self, now: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        check_aware("now", now)
        self.now = now

    def __call__(self) -> datetime:
        """Return what the clock says."""
        return self.now

    def advance(self, *, days: float = 0, seconds: float = 0) -> datetime:
        """Let time pass, and return what the clock says then."""
        self.now += timedelta(days=days, seconds=seconds)
        return self.now


class SequentialIds:
    """A source of ids: ``00000000-0000-0000-0000-000000000001``, and so on. Thread-safe."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self) -> UUID:
        """Return the next id."""
        return UUID(int=next(self._numbers))
