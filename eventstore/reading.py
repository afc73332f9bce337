"""What a read asks for: a range of one stream, or the events of the feed that match a filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from eventstore.streams import (
    MAX_ID_LENGTH,
    MAX_TEXT_LENGTH,
    MAX_TYPE_LENGTH,
    MAX_VERSION,
    check_number,
    check_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstore.events import AnyEnvelope

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
        for name in ("backward", "include_deleted"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {getattr(self, name)!r}")


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
        if stream_prefix != "":
            check_text("stream_prefix", stream_prefix, MAX_ID_LENGTH)
        if correlation_id is not None:
            check_text("correlation_id", correlation_id, MAX_TEXT_LENGTH)
        object.__setattr__(self, "stream_prefix", stream_prefix)
        object.__setattr__(self, "correlation_id", correlation_id)


class Page(NamedTuple):
    """Stored events that were read in one round trip."""

    events: list[AnyEnvelope]
    scanned: int  #: how many stored events there were
    last: int  #: the version, or the position in the feed, of the last one; 0 if there is none


EMPTY_PAGE: Final = Page([], 0, 0)


class StreamCursor:
    """How far the read of a stream has come: told of each page, it says what the next one is."""

    def __init__(self, options: ReadOptions) -> None:
        if not isinstance(options, ReadOptions):
            raise TypeError(f"options must be ReadOptions, not {type(options).__name__}")
        self.lowest = options.from_version or 1
        self.highest = MAX_VERSION if options.to_version is None else options.to_version
        self.backward = options.backward
        self.include_deleted = options.include_deleted
        self._page_size = options.page_size
        self._left = options.max_count
        self._ended = False

    @property
    def limit(self) -> int:
        """How many events the next page may have; 0 when the read is over."""
        if self._ended or self.lowest > self.highest:
            return 0
        return self._page_size if self._left is None else min(self._page_size, self._left)

    def passed(self, page: Page) -> None:
        """Go on behind ``page``, which was read with :attr:`limit`."""
        self._ended = page.scanned < self.limit
        if self._left is not None:
            self._left -= page.scanned
        if page.scanned and self.backward:
            self.highest = page.last - 1
        elif page.scanned:
            self.lowest = page.last + 1


class FeedCursor:
    """How far the read of the feed has come, and the position where it ends."""

    def __init__(self, *, position: int, until: int, max_count: int | None, page_size: int) -> None:
        self.position = position
        self.until = until
        self._page_size = page_size
        self._left = max_count

    @property
    def limit(self) -> int:
        """How many events the next page may have; 0 when the read is over."""
        if self.position >= self.until:
            return 0
        return self._page_size if self._left is None else min(self._page_size, self._left)

    def passed(self, page: Page) -> None:
        """Go on behind ``page``, which was read with :attr:`limit`.

        A page that is not full has scanned everything up to the end, whatever the filter.
        """
        self.position = page.last if page.scanned == self.limit else self.until
        if self._left is not None:
            self._left -= page.scanned


def check_feed_read(
    from_position: int, max_count: int | None, filters: EventFilter | None, page_size: int
) -> None:
    """Raise TypeError or ValueError for what can't be a position, a count, a filter or a size."""
    if filters is not None and not isinstance(filters, EventFilter):
        raise TypeError(f"filters must be an EventFilter, not {type(filters).__name__}")
    check_number("from_position", from_position)
    if max_count is not None:
        check_number("max_count", max_count)
    check_page_size(page_size)


def check_page_size(page_size: int) -> int:
    """Return ``page_size`` if it is an int of at least 1."""
    if check_number("page_size", page_size) == 0:
        raise ValueError("page_size must be at least 1")
    return page_size


def _names(name: str, values: Iterable[str]) -> frozenset[str]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be a collection of str, not the str {values!r}")
    return frozenset(check_text(name, value, MAX_TYPE_LENGTH) for value in values)
