"""What a payload's type says about its round trip before any payload is there.

pydantic compiles a type into a *core schema*, a tree of plain dicts. Four questions are answered
by a walk over it, once a type: whether some value of the type could not come back, so that the
type is refused; whether ``==`` is a comparison of all fields, so that it may be relied on; whether
JSON of it may hold ``NaN``; and whether it holds sets, whose order means nothing.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, RootModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Kinds of core schemas that have no JSON, or none that can be compared with what was written.
_NO_JSON: Final = frozenset({"callable", "generator", "is-instance", "is-subclass"})
#: Kinds within which such a part may be only one way of several, or be fed by a function.
_MORE_WAYS: Final = frozenset(
    {"chain", "function-before", "function-wrap", "lax-or-strict", "tagged-union", "union"}
)
#: Entries of a core schema that hold no schemas.
_NOT_SCHEMAS: Final = frozenset(
    {"computed_fields", "config", "default", "expected", "metadata", "serialization"}
)

#: The metadata of a personal field's schema has this name: its serialisation only wraps that of the
#: value, whose own schemas count.
WRAPPED_BY: Final = "eventstore_personal"

_EQUALITIES_OF_MODELS: Final[frozenset[Any]] = frozenset({BaseModel.__eq__, RootModel.__eq__})

_NO_CONFIG: Final[Mapping[str, Any]] = {}


def inexact_part(core_schema: Any) -> str | None:
    """Return what in a type can't be stored exactly and how to cure it, None if nothing is seen."""
    return next(_inexact_parts(core_schema, _NO_CONFIG, only_way=True), None)


def _inexact_parts(schema: Any, config: Mapping[str, Any], *, only_way: bool) -> Iterator[str]:
    is_wrapped = WRAPPED_BY in schema.get("metadata", ())
    if ("serialization" in schema and not is_wrapped) or schema.get("serialization_exclude"):
        return  # written in a way of its own, which the reading back judges
    kind, config = schema["type"], schema.get("config", config)
    if kind == "bytes" and not _writes_any_bytes(config):
        yield (
            "bytes that are no UTF-8 can't be written as JSON; use pydantic.Base64Bytes, or set "
            "ser_json_bytes and val_json_bytes to 'base64' or 'hex' in the config"
        )
    if kind in _NO_JSON and only_way:
        yield f"JSON can't say a value of kind {kind!r}"
    parts = [schema["json_schema"]] if kind == "json-or-python" else parts_of(schema)
    for part in parts:
        yield from _inexact_parts(part, config, only_way=only_way and kind not in _MORE_WAYS)


def _writes_any_bytes(config: Mapping[str, Any]) -> bool:
    written, read = (config.get(f"{way}_json_bytes", "utf8") for way in ("ser", "val"))
    return bool(written == read != "utf8")


def equals_by_fields(core_schema: Any) -> bool:
    """Tell whether ``==`` of a type's values compares every field of every class in it.

    Subclasses count too: an instance may stand where its base is declared, and Python asks the
    subclass first.
    """
    return all(
        _has_plain_equality(schema["cls"])
        for schema, _ in _walk(core_schema, _NO_CONFIG)
        if schema["type"] in {"model", "dataclass"}
    )


def _has_plain_equality(cls: type) -> bool:
    plain = (
        _has_generated_equality(cls)
        if dataclasses.is_dataclass(cls)
        else cls.__eq__ in _EQUALITIES_OF_MODELS
    )
    return plain and all(map(_has_plain_equality, cls.__subclasses__()))


def _has_generated_equality(cls: type) -> bool:
    """Tell whether the ``__eq__`` of a dataclass is the one that ``dataclass`` makes of all fields.

    Nothing marks it as such, so that it is held against that of a twin with the same fields.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    code = getattr(cls.__eq__, "__code__", None)
    twin = dataclasses.make_dataclass("Twin", names).__eq__.__code__
    return code is not None and (code.co_code, code.co_names) == (twin.co_code, twin.co_names)


def may_write_nan(core_schema: Any) -> bool:
    """Tell whether some part of the type is configured to write NaN and infinities as constants."""
    return any(
        config.get("ser_json_inf_nan") == "constants"
        for _, config in _walk(core_schema, _NO_CONFIG)
    )


def holds_sets(core_schema: Any) -> bool:
    """Tell whether some part of the type is a set."""
    return any(
        schema["type"] in {"set", "frozenset"} for schema, _ in _walk(core_schema, _NO_CONFIG)
    )


def _walk(schema: Any, config: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield every schema of the tree with the configuration that holds for it."""
    config = schema.get("config", config)
    yield schema, config
    for part in parts_of(schema):
        yield from _walk(part, config)


def parts_of(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the schemas that a core schema is made of."""
    for name, entry in schema.items():
        if name not in _NOT_SCHEMAS:
            yield from _schemas_in(entry)


def _schemas_in(entry: object) -> Iterator[Any]:
    """Yield the schemas that an entry holds: itself, in a list, or by the names of fields."""
    if isinstance(entry, dict):
        if isinstance(entry.get("type"), str):
            yield entry
        else:
            for value in entry.values():
                yield from _schemas_in(value)
    elif isinstance(entry, list | tuple):
        for value in entry:
            yield from _schemas_in(value)
