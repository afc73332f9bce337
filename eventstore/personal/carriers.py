"""The forms that a personal value has in JSON: objects with the key ``$personal``.

- *unnamed*, as pydantic writes it: whose it is, is said by the name of a field;
- *opened*, in memory: the subject's id and the value, in plain text. Upcasters and golden events
  see this form;
- *sealed*, as it is stored: the subject's id and the ciphertext;
- *erased*, what becomes of a sealed one when its subject is forgotten.

Where one stands is told by its JSON path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from pydantic_core import from_json, to_json

from eventstore.comparison import step_to
from eventstore.errors import SerializationError
from eventstore.streams import MAX_ID_LENGTH

#: What every carrier has; its value says which form it is.
KEY: Final = "$personal"
#: What stands in any JSON that holds a carrier, and hardly ever in others.
MARK: Final = f'"{KEY}"'
#: The same, for JSON as bytes.
MARK_BYTES: Final = MARK.encode()

UNNAMED: Final = "unnamed"
OPENED: Final = "opened"
ERASED: Final = "erased"
#: With the version of the format: AES-256-GCM as :mod:`~eventstore.personal.ciphers` uses it.
SEALED: Final = "sealed/1"

_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    UNNAMED: frozenset({KEY, "of", "value"}),
    OPENED: frozenset({KEY, "subject", "value"}),
    SEALED: frozenset({KEY, "subject", "data"}),
    ERASED: frozenset({KEY, "subject"}),
}

Carrier: TypeAlias = dict[str, Any]
#: Returns what is to stand in a carrier's place, from it, its path and the objects around it.
Replacement: TypeAlias = Callable[[Carrier, str, tuple[Carrier, ...]], Any]


def form_of(value: object) -> str | None:
    """Return the form of a carrier, None for any other value."""
    if not isinstance(value, dict) or KEY not in value:
        return None
    form = value[KEY]
    is_known = isinstance(form, str) and _FIELDS.get(form) == value.keys()
    return form if is_known and isinstance(value.get("subject", ""), str) else None


def replaced(value: Any, replacement: Replacement, path: str = "$") -> Any:
    """Return a JSON value with each object that has the key of carriers replaced.

    What a carrier holds is not looked into.
    """
    return _replaced(value, replacement, path, ())


def _replaced(value: Any, replacement: Replacement, path: str, around: tuple[Carrier, ...]) -> Any:
    if isinstance(value, dict):
        if KEY in value:
            return replacement(value, path, around)
        inner = (*around, value)
        return {
            key: _replaced(each, replacement, path + step_to(key, within=value), inner)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [
            _replaced(each, replacement, f"{path}[{place}]", around)
            for place, each in enumerate(value)
        ]
    return value


def subjects_in(encoded: str | bytes, form: str) -> set[str]:
    """Return the subjects of all carriers of a form in some JSON."""
    subjects: set[str] = set()

    def note(carrier: Carrier, _path: str, _around: tuple[Carrier, ...]) -> Carrier:
        if form_of(carrier) == form:
            subjects.add(carrier["subject"])
        return carrier

    replaced(from_json(encoded), note)
    return subjects


def name_subjects(event_type: str, encoded: bytes) -> bytes:
    """Return JSON whose *unnamed* carriers are *opened*: each has its subject's id.

    Raises SerializationError if the field that should tell it doesn't, and for an object of the
    payload's own that looks like a carrier.
    """

    def name(carrier: Carrier, path: str, around: tuple[Carrier, ...]) -> Carrier:
        match form_of(carrier):
            case "unnamed":
                subject = _subject(event_type, carrier["of"], path, around)
                return {KEY: OPENED, "subject": subject, "value": carrier["value"]}
            case "erased":
                return carrier
        raise SerializationError(event_type, path, f"has the key {KEY!r}, which is the store's own")

    return to_json(replaced(from_json(encoded), name))


def _subject(event_type: str, field: str, path: str, around: tuple[Carrier, ...]) -> str:
    """Return the value of the nearest field of that name, looking outwards."""
    subject = next((each[field] for each in reversed(around) if field in each), None)
    if type(subject) is int:
        subject = str(subject)
    if isinstance(subject, str) and 0 < len(subject) <= MAX_ID_LENGTH and "\0" not in subject:
        return subject
    reason = (
        f"is personal data of nobody: the field {field!r} must be a text of 1 to {MAX_ID_LENGTH} "
        "characters, or an int"
    )
    raise SerializationError(event_type, path, reason)


def without_sealed(encoded: bytes) -> bytes:
    """Return JSON with each *sealed* value as if its subject was forgotten."""

    def erase(carrier: Carrier, _path: str, _around: tuple[Carrier, ...]) -> Carrier:
        return erased(carrier["subject"]) if form_of(carrier) == SEALED else carrier

    return to_json(replaced(from_json(encoded), erase))


def erased(subject: str) -> Carrier:
    """Return the carrier of a value that is no more."""
    return {KEY: ERASED, "subject": subject}
