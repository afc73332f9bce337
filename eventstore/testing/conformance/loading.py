"""Loading what an aggregate is folded from, and the events that a late writer has missed."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.appending import StreamAppend
from eventstore.errors import ConcurrencyConflict, DuplicateEvent, StreamDeleted
from eventstore.loading import LoadedStream
from eventstore.reading import PAGE_SIZE, ReadOptions
from eventstore.snapshots import Snapshot
from eventstore.streams import ANY, NO_STREAM, STREAM_EXISTS
from eventstore.testing.conformance.accounts import (
    MoneyDeposited,
    again,
    new_stream,
    noted,
    texts,
)

if TYPE_CHECKING:
    from eventstore.events import AnyEnvelope
    from eventstore.protocols import EventStore


def _stream_of(store: EventStore, count: int) -> str:
    stream = new_stream()
    store.append_to_stream(stream, NO_STREAM, [noted(str(n)) for n in range(1, count + 1)])
    return stream


def _keep(store: EventStore, stream: str, version: int, data: Any = None) -> None:
    snapshot = Snapshot(
        aggregate_id=stream,
        aggregate_type="account",
        version=version,
        data={"at": version} if data is None else data,
    )
    store.save_snapshot(snapshot)


def _versions(loaded: LoadedStream) -> list[int]:
    return [event.event_version for event in loaded.events]


class Loading:
    """``load_stream``: a snapshot and the tail after it."""

    def test_a_missing_stream_loads_as_empty(self, store: EventStore) -> None:
        assert store.load_stream(new_stream(), "account") == LoadedStream()

    def test_without_a_snapshot_all_events_are_loaded(self, store: EventStore) -> None:
        stream = _stream_of(store, 3)
        for snapshot_type in ("account", None):
            loaded = store.load_stream(stream, snapshot_type)
            assert loaded.events == list(store.read_stream(stream))
            assert (loaded.version, loaded.last, loaded.snapshot) == (3, 3, None)

    @pytest.mark.parametrize("version", [0, 1, 2, 3])
    def test_with_a_snapshot_only_those_after_it(self, store: EventStore, version: int) -> None:
        stream = _stream_of(store, 3)
        _keep(store, stream, version)
        loaded = store.load_stream(stream, "account")
        assert loaded.snapshot == store.get_snapshot(stream, "account")
        assert loaded.snapshot is not None
        assert loaded.snapshot.data == {"at": version}
        assert _versions(loaded) == list(range(version + 1, 4))
        assert (loaded.version, loaded.last) == (3, 3)

    @pytest.mark.parametrize("snapshot_type", [None, "user"])
    def test_a_snapshot_that_is_not_wanted(
        self, store: EventStore, snapshot_type: str | None
    ) -> None:
        stream = _stream_of(store, 3)
        _keep(store, stream, 2)
        loaded = store.load_stream(stream, snapshot_type)
        assert (loaded.snapshot, _versions(loaded)) == (None, [1, 2, 3])

    def test_a_snapshot_ahead_of_its_stream(self, store: EventStore) -> None:
        stream = _stream_of(store, 3)
        _keep(store, stream, 4)
        loaded = store.load_stream(stream, "account")
        assert (loaded.snapshot, _versions(loaded)) == (None, [1, 2, 3])

    @pytest.mark.parametrize("data", [[1, "two"], "text", 7, {"deep": {"a": [None]}}])
    def test_its_data_is_plain_json(self, store: EventStore, data: object) -> None:
        stream = _stream_of(store, 2)
        _keep(store, stream, 1, data)
        loaded = store.load_stream(stream, "account")
        assert loaded.snapshot is not None
        assert loaded.snapshot.data == data

    def test_a_long_tail_is_read_on(self, store: EventStore) -> None:
        stream = _stream_of(store, PAGE_SIZE + 3)
        _keep(store, stream, 1)
        loaded = store.load_stream(stream, "account")
        assert _versions(loaded) == list(range(2, PAGE_SIZE + 2))
        assert (loaded.last, loaded.version) == (PAGE_SIZE + 1, PAGE_SIZE + 3)
        rest = ReadOptions(from_version=loaded.last + 1, to_version=loaded.version)
        assert len(list(store.read_stream(stream, rest))) == 2

    def test_a_deleted_stream_does_not_load(self, store: EventStore) -> None:
        stream = _stream_of(store, 1)
        store.delete_stream(stream)
        with pytest.raises(StreamDeleted):
            store.load_stream(stream, "account")

    def test_events_of_a_key(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        store.append_to_stream(stream, 2, [noted(key="k"), noted(key="k")])
        store.append_to_stream(stream, 4, [noted(key="other")])
        elsewhere = _stream_of(store, 1)
        _keep(store, stream, 4)
        for snapshot_type in (None, "account"):
            for key, recorded in (("k", (3, 4)), ("other", (5, 5)), ("new", None)):
                loaded = store.load_stream(stream, snapshot_type, idempotency_key=key)
                assert loaded.recorded == recorded
        assert store.load_stream(stream).recorded is None
        assert store.load_stream(elsewhere, idempotency_key="k").recorded is None

    def test_payloads_are_typed(self, typed_store: EventStore) -> None:
        stream, payload = new_stream(), MoneyDeposited(7, labels=("a",))
        event = noted(event_type="", event_data=payload)
        typed_store.append_to_stream(stream, NO_STREAM, [event])
        (loaded,) = typed_store.load_stream(stream).events
        assert loaded.event_data == payload

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"stream_id": ""}, "stream_id"),
            ({"stream_id": 7}, "stream_id"),
            ({"snapshot_type": ""}, "snapshot_type"),
            ({"snapshot_type": "x" * 101}, "snapshot_type"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": "a\0"}, "idempotency_key"),
        ],
    )
    def test_wrong_arguments_of_load_stream(
        self, store: EventStore, arguments: dict[str, Any], name: str
    ) -> None:
        with pytest.raises((TypeError, ValueError), match=name):
            store.load_stream(**({"stream_id": "s"} | arguments))


class Missed:
    """``fetch_missed``: a conflict brings the events that its writer has not seen."""

    def _conflict(
        self, store: EventStore, stream: str, expected: Any, *events: AnyEnvelope
    ) -> ConcurrencyConflict:
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append_to_stream(stream, expected, events, fetch_missed=True)
        with pytest.raises(ConcurrencyConflict) as twin:
            store.append(StreamAppend(stream, expected, events), fetch_missed=True)
        assert twin.value.missed == caught.value.missed
        assert (twin.value.expected, twin.value.actual) == (
            caught.value.expected,
            caught.value.actual,
        )
        return caught.value

    @pytest.mark.parametrize("expected", [0, 1, 2])
    @pytest.mark.parametrize("key", [None, "k"])
    def test_a_conflict_brings_what_was_missed(
        self, store: EventStore, expected: int, key: str | None
    ) -> None:
        stream = _stream_of(store, 3)
        conflict = self._conflict(store, stream, expected, noted("late", key=key))
        assert (conflict.expected, conflict.actual) == (expected, 3)
        assert conflict.stream_id == stream
        assert conflict.missed == tuple(
            store.read_stream(stream, ReadOptions(from_version=expected + 1))
        )
        assert texts(store, stream) == ["1", "2", "3"]

    def test_nobody_pays_who_has_not_asked(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append_to_stream(stream, 1, [noted()])
        assert caught.value.missed is None
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append(StreamAppend(stream, 1, [noted()]))
        assert caught.value.missed is None

    def test_a_batch_of_several(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        conflict = self._conflict(store, stream, 1, noted("a"), noted("b"))
        assert conflict.missed is not None
        assert [event.event_data["text"] for event in conflict.missed] == ["2"]

    @pytest.mark.parametrize("expected", [5, 2**40])
    def test_a_stream_behind_has_nothing_to_bring(self, store: EventStore, expected: int) -> None:
        stream = _stream_of(store, 2)
        conflict = self._conflict(store, stream, expected, noted())
        assert (conflict.actual, conflict.missed) == (2, None)
        missing = self._conflict(store, new_stream(), expected, noted())
        assert (missing.actual, missing.missed) == (0, None)

    def test_more_than_a_page_is_not_brought(self, store: EventStore) -> None:
        stream = _stream_of(store, PAGE_SIZE + 1)
        all_but_one = self._conflict(store, stream, 1, noted())
        assert all_but_one.missed is not None
        assert len(all_but_one.missed) == PAGE_SIZE
        assert self._conflict(store, stream, 0, noted()).missed is None

    def test_other_outcomes_are_as_ever(self, store: EventStore) -> None:
        stream, first = new_stream(), noted("1", key="k")
        store.append_to_stream(stream, NO_STREAM, [first, noted("2", key="k")])
        assert store.append_to_stream(stream, 2, [noted("3")], fetch_missed=True) == 3
        assert store.append_to_stream(stream, ANY, [noted("4")], fetch_missed=True) == 4
        assert store.append_to_stream(stream, STREAM_EXISTS, [noted()], fetch_missed=True) == 5
        other = noted("other")
        store.append_to_stream(stream, 5, [other])
        assert store.append_to_stream(stream, 1, [again(other)], fetch_missed=True) == 6
        changed = again(other, event_data={"text": "changed"})
        with pytest.raises(DuplicateEvent):
            store.append_to_stream(stream, 1, [changed], fetch_missed=True)
        repeat = [noted("1", key="k"), noted("2", key="k")]
        result = store.append(StreamAppend(stream, 0, repeat), fetch_missed=True)
        assert (result.already_appended, result.streams[0].version) == (True, 2)
        store.delete_stream(stream)
        with pytest.raises(StreamDeleted):
            store.append_to_stream(stream, 1, [noted()], fetch_missed=True)

    def test_it_crosses_processes_and_shows_no_payload(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("secret")])
        conflict = self._conflict(store, stream, 0, noted())
        twin = pickle.loads(pickle.dumps(conflict))
        assert twin.missed == conflict.missed
        assert twin.missed[0].metadata == conflict.missed[0].metadata  # type: ignore[index]
        assert "secret" not in f"{conflict} {conflict!r} {conflict.args}"

    def test_it_is_the_present_that_is_brought(self, store: EventStore) -> None:
        stream = _stream_of(store, 1)
        conflict = self._conflict(store, stream, 0, noted("mine"))
        assert store.append_to_stream(stream, conflict.actual, [noted("mine")]) == 2
