from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.reading import (
    PAGE_SIZE,
    EventFilter,
    FeedCursor,
    Page,
    ReadOptions,
    StreamCursor,
    check_feed_read,
)
from eventstore.streams import MAX_VERSION

versions = st.none() | st.integers(0, 12)


def page_of(places: list[int]) -> Page:
    return Page([], len(places), places[-1] if places else 0)


def test_without_arguments_all_of_a_stream() -> None:
    assert ReadOptions() == ReadOptions(
        from_version=None,
        to_version=None,
        max_count=None,
        backward=False,
        include_deleted=False,
        page_size=PAGE_SIZE,
    )


@pytest.mark.parametrize("name", ["from_version", "to_version", "max_count", "page_size"])
@pytest.mark.parametrize("value", [-1, True, "1", 1.5, 2**63])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    fields: dict[str, Any] = {name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        ReadOptions(**fields)


def test_a_page_has_at_least_one_event() -> None:
    with pytest.raises(ValueError, match="page_size must be at least 1"):
        ReadOptions(page_size=0)
    with pytest.raises(ValueError, match="page_size must be at least 1"):
        check_feed_read(0, None, None, 0)
    ReadOptions(max_count=0, from_version=0, to_version=0)
    check_feed_read(0, 0, None, 1)


@pytest.mark.parametrize(
    ("arguments", "name"), [((-1, None, 1), "from_position"), ((0, True, 1), "max_count")]
)
def test_a_range_of_the_feed(arguments: tuple[int, int | None, int], name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        check_feed_read(*arguments[:2], None, arguments[2])


@given(
    options=st.builds(
        ReadOptions,
        from_version=versions,
        to_version=versions,
        max_count=versions,
        backward=st.booleans(),
        page_size=st.integers(1, 4),
    ),
    length=st.integers(0, 10),
)
def test_the_pages_of_a_stream_make_the_range(options: ReadOptions, length: int) -> None:
    cursor, found, pages = StreamCursor(options), list[int](), 0
    while cursor.limit:
        assert cursor.limit <= options.page_size
        stored = [v for v in range(1, length + 1) if cursor.lowest <= v <= cursor.highest]
        page = (stored[::-1] if cursor.backward else stored)[: cursor.limit]
        cursor.passed(page_of(page))
        found += page
        pages += 1
    wanted = [v for v in range(1, length + 1) if (options.from_version or 0) <= v]
    wanted = [v for v in wanted if options.to_version is None or v <= options.to_version]
    wanted = (wanted[::-1] if options.backward else wanted)[: options.max_count]
    assert found == wanted
    assert pages <= len(wanted) // options.page_size + 1


@given(
    positions=st.sets(st.integers(1, 20)).map(sorted),
    start=st.integers(0, 20),
    until=st.integers(0, 20),
    max_count=versions,
    page_size=st.integers(1, 4),
)
def test_the_pages_of_the_feed_make_the_range(
    positions: list[int], start: int, until: int, max_count: int | None, page_size: int
) -> None:
    cursor = FeedCursor(position=start, until=until, max_count=max_count, page_size=page_size)
    found: list[int] = []
    while cursor.limit:
        page = [p for p in positions if cursor.position < p <= cursor.until][: cursor.limit]
        cursor.passed(page_of(page))
        found += page
    assert found == [p for p in positions if start < p <= until][:max_count]


def test_a_filter_takes_any_collection() -> None:
    names = ["b", "a", "b"]
    assert EventFilter(event_types=names) == EventFilter(event_types=iter(names))
    assert EventFilter(event_types=names).event_types == frozenset("ab")
    assert EventFilter() == EventFilter(event_types=(), aggregate_types=(), stream_prefix="")
    assert hash(EventFilter(stream_prefix="a")) == hash(EventFilter(stream_prefix="a"))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"event_types": "noted"}, TypeError),
        ({"aggregate_types": "account"}, TypeError),
        ({"event_types": [""]}, ValueError),
        ({"event_types": [7]}, TypeError),
        ({"aggregate_types": ["a" * 101]}, ValueError),
        ({"stream_prefix": "a\0"}, ValueError),
        ({"stream_prefix": "a" * 256}, ValueError),
        ({"stream_prefix": 7}, TypeError),
        ({"correlation_id": ""}, ValueError),
        ({"correlation_id": "a\ud800"}, ValueError),
    ],
)
def test_what_no_event_can_match_is_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(fields))):
        EventFilter(**fields)


def test_the_largest_numbers() -> None:
    assert StreamCursor(ReadOptions(from_version=MAX_VERSION)).lowest == MAX_VERSION
    check_feed_read(MAX_VERSION, MAX_VERSION, None, MAX_VERSION)
