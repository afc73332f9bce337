"""Fields that hold personal data: what type they have, whose they are, and how they are written.

A value of a ``Personal[T]`` is an ordinary ``T`` in Python. As JSON it is either that of ``T``, or
a *carrier*, an object that has the key ``$personal`` (:mod:`~eventstore.personal.carriers`): the
reader tells the two apart by that key, and each is validated from JSON as any other field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypeVar, Union, final, get_args

from pydantic import Field
from pydantic_core import PydanticCustomError, core_schema

from eventstore.exactness import WRAPPED_BY, parts_of
from eventstore.personal.carriers import ERASED, KEY, OPENED, UNNAMED
from eventstore.streams import MAX_ID_LENGTH, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import GetCoreSchemaHandler

T = TypeVar("T")

#: The context in which a payload is serialised to be stored: its personal values as carriers.
AS_CARRIERS: Final = object()

_VALUE: Final = "value"
_UNREADABLE: Final = "sealed"

#: Kinds of core schemas that are classes of their own: whose their fields are, they say themselves.
_CLASSES: Final = frozenset({"model", "dataclass", "typed-dict"})


@final
@dataclass(frozen=True, slots=True)
class Erased:
    """What is read in place of a personal value once its subject is forgotten."""

    subject_id: str  #: whose value it was


class _Marker:
    """What makes ``T | Erased`` a personal field for pydantic."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        types = tuple(each for each in get_args(source) if each is not Erased)
        return _personal_schema(handler.generate_schema(Union[types]))  # noqa: UP007


#: A ``T`` that is stored encrypted, and read as :class:`Erased` once its subject is forgotten. Say
#: whose it is by :func:`personal`.
Personal: TypeAlias = Annotated[T | Erased, _Marker()]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What says whose the personal values of a field are."""

    field: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        nodes = list(_unnamed_nodes(schema))
        if not nodes:
            raise TypeError(
                f"personal(subject={self.field!r}) marks a field without a Personal[...]: {source}"
            )
        for node in nodes:
            _name_subject(node, self.field)
        return schema


def personal(*, subject: str) -> Any:
    """Say whose the personal values of a field are: ``subject`` names the field that tells it.

    It is the name in JSON, where the field has an alias. It is looked for beside the annotated
    field, then in the objects around it::

        class LearnerRegistered(BaseModel):
            learner_id: str
            email: Annotated[Personal[str], personal(subject="learner_id")]

    The field is left out of the ``repr`` of a pydantic model, and so of logs.
    """
    info = Field(repr=False)
    info.metadata.append(_Subject(check_text("subject", subject, MAX_ID_LENGTH)))
    return info


def _personal_schema(inner: core_schema.CoreSchema) -> core_schema.CoreSchema:
    literal = core_schema.literal_schema
    field = core_schema.typed_dict_field
    opened = core_schema.typed_dict_schema(
        {
            KEY: field(literal([OPENED])),
            "subject": field(core_schema.str_schema()),
            _VALUE: field(inner),
        },
        extra_behavior="forbid",
    )
    erased = core_schema.typed_dict_schema(
        {KEY: field(literal([ERASED])), "subject": field(core_schema.str_schema())},
        extra_behavior="forbid",
    )
    schema = core_schema.tagged_union_schema(
        {
            _VALUE: inner,
            OPENED: core_schema.no_info_after_validator_function(_value_of, opened),
            ERASED: core_schema.json_or_python_schema(
                core_schema.no_info_after_validator_function(_erased, erased),
                core_schema.union_schema(
                    [
                        core_schema.is_instance_schema(Erased),
                        core_schema.no_info_after_validator_function(_erased, erased),
                    ]
                ),
            ),
            _UNREADABLE: core_schema.no_info_plain_validator_function(_refuse_sealed),
        },
        discriminator=_kind_of,
        metadata={WRAPPED_BY: None},
    )
    _set_serialization(schema, inner, None)
    return schema


def _kind_of(value: object) -> str:
    if isinstance(value, Erased):
        return ERASED
    if isinstance(value, dict) and KEY in value:
        kind = value[KEY]
        return kind if kind in (OPENED, ERASED) else _UNREADABLE
    return _VALUE


def _value_of(opened: Mapping[str, Any]) -> Any:
    return opened[_VALUE]


def _erased(carrier: Mapping[str, Any]) -> Erased:
    return Erased(carrier["subject"])


def _refuse_sealed(_value: object) -> Any:
    raise PydanticCustomError(
        "personal_data_is_sealed", "the personal data is sealed; a store with keys opens it"
    )


def _set_serialization(schema: Any, inner: Any, subject: str | None) -> None:
    schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(
        partial(_serialise, subject), info_arg=True, schema=inner
    )


def _serialise(subject: str | None, value: object, write: Callable[[Any], Any], info: Any) -> Any:
    if isinstance(value, Erased):
        return {KEY: ERASED, "subject": value.subject_id}
    written = write(value)
    return (
        {KEY: UNNAMED, "of": subject, _VALUE: written} if info.context is AS_CARRIERS else written
    )


def _name_subject(node: Any, subject: str) -> None:
    node["metadata"][WRAPPED_BY] = subject
    _set_serialization(node, node["serialization"]["schema"], subject)


def is_personal(schema: Any) -> bool:
    """Tell whether a core schema is that of a ``Personal[T]``."""
    return WRAPPED_BY in schema.get("metadata", ())


def value_schema(schema: Any) -> Any:
    """Return the core schema of the ``T`` in that of a ``Personal[T]``."""
    return schema["choices"][_VALUE]


def _unnamed_nodes(schema: Any) -> Iterator[Any]:
    """Yield the personal schemas that nobody has given a subject, up to the next class."""
    if is_personal(schema):
        if schema["metadata"][WRAPPED_BY] is None:
            yield schema
    elif schema["type"] not in _CLASSES:
        for part in parts_of(schema):
            yield from _unnamed_nodes(part)


def holds_personal(schema: Any) -> bool:
    """Tell whether a type has personal fields, by its core schema."""
    return is_personal(schema) or any(map(holds_personal, parts_of(schema)))
