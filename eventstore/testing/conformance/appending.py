"""Appending to one stream, and the table of expected versions."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID, uuid4

import pytest

from eventstore.appending import StreamAppend, StreamAt
from eventstore.errors import ConcurrencyConflict, EventStoreError, StreamDeleted, StreamNotFound
from eventstore.streams import ANY, MAX_VERSION, NO_STREAM, STREAM_EXISTS, ExpectedVersion
from eventstore.testing.conformance.accounts import new_stream, noted, texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.protocols import EventStore

    #: An operation that judges the expected version of a stream.
    Judge: TypeAlias = Callable[[EventStore, str, ExpectedVersion], object]


class Appending:
    """What an append records, and what it returns."""

    def test_versions_begin_at_one_and_have_no_gaps(self, store: EventStore) -> None:
        stream = new_stream()
        assert store.append_to_stream(stream, NO_STREAM, [noted("a")]) == 1
        assert store.append_to_stream(stream, 1, [noted("b"), noted("c")]) == 3
        assert store.append_to_stream(stream, ANY, [noted("d")]) == 4
        assert [event.event_version for event in store.read_stream(stream)] == [1, 2, 3, 4]
        assert texts(store, stream) == ["a", "b", "c", "d"]

    def test_a_refused_append_leaves_no_gap(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("a")])
        for _ in range(3):
            with pytest.raises(ConcurrencyConflict):
                store.append_to_stream(stream, 7, [noted("refused")])
        assert store.append_to_stream(stream, 1, [noted("b")]) == 2
        assert texts(store, stream) == ["a", "b"]

    def test_everything_that_was_given_comes_back(self, store: EventStore) -> None:
        stream = new_stream()
        event = noted(
            "a",
            aggregate_id="account 7",
            aggregate_type="savings account",
            event_type="noted down",
            occurred_at=datetime(2024, 2, 29, 12, 30, 15, 123456, UTC),
            metadata={"correlation_id": "c", "causation_id": "d", "user_id": "e"},
        )
        store.append_to_stream(stream, NO_STREAM, [event])
        (recorded,) = store.read_stream(stream)
        assigned = {"stream_id", "event_version", "sequence_number"}
        assert recorded.model_dump(exclude=assigned) == event.model_dump(exclude=assigned)

    def test_the_store_assigns_the_place(self, store: EventStore) -> None:
        stream = new_stream()
        event = noted(stream_id="another", event_version=77, sequence_number=-88)
        placed = store.append(StreamAppend(stream, NO_STREAM, [event]))[stream]
        (recorded,) = store.read_stream(stream)
        assert (
            (recorded.stream_id, recorded.event_version) == (stream, placed.version) == (stream, 1)
        )
        assert (recorded.sequence_number,) == placed.positions
        assert recorded.sequence_number > 0

    def test_the_aggregate_id_is_the_stream_id_by_default(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted()])
        assert [event.aggregate_id for event in store.read_stream(stream)] == [stream]

    def test_ids_are_uuid7_by_default_and_any_uuid_is_kept(self, store: EventStore) -> None:
        stream, chosen = new_stream(), uuid4()
        events = [noted(), noted(event_id=chosen), noted(event_id=str(UUID(int=5)))]
        store.append_to_stream(stream, NO_STREAM, events)
        first, second, third = (event.event_id for event in store.read_stream(stream))
        assert first.version == 7
        assert (second, third) == (chosen, UUID(int=5))

    def test_times_are_kept_to_the_microsecond_as_utc(self, store: EventStore) -> None:
        stream = new_stream()
        in_delhi = datetime(2024, 7, 1, 5, 0, 0, 1, timezone(timedelta(hours=5, minutes=30)))
        store.append_to_stream(stream, NO_STREAM, [noted(occurred_at=in_delhi)])
        (recorded,) = store.read_stream(stream)
        assert recorded.occurred_at == in_delhi
        assert recorded.occurred_at.utcoffset() == timedelta(0)

    def test_stream_info_follows_the_stream(self, store: EventStore) -> None:
        stream = new_stream()
        assert store.get_stream_info(stream) is None
        store.append_to_stream(stream, NO_STREAM, [noted()])
        first = store.get_stream_info(stream)
        store.append_to_stream(stream, 1, [noted(), noted()])
        second = store.get_stream_info(stream)
        assert first is not None
        assert second is not None
        assert (first.stream_id, first.version, first.deleted_at) == (stream, 1, None)
        assert second.version == 3
        assert second.created_at == first.created_at
        assert second.updated_at >= first.updated_at >= first.created_at
        assert first.created_at.utcoffset() == timedelta(0)

    def test_a_long_batch_is_one_append(self, store: EventStore) -> None:
        stream = new_stream()
        assert store.append_to_stream(stream, NO_STREAM, [noted(str(n)) for n in range(1500)]) == (
            1500
        )
        assert texts(store, stream) == [str(n) for n in range(1500)]


def _append(store: EventStore, stream: str, expected: ExpectedVersion) -> object:
    return store.append_to_stream(stream, expected, [noted("new")])


def _append_to_several(store: EventStore, stream: str, expected: ExpectedVersion) -> object:
    result = store.append(
        StreamAppend(new_stream(), NO_STREAM, [noted("beside")]),
        StreamAppend(stream, expected, [noted("new")]),
    )
    return result[stream].version


def _append_nothing(store: EventStore, stream: str, expected: ExpectedVersion) -> object:
    return store.append_to_stream(stream, expected, [])


def _append_nothing_to_several(store: EventStore, stream: str, expected: ExpectedVersion) -> object:
    result = store.append(
        StreamAppend(stream, expected, []), StreamAppend(new_stream(), NO_STREAM, [noted("beside")])
    )
    assert result[stream].positions == ()
    return result[stream].version


def _require(store: EventStore, stream: str, expected: ExpectedVersion) -> object:
    store.append(
        StreamAppend(new_stream(), NO_STREAM, [noted("beside")]),
        require=[StreamAt(stream, expected)],
    )
    return None


_WRITING = (_append, _append_to_several)
_CHECKING = (_append_nothing, _append_nothing_to_several)
_ALL = (*_WRITING, *_CHECKING, _require)
_ON_A_MISSING_STREAM = [1, 5, 1_000_000, MAX_VERSION]
_ON_TWO_EVENTS = [NO_STREAM, 1, 3, 1_000_000, MAX_VERSION]
_ALL_MODES = [NO_STREAM, 1, 2, 3, MAX_VERSION, STREAM_EXISTS, ANY, None]


class ExpectedVersions:
    """Each cell of "state of the stream" x expected version, by every operation that judges it."""

    @pytest.mark.parametrize("expected", [NO_STREAM, ANY, None])
    def test_a_missing_stream_begins(self, store: EventStore, expected: ExpectedVersion) -> None:
        for append in _WRITING:
            stream = new_stream()
            assert append(store, stream, expected) == 1
            assert texts(store, stream) == ["new"]

    @pytest.mark.parametrize("expected", [2, STREAM_EXISTS, ANY, None])
    def test_a_stream_goes_on(self, store: EventStore, expected: ExpectedVersion) -> None:
        for append in _WRITING:
            stream = _stream_of_two(store)
            assert append(store, stream, expected) == 3
            assert texts(store, stream) == ["one", "two", "new"]

    @pytest.mark.parametrize("expected", [NO_STREAM, ANY, None])
    def test_nothing_for_a_missing_stream(
        self, store: EventStore, expected: ExpectedVersion
    ) -> None:
        stream = new_stream()
        for check in _CHECKING:
            assert check(store, stream, expected) == 0
        _require(store, stream, expected)
        assert store.get_stream_info(stream) is None

    @pytest.mark.parametrize("expected", [2, STREAM_EXISTS, ANY, None])
    def test_nothing_for_a_stream(self, store: EventStore, expected: ExpectedVersion) -> None:
        stream = _stream_of_two(store)
        before = store.get_stream_info(stream)
        for check in _CHECKING:
            assert check(store, stream, expected) == 2
        _require(store, stream, expected)
        assert store.get_stream_info(stream) == before

    @pytest.mark.parametrize("judge", _ALL)
    @pytest.mark.parametrize("expected", _ON_A_MISSING_STREAM)
    def test_a_version_of_a_missing_stream(
        self, store: EventStore, judge: Judge, expected: int
    ) -> None:
        stream = new_stream()
        with pytest.raises(ConcurrencyConflict) as caught:
            judge(store, stream, expected)
        facts = {"expected": expected, "actual": 0, "stream_id": stream, "missed": None}
        assert _facts(caught.value) == facts
        assert store.append_to_stream(stream, NO_STREAM, [noted("goes on")]) == 1

    @pytest.mark.parametrize("judge", _ALL)
    def test_a_missing_stream_does_not_exist(self, store: EventStore, judge: Judge) -> None:
        stream = new_stream()
        with pytest.raises(StreamNotFound) as caught:
            judge(store, stream, STREAM_EXISTS)
        assert _facts(caught.value) == {"stream_id": stream}
        assert store.append_to_stream(stream, NO_STREAM, [noted("goes on")]) == 1

    @pytest.mark.parametrize("judge", _ALL)
    @pytest.mark.parametrize("expected", _ON_TWO_EVENTS)
    def test_another_version(self, store: EventStore, judge: Judge, expected: int) -> None:
        stream = _stream_of_two(store)
        with pytest.raises(ConcurrencyConflict) as caught:
            judge(store, stream, expected)
        facts = {"expected": expected, "actual": 2, "stream_id": stream, "missed": None}
        assert _facts(caught.value) == facts
        assert texts(store, stream) == ["one", "two"]
        assert store.append_to_stream(stream, 2, [noted("goes on")]) == 3

    @pytest.mark.parametrize("judge", _ALL)
    @pytest.mark.parametrize("expected", _ALL_MODES)
    def test_a_deleted_stream(
        self, store: EventStore, judge: Judge, expected: ExpectedVersion
    ) -> None:
        stream = _stream_of_two(store)
        store.delete_stream(stream)
        info = store.get_stream_info(stream)
        assert info is not None
        with pytest.raises(StreamDeleted) as caught:
            judge(store, stream, expected)
        assert _facts(caught.value) == {"stream_id": stream, "deleted_at": info.deleted_at}
        assert store.get_stream_info(stream) == info


def _stream_of_two(store: EventStore) -> str:
    stream = new_stream()
    store.append_to_stream(stream, NO_STREAM, [noted("one"), noted("two")])
    return stream


def _facts(error: EventStoreError) -> dict[str, object]:
    """Return the error's attributes, as another process sees them."""
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    return {name: value for name, value in vars(copy).items() if not name.startswith("_")}
