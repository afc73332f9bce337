"""What a read asks for: a range of one stream, or the events of the feed that match a filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH, check_number, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How many events a read fetches in one round trip.
PAGE_SIZE: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """A range of a stream; without arguments, all of it from the first event on.

    Both bounds are inclusive in either direction. Raises TypeError or ValueError for what can't
    be a version or a count.
    """

    from_version: int | None = None  #: the lowest version wanted
    to_version: int | None = None  #: the highest version wanted
    max_count: int | None = None  #: bounds the whole read; None reads to the end
    backward: bool = False  #: the newest first
    include_deleted: bool = False  #: read a soft-deleted stream too
    page_size: int = PAGE_SIZE  #: events held in memory at a time

    def __post_init__(self) -> None:
        for name in ("from_version", "to_version", "max_count"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value)
        check_page_size(self.page_size)


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events of the feed a reader wants: those that meet every condition that is given."""

    event_types: frozenset[str] = frozenset()  #: any of these; empty means all
    aggregate_types: frozenset[str] = frozenset()  #: any of these; empty means all
    stream_prefix: str = ""  #: streams whose id begins so
    correlation_id: str | None = None  #: events whose metadata has this correlation id

    def __init__(
        self,
        *,
        event_types: Iterable[str] = (),
        aggregate_types: Iterable[str] = (),
        stream_prefix: str = "",
        correlation_id: str | None = None,
    ) -> None:
        object.__setattr__(self, "event_types", _names("event_types", event_types))
        object.__setattr__(self, "aggregate_types", _names("aggregate_types", aggregate_types))
        if stream_prefix:
            check_text("stream_prefix", stream_prefix, MAX_ID_LENGTH)
        if correlation_id is not None:
            check_text("correlation_id", correlation_id, MAX_ID_LENGTH)
        object.__setattr__(self, "stream_prefix", stream_prefix)
        object.__setattr__(self, "correlation_id", correlation_id)


def check_page_size(page_size: int) -> int:
    """Return ``page_size`` if it is an int of at least 1."""
    if check_number("page_size", page_size) == 0:
        raise ValueError("page_size must be at least 1")
    return page_size


def _names(name: str, values: Iterable[str]) -> frozenset[str]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be a collection of str, not the str {values!r}")
    return frozenset(check_text(name, value, MAX_TYPE_LENGTH) for value in values)
