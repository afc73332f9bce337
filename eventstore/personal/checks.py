"""What must be right with personal fields before any of them is stored."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from eventstore.exactness import WRAPPED_BY, parts_of
from eventstore.personal.fields import is_personal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Kinds of core schemas that have named fields.
_RECORDS: Final = frozenset({"model-fields", "dataclass-args", "typed-dict"})


def personal_problem(core_schema: Any) -> str | None:
    """Return what is wrong with the personal fields of a type, and how to cure it, if anything."""
    return next(_Walk(core_schema).problems(), None)


class _Walk:
    """A walk over a core schema that knows in which class it is, and which names can be seen."""

    def __init__(self, core_schema: Any) -> None:
        self._root = core_schema
        self._definitions: dict[str, Any] = {}

    def problems(self) -> Iterator[str]:
        yield from self._problems(self._root, None, frozenset(), ())

    def _problems(
        self, schema: Any, cls: type | None, names: frozenset[str], refs: tuple[str, ...]
    ) -> Iterator[str]:
        kind = schema["type"]
        if kind == "definitions":
            self._definitions |= {each["ref"]: each for each in schema["definitions"]}
            yield from self._problems(schema["schema"], cls, names, refs)
        elif kind == "definition-ref":
            ref = schema["schema_ref"]
            if ref not in refs:
                yield from self._problems(self._definitions[ref], cls, names, (*refs, ref))
        elif is_personal(schema):
            yield from self._problems_of_value(schema, names)
        elif kind in _RECORDS:
            cls = None if kind == "typed-dict" else cls
            fields = dict(_fields_of(schema))
            seen = names | {
                field.get("serialization_alias", name) for name, field in fields.items()
            }
            for name, field in fields.items():
                yield from self._problems(field["schema"], cls, seen, refs)
                # After that: who says whose it is by personal() has hidden it, too.
                if _is_shown(cls, name) and _holds_directly(field["schema"]):
                    yield _shown(cls, name)
        else:
            for part in parts_of(schema):
                yield from self._problems(part, schema.get("cls", cls), names, refs)

    def _problems_of_value(self, schema: Any, names: frozenset[str]) -> Iterator[str]:
        subject = schema["metadata"][WRAPPED_BY]
        if subject is None:
            yield (
                "a Personal[...] doesn't say whose it is; write "
                "Annotated[Personal[...], personal(subject='...')]"
            )
        elif subject not in names:
            yield f"personal(subject={subject!r}) names no field beside it or around it"
        if any(self._reaches_personal(part, ()) for part in parts_of(schema)):
            yield "a Personal[...] holds another one; mark either the whole or its parts"

    def _reaches_personal(self, schema: Any, refs: tuple[str, ...]) -> bool:
        if schema["type"] == "definition-ref":
            ref = schema["schema_ref"]
            return ref not in refs and self._reaches_personal(self._definitions[ref], (*refs, ref))
        return is_personal(schema) or any(
            self._reaches_personal(part, refs) for part in parts_of(schema)
        )


def _fields_of(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    fields = schema["fields"]
    if isinstance(fields, dict):
        yield from fields.items()
    else:
        for field in fields:
            yield field["name"], field


def _holds_directly(schema: Any) -> bool:
    """Tell whether the repr of a field would show a personal value, if no class in it hides it."""
    if is_personal(schema):
        return True
    if schema["type"] in {"model", "dataclass"}:
        return False
    return any(map(_holds_directly, parts_of(schema)))


def _is_shown(cls: type | None, name: str) -> bool:
    if cls is None:
        return True
    if dataclasses.is_dataclass(cls):
        return any(field.name == name and field.repr for field in dataclasses.fields(cls))
    shown: bool = cls.__pydantic_fields__[name].repr  # type: ignore[attr-defined]
    return shown


def _shown(cls: type | None, name: str) -> str:
    if cls is None:
        return f"the personal field {name!r} of a TypedDict would be shown in logs; use a model"
    cure = "field(repr=False)" if dataclasses.is_dataclass(cls) else "Field(repr=False)"
    return f"the repr of {cls.__qualname__} shows the personal field {name!r}; give it {cure}"
