"""What an event says: kept without loss, or refused before it is written."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from eventstore.appending import StreamAppend
from eventstore.errors import SerializationError, UnknownEventType
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.streams import ANY, NO_STREAM
from eventstore.testing.conformance.accounts import (
    AccountClosed,
    AccountFrozen,
    AccountOpened,
    MoneyDeposited,
    new_stream,
    noted,
)

if TYPE_CHECKING:
    from eventstore.events import AnyEnvelope
    from eventstore.protocols import EventStore

_OPENED = AccountOpened(owner="ann", limit=Decimal("10.50"), opened_on=date(2024, 2, 29))

#: Values that JSON, or PostgreSQL's jsonb, can't hold, and the path within the value.
_UNSTORABLE: list[tuple[Any, str]] = [
    ("a\0b", ""),
    ({"deep": [0, {"er": "\0"}]}, ".deep[1].er"),
    ({"a\0b": 1}, "['a\\x00b']"),
    (float("nan"), ""),
    ([1.0, float("inf")], "[1]"),
    ({"x": -float("inf")}, ".x"),
    ("\ud800", ""),
    ((1, 2), ""),
    ({1: "a"}, "[1]"),
    ({"x": {2: "a"}}, ".x[2]"),
    ({1, 2}, ""),
    (b"bytes", ""),
    (10**5000, ""),
    (datetime(2024, 1, 1, tzinfo=UTC), ""),
    (Decimal("1.5"), ""),
    (uuid4(), ""),
    (object(), ""),
]

_STORABLE: list[Any] = [
    None,
    True,
    [],
    {},
    "",
    "\\u0000",
    "a\\u0000b \\\\u0000",
    "NaN",
    "Infinity",
    "é ß 漢字 \U0001f600 e\u0301 \u2028 \x7f \x01 \\ \" ' % :name $1 {}",
    [[], [[]], {"": {"": ""}}],
    0.1,
    -0.1,
    1.0,
    5e-324,
    2**53 + 1,
    2**63,
    -(10**30),
    10**4000,
    "x" * 100_000,
]


def _refused(store: EventStore, event: AnyEnvelope) -> SerializationError:
    """Return the error of appending ``event``, which must leave nothing and the store usable."""
    stream = new_stream()
    with pytest.raises(SerializationError) as caught:
        store.append_to_stream(stream, ANY, [noted("before"), event])
    assert store.get_stream_info(stream) is None
    assert store.append_to_stream(stream, NO_STREAM, [noted("goes on")]) == 1
    return caught.value


def _read_back(store: EventStore, *events: AnyEnvelope) -> list[AnyEnvelope]:
    stream = new_stream()
    store.append_to_stream(stream, NO_STREAM, events)
    return list(store.read_stream(stream))


class PlainPayloads:
    """A store without a registry: dicts of JSON values."""

    @pytest.mark.parametrize("value", _STORABLE, ids=range(len(_STORABLE)))
    def test_a_value_is_kept(self, store: EventStore, value: object) -> None:
        payload = {"value": value, "list": [value], "dict": {"value": value}}
        (recorded,) = _read_back(store, noted(event_data=payload))
        assert recorded.event_data == payload
        assert type(recorded.event_data["value"]) in {type(value), int}

    def test_keys_are_kept(self, store: EventStore) -> None:
        keys = ("", " ", "é", "\U0001f600", "a.b", "$", "\\u0000", "'", '"')
        payload = dict.fromkeys(keys, 1)
        (recorded,) = _read_back(store, noted(event_data=payload))
        assert recorded.event_data == payload

    @pytest.mark.parametrize("number", [2.561422288066971e16, 1e23, 1.7976931348623157e308, 1e-300])
    def test_a_number_is_kept_by_its_value(self, store: EventStore, number: float) -> None:
        # Where a type doesn't make it a float again, a large one comes back as an int.
        (recorded,) = _read_back(store, noted(event_data={"number": number}))
        assert Decimal(str(recorded.event_data["number"])) == Decimal(str(number))

    @pytest.mark.parametrize(("value", "path"), _UNSTORABLE, ids=range(len(_UNSTORABLE)))
    def test_a_value_is_refused(self, store: EventStore, value: object, path: str) -> None:
        error = _refused(store, noted(event_data={"ok": 1, "value": [value]}))
        assert (error.event_type, error.path) == ("noted", f"$.value[0]{path}")

    @pytest.mark.parametrize("payload", [None, [], "text", 7, _OPENED, MoneyDeposited(1)])
    def test_only_dicts(self, store: EventStore, payload: object) -> None:
        assert _refused(store, noted(event_data=payload)).path == "$"

    def test_nesting_beyond_reading_is_refused(self, store: EventStore) -> None:
        payload: dict[str, Any] = {}
        for _ in range(1000):
            payload = {"in": payload}
        _refused(store, noted(event_data=payload))

    def test_a_cycle_is_refused(self, store: EventStore) -> None:
        payload: dict[str, Any] = {}
        payload["itself"] = payload
        _refused(store, noted(event_data=payload))

    def test_no_message_shows_the_payload(self, store: EventStore) -> None:
        error = _refused(store, noted(event_data={"secret": "hush", "value": float("nan")}))
        assert "hush" not in str(error)

    def test_an_event_must_name_its_type(self, store: EventStore) -> None:
        stream = new_stream()
        with pytest.raises(ValueError, match="event_type"):
            store.append_to_stream(stream, ANY, [noted(event_type="")])
        assert store.get_stream_info(stream) is None

    def test_a_payload_may_be_read_as_a_type(self, store: EventStore) -> None:
        stream = new_stream()
        store.append_to_stream(
            stream,
            NO_STREAM,
            [noted(event_data={"owner": "ann", "limit": "10.50", "opened_on": "2024-02-29"})],
        )
        assert [e.event_data for e in store.read_stream(stream, as_type=AccountOpened)] == [_OPENED]
        events = store.read_stream(stream, as_type=AccountFrozen)
        with pytest.raises(SerializationError) as caught:
            next(events)
        assert (caught.value.event_type, caught.value.path) == ("noted", "$.reason")


class TypedPayloads:
    """A store with a registry: payloads have types, both ways."""

    @pytest.mark.parametrize(
        ("payload", "event_type"),
        [
            (_OPENED, "account-opened"),
            (MoneyDeposited(7, labels=("a", "b")), "money-deposited"),
        ],
    )
    def test_a_class_has_a_name(
        self, typed_store: EventStore, payload: object, event_type: str
    ) -> None:
        unnamed = EventEnvelope(aggregate_type="account", event_data=payload)
        named = EventEnvelope(aggregate_type="account", event_type=event_type, event_data=payload)
        for recorded in _read_back(typed_store, unnamed, named):
            assert recorded.event_type == event_type
            assert recorded.event_data == payload
            assert type(recorded.event_data) is type(payload)

    @pytest.mark.parametrize(
        ("payload", "event_type"),
        [(AccountClosed(reason="moved"), "account-closed"), ({"free": ["form"]}, "noted")],
    )
    def test_a_dict_is_named_by_its_event(
        self, typed_store: EventStore, payload: object, event_type: str
    ) -> None:
        (recorded,) = _read_back(typed_store, noted(event_type=event_type, event_data=payload))
        assert (recorded.event_type, recorded.event_data) == (event_type, payload)
        error = _refused(typed_store, noted(event_type="", event_data=payload))
        assert isinstance(error, UnknownEventType)

    def test_the_feed_is_typed(self, typed_store: EventStore) -> None:
        (recorded,) = _read_back(
            typed_store, EventEnvelope(aggregate_type="account", event_data=_OPENED)
        )
        assert next(typed_store.read_all_forward(recorded.sequence_number - 1)) == recorded

    def test_what_is_not_registered_is_refused(self, typed_store: EventStore) -> None:
        for event_type in ("", "account-frozen"):
            event = noted(event_type=event_type, event_data=AccountFrozen(reason="fraud"))
            assert isinstance(_refused(typed_store, event), UnknownEventType)

    @pytest.mark.parametrize(
        ("event_type", "payload"),
        [
            ("account-opened", MoneyDeposited(1)),
            ("account-opened", {"owner": "ann", "limit": "1", "opened_on": "2024-02-29"}),
            ("noted", _OPENED),
            ("money-deposited", MoneyDeposited("many")),  # type: ignore[arg-type]
            ("money-deposited", MoneyDeposited(1, labels=["a"])),  # type: ignore[arg-type]
            ("account-closed", {"reason": 7}),
            ("account-closed", {"reason": "moved", "by": "ann"}),
            ("account-closed", {}),
            ("noted", {"value": float("nan")}),
        ],
    )
    def test_a_payload_that_is_not_what_its_name_says(
        self, typed_store: EventStore, event_type: str, payload: object
    ) -> None:
        error = _refused(typed_store, noted(event_type=event_type, event_data=payload))
        assert error.event_type == event_type

    def test_as_type_goes_before_the_registry(self, typed_store: EventStore) -> None:
        stream = new_stream()
        opened = EventEnvelope(aggregate_type="account", event_data=_OPENED)
        typed_store.append_to_stream(stream, NO_STREAM, [opened])
        assert [event.event_data for event in typed_store.read_stream(stream, as_type=dict)] == [
            {"owner": "ann", "limit": "10.50", "opened_on": "2024-02-29"}
        ]

    def test_a_payload_may_stay_json(self, typed_store: EventStore) -> None:
        stream = new_stream()
        opened = EventEnvelope(aggregate_type="account", event_data=_OPENED)
        typed_store.append_to_stream(stream, NO_STREAM, [opened])
        (read,) = typed_store.read_stream(stream, as_type=bytes)
        kept: bytes = read.event_data
        assert json.loads(kept) == {"owner": "ann", "limit": "10.50", "opened_on": "2024-02-29"}

    def test_the_feed_may_be_read_as_a_type(self, typed_store: EventStore) -> None:
        stream = new_stream()
        opened = EventEnvelope(aggregate_type="account", event_data=_OPENED)
        (place,) = typed_store.append(StreamAppend(stream, NO_STREAM, [opened]))[stream].positions
        (read,) = typed_store.read_all_forward(place - 1, 1, as_type=dict)
        assert read.event_data == {"owner": "ann", "limit": "10.50", "opened_on": "2024-02-29"}
        (raw,) = typed_store.read_all_forward(place - 1, 1, as_type=bytes)
        assert json.loads(raw.event_data) == read.event_data

    def test_the_same_typed_batch_again(self, typed_store: EventStore) -> None:
        stream = new_stream()
        opened = EventEnvelope(aggregate_type="account", event_data=_OPENED)
        assert typed_store.append_to_stream(stream, NO_STREAM, [opened]) == 1
        assert typed_store.append_to_stream(stream, NO_STREAM, [opened]) == 1


class Metadata:
    """Where an event comes from: the known keys, and whatever else is JSON."""

    def test_further_keys_are_kept(self, store: EventStore) -> None:
        metadata = EventMetadata(
            correlation_id=uuid4(),
            causation_id="command-7",
            user_id="ann",
            source_service="billing",
            idempotency_key="k",
            **{"tenant": "acme", "trace": {"id": [1, None, 2.5]}, "é \U0001f600": True},
        )
        (recorded,) = _read_back(store, noted(metadata=metadata))
        assert recorded.metadata == metadata
        assert recorded.metadata.model_dump() == metadata.model_dump()

    def test_no_metadata(self, store: EventStore) -> None:
        (recorded,) = _read_back(store, noted())
        assert recorded.metadata == EventMetadata()

    @pytest.mark.parametrize(("value", "path"), _UNSTORABLE, ids=range(len(_UNSTORABLE)))
    def test_a_further_value_is_refused(self, store: EventStore, value: object, path: str) -> None:
        error = _refused(store, noted(metadata={"further": {"value": value}}))
        assert (error.event_type, error.path) == ("noted", f"metadata.further.value{path}")

    def test_a_nul_in_a_known_key_is_refused(self, store: EventStore) -> None:
        assert _refused(store, noted(metadata={"user_id": "a\0"})).path == "metadata.user_id"

    def test_keys_and_text_with_signs(self, store: EventStore) -> None:
        further = {"\\u0000": "\\u0000", "quote": json.dumps("'\""), "$": "%s {} :x"}
        (recorded,) = _read_back(store, noted(metadata=further))
        assert recorded.metadata.__pydantic_extra__ == further
