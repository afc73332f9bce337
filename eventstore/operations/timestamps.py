"""Timestamps in UTC, whatever the session's time zone is.

A ``timestamptz`` is sent in the session's zone, where it may even lie outside the years that
Python knows. So it is read as UTC without a zone, and given the zone here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import func, literal

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement


def in_utc(timestamp: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the expression that reads ``timestamp`` as UTC, under its own name."""
    return func.timezone(literal("UTC"), timestamp).label(getattr(timestamp, "name", None))


@overload
def zoned(naive: datetime) -> datetime: ...
@overload
def zoned(naive: datetime | None) -> datetime | None: ...
def zoned(naive: datetime | None) -> datetime | None:
    """Return what :func:`in_utc` has read as a zone-aware value."""
    return None if naive is None else naive.replace(tzinfo=UTC)
