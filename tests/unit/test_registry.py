from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from eventstore import (
    EventFilter,
    InMemoryEventStore,
    Query,
    QueryItem,
    StreamAppend,
    no_new,
)
from eventstore.codec import JsonPayloads
from eventstore.errors import SerializationError, UnknownEventType
from eventstore.events import AnyEnvelope, EventEnvelope
from eventstore.registry import EventRegistry

if TYPE_CHECKING:
    from collections.abc import Callable


class OrderPlaced(BaseModel):
    order_id: str


class OrderPlacedLater(OrderPlaced):
    day: int


@dataclass(frozen=True)
class OrderPaid:
    amount: int


class OrderNoted(TypedDict):
    text: str


class Cash(BaseModel):
    coins: int


class Card(BaseModel):
    number: str


def event(payload: object, event_type: str = "") -> AnyEnvelope:
    return EventEnvelope(aggregate_type="order", event_type=event_type, event_data=payload)


@pytest.fixture
def registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register("order-placed", OrderPlaced)
    registry.register("order-paid", OrderPaid)
    registry.register("order-noted", OrderNoted)
    registry.register("order-tagged", dict)
    return registry


@pytest.mark.parametrize(
    ("payload", "event_type"),
    [
        (OrderPlaced(order_id="7"), "order-placed"),
        (OrderPaid(7), "order-paid"),
        ({"text": "a"}, "order-noted"),
        ({"free": ["form"]}, "order-tagged"),
    ],
)
def test_a_payload_keeps_its_type(
    registry: EventRegistry, payload: object, event_type: str
) -> None:
    name, encoded = registry.encode(event(payload, event_type))
    assert name == event_type
    copy = registry.decode(name, encoded)
    assert copy == payload
    assert type(copy) is type(payload)


def test_a_class_gives_its_events_their_name(registry: EventRegistry) -> None:
    assert registry.encode(event(OrderPaid(7)))[0] == "order-paid"
    assert registry.event_type_of(OrderPlaced(order_id="7")) == "order-placed"


def test_the_stored_name_does_not_depend_on_the_class(registry: EventRegistry) -> None:
    _, encoded = registry.encode(event(OrderPlaced(order_id="7")))

    class RenamedAndMoved(BaseModel):
        order_id: str

    later = EventRegistry()
    later.register("order-placed", RenamedAndMoved)
    assert later.decode("order-placed", encoded) == RenamedAndMoved(order_id="7")


def test_a_decorator_registers_and_returns_the_class() -> None:
    registry = EventRegistry()

    @registry.register("order-sent")
    class OrderSent(BaseModel):
        by: str

    assert registry.encode(event(OrderSent(by="ann"))) == ("order-sent", b'{"by":"ann"}')
    assert list(registry) == ["order-sent"]
    assert "order-sent" in registry
    assert "order-placed" not in registry
    assert OrderSent not in registry


@pytest.mark.parametrize(
    ("payload", "event_type"),
    [
        (OrderPlacedLater(order_id="7", day=1), ""),
        (Cash(coins=1), ""),
        ({"text": "a"}, ""),
        (None, ""),
        (OrderPlaced(order_id="7"), "order-sent"),
        ({"text": "a"}, "order-sent"),
    ],
)
def test_what_is_not_registered_is_refused(
    registry: EventRegistry, payload: object, event_type: str
) -> None:
    with pytest.raises(UnknownEventType) as caught:
        registry.encode(event(payload, event_type))
    assert caught.value.event_type == event_type or caught.value.event_type in str(type(payload))
    assert "EventRegistry.register()" in str(caught.value)


def test_a_name_that_is_not_registered_is_not_read(registry: EventRegistry) -> None:
    with pytest.raises(UnknownEventType) as caught:
        registry.decode("order-sent", b"{}")
    assert caught.value.event_type == "order-sent"


@pytest.mark.parametrize(
    ("payload", "event_type"),
    [
        (OrderPlacedLater(order_id="7", day=1), "order-placed"),
        (OrderPaid(7), "order-placed"),
        ({"order_id": "7"}, "order-placed"),
        (OrderPlaced(order_id="7"), "order-tagged"),
        ([1], "order-tagged"),
        (OrderedDict(text="a"), "order-tagged"),
        ({"text": 7}, "order-noted"),
        ({"text": "a", "more": "b"}, "order-noted"),
        (OrderPaid("7"), "order-paid"),  # type: ignore[arg-type]
    ],
)
def test_a_payload_must_be_what_its_name_says(
    registry: EventRegistry, payload: object, event_type: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        registry.encode(event(payload, event_type))
    assert caught.value.event_type == event_type
    assert "'7'" not in str(caught.value)


def test_a_name_has_one_class_and_a_class_one_name(registry: EventRegistry) -> None:
    with pytest.raises(ValueError, match="'order-placed' is registered for"):
        registry.register("order-placed", Cash)
    with pytest.raises(ValueError, match="registered as 'order-placed'"):
        registry.register("order-placed-again", OrderPlaced)
    with pytest.raises(ValueError, match="registered as 'order-noted'"):
        registry.register("order-noted-again", OrderNoted)
    assert "order-placed-again" not in registry


def test_dict_may_have_many_names(registry: EventRegistry) -> None:
    registry.register("order-tagged-again", dict)
    assert registry.encode(event({}, "order-tagged-again")) == ("order-tagged-again", b"{}")


def test_a_union_is_a_payload_of_one_name() -> None:
    registry = EventRegistry()
    paid: Any = Cash | Card
    registry.register("order-paid", paid)
    for payload in (Cash(coins=7), Card(number="7")):
        _, encoded = registry.encode(event(payload, "order-paid"))
        assert registry.decode("order-paid", encoded) == payload
    with pytest.raises(UnknownEventType):
        registry.encode(event(Cash(coins=7)))


def test_a_constrained_type_is_a_payload_too() -> None:
    registry = EventRegistry()
    few: Any = Annotated[int, Field(le=9)]
    registry.register("counted", few)
    assert registry.encode(event(7, "counted")) == ("counted", b"7")
    with pytest.raises(SerializationError):
        registry.encode(event(10, "counted"))


@pytest.mark.parametrize("event_type", ["", "a" * 101, "a\0", "\ud800", 7])
def test_a_name_that_no_column_can_hold_is_refused(event_type: Any) -> None:
    registry = EventRegistry()
    with pytest.raises((TypeError, ValueError), match="event_type"):
        registry.register(event_type, Cash)
    with pytest.raises((TypeError, ValueError), match="event_type"):
        registry.register(event_type)


def test_a_refused_class_leaves_nothing_behind() -> None:
    class Opaque:
        pass

    registry = EventRegistry()
    for _ in range(2):
        with pytest.raises(TypeError, match="Opaque"):
            registry.register("opaque", Opaque)
    assert "opaque" not in registry
    with pytest.raises(UnknownEventType):
        registry.event_type_of(Opaque())


def test_without_proof_a_loss_is_not_noticed() -> None:
    registry = EventRegistry(verify=False)
    registry.register("order-tagged", dict)
    assert registry.encode(event({"a": (1,)}, "order-tagged")) == ("order-tagged", b'{"a":[1]}')


def test_plain_payloads_are_dicts_under_any_name() -> None:
    plain = JsonPayloads()
    assert plain.encode(event({"a": 1}, "any")) == ("any", b'{"a":1}')
    assert plain.decode("any", b'{"a":1}') == {"a": 1}
    with pytest.raises(ValueError, match="event_type is empty"):
        plain.encode(event({"a": 1}))
    for payload in (None, [1], "a", OrderPlaced(order_id="7"), type("Dict", (dict,), {})()):
        with pytest.raises(SerializationError) as caught:
            plain.encode(event(payload, "any"))
        assert caught.value.path == "$"
    with pytest.raises(SerializationError):
        plain.decode("any", b"[1]")


def test_a_type_that_nobody_knows_is_not_looked_for() -> None:
    """A misspelt one would be waited for in vain, or be missing in a condition."""
    registry = EventRegistry()
    registry.register("placed", dict, aliases=["ordered"])
    store = InMemoryEventStore(registry)
    event = EventEnvelope(aggregate_type="t", event_type="placed", event_data={}, tags=["a"])
    query = Query(QueryItem(types=["palced"], tags=["a"]))
    calls: list[Callable[[], object]] = [
        lambda: list(store.read_all_forward(filters=EventFilter(event_types=["palced"]))),
        lambda: store.read_by_query(query),
        lambda: store.append(StreamAppend("s", 0, [event]), require=no_new(query)),
    ]
    for call in calls:
        with pytest.raises(UnknownEventType, match=r"'palced': .* not registered"):
            call()
    assert list(store.read_all_forward(filters=EventFilter(event_types=["ordered"]))) == []
    raw = InMemoryEventStore(EventRegistry(unknown="raw"))
    assert list(raw.read_by_query(query)) == []
