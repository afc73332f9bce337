"""Personal data beside what a registry does: keys, upcasters, golden events, JSON Schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel

from eventstore import (
    EventEnvelope,
    EventRegistry,
    InMemoryEventStore,
    SerializationError,
    Upcast,
    UpcastingError,
)
from eventstore.personal import Erased, MasterKeys, Personal, SubjectForgotten, personal
from eventstore.personal.ciphers import DataKey, new_data_key
from eventstore.personal.sealing import KeyRing, Place
from eventstore.recorded import Decoder
from eventstore.testing.golden import GoldenEvents
from tests.fixtures.learners import (
    ANN,
    Introduced,
    Registered,
    new_master_key,
    noted,
    registered,
    registry_with,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_registry_without_keys_is_told_when_a_store_is_made() -> None:
    registry = EventRegistry()
    registry.register("registered", Registered)
    registry.check()

    with pytest.raises(ValueError, match=r"need keys: registered; call registry.use_keys"):
        InMemoryEventStore(registry)


@pytest.mark.parametrize("wrong", [None, b"key", "key", object()])
def test_keys_are_what_wraps(wrong: Any) -> None:
    registry = EventRegistry()
    with pytest.raises(TypeError, match="keys must have current_id, wrap and unwrap"):
        registry.use_keys(wrong)
    with pytest.raises(TypeError, match="store must have read, add and forget"):
        registry.use_keys(MasterKeys(new_master_key()), wrong or object())
    assert registry.keys is None
    assert list(registry) == []


def test_which_stored_types_may_hold_personal_data() -> None:
    registry = todays_registry()

    assert registry.personal == {"Registered", "registered", "email-given", "learner-made"}
    assert not EventRegistry().personal


class RegisteredToday(BaseModel):
    who: str
    contact: Annotated[Personal[str], personal(subject="who")]


class EmailGiven(BaseModel):
    who: str
    email: Annotated[Personal[str], personal(subject="who")]


def todays_registry() -> EventRegistry:
    """A field has a new name and place, and another type is split."""
    registry = EventRegistry()
    registry.register("registered", RegisteredToday, version=2, aliases=["Registered"])
    registry.register("email-given", EmailGiven)
    registry.register("noted", dict)
    registry.retire("learner-made")

    @registry.upcaster("registered", from_version=1)
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        return {"who": data["learner_id"], "contact": data["email"]}

    @registry.upcaster("learner-made", from_version=1, into={"email-given": 1, "noted": 1})
    def split(data: dict[str, Any]) -> Iterator[Upcast]:
        yield Upcast("noted", {})
        yield Upcast("email-given", {"who": data["learner_id"], "email": data["email"]})

    return registry


@pytest.mark.parametrize("forgotten", [False, True])
def test_upcasters_move_what_they_can_not_read(forgotten: bool) -> None:
    key = DataKey(new_data_key())
    value: Any = Erased("7") if forgotten else ANN
    old = json.dumps(
        {"learner_id": "7", "email": {"$personal": "opened", "subject": "7", "value": ANN}}
    ).encode()
    decoder = Decoder(None, todays_registry()).with_keys(KeyRing({"7": None if forgotten else key}))

    def read(stored_type: str) -> list[Any]:
        sealed = KeyRing({"7": key}).seal(Place("event", stored_type), old)
        assert b"secret" not in sealed
        return [today[1] for today in decoder.today(stored_type, sealed, "{}", frozenset())]

    assert read("Registered") == read("registered") == [RegisteredToday(who="7", contact=value)]
    assert read("learner-made") == [{}, EmailGiven(who="7", email=value)]


def test_an_upcaster_that_reads_fails_whether_or_not_the_subject_is_forgotten() -> None:
    registry = EventRegistry()
    registry.register("registered", Registered, version=2)

    @registry.upcaster("registered", from_version=1)
    def lower(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"email": data["email"].lower()}

    sealed = b'{"learner_id":"7","email":{"$personal":"opened","subject":"7","value":"X"}}'
    key = DataKey(new_data_key())
    sealed = KeyRing({"7": key}).seal(Place("event", "registered"), sealed)
    for ring in (KeyRing({"7": key}), KeyRing({"7": None})):
        decoder = Decoder(None, registry).with_keys(ring)
        with pytest.raises(UpcastingError, match="AttributeError"):
            decoder.today("registered", sealed, "{}", frozenset())


def test_golden_events_are_as_upcasters_see_them(tmp_path: Path) -> None:
    first = EventRegistry()
    first.register("registered", Registered)
    sample = Registered(learner_id="7", email="made@up.example")
    golden = GoldenEvents(tmp_path, write=True)
    golden.check(first, [sample])

    golden.check(first)
    assert golden.read(first, "registered") == [sample]
    assert golden.read(todays_registry(), "registered") == [
        RegisteredToday(who="7", contact="made@up.example")
    ]


def test_a_golden_event_from_a_store_is_read_as_if_erased(tmp_path: Path) -> None:
    registry = registry_with(MasterKeys(new_master_key()))
    store = InMemoryEventStore(registry)
    store.append_to_stream("s", 0, [registered("7")])
    (event,) = store.read_stream("s", as_type=bytes)
    (tmp_path / "registered").mkdir()
    (tmp_path / "registered" / "v1.json").write_bytes(event.event_data)

    golden = GoldenEvents(tmp_path, write=True)
    golden.check(
        registry,
        [
            EventEnvelope(aggregate_type="x", event_type="noted", event_data={}),
            *_samples_of_the_rest(),
        ],
    )

    assert golden.read(registry, "registered") == [Registered(learner_id="7", email=Erased("7"))]


def _samples_of_the_rest() -> list[Any]:
    return [
        Introduced(teacher="t", learner="p", teacher_email="a", nicknames=["b"]),
        SubjectForgotten(subject_id="7"),
    ]


def test_json_schema_describes_what_is_stored() -> None:
    schema = registry_with(MasterKeys(new_master_key())).json_schema()

    email = schema["$defs"]["Registered"]["properties"]["email"]
    assert email["x-personal"] == {"subject": "learner_id", "value": {"type": "string"}}
    assert email["properties"]["$personal"] == {"enum": ["sealed/1", "erased"]}
    address = schema["$defs"]["Registered"]["properties"]["address"]["anyOf"][0]
    assert address["x-personal"]["value"] == {"$ref": "#/$defs/Address"}
    assert "SubjectForgotten" in schema["$defs"]


def test_payloads_without_personal_data_are_encoded_as_before() -> None:
    plain, keyed = EventRegistry(), registry_with(MasterKeys(new_master_key()))
    plain.register("noted", dict)

    assert keyed.encode(noted()) == plain.encode(noted())
    assert not Decoder(None, plain).opens
    assert Decoder(None, keyed).opens
    assert Decoder(Registered, keyed).opens
    assert not any(Decoder(each, keyed).opens for each in (bytes, dict, SubjectForgotten))


def test_what_looks_sealed_in_an_untyped_payload_is_left_alone() -> None:
    store = InMemoryEventStore(registry_with(MasterKeys(new_master_key())))
    data = {"a": {"$personal": "sealed/1", "subject": "7", "data": "x"}}
    store.append_to_stream("s", 0, [noted(event_data=data)])

    assert next(iter(store.read_stream("s"))).event_data == data


def test_an_error_of_an_event_shows_no_value() -> None:
    store = InMemoryEventStore(registry_with(MasterKeys(new_master_key())))

    with pytest.raises(SerializationError) as refused:
        store.append_to_stream("s", 0, [registered(email=ANN + "\0")])
    assert "secret" not in str(refused.value)
