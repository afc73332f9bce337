"""Reading the whole store forward, in the order of the feed, with and without filters."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from eventstore.appending import StreamAppend
from eventstore.reading import EventFilter
from eventstore.streams import ANY, MAX_VERSION, NO_STREAM
from eventstore.testing.conformance.accounts import new_stream, noted

if TYPE_CHECKING:
    from eventstore.protocols import EventStore


def _end_of_feed(store: EventStore) -> int:
    """Return a position that only events appended from now on are above."""
    stream = new_stream()
    return store.append(StreamAppend(stream, ANY, [noted("marker")]))[stream].positions[0]


def _append(store: EventStore, stream: str, *said: str) -> None:
    store.append_to_stream(stream, ANY, [noted(text) for text in said])


def _feed(
    store: EventStore,
    after: int,
    max_count: int | None = None,
    *,
    filters: EventFilter | None = None,
    page_size: int = 500,
) -> list[str]:
    events = store.read_all_forward(after, max_count, filters=filters, page_size=page_size)
    return [event.event_data["text"] for event in events]


class FeedReading:
    """Every event once, in one order, whatever the size of a page."""

    @pytest.mark.parametrize("page_size", [1, 2, 3, 500])
    def test_events_of_all_streams_in_their_order(self, store: EventStore, page_size: int) -> None:
        start, one, other = _end_of_feed(store), new_stream(), new_stream()
        _append(store, one, "a", "b")
        _append(store, other, "c")
        _append(store, one, "d", "e")
        expected = ["a", "b", "c", "d", "e"]
        assert _feed(store, start, page_size=page_size) == expected
        for count in (0, 1, 2, 3, 5, 6, MAX_VERSION):
            assert _feed(store, start, count, page_size=page_size) == expected[:count]

    def test_the_feed_begins_with_the_store(self, store: EventStore) -> None:
        end = _end_of_feed(store)
        positions = [event.sequence_number for event in store.read_all_forward()]
        assert positions[0] >= 1
        assert positions[-1] == end
        assert positions == sorted(set(positions))

    def test_the_bound_is_exclusive(self, store: EventStore) -> None:
        start, stream = _end_of_feed(store), new_stream()
        _append(store, stream, "a", "b", "c")
        events = list(store.read_all_forward(start))
        assert events == list(store.read_stream(stream))
        for place, event in enumerate(events, start=1):
            assert list(store.read_all_forward(event.sequence_number)) == events[place:]
            assert next(store.read_all_forward(event.sequence_number - 1)) == event
        assert _feed(store, MAX_VERSION) == []

    def test_a_read_ends_where_the_feed_was(self, store: EventStore) -> None:
        start, stream = _end_of_feed(store), new_stream()
        _append(store, stream, "a", "b", "c")
        for event in store.read_all_forward(start, page_size=2):
            _append(store, stream, event.event_data["text"] + " again")
        assert _feed(store, start)[3:] == ["a again", "b again", "c again"]

    def test_a_read_begins_when_it_is_iterated(self, store: EventStore) -> None:
        start = _end_of_feed(store)
        events = store.read_all_forward(start)
        _append(store, new_stream(), "a")
        assert [event.event_data["text"] for event in events] == ["a"]

    @pytest.mark.parametrize("page_size", [1, 2, 500])
    def test_filters(self, store: EventStore, page_size: int) -> None:
        start, prefix, request = _end_of_feed(store), new_stream(), str(uuid4())
        by_request = {"correlation_id": request}
        for stream, events in {
            f"{prefix}-1": [noted("a"), noted("b", event_type="other")],
            f"{prefix}-2": [noted("c", aggregate_type="user"), noted("d", metadata=by_request)],
            f"x{prefix}": [noted("e", event_type="other", metadata=by_request), noted("f")],
        }.items():
            store.append_to_stream(stream, NO_STREAM, events)
        for filters, expected in (
            (EventFilter(), "abcdef"),
            (EventFilter(event_types=["other"]), "be"),
            (EventFilter(event_types=["other", "noted"]), "abcdef"),
            (EventFilter(event_types=["oth"]), ""),
            (EventFilter(aggregate_types=["user"]), "c"),
            (EventFilter(stream_prefix=prefix), "abcd"),
            (EventFilter(stream_prefix=f"{prefix}-2"), "cd"),
            (EventFilter(correlation_id=request), "de"),
            (EventFilter(correlation_id="another"), ""),
            (EventFilter(correlation_id=request, event_types=["noted"]), "d"),
            (EventFilter(stream_prefix=prefix, aggregate_types=["account"]), "abd"),
        ):
            found = _feed(store, start, filters=filters, page_size=page_size)
            assert "".join(found) == expected, filters
            first_two = _feed(store, start, 2, filters=filters, page_size=page_size)
            assert "".join(first_two) == expected[:2], filters

    @pytest.mark.parametrize("sign", ["%", "_", "\\", "'", "[", "*", "\U0001f600"])
    def test_a_prefix_is_no_pattern(self, store: EventStore, sign: str) -> None:
        start, prefix = _end_of_feed(store), new_stream()
        store.append_to_stream(f"{prefix}{sign}1", NO_STREAM, [noted("with it")])
        store.append_to_stream(f"{prefix}-1", NO_STREAM, [noted("without it")])
        assert _feed(store, start, filters=EventFilter(stream_prefix=prefix + sign)) == ["with it"]
