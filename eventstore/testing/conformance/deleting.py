"""Soft deletion: a deleted stream is closed, nothing of it is lost, and it can be restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventstore.appending import StreamAppend
from eventstore.errors import ConcurrencyConflict, StreamDeleted, StreamNotFound
from eventstore.reading import ReadOptions
from eventstore.streams import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion
from eventstore.testing.conformance.accounts import new_stream, noted, texts

if TYPE_CHECKING:
    from eventstore.protocols import EventStore


def _stream_of_three(store: EventStore) -> str:
    stream = new_stream()
    store.append_to_stream(stream, NO_STREAM, [noted("a"), noted("b"), noted("c")])
    return stream


class Deleting:
    """What each operation answers for a deleted stream, and which deletions are refused."""

    @pytest.mark.parametrize("expected", [None, ANY, STREAM_EXISTS, 3])
    def test_a_stream_is_deleted(self, store: EventStore, expected: ExpectedVersion) -> None:
        stream = _stream_of_three(store)
        before = store.get_stream_info(stream)
        store.delete_stream(stream, expected)
        info = store.get_stream_info(stream)
        assert before is not None
        assert info is not None
        assert info.deleted_at is not None
        assert info.deleted_at >= before.created_at
        assert (info.version, info.created_at) == (3, before.created_at)

    def test_a_deleted_stream_is_read_only_on_demand(self, store: EventStore) -> None:
        stream = _stream_of_three(store)
        before = list(store.read_stream(stream))
        store.delete_stream(stream)
        info = store.get_stream_info(stream)
        assert info is not None
        for options in (ReadOptions(), ReadOptions(max_count=1), ReadOptions(from_version=99)):
            # The call itself says nothing yet: the stream is looked at when it is read.
            events = store.read_stream(stream, options)
            with pytest.raises(StreamDeleted) as caught:
                next(events)
            assert (caught.value.stream_id, caught.value.deleted_at) == (stream, info.deleted_at)
        assert list(store.read_stream(stream, ReadOptions(include_deleted=True))) == before

    def test_the_feed_keeps_the_events(self, store: EventStore) -> None:
        stream = new_stream()
        appended = store.append(StreamAppend(stream, NO_STREAM, [noted("a"), noted("b")]))
        store.delete_stream(stream)
        first, last = appended[stream].positions
        events = [e for e in store.read_all_forward(first - 1) if e.stream_id == stream]
        assert [event.sequence_number for event in events] == [first, last]

    def test_versions_go_on_after_a_restoration(self, store: EventStore) -> None:
        stream = _stream_of_three(store)
        store.delete_stream(stream)
        store.restore_stream(stream)
        info = store.get_stream_info(stream)
        assert info is not None
        assert (info.version, info.deleted_at) == (3, None)
        with pytest.raises(ConcurrencyConflict):
            store.append_to_stream(stream, NO_STREAM, [noted("from the start")])
        assert store.append_to_stream(stream, 3, [noted("d")]) == 4
        assert texts(store, stream) == ["a", "b", "c", "d"]

    def test_a_stream_can_be_deleted_again(self, store: EventStore) -> None:
        stream = _stream_of_three(store)
        for _ in range(2):
            store.delete_stream(stream, 3)
            store.restore_stream(stream)
        assert texts(store, stream) == ["a", "b", "c"]

    @pytest.mark.parametrize("expected", [None, ANY, STREAM_EXISTS, 3, NO_STREAM, 99])
    def test_a_deleted_stream_is_not_deleted_twice(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        stream = _stream_of_three(store)
        store.delete_stream(stream)
        info = store.get_stream_info(stream)
        with pytest.raises(StreamDeleted):
            store.delete_stream(stream, expected)
        assert store.get_stream_info(stream) == info

    @pytest.mark.parametrize("expected", [NO_STREAM, 1, 2, 4, 99])
    def test_another_version_is_not_deleted(self, store: EventStore, expected: int) -> None:
        stream = _stream_of_three(store)
        with pytest.raises(ConcurrencyConflict) as caught:
            store.delete_stream(stream, expected)
        assert (caught.value.expected, caught.value.actual) == (expected, 3)
        assert store.append_to_stream(stream, 3, [noted("d")]) == 4

    @pytest.mark.parametrize("expected", [None, ANY, STREAM_EXISTS, NO_STREAM])
    def test_a_missing_stream_is_not_deleted(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        stream = new_stream()
        with pytest.raises(StreamNotFound) as caught:
            store.delete_stream(stream, expected)
        assert caught.value.stream_id == stream
        assert store.get_stream_info(stream) is None
        assert store.append_to_stream(stream, NO_STREAM, [noted()]) == 1

    def test_a_version_of_a_missing_stream_is_not_deleted(self, store: EventStore) -> None:
        stream = new_stream()
        with pytest.raises(ConcurrencyConflict) as caught:
            store.delete_stream(stream, 3)
        assert (caught.value.expected, caught.value.actual) == (3, 0)

    def test_restoring_what_was_not_deleted(self, store: EventStore) -> None:
        stream = _stream_of_three(store)
        before = store.get_stream_info(stream)
        store.restore_stream(stream)
        assert store.get_stream_info(stream) == before
        missing = new_stream()
        with pytest.raises(StreamNotFound) as caught:
            store.restore_stream(missing)
        assert caught.value.stream_id == missing
