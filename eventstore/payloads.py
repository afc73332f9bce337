"""Payloads and metadata to JSON and back, and the proof that nothing is lost between.

A payload is encoded once, by pydantic-core, and then read back before it is stored: what does not
come back equal is refused with the JSON path of the first difference. That covers by one rule what
JSON encoders lose without a word: NaN that became ``null``, a tuple that became a list, a subclass
whose own fields were left out, an alias that the model can't read, a key that was a number.

What ``jsonb`` itself changes is not an error: it sorts the keys of an object, and keeps a number by
its decimal value (``2.5e16`` comes back as ``25000000000000000``; a ``float`` field makes it a
float again, an untyped dict gets the int).
"""

from __future__ import annotations

import dataclasses
import json
import math
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from eventstore.errors import SerializationError
from eventstore.events import EventMetadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What pydantic may write and PostgreSQL's jsonb refuses: a NUL character, and what is no number.
_SUSPICIOUS: Final = (b"\\u0000", b"NaN", b"Infinity")
# Deeper than any JSON that pydantic-core reads (200), so that a walk over a cycle ends.
_MAX_DEPTH: Final = 300
_MAX_PATH_LENGTH: Final = 200
_ENCODING_ERRORS: Final = (PydanticSerializationError, ValueError, RecursionError)


class PayloadType:
    """One Python type, as pydantic reads and writes it in JSON."""

    def __init__(self, python_type: Any, *, verify: bool = True) -> None:
        """Take any type that :class:`pydantic.TypeAdapter` takes; TypeError for another.

        ``verify=False`` leaves out the reading back: payloads are then stored unproved.
        """
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(python_type)
        except PydanticUserError as error:
            raise TypeError(
                f"pydantic can't write {python_type!r} as JSON: {error.code}"
            ) from error
        self._verify = verify

    def encode(self, event_type: str, payload: object) -> bytes:
        """Return ``payload`` as JSON that reads back equal, or raise SerializationError."""
        try:
            encoded = self._adapter.dump_json(payload, by_alias=True, warnings="none")
        except _ENCODING_ERRORS:
            path = _path_of_unstorable(payload)
            raise SerializationError(event_type, path, "is not serialisable as JSON") from None
        if self._verify:
            self._refuse_loss(event_type, payload, encoded)
        refuse_unstorable(event_type, encoded, "$")
        return encoded

    def _refuse_loss(self, event_type: str, payload: object, encoded: bytes) -> None:
        try:
            copy = self._adapter.validate_json(encoded)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                path = _path_of_unstorable(payload)
                reason = "is too long or too deep to be read back"
                raise SerializationError(event_type, path, reason) from None
            raise _unreadable(event_type, "$", error) from None
        if copy != payload:
            difference = first_difference(payload, copy)
            if difference is not None:
                raise SerializationError(event_type, difference, "is read back as another value")

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the payload that ``encoded`` says, or raise SerializationError with the path."""
        try:
            return self._adapter.validate_json(encoded)
        except ValidationError as error:
            raise _unreadable(event_type, "$", error) from None


@lru_cache(maxsize=512)
def payload_type(python_type: Any) -> PayloadType:
    """Return the one :class:`PayloadType` of ``python_type``: building an adapter is slow."""
    return PayloadType(python_type)


#: What a store without a registry takes and gives: an object of JSON-compatible values.
JSON_OBJECT: Final = PayloadType(dict[str, Any])


def encode_metadata(event_type: str, metadata: EventMetadata) -> bytes:
    """Return ``metadata`` as a JSON object: the known keys that are set, and all further ones."""
    extra = metadata.__pydantic_extra__
    if not extra:
        encoded = metadata.__pydantic_serializer__.to_json(metadata, exclude_none=True)
    else:
        known = {key: value for key, value in metadata.__dict__.items() if value is not None}
        try:
            encoded = to_json(known | extra)
            copy = from_json(encoded)
        except _ENCODING_ERRORS:
            path = _path_of_unstorable(extra, "metadata")
            raise SerializationError(event_type, path, "is not serialisable as JSON") from None
        difference = first_difference(known | extra, copy, "metadata")
        if difference is not None:
            raise SerializationError(event_type, difference, "is read back as another value")
    refuse_unstorable(event_type, encoded, "metadata")
    return encoded


def decode_metadata(event_type: str, encoded: str | bytes) -> EventMetadata:
    """Return the metadata that ``encoded`` says, or raise SerializationError with the path."""
    try:
        return EventMetadata.model_validate_json(encoded)
    except ValidationError as error:
        raise _unreadable(event_type, "metadata", error) from None


def refuse_unstorable(event_type: str, encoded: bytes, root: str) -> None:
    """Raise SerializationError if ``encoded`` holds a NUL character, a NaN or an infinity.

    The six characters ``backslash u 0 0 0 0`` in a text are no NUL, and are kept.
    """
    if not any(token in encoded for token in _SUSPICIOUS):
        return
    for path, leaf in _leaves(json.loads(encoded), root):
        if isinstance(leaf, str) and "\0" in leaf:
            reason = "holds a NUL character, which PostgreSQL can't store"
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            reason = "is not a finite number, which JSON can't say"
        else:
            continue
        raise SerializationError(event_type, path, reason)


def canonical_json(encoded: str | bytes) -> str:
    """Return the one text for all JSON that ``jsonb`` holds equal.

    The order of keys means nothing, and a number is its value: ``1``, ``1.0`` and ``1e0`` are one;
    ``true`` is another.
    """
    return json.dumps(json.loads(encoded, parse_float=_by_value), sort_keys=True)


def _by_value(literal: str) -> int | float:
    exact = Decimal(literal)
    return int(exact) if exact == exact.to_integral_value() else float(literal)


def as_jsonb(encoded: bytes) -> bytes:
    """Return ``encoded`` as PostgreSQL gives it back: short keys first, ``2.5e16`` written out."""
    return json.dumps(
        json.loads(encoded, parse_float=_written_out, object_pairs_hook=_short_keys_first)
    ).encode()


def _written_out(literal: str) -> int | float:
    without_exponent = format(Decimal(literal), "f")
    return float(literal) if "." in without_exponent else int(without_exponent)


def _short_keys_first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(sorted(pairs, key=lambda pair: (len(pair[0].encode()), pair[0].encode())))


def first_difference(left: object, right: object, path: str = "$") -> str | None:
    """Return the JSON path of the first value in which the two differ, None if there is none.

    Two NaN are the same here, and objects are compared by their fields even where their class
    has no ``__eq__``.
    """
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return None if math.isnan(right) else path
    children, others = _children(left), _children(right)
    if children is None or others is None:
        return None if left == right else path
    if type(left) is not type(right):
        return path
    for key in [*children, *(other for other in others if other not in children)]:
        step = path + _step(key, within=left)
        if key not in children or key not in others:
            return step
        if (found := first_difference(children[key], others[key], step)) is not None:
            return found
    return None


def _children(value: object) -> Mapping[Any, Any] | None:
    """Return what a container holds by key, None for a value that holds nothing."""
    if isinstance(value, BaseModel):
        return value.__dict__ | (value.__pydantic_extra__ or {})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return None


def _leaves(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield every key of an object and every value that holds nothing, with its path."""
    children = _children(value)
    if children is None or depth == _MAX_DEPTH:
        yield path, value
        return
    for key, child in children.items():
        step = path + _step(key, within=value)
        if isinstance(value, dict):
            yield step, key
        yield from _leaves(child, step, depth + 1)


def _path_of_unstorable(value: object, root: str = "$") -> str:
    """Return the path of the first value that can't be written as JSON or not be read from it."""
    for path, leaf in _leaves(value, root):
        try:
            from_json(to_json(leaf))
        except _ENCODING_ERRORS:
            return path if len(path) <= _MAX_PATH_LENGTH else path[:_MAX_PATH_LENGTH] + "..."
    return root


def _step(key: object, *, within: object) -> str:
    if isinstance(key, int) and isinstance(within, list | tuple):
        return f"[{key}]"
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    return f"[{key!r}]"


def _unreadable(event_type: str, root: str, error: ValidationError) -> SerializationError:
    """Return our error for pydantic's, whose message may show the input."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = root + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
    )
    return SerializationError(
        event_type, path, f"does not validate as {error.title}: {first['type']}"
    )
