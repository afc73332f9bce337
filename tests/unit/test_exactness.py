"""Each kind of value comes back as it was, or its type is refused before there is one."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from eventstore.comparison import first_difference
from eventstore.errors import SerializationError
from eventstore.events import AnyEnvelope, EventEnvelope
from eventstore.exactness import equals_by_fields
from eventstore.payloads import PayloadType, as_jsonb, payload_type
from eventstore.registry import EventRegistry

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    MIXED = ("red", "green")


class Level(IntEnum):
    LOW = 1


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    coins: list[int]


class Box(BaseModel, Generic[T]):
    content: T


@dataclass(frozen=True)
class Pair(Generic[T]):
    left: T
    right: T


@dataclass(frozen=True)
class Point:
    x: float
    y: float


@pydantic_dataclass
class Checked:
    amount: int


class Names(RootModel[list[str]]):
    pass


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    content: bytes


class Hex(BaseModel):
    model_config = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
    content: bytes


class Encoded(BaseModel):
    content: Base64Bytes


BERLIN = ZoneInfo("Europe/Berlin")
#: In the hour that the zone runs through twice, Python holds equal times unequal (PEP 495).
TWICE = [datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1)]

EXACT: list[tuple[Any, Any]] = [
    (Card | Cash, Cash(coins=[1, 2])),
    (Annotated[Card | Cash, Field(discriminator="kind")], Card(number="7")),
    (Box[int], Box[int](content=7)),
    (Box[Box[Card]], Box[Box[Card]](content=Box[Card](content=Card(number="7")))),
    (Pair[Decimal], Pair(Decimal("1.10"), Decimal(0))),
    (Point, Point(0.1, -2.5e300)),
    (Checked, Checked(7)),
    (Names, Names(["a"])),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal(10) ** 40 / 7),
    (datetime, datetime(2024, 2, 29, 1, 2, 3, 456789, tzinfo=UTC)),
    (datetime, datetime(2024, 7, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
    (datetime, datetime(2024, 7, 1, tzinfo=BERLIN)),
    (datetime, TWICE[0]),
    (datetime, TWICE[1]),
    (datetime, datetime(2024, 7, 1)),  # noqa: DTZ001 - naive, and naive when it comes back
    (date, date(1, 1, 1)),
    (time, time(23, 59, 59, 999999)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UUID, uuid4()),
    (Base64, Base64(content=bytes(range(256)))),
    (Hex, Hex(content=bytes(range(256)))),
    (Encoded, Encoded.model_construct(content=bytes(range(256)))),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (set[int], {3, 1, 2}),
    (frozenset[UUID], frozenset({uuid4(), uuid4()})),
    (set[Point], {Point(1, 2), Point(2, 1)}),
    (dict[int, str], {1: "a"}),
    (dict[Colour, date], {Colour.RED: date(2024, 2, 29)}),
    (dict[UUID, Decimal], {uuid4(): Decimal("1.10")}),
    (tuple[int, str], (1, "a")),
]


@pytest.mark.parametrize(("python_type", "value"), EXACT, ids=range(len(EXACT)))
def test_a_value_comes_back_as_it_was(python_type: Any, value: Any) -> None:
    class Payload(BaseModel):
        value: python_type
        values: list[python_type]

    payload = Payload.model_construct(value=value, values=[value])
    codec = PayloadType(Payload)
    codec.check()
    copy = codec.decode("noted", as_jsonb(codec.encode("noted", payload)))
    assert type(copy.value) is type(value)
    assert str(copy.value) == str(value) or copy.value == value


@pytest.mark.parametrize(
    ("python_type", "value"),
    [
        (Colour, Colour.MIXED),
        (Box, Box(content=Card(number="7"))),
        (SecretStr, SecretStr("hush")),
        (datetime, datetime(1890, 1, 1, tzinfo=BERLIN)),  # an offset with seconds
        (float, math.nan),
        (Card, Cash(coins=[])),
    ],
)
def test_or_it_is_refused_when_it_is_written(python_type: Any, value: Any) -> None:
    codec = PayloadType(python_type)
    codec.check()
    with pytest.raises(SerializationError) as caught:
        codec.encode("noted", value)
    assert "hush" not in str(caught.value)


class Plain(BaseModel):
    content: bytes


class WrittenOnly(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    content: bytes


class Mixed(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="hex")
    content: bytes


class Outer(BaseModel):
    """Its configuration does not hold for the model within."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    inner: Plain | None = None


class Tree(BaseModel):
    metadata: dict[str, "list[Tree]"] = {}
    type: list[bytes] = []


@dataclass
class Handled:
    handler: Callable[[int], int]


class Streamed(BaseModel):
    rows: Iterable[int]


class Opaque:
    pass


class Holding(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Opaque


@pytest.mark.parametrize(
    ("python_type", "told"),
    [
        (Plain, "pydantic.Base64Bytes"),
        (WrittenOnly, "UTF-8"),
        (Mixed, "UTF-8"),
        (Outer, "UTF-8"),
        (Tree, "UTF-8"),
        (Card | Plain, "UTF-8"),
        (TypedDict("TypedDict", {"content": bytes}), "UTF-8"),  # type: ignore[operator]
        (dict[bytes, int], "UTF-8"),
        (Handled, "'callable'"),
        (Streamed, "'generator'"),
        (Holding, "'is-instance'"),
        (type[int], "'is-subclass'"),
    ],
)
def test_a_type_that_can_not_be_exact_is_refused(python_type: Any, told: str) -> None:
    registry = EventRegistry()
    with pytest.raises(TypeError, match=told):
        registry.register("noted", python_type)
    assert "noted" not in registry


class Parsed(BaseModel):
    """Types of the user's own, with ways of their own to JSON and back."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Annotated[
        Opaque, BeforeValidator(lambda _: Opaque()), PlainSerializer(lambda _: "thing")
    ]
    either: int | Opaque = 7
    left_out: Callable[[], int] | None = Field(default=None, exclude=True)
    defaults: dict[str, Any] = {"type": "bytes"}


def test_types_with_ways_of_their_own_are_left_to_them() -> None:
    EventRegistry().register("noted", Parsed)


def test_a_class_may_refer_to_one_that_is_defined_later() -> None:
    registry = EventRegistry()

    @registry.register("noted")
    class Early(BaseModel):
        late: "Late"

    with pytest.raises(ValueError, match=r"'noted': .*not fully defined"):
        registry.check()

    class Late(BaseModel):
        content: bytes

    Early.model_rebuild(_types_namespace={"Late": Late})
    with pytest.raises(ValueError, match=r"'noted': .*UTF-8"):
        registry.check()


# Payloads are compared by their fields, whatever their classes hold equal.


class Entity(BaseModel):
    id: int
    note: str = Field(default="", exclude=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Account:
    id: int
    note: str = field(default="", compare=False)
    alias: Annotated[str, Field(exclude=True)] = field(default="", compare=False)


class Holder(BaseModel):
    entities: list[Entity] = []
    accounts: dict[str, Account] = {}


class Shape(BaseModel):
    id: int


class Circle(Shape):
    """It stands where a shape is declared, and says that it is equal to one."""

    radius: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]


class Drawing(BaseModel):
    shapes: list[Shape]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: int
    note: str = Field(default="", exclude=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self.id == other.id

    def __hash__(self) -> int:
        return self.id


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (Entity(id=1, note="lost"), "$.note"),
        (Account(1, alias="lost"), "$.alias"),
        (Holder(entities=[Entity(id=1), Entity(id=2, note="lost")]), "$.entities[1].note"),
        (Holder(accounts={"a": Account(1, alias="lost")}), "$.accounts.a.alias"),
        (Drawing(shapes=[Circle(id=1, radius=2)]), "$.shapes[0]"),
        (Box[set[Frozen]](content={Frozen(id=1, note="lost")}), "$.content"),
    ],
)
def test_an_equality_of_its_own_hides_no_loss(payload: Any, path: str) -> None:
    with pytest.raises(SerializationError) as caught:
        payload_type(type(payload)).encode("noted", payload)
    assert caught.value.path == path
    assert "lost" not in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        Entity(id=1),
        Account(1, "kept"),
        Holder(entities=[Entity(id=1)], accounts={"a": Account(1, "kept")}),
        Drawing(shapes=[Shape(id=1)]),
        Box[set[Frozen]](content={Frozen(id=1), Frozen(id=2)}),
    ],
)
def test_and_is_not_in_the_way(payload: Any) -> None:
    codec = payload_type(type(payload))
    copy = codec.decode("noted", codec.encode("noted", payload))
    assert first_difference(payload, copy) is None


@dataclasses.dataclass(eq=False)
class Identical:
    x: int


@dataclasses.dataclass(order=True, slots=True, kw_only=True)
class Ordered:
    x: int
    y: list[int]


@pytest.mark.parametrize(
    ("python_type", "by_fields"),
    [
        (Card, True),
        (list[Box[Card]], True),
        (Names, True),
        (Point, True),
        (Checked, True),
        (Ordered, True),
        (dict[str, Any], True),
        (Annotated[Card | Cash, Field(discriminator="kind")], True),
        (Identical, False),
        (Account, False),
        (Entity, False),
        (Holder, False),
        (Drawing, False),
        (list[Box[Entity] | None], False),
    ],
)
def test_whether_equality_may_be_relied_on(python_type: Any, by_fields: bool) -> None:
    assert equals_by_fields(PayloadType(python_type).adapter.core_schema) is by_fields


def test_cached_properties_are_no_fields() -> None:
    class Total(BaseModel):
        values: list[float]

        @cached_property
        def total(self) -> float:
            return sum(self.values)

    payload = Total(values=[math.pi])
    assert payload.total == math.pi
    assert first_difference(payload, Total(values=[math.pi])) is None


# A mistake in a validator is told as ours, without the payload.


class Strange(BaseModel):
    value: str

    @field_validator("value")
    @classmethod
    def look_up(cls, value: str) -> str:
        if value == "interrupted":
            raise KeyboardInterrupt
        return {"known": value}[value]


def test_a_validator_that_fails_in_its_own_way() -> None:
    codec = PayloadType(Strange)
    assert codec.encode("noted", Strange(value="known")) == b'{"value":"known"}'
    hush = Strange.model_construct(value="hush")
    for failing in (
        lambda: codec.encode("noted", hush),
        lambda: codec.decode("noted", b'{"value":"hush"}'),
    ):
        with pytest.raises(SerializationError, match="failed with KeyError") as caught:
            failing()
        assert "hush" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_an_interrupt_is_no_mistake() -> None:
    codec = PayloadType(Strange)
    with pytest.raises(KeyboardInterrupt):
        codec.decode("noted", b'{"value":"interrupted"}')
    with pytest.raises(KeyboardInterrupt):
        codec.encode("noted", Strange.model_construct(value="interrupted"))


class Vector:
    def __eq__(self, other: object) -> bool:
        raise TypeError("the truth value of hush is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Pointing(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    vector: Annotated[
        Vector, BeforeValidator(lambda _: Vector()), PlainSerializer(lambda _: [1, 2])
    ]


def test_an_equality_that_fails() -> None:
    with pytest.raises(SerializationError, match="TypeError") as caught:
        PayloadType(Pointing).encode("noted", Pointing(vector=Vector()))
    assert "hush" not in str(caught.value)


def event(payload: object, event_type: str = "") -> AnyEnvelope:
    return EventEnvelope(aggregate_type="order", event_type=event_type, event_data=payload)


def test_generic_types_are_payloads() -> None:
    registry = EventRegistry()
    registry.register("boxed", Box[Card])
    registry.register("paired", Pair[int])
    _, encoded = registry.encode(event(Box[Card](content=Card(number="7"))))
    assert registry.decode("boxed", encoded) == Box[Card](content=Card(number="7"))
    _, encoded = registry.encode(event(Pair(1, 2), "paired"))
    assert registry.decode("paired", encoded) == Pair(1, 2)
