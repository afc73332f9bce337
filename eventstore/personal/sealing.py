"""Sealing what is to be stored, and opening what was read, with the keys of its subjects.

The ciphertext is bound to where it stands: what kind of row it is in, the type of the event or
aggregate, its JSON path and its subject. Put elsewhere, it can't be opened.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from pydantic_core import from_json, to_json

from eventstore.errors import SerializationError, SubjectErased
from eventstore.payloads import canonical_json
from eventstore.personal.carriers import KEY, OPENED, SEALED, erased, form_of, replaced
from eventstore.personal.ciphers import UnopenableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventstore.personal.carriers import Carrier
    from eventstore.personal.ciphers import DataKey

#: Subjects that are known, and their keys; None for those that are forgotten.
DataKeys: TypeAlias = "Mapping[str, DataKey | None]"


class Place(NamedTuple):
    """What some JSON belongs to."""

    kind: Literal["event", "snapshot"]
    type: str  #: the event type under which it is stored, or the type of the aggregate

    def context(self, path: str, subject: str) -> bytes:
        """Return what a value is bound to."""
        return to_json([SEALED, *self, path, subject])


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """The keys for one page or one append."""

    keys: DataKeys

    def seal(self, place: Place, encoded: bytes) -> bytes:
        """Return JSON whose *opened* carriers are *sealed*.

        Raises :class:`~eventstore.SubjectErased` if an event names a subject that is forgotten. In
        a snapshot its values are *erased*: the state is that of before, and is to be kept.
        """

        def seal(carrier: Carrier, path: str, _around: tuple[Carrier, ...]) -> Carrier:
            if form_of(carrier) != OPENED:
                return carrier
            subject = carrier["subject"]
            key = self.keys[subject]
            if key is None:
                if place.kind == "snapshot":
                    return erased(subject)
                raise SubjectErased(subject)
            value = canonical_json(to_json(carrier["value"])).encode()
            data = b64encode(key.seal(value, place.context(path, subject))).decode()
            return {KEY: SEALED, "subject": subject, "data": data}

        return to_json(replaced(from_json(encoded), seal))

    def open(self, place: Place, encoded: str | bytes) -> bytes:
        """Return JSON whose *sealed* carriers are *opened*, or *erased*.

        Raises SerializationError for one whose key is not known here, or doesn't fit.
        """

        def open_(carrier: Carrier, path: str, _around: tuple[Carrier, ...]) -> Carrier:
            if form_of(carrier) != SEALED:
                return carrier
            subject = carrier["subject"]
            if subject not in self.keys:
                raise SerializationError(place.type, path, _KEYLESS)
            key = self.keys[subject]
            if key is None:
                return erased(subject)
            try:
                value = key.open(
                    b64decode(carrier["data"], validate=True), place.context(path, subject)
                )
            except (UnopenableError, ValueError, TypeError):
                raise SerializationError(place.type, path, _CHANGED) from None
            return {KEY: OPENED, "subject": subject, "value": from_json(value)}

        return to_json(replaced(from_json(encoded), open_))


_KEYLESS: Final = (
    "is sealed by a key that this store doesn't have; keys live in the table subject_keys, and "
    "don't travel with an export"
)
_CHANGED: Final = "can't be opened: it was sealed elsewhere, or was changed"


def refuse_opened(aggregate_type: str, encoded: bytes) -> None:
    """Raise SerializationError if a snapshot holds personal data, which nobody here can seal."""

    def refuse(carrier: Carrier, path: str, _around: tuple[Carrier, ...]) -> Carrier:
        if form_of(carrier) == OPENED:
            raise SerializationError(aggregate_type, path, _UNSEALABLE)
        return carrier

    replaced(from_json(encoded), refuse)


_UNSEALABLE: Final = (
    "is personal data, and this store has no keys to seal it; give it a registry, and the registry "
    "keys: use_keys()"
)
