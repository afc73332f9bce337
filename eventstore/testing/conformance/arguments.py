"""Wrong arguments: refused at the call, before anything is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from eventstore.appending import StreamAppend, StreamAt
from eventstore.streams import ANY, NO_STREAM
from eventstore.testing.conformance.accounts import new_stream, noted, texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.protocols import EventStore

    #: An operation, given an argument that it must refuse.
    Call: TypeAlias = Callable[[EventStore, Any], object]

_NOT_A_NUMBER: list[Any] = [-1, True, False, "0", 1.0, 1.5, 2**63, b"1", object()]
_NOT_AN_ID: list[Any] = ["", None, 7, b"a", "a" * 256, "\U0001f600" * 256, "a\0b", "a\ud800"]

_BY_STREAM: dict[str, Call] = {
    "append_to_stream": lambda store, id_: store.append_to_stream(id_, ANY, [noted()]),
    "append": lambda store, id_: store.append(StreamAppend(id_, ANY, [noted()])),
    "require": lambda store, id_: store.append(
        StreamAppend(new_stream(), ANY, [noted()]), require=[StreamAt(id_, ANY)]
    ),
    "read_stream": lambda store, id_: store.read_stream(id_),
    "get_stream_info": lambda store, id_: store.get_stream_info(id_),
    "delete_stream": lambda store, id_: store.delete_stream(id_),
    "restore_stream": lambda store, id_: store.restore_stream(id_),
    "get_snapshot": lambda store, id_: store.get_snapshot(id_, "account"),
}
_BY_EXPECTED_VERSION: dict[str, Call] = {
    "append_to_stream": lambda store, n: store.append_to_stream(new_stream(), n, [noted()]),
    "append nothing": lambda store, n: store.append_to_stream(new_stream(), n, []),
    "append": lambda store, n: store.append(StreamAppend(new_stream(), n, [noted()])),
    "require": lambda store, n: store.append(
        StreamAppend(new_stream(), ANY, [noted()]), require=[StreamAt(new_stream(), n)]
    ),
    "delete_stream": lambda store, n: store.delete_stream(new_stream(), n),
}
_BY_NUMBER: dict[str, Call] = {
    "from_position": lambda store, n: store.read_all_forward(n),
    "max_count": lambda store, n: store.read_all_forward(0, n),
    "page_size": lambda store, n: store.read_all_forward(page_size=n),
}


class Arguments:
    """TypeError or ValueError, and the store stays as it was."""

    @pytest.mark.parametrize("stream_id", _NOT_AN_ID, ids=range(len(_NOT_AN_ID)))
    @pytest.mark.parametrize("call", _BY_STREAM.values(), ids=_BY_STREAM)
    def test_what_names_no_stream(self, store: EventStore, call: Call, stream_id: object) -> None:
        with pytest.raises((TypeError, ValueError)):
            call(store, stream_id)

    @pytest.mark.parametrize("expected", _NOT_A_NUMBER, ids=range(len(_NOT_A_NUMBER)))
    @pytest.mark.parametrize("call", _BY_EXPECTED_VERSION.values(), ids=_BY_EXPECTED_VERSION)
    def test_what_no_stream_can_be_at(
        self, store: EventStore, call: Call, expected: object
    ) -> None:
        with pytest.raises((TypeError, ValueError), match="expected_version"):
            call(store, expected)

    @pytest.mark.parametrize("number", _NOT_A_NUMBER, ids=range(len(_NOT_A_NUMBER)))
    @pytest.mark.parametrize("name", _BY_NUMBER)
    def test_what_is_no_number(self, store: EventStore, name: str, number: object) -> None:
        # Before the first event is asked for.
        with pytest.raises((TypeError, ValueError), match=name):
            _BY_NUMBER[name](store, number)

    def test_a_page_of_nothing(self, store: EventStore) -> None:
        with pytest.raises(ValueError, match="page_size"):
            store.read_all_forward(page_size=0)

    @pytest.mark.parametrize("event", [None, {"text": "a"}, "noted", ("noted", {})])
    def test_what_is_no_event(self, store: EventStore, event: Any) -> None:
        stream = new_stream()
        with pytest.raises(TypeError, match="EventEnvelope"):
            store.append_to_stream(stream, ANY, [noted(), event])
        assert store.get_stream_info(stream) is None

    def test_a_wrong_argument_is_told_before_the_state_of_the_stream(
        self, store: EventStore
    ) -> None:
        stream = new_stream()
        store.append_to_stream(stream, NO_STREAM, [noted("a")])
        store.delete_stream(stream)
        with pytest.raises(ValueError, match="expected_version"):
            store.append_to_stream(stream, -1, [noted()])

    @pytest.mark.parametrize("sign", ["a", "é", "\U0001f600"])
    def test_the_longest_names(self, store: EventStore, sign: str) -> None:
        # Unique, and as long as names may be: 255 and 100 characters, not bytes.
        stream = (new_stream() + sign * 255)[:255]
        event = noted(
            "a", aggregate_id=sign * 255, aggregate_type=sign * 100, event_type=sign * 100
        )
        store.append_to_stream(stream, NO_STREAM, [event])
        (recorded,) = store.read_stream(stream)
        assert recorded.stream_id == stream
        assert recorded.aggregate_id == sign * 255
        assert recorded.aggregate_type == recorded.event_type == sign * 100
        info = store.get_stream_info(stream)
        assert info is not None
        assert info.stream_id == stream

    @pytest.mark.parametrize(
        "suffix",
        ["/a", "%2Fb", "#c", "?d=e", "..", '"><img src=x>', "'; --", "%s {} :x", " ", "\n"],
    )
    def test_a_name_is_any_text(self, store: EventStore, suffix: str) -> None:
        stream = new_stream() + suffix
        event = noted("a", aggregate_id=suffix, aggregate_type=suffix, event_type=suffix)
        store.append_to_stream(stream, NO_STREAM, [event])
        (recorded,) = store.read_stream(stream)
        assert (recorded.stream_id, recorded.aggregate_id) == (stream, suffix)
        assert (recorded.aggregate_type, recorded.event_type) == (suffix, suffix)
        assert texts(store, stream) == ["a"]
