import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from eventstore import EventRegistry


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]
    coins: int


class Paid(BaseModel):
    amount: Decimal = Field(alias="theAmount")
    by: Annotated[Card | Cash, Field(discriminator="kind")]


@dataclass
class Placed:
    order_id: str
    by: Card


class Opaque:
    pass


class Indescribable(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Annotated[Opaque, BeforeValidator(lambda _: Opaque())]


def registry_of(*names: str) -> EventRegistry:
    registry = EventRegistry()
    for name in names:
        match name:
            case "paid":
                registry.register(name, Paid)
            case "placed":
                registry.register(name, Placed, version=2, aliases=["Placed", "OrderPlaced"])
                registry.upcaster(name, from_version=1)(lambda data: data)
            case _:
                registry.register(name, dict)
    return registry


def test_one_document_for_all_types() -> None:
    schema = registry_of("placed", "paid", "noted").json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    noted, paid, placed = schema["oneOf"]
    assert paid["title"] == "paid"
    assert paid["properties"] == {
        "event_type": {"const": "paid"},
        "schema_version": {"const": 1},
        "event_data": {"$ref": "#/$defs/Paid"},
    }
    assert paid["required"] == ["event_type", "schema_version", "event_data"]
    assert noted["properties"]["event_data"]["type"] == "object"
    assert placed["properties"]["schema_version"] == {"const": 2}
    assert placed["x-aliases"] == ["OrderPlaced", "Placed"]
    assert "x-aliases" not in paid
    assert set(schema["$defs"]) == {"Card", "Cash", "Paid", "Placed"}
    # As it is stored: by alias, and a Decimal as text.
    assert schema["$defs"]["Paid"]["properties"]["theAmount"]["type"] == "string"


def test_the_document_depends_on_the_types_alone() -> None:
    documents = {
        json.dumps(registry_of(*names).json_schema())
        for names in (("placed", "paid", "noted"), ("noted", "paid", "placed"))
    }
    assert len(documents) == 1


def test_no_types() -> None:
    assert EventRegistry().json_schema()["oneOf"] == []


def test_a_registry_that_is_wrong_has_no_schema() -> None:
    registry = EventRegistry()
    registry.register("noted", dict, version=2)
    with pytest.raises(ValueError, match="no upcaster"):
        registry.json_schema()


def test_a_type_that_can_not_be_described_is_named() -> None:
    registry = EventRegistry()
    registry.register("odd", Indescribable)
    with pytest.raises(TypeError, match="'odd' has no JSON Schema"):
        registry.json_schema()
