"""Which Python type an event type's payload has: the stable name and the class, kept apart.

The name is stored, the class never is, so that classes may be renamed and moved. A registry takes
pydantic models, dataclasses, TypedDicts and plain dicts::

    registry = EventRegistry()

    @registry.register("order-placed")
    class OrderPlaced(BaseModel):
        order_id: str

    registry.register("order-noted", dict)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from typing_extensions import is_typeddict

from eventstore.errors import SerializationError, UnknownEventType
from eventstore.payloads import JSON_OBJECT, PayloadType
from eventstore.streams import MAX_TYPE_LENGTH, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventstore.events import AnyEnvelope

T = TypeVar("T")


class PayloadCodec(Protocol):
    """How a store writes and reads payloads: an :class:`EventRegistry`, or plain JSON objects."""

    def encode(self, event: AnyEnvelope) -> tuple[str, bytes]:
        """Return the event's type and its payload as JSON."""

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the payload of an event of this type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Registered:
    python_type: Any
    instances: type | None  #: the class of the payloads themselves; None where it can't be told
    codec: PayloadType


class EventRegistry:
    """The event types that a deployment writes and reads.

    Whatever can be written through it can be read through it: a payload of a type that is not
    registered, or that does not come back equal from its JSON, is refused when it is appended
    (``verify=False`` leaves out the second check and its cost).
    """

    def __init__(self, *, verify: bool = True) -> None:
        self._verify = verify
        self._types: dict[str, _Registered] = {}
        self._names: dict[Any, str] = {}

    @overload
    def register(self, event_type: str) -> Callable[[type[T]], type[T]]: ...
    @overload
    def register(self, event_type: str, payload_type: type[T]) -> type[T]: ...
    def register(self, event_type: str, payload_type: Any = None) -> Any:
        """Give the payloads of ``event_type`` this type; as a decorator, the decorated class.

        A class has one name, a name one class: ValueError if either is taken. ``dict`` may have
        many names, and its events must name their ``event_type`` themselves; so must those of a
        TypedDict, whose instances are dicts.
        """
        check_text("event_type", event_type, MAX_TYPE_LENGTH)
        if payload_type is None:
            return lambda decorated: self.register(event_type, decorated)
        if event_type in self._types:
            taken = self._types[event_type].python_type
            raise ValueError(f"event type {event_type!r} is registered for {taken!r}")
        if payload_type is not dict and payload_type in self._names:
            raise ValueError(
                f"{payload_type!r} is registered as {self._names[payload_type]!r}; "
                "a class has one event type"
            )
        is_dict = payload_type is dict or is_typeddict(payload_type)
        self._types[event_type] = _Registered(
            python_type=payload_type,
            instances=dict if is_dict else payload_type if isinstance(payload_type, type) else None,
            codec=PayloadType(
                dict[str, Any] if payload_type is dict else payload_type, verify=self._verify
            ),
        )
        if payload_type is not dict:
            self._names[payload_type] = event_type
        return payload_type

    def __contains__(self, event_type: object) -> bool:
        return event_type in self._types

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def event_type_of(self, payload: object) -> str:
        """Return the name under which the class of ``payload`` is registered."""
        name = self._names.get(type(payload))
        if name is None:
            raise UnknownEventType(
                type(payload).__qualname__, "$", "is of a class that is not registered"
            )
        return name

    def encode(self, event: AnyEnvelope) -> tuple[str, bytes]:
        """Return the event's type, from its payload's class if the envelope names none, and JSON.

        Raises :class:`UnknownEventType` for a type or class that is not registered, and
        :class:`SerializationError` for a payload that is not of the type that its name says.
        """
        payload = event.event_data
        event_type = event.event_type or self.event_type_of(payload)
        known = self._types.get(event_type)
        if known is None:
            raise UnknownEventType(event_type)
        if known.instances is not None and type(payload) is not known.instances:
            raise SerializationError(
                event_type,
                "$",
                f"must be a {known.instances.__qualname__}, not a {type(payload).__qualname__}",
            )
        return event_type, known.codec.encode(event_type, payload)

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the typed payload, or raise :class:`UnknownEventType`."""
        known = self._types.get(event_type)
        if known is None:
            raise UnknownEventType(event_type)
        return known.codec.decode(event_type, encoded)


def codec_of(registry: EventRegistry | None) -> PayloadCodec:
    """Return what a store writes and reads payloads with; TypeError for what is no registry."""
    if registry is None:
        return JsonPayloads()
    if not isinstance(registry, EventRegistry):
        raise TypeError(
            f"registry must be an EventRegistry or None, not {type(registry).__name__}; "
            "a schema is given by its name: schema=..."
        )
    return registry


class JsonPayloads:
    """The codec of a store without a registry: JSON objects as dicts, under any event type."""

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

    def decode(self, event_type: str, encoded: str | bytes) -> Any:
        """Return the payload as a dict."""
        return JSON_OBJECT.decode(event_type, encoded)
