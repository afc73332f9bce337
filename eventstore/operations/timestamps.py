"""Timestamps in UTC, whatever the session's time zone is.

A ``timestamptz`` is sent in the session's zone, where it may even lie outside the years that
Python knows. So it is read as UTC without a zone, and given the zone here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, overload

from sqlalchemy import func, literal

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

# `replace(tzinfo=UTC)` says the same, and takes ten times as long (Python 3.11).
NAIVE_MIN: Final = datetime.min  # noqa: DTZ901 - what is read has no zone either
UTC_MIN: Final = NAIVE_MIN.replace(tzinfo=UTC)


def in_utc(timestamp: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression that reads ``timestamp`` as UTC, under its own name."""
    return func.timezone(literal("UTC"), timestamp).label(getattr(timestamp, "name", None))


@overload
def zoned(naive: datetime) -> datetime: ...
@overload
def zoned(naive: datetime | None) -> datetime | None: ...
def zoned(naive: datetime | None) -> datetime | None:
    """Return what :func:`in_utc` has read as a zone-aware value."""
    return None if naive is None else UTC_MIN + (naive - NAIVE_MIN)
