"""How a store writes and reads payloads: what it asks of its registry, and does without one.

Most events are read as they are stored, by one call of ``decode``. Only those that may say
something else today, by their type or by their metadata, take the longer way of
``decode_recorded``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from eventstore.errors import SerializationError
from eventstore.payloads import JSON_OBJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventstore.events import AnyEnvelope
    from eventstore.personal.keys import SubjectKeys


class Recorded(NamedTuple):
    """What a stored event says today."""

    event_type: str  #: today's name
    payload: Any
    metadata: str  #: JSON, with the version of ``payload``


class PayloadCodec(Protocol):
    """How a store writes and reads payloads: an :class:`EventRegistry`, or plain JSON objects.

    :meth:`decode` is enough for an event whose type is not among :attr:`evolved` and whose
    metadata holds no ``SCHEMA_VERSION_MARK``; :meth:`decode_recorded` is right for every event.
    """

    @property
    def evolved(self) -> frozenset[str]:
        """The stored types of which some events are read otherwise than they are stored."""

    @property
    def personal(self) -> frozenset[str]:
        """The stored types of which some events hold personal data, opened before they are read."""

    @property
    def keys(self) -> SubjectKeys | None:
        """What seals and opens personal data; there if :attr:`personal` is not empty."""

    def encode(self, event: AnyEnvelope) -> tuple[str, bytes]:
        """Return the event's type and its payload as JSON.

        That of a type among :attr:`personal` is still to be sealed, and must not be stored so.
        """

    def schema_version(self, event_type: str) -> int | None:
        """Return the version in which the type is written; None if nobody knows."""

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the payload of an event of this type."""

    def decode_recorded(
        self,
        event_type: str,
        encoded: str | bytes,
        metadata: str,
        wanted: frozenset[str] = frozenset(),
    ) -> Sequence[Recorded]:
        """Return what a stored event has become: one event, several, or none.

        ``wanted`` leaves out those of other types; empty means all.
        """

    def stored_types(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return the names under which events of these types may be stored."""

    def current_types(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return today's names of these types."""


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """The payload of an event whose type the registry doesn't know: its JSON, as it is stored."""

    data: Any


class JsonPayloads:
    """The codec of a store without a registry: JSON objects as dicts, under any event type."""

    evolved: frozenset[str] = frozenset()
    personal: frozenset[str] = frozenset()
    keys: None = None

    def encode(self, event: AnyEnvelope) -> tuple[str, bytes]:
        """Return the event's type, which the envelope must name, and its dict as JSON."""
        event_type, payload = event.event_type, event.event_data
        if not event_type:
            raise ValueError("event_type is empty; name it, or give the store a registry")
        if type(payload) is not dict:
            raise SerializationError(
                event_type,
                "$",
                f"is a {type(payload).__qualname__}; a store without a registry takes dicts",
            )
        return event_type, JSON_OBJECT.encode(event_type, payload)

    def schema_version(self, event_type: str) -> None:
        """Return None: a version is what the metadata says it is."""

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the payload as a dict."""
        return JSON_OBJECT.decode(event_type, encoded)

    def decode_recorded(
        self,
        event_type: str,
        encoded: str | bytes,
        metadata: str,
        wanted: frozenset[str] = frozenset(),
    ) -> Sequence[Recorded]:
        """Return the event as it is stored."""
        if wanted and event_type not in wanted:
            return []
        return [Recorded(event_type, self.decode(event_type, encoded), metadata)]

    def stored_types(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return the types as they are."""
        return event_types

    def current_types(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return the types as they are."""
        return event_types
