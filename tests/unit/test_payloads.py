from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from eventstore.comparison import first_difference
from eventstore.errors import SerializationError
from eventstore.events import EventMetadata
from eventstore.payloads import (
    JSON_OBJECT,
    PayloadType,
    as_jsonb,
    canonical_json,
    decode_metadata,
    encode_metadata,
    payload_type,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)
json_objects = st.dictionaries(texts, json_values, max_size=4)


class Line(BaseModel):
    product: str


class GiftLine(Line):
    card: str
    wrapping: str


class Order(BaseModel):
    first: Line
    others: list[Line] = []
    by_name: dict[str, Line] = {}
    maybe: Line | None = None


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    total_price: Decimal
    placed_on: date


class WriteOnlyAlias(BaseModel):
    total: int = Field(serialization_alias="sum")


class Cat(BaseModel):
    kind: Literal["cat"] = Field("cat", alias="petKind")


class Dog(BaseModel):
    kind: Literal["dog"] = Field("dog", alias="petKind")


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Measured(BaseModel):
    value: float


class MeasuredWithConstants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    value: float


class MeasuredWithStrings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    value: float


class Priced(BaseModel):
    price: Decimal = Field(allow_inf_nan=True)


@dataclass
class Point:
    x: float
    y: float = 0.0
    labels: tuple[str, ...] = ()


class Noted(TypedDict):
    text: str


class Secret(BaseModel):
    kept: str
    hidden: str = Field(default="default", exclude=True)


@dataclass(eq=False)
class WithoutEquality:
    x: int
    inner: list[int] = field(default_factory=list)


def refusal(python_type: Any, payload: object) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        payload_type(python_type).encode("noted", payload)
    assert caught.value.event_type == "noted"
    return caught.value


@pytest.mark.parametrize(
    "payload",
    [
        Order(
            first=Line(product="a"), others=[Line(product="b")], by_name={"c": Line(product="c")}
        ),
        Camel(total_price=Decimal("10.50"), placed_on=date(2024, 2, 29)),
        Owner(pet=Dog(petKind="dog")),
        Measured(value=2.5e16),
        Priced(price=Decimal("Infinity")),
        MeasuredWithStrings(value=math.inf),
        MeasuredWithStrings(value=math.nan),
        Point(1.5, labels=("a", "b")),
        WithoutEquality(1, [2]),
        Secret(kept="a"),
        {"text": [1, None, {"x": True}]},
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_a_payload_comes_back_equal(payload: Any) -> None:
    python_type: Any = type(payload)
    codec = payload_type(python_type)
    copy = codec.decode("noted", codec.encode("noted", payload))
    assert type(copy) is type(payload)
    assert first_difference(payload, copy) is None


@given(json_objects)
def test_any_json_object_comes_back_equal_or_is_refused(payload: dict[str, Any]) -> None:
    assert JSON_OBJECT.decode("noted", JSON_OBJECT.encode("noted", payload)) == payload


@pytest.mark.parametrize(
    ("python_type", "payload", "path"),
    [
        (Order, Order(first=GiftLine(product="a", card="b", wrapping="c")), "$.first"),
        (
            Order,
            Order(first=Line(product="a"), others=[GiftLine(product="a", card="b", wrapping="c")]),
            "$.others[0]",
        ),
        (
            Order,
            Order(
                first=Line(product="a"), by_name={"x": GiftLine(product="a", card="", wrapping="")}
            ),
            "$.by_name.x",
        ),
        (
            Order,
            Order(first=Line(product="a"), maybe=GiftLine(product="a", card="b", wrapping="c")),
            "$.maybe",
        ),
        (WriteOnlyAlias, WriteOnlyAlias(total=7), "$.total"),
        (Secret, Secret(kept="a", hidden="not the default"), "$.hidden"),
        (Measured, Measured(value=math.nan), "$.value"),
        (Measured, Measured(value=math.inf), "$.value"),
        (MeasuredWithConstants, MeasuredWithConstants(value=math.nan), "$.value"),
        (MeasuredWithConstants, MeasuredWithConstants(value=-math.inf), "$.value"),
        (Point, Point(math.nan), "$.x"),
        (Point, Point(1, labels=["a"]), "$.labels"),  # type: ignore[arg-type]
        (Point, Point("1"), "$.x"),  # type: ignore[arg-type]
        (Measured, Measured.model_construct(value="a\0"), "$.value"),
        (Line, Line(product="a\0"), "$.product"),
        (dict, {"a": {"b c": ["\0"]}}, "$.a['b c'][0]"),
        (dict, {"a\0": 1}, "$['a\\x00']"),
        (dict, {"a": float("nan")}, "$.a"),
        (dict, {"a": (1, 2)}, "$.a"),
        (dict, {"a": [{1: 2}]}, "$.a[0][1]"),
        (dict, {"a": "\ud800"}, "$.a"),
        (dict, {"a": 10**5000}, "$.a"),
        (dict, {"a": 10**5000, "b": "NaN \\u0000"}, "$.a"),
        (dict, {"a": object()}, "$.a"),
        (dict, {"a": datetime(2024, 1, 1, tzinfo=UTC)}, "$.a"),
        (Noted, {"text": 7}, "$.text"),
        (Noted, {"text": "a", "more": 1}, "$.more"),
        (Noted, {}, "$.text"),
        (int, "7", "$"),
    ],
)
def test_what_does_not_come_back_equal_is_refused(
    python_type: Any, payload: object, path: str
) -> None:
    assert refusal(python_type, payload).path == path


@pytest.mark.parametrize("number", ["NaN", "-NaN"])
def test_a_decimal_that_is_no_number_is_refused(number: str) -> None:
    assert refusal(Priced, Priced.model_construct(price=Decimal(number))).path == "$.price"


@pytest.mark.parametrize("text", ["\\u0000", "a\\\\u0000", "NaN", "-Infinity", "\\"])
def test_text_that_looks_like_what_is_refused_is_kept(text: str) -> None:
    payload = {"text": text, text: 1}
    assert JSON_OBJECT.decode("noted", JSON_OBJECT.encode("noted", payload)) == payload


def test_no_message_shows_the_payload() -> None:
    for payload in ({"a": "hush", "b": "\0hush"}, {"a": "hush", "b": math.nan}, {"a": {"hush"}}):
        assert "hush" not in str(refusal(dict, payload))
    with pytest.raises(SerializationError) as caught:
        payload_type(Measured).decode("noted", b'{"value": "hush"}')
    assert caught.value.path == "$.value"
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("encoded", [b"", b"{", b"[1]", b"null", b'{"other": 1}', b"\xff"])
def test_json_that_is_not_of_the_type(encoded: bytes) -> None:
    with pytest.raises(SerializationError) as caught:
        payload_type(Measured).decode("noted", encoded)
    assert caught.value.event_type == "noted"


def test_a_cycle_and_what_is_too_deep_have_a_short_path() -> None:
    cycle: dict[str, Any] = {}
    cycle["itself"] = cycle
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"inner": deep}
    for payload in (cycle, deep):
        assert len(refusal(dict, payload).path) <= 203


def test_a_type_that_pydantic_does_not_know_is_a_wrong_argument() -> None:
    class Opaque:
        pass

    with pytest.raises(TypeError, match="Opaque"):
        payload_type(Opaque)


def test_one_adapter_a_type() -> None:
    assert payload_type(Measured) is payload_type(Measured)


def test_without_proof_what_postgresql_refuses_is_still_refused() -> None:
    unproved = PayloadType(Point, verify=False)
    assert json.loads(unproved.encode("noted", Point(1, labels=["a"])))["labels"] == ["a"]  # type: ignore[arg-type]
    with pytest.raises(SerializationError):
        unproved.encode("noted", Point(1, labels=("a\0",)))


@pytest.mark.parametrize(
    "further",
    [{}, {"tenant": {"id": [1, None, 2.5]}}, {"é": "\\u0000"}, {"": True}, {"text": "NaN"}],
)
def test_metadata_comes_back_equal(further: dict[str, Any]) -> None:
    metadata = EventMetadata(user_id="ann", idempotency_key="k", **further)
    encoded = encode_metadata("noted", metadata)
    assert decode_metadata("noted", encoded) == metadata
    assert "causation_id" not in json.loads(encoded)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\0", ""),
        ({"a\0": 1}, "['a\\x00']"),
        (math.nan, ""),
        ([1, -math.inf], "[1]"),
        ((1,), ""),
        ({1: 2}, "[1]"),
        ("\ud800", ""),
        ([10**5000], "[0]"),
        (b"bytes", ""),
        (object(), ""),
        (datetime(2024, 1, 1, tzinfo=UTC), ""),
    ],
)
def test_metadata_that_does_not_come_back_equal_is_refused(value: object, path: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_metadata("noted", EventMetadata.model_validate({"further": value}))
    assert (caught.value.event_type, caught.value.path) == ("noted", f"metadata.further{path}")


def test_a_nul_in_a_known_key_of_the_metadata() -> None:
    with pytest.raises(SerializationError) as caught:
        encode_metadata("noted", EventMetadata(correlation_id="\0"))
    assert caught.value.path == "metadata.correlation_id"
    with pytest.raises(SerializationError) as caught:
        decode_metadata("noted", b'{"user_id": 7}')
    assert caught.value.path == "metadata.user_id"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}'),
        ("1", "1.0"),
        ("100", "1e2"),
        ("2.5e16", "25000000000000000"),
        ("1e23", "100000000000000000000000"),
        ("0", "-0.0"),
        ("0.1", "1e-1"),
        ('"é"', '"\\u00e9"'),
        ('{"a": {"c": 1, "b": 2.0}}', '{"a": {"b": 2, "c": 1.0}}'),
    ],
)
def test_json_that_is_the_same(one: str, other: str) -> None:
    assert canonical_json(one) == canonical_json(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "true"),
        ("0", "false"),
        ("1", '"1"'),
        ("null", '"null"'),
        ("[1, 2]", "[2, 1]"),
        ("[]", "{}"),
        ('{"a": null}', "{}"),
        (str(2**60), str(2**60 + 1)),
        ("0.1", "0.10000000000000002"),
        ('"\\\\u0000"', '"\\u0000"'),
        ('"é"', '"e\\u0301"'),
    ],
)
def test_json_that_is_not_the_same(one: str, other: str) -> None:
    assert canonical_json(one) != canonical_json(other)


@pytest.mark.parametrize(
    ("encoded", "given_back"),
    [
        (b'{"ccc":1,"bb":2,"aa":3}', b'{"aa": 3, "bb": 2, "ccc": 1}'),
        ('{"é":1,"zz":2,"z":3}'.encode(), b'{"z": 3, "zz": 2, "\\u00e9": 1}'),
        (b'{"b":{"d":1,"c":2}}', b'{"b": {"c": 2, "d": 1}}'),
        (b"2.5e16", b"25000000000000000"),
        (b"1.5e1", b"15"),
        (b"1.0", b"1.0"),
        (b"1.50e0", b"1.5"),
        (b"5e-324", b"5e-324"),
    ],
)
def test_what_jsonb_changes(encoded: bytes, given_back: bytes) -> None:
    assert as_jsonb(encoded) == given_back


@given(json_objects)
def test_what_jsonb_changes_is_the_same_json(payload: dict[str, Any]) -> None:
    encoded = JSON_OBJECT.encode("noted", payload)
    assert canonical_json(as_jsonb(encoded)) == canonical_json(encoded)
    assert as_jsonb(as_jsonb(encoded)) == as_jsonb(encoded)
