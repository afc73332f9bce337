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

import json
import math
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from eventstore.comparison import first_difference, leaves_of
from eventstore.errors import SerializationError
from eventstore.events import EventMetadata
from eventstore.exactness import equals_by_fields, holds_sets, inexact_part, may_write_nan
from eventstore.personal.carriers import name_subjects
from eventstore.personal.checks import personal_problem
from eventstore.personal.fields import AS_CARRIERS, holds_personal
from eventstore.set_order import in_one_order

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What stands in the JSON of metadata that names a schema version, and hardly ever in others.
SCHEMA_VERSION_MARK: Final = '"schema_version"'
#: Where the metadata of a stored event keeps its tags. So whatever copies rows, copies tags.
TAGS_KEY: Final = "$tags"
#: What stands in the JSON of such metadata, and hardly ever in others.
TAGS_MARK: Final = f'"{TAGS_KEY}"'

_MAX_PATH_LENGTH: Final = 200
_ENCODING_ERRORS: Final = (PydanticSerializationError, ValueError, RecursionError)


class PayloadType:
    """One Python type, as pydantic reads and writes it in JSON."""

    def __init__(self, python_type: Any, *, verify: bool = True) -> None:
        """Take any type that :class:`pydantic.TypeAdapter` takes; TypeError for another.

        ``verify=False`` leaves out the reading back: payloads are then stored unproved.
        """
        try:
            self.adapter: TypeAdapter[Any] = TypeAdapter(python_type)
        except PydanticUserError as error:
            raise TypeError(
                f"pydantic can't write {python_type!r} as JSON: {error.code}"
            ) from error
        self._python_type = python_type
        self._verify = verify

    def check(self) -> None:
        """Raise TypeError if not every value of the type comes back from JSON as it was.

        Raises pydantic's own error for a class that refers to one that is not defined yet.
        """
        inexact = inexact_part(self.adapter.core_schema)
        if inexact is not None:
            raise TypeError(f"{self._python_type!r} can't be stored exactly: {inexact}")
        self.check_personal()

    def check_personal(self) -> None:
        """Raise TypeError if a personal field is nobody's, or would be shown in logs."""
        problem = personal_problem(self.adapter.core_schema) if self.is_personal else None
        if problem is not None:
            raise TypeError(f"{self._python_type!r} can't be stored: {problem}")

    @cached_property
    def is_personal(self) -> bool:
        """Tell whether some part of the type is a ``Personal[...]``."""
        return holds_personal(self.adapter.core_schema)

    @cached_property
    def _equals_by_fields(self) -> bool:
        return equals_by_fields(self.adapter.core_schema)

    @cached_property
    def _holds_sets(self) -> bool:
        return holds_sets(self.adapter.core_schema)

    @cached_property
    def _may_write_nan(self) -> bool:
        return may_write_nan(self.adapter.core_schema)

    def encode(self, event_type: str, payload: object) -> bytes:
        """Return ``payload`` as JSON that reads back equal, or raise SerializationError.

        What is personal in it stands in carriers, and is still to be sealed.
        """
        encoded = self._written(event_type, payload)
        if self._verify:
            self._refuse_loss(event_type, payload, encoded)
        if _may_hold_nul(encoded) or self._may_write_nan:
            refuse_unstorable(event_type, encoded, "$")
        if self.is_personal:
            return name_subjects(event_type, self._written(event_type, payload, AS_CARRIERS))
        return encoded

    def _written(self, event_type: str, payload: object, context: object = None) -> bytes:
        try:
            # Not dump_json, which passes on fifteen more arguments.
            written = self.adapter.serializer.to_json(
                payload, by_alias=True, warnings=False, context=context
            )
            if self._holds_sets:
                return to_json(in_one_order(payload, from_json(written)))
        except Exception:  # noqa: BLE001 - whatever a serialiser of the user's raises
            path = _path_of_unstorable(payload)
            raise SerializationError(event_type, path, "is not serialisable as JSON") from None
        return written

    def _refuse_loss(self, event_type: str, payload: object, encoded: bytes) -> None:
        try:
            copy = self.adapter.validator.validate_json(encoded)
            if self._equals_by_fields and copy == payload:
                return
            difference = first_difference(payload, copy)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                path = _path_of_unstorable(payload)
                reason = "is too long or too deep to be read back"
                raise SerializationError(event_type, path, reason) from None
            raise _unreadable(event_type, "$", error) from None
        except Exception as error:  # noqa: BLE001 - whatever a validator of the user's raises
            raise _failed(event_type, error) from None
        if difference is not None:
            raise SerializationError(event_type, difference, "is read back as another value")

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the payload that ``encoded`` says, or raise SerializationError with the path."""
        try:
            return self.adapter.validator.validate_json(encoded)
        except ValidationError as error:
            raise _unreadable(event_type, "$", error) from None
        except Exception as error:  # noqa: BLE001 - whatever a validator of the user's raises
            raise _failed(event_type, error) from None

    def decode_value(self, event_type: str, value: object) -> Any:
        """Return the payload that the JSON ``value``, already opened, says; else as :meth:`decode`.

        It goes by way of text, since only in JSON a strict model takes a date that is a text.
        """
        try:
            encoded = to_json(value)
        except _ENCODING_ERRORS:
            path = _path_of_unstorable(value)
            raise SerializationError(event_type, path, "is not serialisable as JSON") from None
        return self.decode(event_type, encoded)


@lru_cache(maxsize=512)
def payload_type(python_type: Any) -> PayloadType:
    """Return the one :class:`PayloadType` of ``python_type``: building an adapter is slow."""
    return PayloadType(python_type)


#: What a store without a registry takes and gives: an object of JSON-compatible values.
JSON_OBJECT: Final = PayloadType(dict[str, Any])
#: Any JSON value, as it is stored.
JSON_VALUE: Final = PayloadType(Any)


def encode_metadata(
    event_type: str, metadata: EventMetadata, schema_version: int | None = None
) -> bytes:
    """Return ``metadata`` as a JSON object: the known keys that are set, and all further ones.

    ``schema_version`` is that of the payload, and is written where it is above 1; None if only
    the metadata itself may know it. Raises SerializationError for a value that can't be stored,
    and for metadata that names another version.
    """
    extra = metadata.__pydantic_extra__
    if not extra:
        encoded = metadata.__pydantic_serializer__.to_json(metadata, exclude_none=True)
    else:
        if TAGS_KEY in extra:
            reason = "is a reserved key; an event's tags are a field of its envelope"
            raise SerializationError(event_type, f"metadata.{TAGS_KEY}", reason)
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
    if _may_hold_nul(encoded) or extra:
        refuse_unstorable(event_type, encoded, "metadata")
    if schema_version is None:
        return encoded
    if metadata.schema_version not in {None, schema_version}:
        reason = f"is not {schema_version}, the registered version; leave it out when appending"
        raise SerializationError(event_type, "metadata.schema_version", reason)
    if schema_version == 1 or metadata.schema_version is not None:
        return encoded
    return with_schema_version(encoded.decode(), schema_version).encode()


def decode_metadata(event_type: str, encoded: str | bytes) -> EventMetadata:
    """Return the metadata that ``encoded`` says, or raise SerializationError with the path."""
    try:
        metadata = EventMetadata.model_validate_json(encoded)
    except ValidationError as error:
        raise _unreadable(event_type, "metadata", error) from None
    if metadata.__pydantic_extra__:
        metadata.__pydantic_extra__.pop(TAGS_KEY, None)
    return metadata


def with_tags(metadata: bytes, tags: Sequence[str]) -> bytes:
    """Return the JSON ``metadata`` of an event that has these tags, as it is stored."""
    encoded = b'{"%b":%b' % (TAGS_KEY.encode(), to_json(tags))
    return encoded + (b"}" if metadata == b"{}" else b"," + metadata[1:])


def tags_of(metadata: str) -> tuple[str, ...]:
    """Return the tags of the event that is stored with the JSON ``metadata``."""
    return tuple(json.loads(metadata).get(TAGS_KEY, ())) if TAGS_MARK in metadata else ()


def schema_version_of(event_type: str, metadata: str) -> int:
    """Return the version of the payload beside the JSON ``metadata``: 1 if it names none."""
    if SCHEMA_VERSION_MARK not in metadata:
        return 1
    return decode_metadata(event_type, metadata).schema_version or 1


def with_schema_version(metadata: str, version: int) -> str:
    """Return the JSON ``metadata`` with this version of the payload beside it."""
    if SCHEMA_VERSION_MARK in metadata:
        values: dict[str, Any] = json.loads(metadata)
        values.pop("schema_version", None)
        metadata = json.dumps(values)
    if version == 1:
        return metadata
    return f'{{"schema_version":{version}' + ("}" if metadata == "{}" else f",{metadata[1:]}")


def refuse_unstorable(event_type: str, encoded: bytes, root: str) -> None:
    """Raise SerializationError if ``encoded`` holds a NUL character, a NaN or an infinity.

    The six characters ``backslash u 0 0 0 0`` in a text are no NUL, and are kept.
    """
    if not (_may_hold_nul(encoded) or b"NaN" in encoded or b"Infinity" in encoded):
        return
    for path, leaf in leaves_of(json.loads(encoded), root):
        if isinstance(leaf, str) and "\0" in leaf:
            reason = "holds a NUL character, which PostgreSQL can't store"
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            reason = "is not a finite number, which JSON can't say"
        else:
            continue
        raise SerializationError(event_type, path, reason)


def _may_hold_nul(encoded: bytes) -> bool:
    """Tell whether the JSON ``encoded`` may hold a NUL character."""
    # One byte is found in a fraction of the time that six take, and hardly ever is.
    return b"\\" in encoded and b"\\u0000" in encoded


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


def _path_of_unstorable(value: object, root: str = "$") -> str:
    """Return the path of the first value that can't be written as JSON or not be read from it."""
    for path, leaf in leaves_of(value, root):
        try:
            from_json(to_json(leaf))
        except _ENCODING_ERRORS:
            return path if len(path) <= _MAX_PATH_LENGTH else path[:_MAX_PATH_LENGTH] + "..."
    return root


def _failed(event_type: str, error: Exception) -> SerializationError:
    """Return our error for one that is none of validation: a mistake in a validator."""
    return SerializationError(
        event_type, "$", f"can't be read back: its validation failed with {type(error).__name__}"
    )


def _unreadable(event_type: str, root: str, error: ValidationError) -> SerializationError:
    """Return our error for pydantic's, whose message may show the input."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = root + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
    )
    return SerializationError(
        event_type, path, f"does not validate as {error.title}: {first['type']}"
    )
