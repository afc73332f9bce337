"""The JSON Schema of all registered types: one document, for readers in other languages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from eventstore.exactness import WRAPPED_BY
from eventstore.personal.carriers import ERASED, KEY, SEALED
from eventstore.personal.fields import value_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventstore.registry import RegisteredType

#: What is stored, and not what a validator would accept beside it.
_MODE: Final = "serialization"


def json_schema_of(types: Sequence[RegisteredType]) -> dict[str, Any]:
    """Return the JSON Schema of the events of these types, in their order."""
    for known in types:
        _refuse_indescribable(known)
    payloads, definitions = TypeAdapter.json_schemas(
        [(known.event_type, _MODE, known.codec.adapter) for known in types],
        schema_generator=_AsStored,
    )
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Events",
        "oneOf": [_event(known, payloads[known.event_type, _MODE]) for known in types],
        "$defs": definitions.get("$defs", {}),
    }


class _AsStored(GenerateJsonSchema):
    """Describes personal values as what stands in their place."""

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        metadata = schema.get("metadata", {})
        if WRAPPED_BY not in metadata:
            return super().generate_inner(schema)
        return {
            "type": "object",
            "properties": {
                KEY: {"enum": [SEALED, ERASED]},
                "subject": {"type": "string"},
                "data": {"type": "string", "contentEncoding": "base64"},
            },
            "required": [KEY, "subject"],
            # A remark, as x-aliases: the field that says whose it is, and what a key would show.
            "x-personal": {
                "subject": metadata[WRAPPED_BY],
                "value": self.generate_inner(value_schema(schema)),
            },
        }


def _event(known: RegisteredType, payload: dict[str, Any]) -> dict[str, Any]:
    properties = {
        "event_type": {"const": known.event_type},
        "schema_version": {"const": known.version},
        "event_data": payload,
    }
    schema = {
        "title": known.event_type,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
    # A keyword of our own: JSON Schema takes one that begins so for a remark.
    return schema | ({"x-aliases": sorted(known.aliases)} if known.aliases else {})


def _refuse_indescribable(known: RegisteredType) -> None:
    try:
        known.codec.adapter.json_schema(mode=_MODE, schema_generator=_AsStored)
    except PydanticUserError as error:
        raise TypeError(
            f"event type {known.event_type!r} has no JSON Schema: {error.message}"
        ) from error
