"""Reading one stream: every range, in both directions, whatever the size of a page."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from eventstore.reading import ReadOptions
from eventstore.streams import ANY, MAX_VERSION, NO_STREAM
from eventstore.testing.conformance.accounts import new_stream, noted

if TYPE_CHECKING:
    from eventstore.protocols import EventStore


def _versions(store: EventStore, stream: str, options: ReadOptions) -> list[int]:
    return [event.event_version for event in store.read_stream(stream, options)]


class StreamReading:
    """What a read returns, and that pages don't show."""

    @pytest.mark.parametrize("page_size", [1, 2, 3, 4, 500])
    def test_every_range(self, store: EventStore, page_size: int) -> None:
        stream, last = new_stream(), 4
        store.append_to_stream(stream, NO_STREAM, [noted(str(n)) for n in range(last)])
        for from_version, to_version, max_count, backward in product(
            (None, 0, 2, last, last + 1), (None, 0, 3, last + 1), (None, 0, 1, 3), (False, True)
        ):
            options = ReadOptions(
                from_version=from_version,
                to_version=to_version,
                max_count=max_count,
                backward=backward,
                page_size=page_size,
            )
            wanted = [
                version
                for version in range(1, last + 1)
                if (from_version is None or version >= from_version)
                and (to_version is None or version <= to_version)
            ]
            if backward:
                wanted.reverse()
            assert _versions(store, stream, options) == wanted[:max_count], options

    def test_the_largest_numbers(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted(), noted()])
        everything = ReadOptions(to_version=MAX_VERSION, max_count=MAX_VERSION)
        assert _versions(store, stream, everything) == [1, 2]
        assert _versions(store, stream, ReadOptions(from_version=MAX_VERSION)) == []

    def test_a_missing_stream_is_empty(self, store: EventStore) -> None:
        for options in (ReadOptions(), ReadOptions(backward=True), ReadOptions(max_count=0)):
            assert list(store.read_stream(new_stream(), options)) == []

    def test_other_streams_are_not_read(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("mine")])
        store.append_to_stream(stream + "/child", NO_STREAM, [noted("not mine")])
        store.append_to_stream(stream.upper(), NO_STREAM, [noted("not mine")])
        assert [event.stream_id for event in store.read_stream(stream)] == [stream]

    def test_versions_rise_with_positions(self, store: EventStore) -> None:
        one, other = new_stream(), new_stream()
        for _ in range(3):
            store.append_to_stream(one, ANY, [noted(), noted()])
            store.append_to_stream(other, ANY, [noted()])
        positions = [event.sequence_number for event in store.read_stream(one)]
        assert positions == sorted(set(positions))

    def test_a_read_may_be_left_and_begun_again(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted(), noted(), noted()])
        for _ in range(2):
            assert (
                next(iter(store.read_stream(stream, ReadOptions(page_size=1)))).event_version == 1
            )
        assert store.append_to_stream(stream, 3, [noted()]) == 4

    def test_two_reads_at_a_time(self, store: EventStore) -> None:
        one, other = new_stream(), new_stream()
        for stream in (one, other):
            store.append_to_stream(stream, NO_STREAM, [noted() for _ in range(5)])
        options = ReadOptions(page_size=2)
        pairs = zip(store.read_stream(one, options), store.read_stream(other, options), strict=True)
        assert [(a.event_version, b.event_version) for a, b in pairs] == [
            (version, version) for version in range(1, 6)
        ]

    def test_a_reader_may_append(self, store: EventStore) -> None:
        stream, copy = new_stream(), new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted(str(n)) for n in range(5)])
        for event in store.read_stream(stream, ReadOptions(page_size=2)):
            store.append_to_stream(copy, ANY, [noted(event.event_data["text"])])
        assert _versions(store, copy, ReadOptions()) == [1, 2, 3, 4, 5]

    def test_envelopes_are_frozen_values(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("a")])
        (first,) = store.read_stream(stream)
        first.event_data["text"] = "changed by its reader"
        (second,) = store.read_stream(stream)
        assert second.event_data == {"text": "a"}
        with pytest.raises(ValueError, match="frozen"):
            second.event_version = 5
