"""The same batch again: recognised by the ids of its events, or by their idempotency keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventstore.appending import StreamAppend
from eventstore.errors import DuplicateEvent, IdempotencyMismatch, StreamDeleted
from eventstore.streams import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion
from eventstore.testing.conformance.accounts import again, new_stream, noted, texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventstore.events import AnyEnvelope
    from eventstore.protocols import EventStore

#: The version before the batch, the one after it, later ones, and no number at all.
_ANY_EXPECTATION = [1, 3, 4, 99, NO_STREAM, STREAM_EXISTS, ANY, None]


def _assert_repeat_of(
    store: EventStore,
    stream: str,
    expected: ExpectedVersion,
    repeat: Sequence[AnyEnvelope],
    first: Sequence[AnyEnvelope],
) -> None:
    """Assert that ``repeat`` is answered with the places of ``first``, and writes nothing."""
    before = list(store.read_stream(stream))
    ids = [event.event_id for event in first]
    places = [event for event in before if event.event_id in ids]
    assert store.append_to_stream(stream, expected, repeat) == places[-1].event_version
    result = store.append(StreamAppend(stream, expected, repeat))
    assert result.already_appended
    assert result[stream].version == places[-1].event_version
    assert result[stream].positions == tuple(event.sequence_number for event in places)
    assert list(store.read_stream(stream)) == before


def _assert_duplicate(
    store: EventStore, stream: str, batch: Sequence[AnyEnvelope], event: AnyEnvelope
) -> None:
    """Assert that ``batch`` is refused for the id of ``event`` and writes nothing."""
    before = list(store.read_stream(stream))
    for expected in (ANY, len(before), 99):
        with pytest.raises(DuplicateEvent) as caught:
            store.append_to_stream(stream, expected, batch)
        assert caught.value.event_id == event.event_id
    assert list(store.read_stream(stream)) == before


class RetriesById:
    """An event id names one event for ever."""

    @pytest.mark.parametrize("expected", _ANY_EXPECTATION)
    def test_the_same_batch_whatever_is_expected(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        stream, batch = new_stream(), [noted("b"), noted("c")]
        store.append_to_stream(stream, NO_STREAM, [noted("a")])
        store.append_to_stream(stream, 1, batch)
        _assert_repeat_of(store, stream, expected, batch, batch)
        store.append_to_stream(stream, 3, [noted("d")])
        _assert_repeat_of(store, stream, expected, batch, batch)
        assert store.append_to_stream(stream, 4, [noted("e")]) == 5

    def test_a_first_append_is_not_a_repeat(self, store: EventStore) -> None:
        assert not store.append(StreamAppend(new_stream(), NO_STREAM, [noted()])).already_appended

    def test_a_run_of_recorded_events_is_a_repeat(self, store: EventStore) -> None:
        stream, batch = new_stream(), [noted("a"), noted("b"), noted("c")]
        store.append_to_stream(stream, NO_STREAM, batch[:2])
        store.append_to_stream(stream, 2, batch[2:])
        _assert_repeat_of(store, stream, ANY, batch, batch)
        _assert_repeat_of(store, stream, ANY, batch[1:], batch[1:])
        _assert_repeat_of(store, stream, ANY, batch[:1], batch[:1])

    def test_when_and_by_whom_does_not_matter(self, store: EventStore) -> None:
        stream, event = new_stream(), noted("a", metadata={"user_id": "ann"})
        store.append_to_stream(stream, NO_STREAM, [event])
        repeat = noted("a", event_id=event.event_id, metadata={"user_id": "bob"})
        assert repeat.occurred_at != event.occurred_at
        _assert_repeat_of(store, stream, ANY, [repeat], [event])

    def test_the_order_of_keys_does_not_matter(self, store: EventStore) -> None:
        stream = new_stream()
        event = noted(event_data={"bb": [{"x": 1, "y": 2.5e16}], "a": None})
        store.append_to_stream(stream, NO_STREAM, [event])
        repeat = again(event, event_data={"a": None, "bb": [{"y": 2.5e16, "x": 1}]})
        _assert_repeat_of(store, stream, ANY, [repeat], [event])

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"n": 1}, {"n": 2}),
            ({"n": 1}, {"n": True}),
            ({"n": 0}, {"n": False}),
            ({"n": 1}, {"n": "1"}),
            ({"n": None}, {}),
            ({"n": []}, {"n": {}}),
            ({"n": [1, 2]}, {"n": [2, 1]}),
            ({"n": 2**60}, {"n": 2**60 + 1}),
            ({"n": "é"}, {"n": "e\u0301"}),
        ],
    )
    def test_another_payload(
        self, store: EventStore, first: dict[str, Any], second: dict[str, Any]
    ) -> None:
        stream, event = new_stream(), noted(event_data=first)
        store.append_to_stream(stream, NO_STREAM, [event])
        _assert_duplicate(store, stream, [again(event, event_data=second)], event)

    def test_another_type(self, store: EventStore) -> None:
        stream, event = new_stream(), noted()
        store.append_to_stream(stream, NO_STREAM, [event])
        _assert_duplicate(store, stream, [again(event, event_type="other")], event)

    def test_another_stream_in_either_direction(self, store: EventStore) -> None:
        one, other, event = new_stream(), new_stream(), noted()
        store.append_to_stream(one, NO_STREAM, [event])
        _assert_duplicate(store, other, [event], event)
        assert store.get_stream_info(other) is None
        _assert_repeat_of(store, one, ANY, [event], [event])
        _assert_duplicate(store, other, [event], event)

    def test_a_batch_that_is_partly_there(self, store: EventStore) -> None:
        stream, a, b, new = new_stream(), noted("a"), noted("b"), noted("new")
        store.append_to_stream(stream, NO_STREAM, [a, b])
        _assert_duplicate(store, stream, [a, b, new], a)
        _assert_duplicate(store, stream, [new, a, b], a)
        _assert_duplicate(store, stream, [b, new], b)

    def test_another_order(self, store: EventStore) -> None:
        stream, a, b = new_stream(), noted("a"), noted("b")
        store.append_to_stream(stream, NO_STREAM, [a, b])
        _assert_duplicate(store, stream, [b, a], b)

    def test_events_that_others_stand_between(self, store: EventStore) -> None:
        stream, a, b = new_stream(), noted("a"), noted("b")
        store.append_to_stream(stream, NO_STREAM, [a, noted("between"), b])
        _assert_duplicate(store, stream, [a, b], a)

    def test_an_id_twice_in_one_batch(self, store: EventStore) -> None:
        stream, event = new_stream(), noted()
        _assert_duplicate(store, stream, [noted(), event, event], event)
        store.append_to_stream(stream, NO_STREAM, [event])
        _assert_duplicate(store, stream, [event, event], event)

    def test_an_id_twice_over_streams(self, store: EventStore) -> None:
        one, other, event = new_stream(), new_stream(), noted()
        with pytest.raises(DuplicateEvent) as caught:
            store.append(StreamAppend(one, ANY, [event]), StreamAppend(other, ANY, [event]))
        assert caught.value.event_id == event.event_id
        assert store.get_stream_info(one) is None

    def test_a_deleted_stream_answers_deleted(self, store: EventStore) -> None:
        stream, batch = new_stream(), [noted("a"), noted("b", key="k")]
        store.append_to_stream(stream, NO_STREAM, batch)
        store.delete_stream(stream)
        with pytest.raises(StreamDeleted):
            store.append_to_stream(stream, ANY, batch)
        store.restore_stream(stream)
        _assert_repeat_of(store, stream, NO_STREAM, batch, batch)


def _assert_mismatch(
    store: EventStore, stream: str, batch: Sequence[AnyEnvelope], key: str
) -> None:
    """Assert that ``batch`` is refused for ``key`` and writes nothing."""
    before = list(store.read_stream(stream))
    for expected in (ANY, len(before), 99):
        with pytest.raises(IdempotencyMismatch) as caught:
            store.append_to_stream(stream, expected, batch)
        assert (caught.value.idempotency_key, caught.value.stream_id) == (key, stream)
    assert list(store.read_stream(stream)) == before


class RetriesByKey:
    """A request's key, used on a stream, names one batch there; event ids may differ."""

    @pytest.mark.parametrize("expected", _ANY_EXPECTATION)
    def test_the_same_batch_under_its_key_whatever_is_expected(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        stream = new_stream()
        first = [noted("b", key="k"), noted("c", key="k")]
        repeat = [noted("b", key="k"), noted("c", key="k")]
        store.append_to_stream(stream, NO_STREAM, [noted("a")])
        store.append_to_stream(stream, 1, first)
        _assert_repeat_of(store, stream, expected, repeat, first)
        store.append_to_stream(stream, 3, [noted("d")])
        _assert_repeat_of(store, stream, expected, repeat, first)
        assert store.append_to_stream(stream, 4, [noted("e", key="l")]) == 5

    def test_the_same_ids_too(self, store: EventStore) -> None:
        stream, batch = new_stream(), [noted("a", key="k")]
        store.append_to_stream(stream, NO_STREAM, batch)
        _assert_repeat_of(store, stream, NO_STREAM, batch, batch)

    def test_the_key_on_the_first_event_only(self, store: EventStore) -> None:
        stream, first = new_stream(), [noted("a", key="k"), noted("b")]
        store.append_to_stream(stream, NO_STREAM, first)
        _assert_repeat_of(store, stream, ANY, [noted("a", key="k"), noted("b")], first)
        _assert_mismatch(store, stream, [noted("a", key="k"), noted("other")], "k")

    def test_the_key_on_the_last_event_only(self, store: EventStore) -> None:
        stream, first = new_stream(), [noted("a"), noted("b", key="k")]
        store.append_to_stream(stream, NO_STREAM, first)
        _assert_repeat_of(store, stream, ANY, [noted("a"), noted("b", key="k")], first)
        _assert_mismatch(store, stream, [noted("other"), noted("b", key="k")], "k")
        _assert_mismatch(store, stream, [noted(), noted("a"), noted("b", key="k")], "k")

    def test_a_key_for_each_event(self, store: EventStore) -> None:
        stream, first = new_stream(), [noted("a", key="k"), noted("b", key="l")]
        store.append_to_stream(stream, NO_STREAM, first)
        _assert_repeat_of(store, stream, ANY, [noted("a", key="k"), noted("b", key="l")], first)
        _assert_repeat_of(store, stream, ANY, [noted("b", key="l")], first[1:])
        _assert_mismatch(store, stream, [noted("a", key="k"), noted("b", key="m")], "k")
        _assert_mismatch(store, stream, [noted("b", key="l"), noted("a", key="k")], "l")

    def test_another_payload_or_type(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("a", key="k")])
        _assert_mismatch(store, stream, [noted("other", key="k")], "k")
        _assert_mismatch(store, stream, [noted("a", key="k", event_type="other")], "k")

    def test_a_shorter_or_longer_batch(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("a", key="k"), noted("b", key="k")])
        _assert_mismatch(store, stream, [noted("a", key="k")], "k")
        _assert_mismatch(store, stream, [noted("a", key="k"), noted("b", key="k"), noted()], "k")
        _assert_mismatch(store, stream, [noted(t, key="k") for t in ("a", "b", "c")], "k")

    def test_a_used_key_beside_a_new_one(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("a", key="k")])
        _assert_mismatch(store, stream, [noted("b", key="l"), noted("a", key="k")], "k")

    def test_a_key_belongs_to_its_stream(self, store: EventStore) -> None:
        one, other = new_stream(), new_stream()
        store.append_to_stream(one, NO_STREAM, [noted("a", key="k")])
        assert store.append_to_stream(other, NO_STREAM, [noted("b", key="k")]) == 1
        _assert_mismatch(store, other, [noted("a", key="k")], "k")

    def test_an_id_that_is_known_is_judged_first(self, store: EventStore) -> None:
        stream, event = new_stream(), noted("a", key="k")
        store.append_to_stream(stream, NO_STREAM, [event])
        _assert_duplicate(store, stream, [event, noted("b", key="k")], event)

    @pytest.mark.parametrize("key", ["x", "k" * 255, "\U0001f600" * 255, "'; --", "Ünïcode {}%s"])
    def test_a_key_is_any_text(self, store: EventStore, key: str) -> None:
        stream, first = new_stream(), [noted("a", key=key)]
        store.append_to_stream(stream, NO_STREAM, first)
        _assert_repeat_of(store, stream, ANY, [noted("a", key=key)], first)
        assert texts(store, stream) == ["a"]
