from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from eventstore import EventRegistry, UnknownEventType, UnknownPayload, Upcast, UpcastingError
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.memory import InMemoryEventStore
from eventstore.payloads import encode_metadata, schema_version_of, with_schema_version
from eventstore.registry import codec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Placed(BaseModel):
    lines: list[str]
    currency: str


class Paid(BaseModel):
    cents: int


def registry_at(version: int, *upcasts_from: int, **into: Any) -> EventRegistry:
    """A registry of ``placed`` and ``paid``, with upcasters that say where they have been."""
    registry = EventRegistry()
    registry.register("placed", dict, version=version)
    registry.register("paid", Paid)
    for from_version in upcasts_from:

        @registry.upcaster("placed", from_version=from_version, **into)
        def step(data: dict[str, Any], at: int = from_version) -> dict[str, Any]:
            return data | {f"from {at}": True}

    return registry


def read(registry: EventRegistry, event_type: str, data: Any, version: int = 1) -> list[Any]:
    metadata = with_schema_version("{}", version)
    recorded = registry.decode_recorded(event_type, json.dumps(data), metadata)
    return [(event.event_type, event.payload) for event in recorded]


def problems(registry: EventRegistry) -> list[str]:
    with pytest.raises(ValueError, match="can't all be read") as caught:
        registry.check()
    return str(caught.value).split("\n- ")[1:]


def test_each_version_takes_the_steps_that_are_left() -> None:
    registry = registry_at(4, 1, 2, 3)
    assert read(registry, "placed", {}, 1) == [
        ("placed", {"from 1": True, "from 2": True, "from 3": True})
    ]
    assert read(registry, "placed", {}, 3) == [("placed", {"from 3": True})]
    assert read(registry, "placed", {}, 4) == [("placed", {})]


def test_a_long_chain_is_no_recursion() -> None:
    registry = registry_at(1500, *range(1, 1500))
    ((_, payload),) = read(registry, "placed", {})
    assert len(payload) == 1499


def test_an_upcaster_is_not_awaited() -> None:
    async def upcast(data: dict[str, Any]) -> dict[str, Any]:
        return data

    for wrong in (upcast, "upcast"):
        with pytest.raises(TypeError, match="isn't async"):
            EventRegistry().upcaster("t", from_version=1)(wrong)  # type: ignore[type-var]


def test_an_upcaster_stays_a_function() -> None:
    registry = EventRegistry()

    @registry.upcaster("placed", from_version=1)
    def add_currency(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"currency": "EUR"}

    assert add_currency({"lines": []}) == {"lines": [], "currency": "EUR"}
    registry.register("placed", Placed, version=2)
    assert read(registry, "placed", {"lines": ["a"]}) == [
        ("placed", Placed(lines=["a"], currency="EUR"))
    ]


def test_the_order_of_registration_does_not_matter() -> None:
    registry = EventRegistry()
    registry.upcaster("placed", from_version=2)(lambda data: data | {"currency": "EUR"})
    registry.upcaster("placed", from_version=1)(lambda data: {"lines": data["items"]})
    registry.register("placed", Placed, version=3, aliases=["OrderPlaced"])
    for name in ("placed", "OrderPlaced"):
        assert read(registry, name, {"items": []}) == [("placed", Placed(lines=[], currency="EUR"))]


def test_splits_follow_one_another() -> None:
    registry = EventRegistry()
    registry.register("line-added", dict, version=2)
    registry.register("placed", dict, version=2)
    registry.retire("ordered")

    @registry.upcaster("ordered", from_version=1, into={"placed": 1, "line-added": 1})
    def split(data: dict[str, Any]) -> Iterator[Upcast]:
        yield Upcast("placed", {})
        for line in data["lines"]:
            yield Upcast("line-added", {"line": line})

    @registry.upcaster("line-added", from_version=1, into={"line-added": 2})
    def drop_gifts(data: dict[str, Any]) -> list[Upcast]:
        return [] if data["line"] == "gift" else [Upcast("line-added", data | {"v": 2})]

    registry.upcaster("placed", from_version=1)(lambda data: data | {"v": 2})
    assert read(registry, "ordered", {"lines": ["a", "gift", "b"]}) == [
        ("placed", {"v": 2}),
        ("line-added", {"line": "a", "v": 2}),
        ("line-added", {"line": "b", "v": 2}),
    ]
    wanted = registry.decode_recorded("ordered", '{"lines":["a"]}', "{}", frozenset({"placed"}))
    assert [event.event_type for event in wanted] == ["placed"]
    assert registry.stored_types(frozenset({"line-added"})) == {"line-added", "ordered"}
    assert registry.stored_types(frozenset({"ordered"})) == {"ordered"}
    assert registry.stored_types(frozenset()) == frozenset()


def test_types_that_never_changed_take_the_short_way() -> None:
    registry = EventRegistry()
    registry.register("paid", Paid)
    assert registry.evolved == frozenset()
    registry.register("placed", Placed, version=2, aliases=["OrderPlaced"])
    registry.upcaster("placed", from_version=1)(lambda data: data)
    assert registry.evolved == {"placed", "OrderPlaced"}


# What is wrong is found before any event is read.


@pytest.mark.parametrize(
    ("version", "upcasts_from", "told"),
    [
        (2, (), ["'placed' is at version 2, but has no upcaster from version 1"]),
        (4, (1, 3), ["'placed' is at version 4, but has no upcaster from version 2"]),
        (3, (1, 2, 3), ["upcasts version 3 of 'placed', which is only at version 3"]),
        (1, (1,), ["upcasts version 1 of 'placed', which is only at version 1"]),
        (2**40, (1,), ["from version 2", "from version 3", "from version 4"]),
    ],
)
def test_a_hole_is_found(version: int, upcasts_from: tuple[int, ...], told: list[str]) -> None:
    registry = registry_at(version, *upcasts_from)
    found = problems(registry)
    assert len(found) == len(told)
    assert all(text in problem for text, problem in zip(told, found, strict=True))
    with pytest.raises(ValueError, match="can't all be read"):
        codec_of(registry)
    with pytest.raises(ValueError, match="can't all be read"):
        InMemoryEventStore(registry)


@pytest.mark.parametrize(
    ("into", "told"),
    [
        ({"placed": 1}, "in a loop"),
        ({"placed": 3}, "version 3 of 'placed', which is at version 2"),
        ({"placed": 0}, "version 0 of 'placed', which is at version 2"),
        ({"paid": 2}, "version 2 of 'paid', which is at version 1"),
        ({"sent": 1}, "version 1 of 'sent', which is not registered"),
    ],
)
def test_a_step_that_leads_nowhere_is_found(into: dict[str, int], told: str) -> None:
    (problem,) = problems(registry_at(2, 1, into=into))
    assert told in problem
    assert "step()" in problem


def test_a_loop_through_several_types_is_found() -> None:
    registry = registry_at(2, 1, into={"ordered": 1})
    registry.retire("ordered")
    registry.upcaster("ordered", from_version=1, into={"paid": 1, "placed": 1})(lambda _: [])
    registry.retire("begun")
    registry.upcaster("begun", from_version=1, into={"ordered": 1})(lambda _: [])
    (problem,) = problems(registry)
    assert "from 'placed' 1, " in problem
    assert "from 'ordered' 1" in problem
    assert "begun" not in problem


def test_a_retired_type_needs_an_end() -> None:
    registry = registry_at(1)
    registry.retire("ordered", version=2)
    assert len(problems(registry)) == 2
    registry.upcaster("ordered", from_version=1)(lambda data: data)
    (problem,) = problems(registry)
    assert "no upcaster says what becomes of version 2" in problem
    registry.upcaster("ordered", from_version=2)(lambda data: data)
    (problem,) = problems(registry)
    assert "say by into= what it becomes" in problem


def test_upcasters_of_other_names_are_found() -> None:
    registry = EventRegistry()
    registry.register("placed", dict, aliases=["OrderPlaced"])
    registry.upcaster("OrderPlaced", from_version=1)(lambda data: data)
    registry.upcaster("payed", from_version=1)(lambda data: data)
    alias, _, misspelt = problems(registry)
    assert "belong to 'placed'" in alias
    assert "'payed', which is neither registered nor retired" in misspelt


def test_what_is_registered_later_is_checked_too() -> None:
    registry = registry_at(1)
    store = InMemoryEventStore(registry)
    registry.register("sent", dict, version=2)
    with pytest.raises(ValueError, match="'sent' is at version 2"):
        list(store.read_all_forward())


def test_a_second_upcaster_from_a_version_is_refused() -> None:
    registry = registry_at(2, 1)
    with pytest.raises(ValueError, match=r"version 1 of 'placed' has an upcaster, .*step\(\)"):
        registry.upcaster("placed", from_version=1)(lambda data: data)


@pytest.mark.parametrize(
    "register",
    [
        lambda registry: registry.register("placed", Placed),
        lambda registry: registry.register("OrderPlaced", Placed),
        lambda registry: registry.register("ordered", Placed),
        lambda registry: registry.register("new", Placed, aliases=["placed"]),
        lambda registry: registry.register("new", Placed, aliases=["OrderPlaced"]),
        lambda registry: registry.register("new", Placed, aliases=["ordered"]),
        lambda registry: registry.register("new", Placed, aliases=["new"]),
        lambda registry: registry.register("new", Placed, aliases=["a", "a"]),
        lambda registry: registry.register("new", Placed, aliases="old"),
        lambda registry: registry.register("new", Placed, aliases=[""]),
        lambda registry: registry.register("new", Placed, version=0),
        lambda registry: registry.register("new", Placed, version=True),
        lambda registry: registry.register("new", Placed, version="2"),
        lambda registry: registry.register("new", version=0),
        lambda registry: registry.retire("placed"),
        lambda registry: registry.retire("OrderPlaced"),
        lambda registry: registry.retire("ordered"),
        lambda registry: registry.retire("new", version=0),
        lambda registry: registry.upcaster("", from_version=1),
        lambda registry: registry.upcaster("placed", from_version=0),
        lambda registry: registry.upcaster("placed", from_version=1.0),
        lambda registry: registry.upcaster("placed", from_version=1, into={"": 1}),
        lambda registry: registry.upcaster("placed", from_version=1, into={"paid": "1"}),
        lambda registry: registry.upcaster("placed", from_version=1)("no function"),
    ],
)
def test_a_wrong_registration_leaves_nothing_behind(
    register: Callable[[Any], object],
) -> None:
    registry = EventRegistry()
    registry.register("placed", dict, aliases=["OrderPlaced"])
    registry.retire("ordered")
    registry.upcaster("ordered", from_version=1, into={})(lambda _: ())
    with pytest.raises((TypeError, ValueError)):
        register(registry)
    registry.check()
    registry.register("new", Placed, aliases=["old", "a"])


# An upcaster that fails says where, and never what the payload is.


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda data: {"lines": data["no such key"]}, "raised KeyError at line"),
        (lambda data: int(data["secret"]), "raised ValueError at line"),
        (lambda data: None, "returned a NoneType, not a dict"),  # noqa: ARG005
        (lambda data: [Upcast("placed", data)], "returned a list, not a dict"),
    ],
)
def test_a_failing_upcaster(function: Any, told: str) -> None:
    registry = EventRegistry()
    registry.register("placed", Placed, version=3)
    registry.upcaster("placed", from_version=1)(lambda data: data)
    registry.upcaster("placed", from_version=2)(function)
    with pytest.raises(UpcastingError) as caught:
        read(registry, "placed", {"secret": "hush"})
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.event_type, error.path) == ("placed", "$")
    assert (error.from_version, error.to_version) == (2, 3)
    assert told in str(error)
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (None, "raised TypeError"),
        ([("paid", {})], "gave a tuple, not an Upcast"),
        ([{"cents": 1}], "gave a dict, not an Upcast"),
        ([Upcast("hush", {})], "gave an event of a type that its into= doesn't name"),
        ([Upcast({}, {})], "gave an event of a type that its into= doesn't name"),  # type: ignore[arg-type]
        ({"cents": 1}, "gave a str, not an Upcast"),
    ],
)
def test_a_failing_splitter(results: Any, told: str) -> None:
    registry = registry_at(1)
    registry.retire("ordered")
    registry.upcaster("ordered", from_version=1, into={"paid": 1})(lambda _: results)
    with pytest.raises(UpcastingError) as caught:
        read(registry, "ordered", {})
    assert told in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_generator_that_fails_halfway() -> None:
    registry = registry_at(1)
    registry.retire("ordered")

    @registry.upcaster("ordered", from_version=1, into={"paid": 1})
    def split(data: dict[str, Any]) -> Iterator[Upcast]:
        yield Upcast("paid", {"cents": 1})
        yield data["no such key"]

    with pytest.raises(UpcastingError, match="KeyError"):
        read(registry, "ordered", {})


def test_a_user_who_interrupts_is_obeyed() -> None:
    registry = EventRegistry()
    registry.register("placed", dict, version=2)

    @registry.upcaster("placed", from_version=1)
    def slow(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(registry, "placed", {})


@pytest.mark.parametrize(
    ("upcast", "path"),
    [
        ({"lines": ["a", 7], "currency": "EUR"}, "$.lines[1]"),
        ({"lines": []}, "$.currency"),
        ({"lines": [object()], "currency": "EUR"}, "$.lines[0]"),
    ],
)
def test_a_result_that_does_not_fit(upcast: dict[str, Any], path: str) -> None:
    registry = EventRegistry()
    registry.register("placed", Placed, version=2)
    registry.upcaster("placed", from_version=1)(lambda _: upcast)
    with pytest.raises(UpcastingError) as caught:
        read(registry, "placed", {})
    error = caught.value
    assert (error.path, error.from_version, error.to_version) == (path, 1, 2)


def test_an_event_of_newer_code() -> None:
    registry = registry_at(2, 1)
    registry.retire("ordered")
    registry.upcaster("ordered", from_version=1, into={})(lambda _: ())
    for event_type, known in (("placed", 2), ("paid", 1), ("ordered", 1)):
        with pytest.raises(UpcastingError, match="newer code") as caught:
            read(registry, event_type, {}, 3)
        assert (caught.value.from_version, caught.value.to_version) == (3, known)


def test_unknown_types() -> None:
    with pytest.raises(ValueError, match="'error' or 'raw'"):
        EventRegistry(unknown="ignore")  # type: ignore[arg-type]
    with pytest.raises(UnknownEventType):
        read(EventRegistry(), "placed", {})
    raw = EventRegistry(unknown="raw")
    for version in (1, 7):
        assert read(raw, "placed", {"a": [1]}, version) == [("placed", UnknownPayload({"a": [1]}))]
    assert raw.decode("placed", '"text"') == UnknownPayload("text")
    with pytest.raises(UnknownEventType):
        raw.encode(EventEnvelope(aggregate_type="order", event_type="placed", event_data={}))
    with pytest.raises(UnknownEventType):
        raw.encode(EventEnvelope(aggregate_type="order", event_data=UnknownPayload({})))


# The version lies in the metadata, where it is above 1.


@pytest.mark.parametrize(
    "metadata",
    [
        EventMetadata(),
        EventMetadata(user_id="ann"),
        EventMetadata(user_id="ann", further={'"schema_version"': 5}),
    ],
)
def test_the_version_in_metadata(metadata: EventMetadata) -> None:
    for version in (None, 1):
        encoded = encode_metadata("placed", metadata, version)
        assert encoded == encode_metadata("placed", metadata)
        assert schema_version_of("placed", encoded.decode()) == 1
    named = metadata.model_copy(update={"schema_version": 3})
    encoded = encode_metadata("placed", metadata, 3)
    assert EventMetadata.model_validate_json(encoded) == named
    assert json.loads(encode_metadata("placed", named, 3)) == json.loads(encoded)
    text = encoded.decode()
    assert schema_version_of("placed", text) == 3
    assert schema_version_of("placed", with_schema_version(text, 12)) == 12
    assert json.loads(with_schema_version(text, 1)) == json.loads(encode_metadata("x", metadata))


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.5])
def test_a_version_in_metadata_is_a_whole_number_from_one(version: Any) -> None:
    with pytest.raises(ValueError, match="schema_version"):
        EventMetadata(schema_version=version)
