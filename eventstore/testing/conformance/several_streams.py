"""One atomic append to several streams, with checks on streams that are only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventstore.appending import AppendedStream, StreamAppend, StreamAt
from eventstore.errors import (
    ConcurrencyConflict,
    DuplicateEvent,
    IdempotencyMismatch,
    StreamDeleted,
    StreamNotFound,
)
from eventstore.streams import ANY, NO_STREAM, STREAM_EXISTS
from eventstore.testing.conformance.accounts import new_stream, noted, texts

if TYPE_CHECKING:
    from eventstore.protocols import EventStore


class SeveralStreams:
    """All of it or nothing."""

    def test_each_stream_goes_on(self, store: EventStore) -> None:
        # In this order and its reverse: a store may lock the streams in another one.
        streams = sorted(new_stream() for _ in range(3))
        for order in (streams, streams[::-1]):
            result = store.append(
                *(StreamAppend(stream, ANY, [noted("a"), noted("b")]) for stream in order)
            )
            assert [placed.stream_id for placed in result.streams] == order
            assert not result.already_appended
            for placed in result.streams:
                events = list(store.read_stream(placed.stream_id))[-2:]
                assert placed == result[placed.stream_id]
                assert placed.version == events[-1].event_version
                assert placed.positions == tuple(event.sequence_number for event in events)
        assert [texts(store, stream) for stream in streams] == [["a", "b"] * 2] * 3

    def test_another_stream_is_not_in_the_result(self, store: EventStore) -> None:
        result = store.append(StreamAppend(new_stream(), ANY, [noted()]))
        with pytest.raises(KeyError):
            result["another"]

    def test_one_conflict_refuses_all(self, store: EventStore) -> None:
        one, other = new_stream(), new_stream()
        store.append_to_stream(other, NO_STREAM, [noted("old")])
        for appends in (
            [StreamAppend(one, ANY, [noted()]), StreamAppend(other, 5, [noted()])],
            [StreamAppend(other, 5, [noted()]), StreamAppend(one, ANY, [noted()])],
        ):
            with pytest.raises(ConcurrencyConflict) as caught:
                store.append(*appends)
            error = caught.value
            assert (error.stream_id, error.expected, error.actual) == (other, 5, 1)
        assert store.get_stream_info(one) is None
        assert texts(store, other) == ["old"]

    def test_streams_are_judged_in_the_order_given(self, store: EventStore) -> None:
        first, second, third, fourth = sorted((new_stream() for _ in range(4)), reverse=True)
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append(
                StreamAppend(first, 1, [noted()]),
                StreamAppend(second, STREAM_EXISTS, [noted()]),
                require=[StreamAt(third, 3), StreamAt(fourth, STREAM_EXISTS)],
            )
        assert caught.value.stream_id == first
        with pytest.raises(StreamNotFound) as missing:
            store.append(
                StreamAppend(first, ANY, [noted()]),
                StreamAppend(second, STREAM_EXISTS, [noted()]),
                require=[StreamAt(third, 3), StreamAt(fourth, STREAM_EXISTS)],
            )
        assert missing.value.stream_id == second
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append(
                StreamAppend(first, ANY, [noted()]),
                StreamAppend(second, ANY, [noted()]),
                require=[StreamAt(third, 3), StreamAt(fourth, STREAM_EXISTS)],
            )
        assert caught.value.stream_id == third

    def test_a_stream_that_is_only_read_must_hold_still(self, store: EventStore) -> None:
        written, read = new_stream(), new_stream()
        store.append_to_stream(read, NO_STREAM, [noted()])
        result = store.append(
            StreamAppend(written, NO_STREAM, [noted()]), require=[StreamAt(read, 1)]
        )
        assert [placed.stream_id for placed in result.streams] == [written]
        store.append_to_stream(read, 1, [noted()])
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append(StreamAppend(written, 1, [noted()]), require=[StreamAt(read, 1)])
        assert (caught.value.stream_id, caught.value.actual) == (read, 2)
        store.delete_stream(read)
        with pytest.raises(StreamDeleted):
            store.append(StreamAppend(written, 1, [noted()]), require=[StreamAt(read, 2)])
        assert texts(store, written) == [""]

    def test_an_empty_batch_is_only_a_check(self, store: EventStore) -> None:
        written, read = new_stream(), new_stream()
        store.append_to_stream(read, NO_STREAM, [noted()])
        result = store.append(StreamAppend(read, 1, []), StreamAppend(written, 0, [noted()]))
        assert result.streams[0] == AppendedStream(read, 1, ())
        assert result[written].version == 1
        only_checks = store.append(StreamAppend(read, 1, []), StreamAppend(new_stream(), 0, []))
        assert not only_checks.already_appended
        assert [placed.version for placed in only_checks.streams] == [1, 0]

    def test_the_same_call_again(self, store: EventStore) -> None:
        one, other, checked, read = (new_stream() for _ in range(4))
        appends = [
            StreamAppend(one, NO_STREAM, [noted("a"), noted("b")]),
            StreamAppend(checked, NO_STREAM, []),
            StreamAppend(other, NO_STREAM, [noted("c", key="k")]),
        ]
        require = [StreamAt(read, NO_STREAM)]
        first = store.append(*appends, require=require)
        store.append_to_stream(one, ANY, [noted("later")])
        store.append_to_stream(checked, ANY, [noted("later")])
        store.append_to_stream(read, ANY, [noted("later")])
        # Neither expected versions nor requirements are judged: the first call met them.
        again = store.append(*appends, require=require)
        assert again.already_appended
        assert [placed.stream_id for placed in again.streams] == [one, checked, other]
        assert (again[one], again[other]) == (first[one], first[other])
        assert again[checked] == AppendedStream(checked, 1, ())
        assert texts(store, one) == ["a", "b", "later"]

    def test_a_part_that_is_known_by_id(self, store: EventStore) -> None:
        one, other, known = new_stream(), new_stream(), noted()
        store.append_to_stream(other, NO_STREAM, [known])
        with pytest.raises(DuplicateEvent) as caught:
            store.append(StreamAppend(one, ANY, [noted()]), StreamAppend(other, ANY, [known]))
        assert caught.value.event_id == known.event_id
        assert store.get_stream_info(one) is None

    def test_a_part_that_is_known_by_key(self, store: EventStore) -> None:
        one, other = new_stream(), new_stream()
        store.append_to_stream(other, NO_STREAM, [noted("a", key="k")])
        with pytest.raises(IdempotencyMismatch) as caught:
            store.append(
                StreamAppend(one, ANY, [noted("b", key="k")]),
                StreamAppend(other, ANY, [noted("a", key="k")]),
            )
        assert (caught.value.idempotency_key, caught.value.stream_id) == ("k", other)
        assert store.get_stream_info(one) is None

    def test_a_stream_stands_in_a_call_once(self, store: EventStore) -> None:
        stream = new_stream()
        with pytest.raises(ValueError, match=stream):
            store.append(StreamAppend(stream, ANY, [noted()]), StreamAppend(stream, ANY, []))
        with pytest.raises(ValueError, match=stream):
            store.append(StreamAppend(stream, ANY, [noted()]), require=[StreamAt(stream, ANY)])
        assert store.get_stream_info(stream) is None

    def test_a_call_without_appends(self, store: EventStore) -> None:
        with pytest.raises(ValueError, match="nothing to append"):
            store.append()
        with pytest.raises(ValueError, match="nothing to append"):
            store.append(require=[StreamAt(new_stream(), ANY)])
