"""Which Python type an event type's payload has: the stable name and the class, kept apart.

The name is stored, the class never is, so that classes may be renamed and moved. A registry takes
pydantic models, dataclasses, TypedDicts and plain dicts::

    registry = EventRegistry()

    @registry.register("order-placed", version=2, aliases=("OrderPlaced",))
    class OrderPlaced(BaseModel):
        order_id: str
        currency: str

    @registry.upcaster("order-placed", from_version=1)
    def add_currency(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"currency": "EUR"}

    registry.register("order-noted", dict)
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from pydantic import PydanticUserError
from typing_extensions import is_typeddict

from eventstore.codec import JsonPayloads, PayloadCodec, Recorded, UnknownPayload
from eventstore.errors import SerializationError, UnknownEventType, UpcastingError
from eventstore.payloads import JSON_VALUE, PayloadType, schema_version_of, with_schema_version
from eventstore.personal.erasure import SUBJECT_FORGOTTEN, SubjectForgotten
from eventstore.personal.keys import check_keys
from eventstore.schemas import json_schema_of
from eventstore.streams import MAX_TYPE_LENGTH, check_number, check_text
from eventstore.upcasting import Splitter, Step, Upcaster, Upcasting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from eventstore.events import AnyEnvelope
    from eventstore.personal.keys import (
        AsyncKeyStore,
        AsyncKeyWrapper,
        KeyStore,
        KeyWrapper,
        SubjectKeys,
    )

__all__ = ["EventRegistry", "PayloadCodec", "RegisteredType", "codec_of"]

T = TypeVar("T")
_Upcaster = TypeVar("_Upcaster", bound=Upcaster)
_Splitter = TypeVar("_Splitter", bound=Splitter)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredType:
    """What a registry knows of a type that is written today."""

    event_type: str
    version: int
    aliases: tuple[str, ...]
    python_type: Any
    instances: type | None  #: the class of the payloads themselves; None where it can't be told
    codec: PayloadType


class _Checked(NamedTuple):
    """What is known of a registry that has no problems."""

    upcasting: Upcasting
    evolved: frozenset[str]
    personal: frozenset[str]


class EventRegistry:
    """The event types that a deployment writes and reads.

    Whatever can be written through it can be read through it: a payload of a type that is not
    registered, or that does not come back equal from its JSON, is refused when it is appended
    (``verify=False`` leaves out the second check and its cost).

    ``unknown="raw"`` reads events of types that are not registered as :class:`UnknownPayload`,
    where ``"error"`` raises :class:`UnknownEventType`. Neither appends them.
    """

    def __init__(self, *, verify: bool = True, unknown: Literal["error", "raw"] = "error") -> None:
        if unknown not in {"error", "raw"}:
            raise ValueError(f"unknown must be 'error' or 'raw', not {unknown!r}")
        self._verify = verify
        self._reads_unknown = unknown == "raw"
        self._types: dict[str, RegisteredType] = {}
        self._names: dict[Any, str] = {}
        self._aliases: dict[str, str] = {}  # today's name, by the old one
        self._retired: dict[str, int] = {}
        self._steps: dict[tuple[str, int], Step] = {}
        self._checked: _Checked | None = None
        self.keys: SubjectKeys | None = None

    @overload
    def register(
        self, event_type: str, *, version: int = 1, aliases: Iterable[str] = ()
    ) -> Callable[[type[T]], type[T]]: ...
    @overload
    def register(
        self,
        event_type: str,
        payload_type: type[T],
        *,
        version: int = 1,
        aliases: Iterable[str] = (),
    ) -> type[T]: ...
    def register(
        self,
        event_type: str,
        payload_type: Any = None,
        *,
        version: int = 1,
        aliases: Iterable[str] = (),
    ) -> Any:
        """Give the payloads of ``event_type`` this type; as a decorator, the decorated class.

        ``version`` is that of the type's JSON: raise it by one with each change that the older
        JSON does not fit, and add an :meth:`upcaster`. ``aliases`` are names under which the type
        was stored before; versions count on under a new name.

        A class has one name, a name one class: ValueError if either is taken. ``dict`` may have
        many names, and its events must name their ``event_type`` themselves; so must those of a
        TypedDict, whose instances are dicts. TypeError for a type of which some values could not
        be read back.
        """
        aliases = self._check_names(event_type, version, aliases)
        if payload_type is None:
            return lambda decorated: self.register(
                event_type, decorated, version=version, aliases=aliases
            )
        if payload_type is not dict and payload_type in self._names:
            raise ValueError(
                f"{payload_type!r} is registered as {self._names[payload_type]!r}; "
                "a class has one event type"
            )
        is_dict = payload_type is dict or is_typeddict(payload_type)
        registered = RegisteredType(
            event_type=event_type,
            version=version,
            aliases=aliases,
            python_type=payload_type,
            instances=dict if is_dict else payload_type if isinstance(payload_type, type) else None,
            codec=PayloadType(
                dict[str, Any] if payload_type is dict else payload_type, verify=self._verify
            ),
        )
        with suppress(PydanticUserError):  # it may refer to a class that is defined later
            registered.codec.check()
        self._types[event_type] = registered
        if payload_type is not dict:
            self._names[payload_type] = event_type
        self._take(event_type, aliases)
        return payload_type

    def retire(self, event_type: str, *, version: int = 1, aliases: Iterable[str] = ()) -> None:
        """Keep a type readable that is no longer written; ``version`` is its last one.

        Each of its versions needs an :meth:`upcaster`, the last one with ``into``: the events
        that it has become, or ``into={}`` if its events are dropped.
        """
        aliases = self._check_names(event_type, version, aliases)
        self._retired[event_type] = version
        self._take(event_type, aliases)

    def use_keys(
        self, keys: KeyWrapper | AsyncKeyWrapper, store: KeyStore | AsyncKeyStore | None = None
    ) -> None:
        """Seal and open personal data by ``keys``: the master keys, or what calls a KMS.

        Needed at start-up, before a store is made, if an event type has ``Personal`` fields.
        ``store`` keeps the subjects' keys, by default the table beside the events. The event
        type of :class:`~eventstore.personal.SubjectForgotten` is registered too, if it isn't yet.
        """
        self.keys = check_keys(keys, store)
        if SUBJECT_FORGOTTEN not in self._types:
            self.register(SUBJECT_FORGOTTEN, SubjectForgotten)

    def _check_names(
        self, event_type: str, version: int, aliases: Iterable[str]
    ) -> tuple[str, ...]:
        """Return the aliases; raise TypeError or ValueError for what can't be registered."""
        if isinstance(aliases, str):
            raise TypeError(f"aliases must be a collection of str, not the str {aliases!r}")
        names = event_type, *aliases
        for name in names:
            check_text("event_type", name, MAX_TYPE_LENGTH)
            if name in self._types:
                taken = self._types[name].python_type
                raise ValueError(f"event type {name!r} is registered for {taken!r}")
            if name in self._retired:
                raise ValueError(f"event type {name!r} is retired")
            if name in self._aliases:
                raise ValueError(f"{name!r} is an alias of {self._aliases[name]!r}")
        if len({*names}) < len(names):
            raise ValueError(f"a name stands twice: {', '.join(names)}")
        if check_number("version", version) == 0:
            raise ValueError("version must be at least 1")
        return names[1:]

    def _take(self, event_type: str, aliases: Iterable[str]) -> None:
        self._aliases |= dict.fromkeys(aliases, event_type)
        self._checked = None

    @overload
    def upcaster(
        self, event_type: str, *, from_version: int
    ) -> Callable[[_Upcaster], _Upcaster]: ...
    @overload
    def upcaster(
        self, event_type: str, *, from_version: int, into: Mapping[str, int]
    ) -> Callable[[_Splitter], _Splitter]: ...
    def upcaster(
        self, event_type: str, *, from_version: int, into: Mapping[str, int] | None = None
    ) -> Any:
        """Read payloads of this version through the decorated function, which is returned.

        The function takes the stored JSON, which it may change, and returns that of the next
        version. With ``into`` it returns or yields :class:`~eventstore.Upcast` values instead,
        several, one or none: ``into`` names every type that may come out of it, each with the
        version that the function writes.

        ValueError if that version of the type has an upcaster already.
        """
        check_text("event_type", event_type, MAX_TYPE_LENGTH)
        if check_number("from_version", from_version) == 0:
            raise ValueError("from_version must be at least 1")
        for target, version in ({} if into is None else into).items():
            check_text("a type in into", target, MAX_TYPE_LENGTH)
            check_number("a version in into", version)

        def decorate(function: T) -> T:
            if not callable(function) or iscoroutinefunction(function):
                raise TypeError(
                    f"an upcaster must be a function that isn't async, not {function!r}"
                )
            step = Step(
                event_type=event_type,
                from_version=from_version,
                function=function,
                into=None if into is None else dict(into),
            )
            known = self._steps.setdefault((event_type, from_version), step)
            if known is not step:
                raise ValueError(
                    f"version {from_version} of {event_type!r} has an upcaster, {known.name}()"
                )
            self._checked = None
            return function

        return decorate

    def check(self) -> None:
        """Raise ValueError, naming all that is wrong, unless every event can be brought to today.

        That is: no version without an upcaster, no loop, no upcaster that leads nowhere or is for
        a type that isn't there, and no class that refers to one that isn't defined. A store calls
        it when it is given the registry; call it in a test to know before.
        """
        _ = self._upcasting

    @property
    def _upcasting(self) -> Upcasting:
        return self._check().upcasting

    @property
    def evolved(self) -> frozenset[str]:
        """The stored types of which some events are read otherwise than they are stored."""
        return self._check().evolved

    @property
    def personal(self) -> frozenset[str]:
        """The stored types of which some events hold personal data, opened before they are read."""
        return self._check().personal

    def _check(self) -> _Checked:
        if self._checked is None:
            upcasting = Upcasting(
                steps=dict(self._steps),
                current={name: known.version for name, known in self._types.items()},
                retired=dict(self._retired),
            )
            problems = [*self._problems(), *upcasting.problems()]
            if problems:
                raise ValueError("the event types can't all be read:\n- " + "\n- ".join(problems))
            evolved = {event_type for event_type, _ in self._steps} | self._aliases.keys()
            personal = {name for name, known in self._types.items() if known.codec.is_personal}
            self._checked = _Checked(
                upcasting, frozenset(evolved), self._stored_as(upcasting, frozenset(personal))
            )
        return self._checked

    def _problems(self) -> Iterator[str]:
        for event_type, _ in self._steps:
            if event_type in self._aliases:
                today = self._aliases[event_type]
                yield f"{event_type!r} is an alias; its upcasters belong to {today!r}"
        for event_type, known in self._types.items():
            try:
                known.codec.check()
            except (PydanticUserError, TypeError) as error:
                yield f"{event_type!r}: {error}"

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

    def event_type_for(self, payload_type: type) -> str | None:
        """Return the name under which a class is registered, None if it isn't."""
        return None if payload_type is dict else self._names.get(payload_type)

    def schema_version(self, event_type: str) -> int:
        """Return the version in which the type is written."""
        known = self._types.get(event_type)
        if known is None:
            raise UnknownEventType(event_type)
        return known.version

    def encode(self, event: AnyEnvelope) -> tuple[str, bytes]:
        """Return the event's type, from its payload's class if the envelope names none, and JSON.

        Raises :class:`UnknownEventType` for a type or class that is not registered, and
        :class:`SerializationError` for a payload that is not of the type that its name says.
        """
        payload = event.event_data
        event_type = event.event_type or self.event_type_of(payload)
        known = self._types.get(event_type)
        if known is None:
            if event_type in self._aliases:
                reason = f"is an old name of {self._aliases[event_type]!r}; write that one"
                raise UnknownEventType(event_type, "$", reason)
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
        if known is not None:
            return known.codec.decode(event_type, encoded)
        if not self._reads_unknown:
            raise UnknownEventType(event_type)
        return UnknownPayload(JSON_VALUE.decode(event_type, encoded))

    def decode_recorded(
        self,
        event_type: str,
        encoded: str | bytes,
        metadata: str,
        wanted: frozenset[str] = frozenset(),
    ) -> Sequence[Recorded]:
        """Return what a stored event has become: one event, several, or none.

        Raises :class:`UpcastingError` if an upcaster fails or its result does not fit today's
        type, and if the event was written by code that knows a later version of the type.
        """
        name = self.current_type(event_type)
        version = schema_version_of(event_type, metadata)
        known = self._types.get(name)
        today = self._retired.get(name, version) if known is None else known.version
        if version > today:
            reason = "is that of newer code; deploy it here before it writes events of the type"
            path = "metadata.schema_version"
            raise UpcastingError(name, path, reason, from_version=version, to_version=today)
        if name in self._retired or version < today:
            return list(self._upcast(name, version, encoded, metadata, wanted))
        if wanted and name not in wanted:
            return []
        return [Recorded(name, self.decode(name, encoded), metadata)]

    def _upcast(
        self,
        event_type: str,
        version: int,
        encoded: str | bytes,
        metadata: str,
        wanted: frozenset[str],
    ) -> Iterator[Recorded]:
        stored = JSON_VALUE.decode(event_type, encoded)
        for name, data in self._upcasting.upcast(event_type, version, stored):
            known = self._types[name]
            if wanted and name not in wanted:
                continue
            try:
                payload = known.codec.decode_value(name, data)
            except SerializationError as error:
                raise UpcastingError(
                    event_type,
                    error.path,
                    f"{error.reason}, after upcasting to {name!r}",
                    from_version=version,
                    to_version=known.version,
                ) from None
            yield Recorded(name, payload, with_schema_version(metadata, known.version))

    def stored_types(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return the names under which events of these types may be stored.

        They are the types themselves, those that upcasters turn into them, and the aliases. Raises
        :class:`UnknownEventType` for one that no event is read as here: it would be waited for in
        vain, or be missing in a condition.
        """
        current = self.current_types(event_types)
        if not self._reads_unknown:
            for unknown in sorted(current - self._types.keys() - self._retired.keys()):
                raise UnknownEventType(unknown, "$", "is looked for, but not registered")
        return self._stored_as(self._upcasting, current)

    def _stored_as(self, upcasting: Upcasting, current: frozenset[str]) -> frozenset[str]:
        sources = upcasting.sources(current)
        aliases = (old for old, name in self._aliases.items() if name in sources)
        return sources.union(aliases)

    def current_types(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return today's names of these types."""
        return frozenset(map(self.current_type, event_types))

    def current_type(self, event_type: str) -> str:
        """Return today's name of a type, for an alias and for the name itself."""
        return self._aliases.get(event_type, event_type)

    def last_versions(self) -> dict[str, int]:
        """Return the last version that was written of each type, those that are retired too."""
        versions = {name: known.version for name, known in self._types.items()}
        return versions | self._retired

    def json_schema(self) -> dict[str, Any]:
        """Return one JSON Schema (2020-12) for the events of all types as they are written today.

        An event is an object of ``event_type``, ``schema_version`` and ``event_data``; the
        payloads' classes are in ``$defs``. The same registry gives the same document, whatever
        the order of registration. TypeError for a type that JSON Schema can't describe.
        """
        self.check()
        return json_schema_of(sorted(self._types.values(), key=lambda known: known.event_type))


def codec_of(registry: EventRegistry | None, *, needs_keys: bool = True) -> PayloadCodec:
    """Return what a store writes and reads payloads with, checked.

    ``needs_keys`` says that it will seal or open personal data, if there is any. TypeError for what
    is no registry; ValueError for one that can't read all that it may meet.
    """
    if registry is None:
        return JsonPayloads()
    if not isinstance(registry, EventRegistry):
        raise TypeError(
            f"registry must be an EventRegistry or None, not {type(registry).__name__}; "
            "a schema is given by its name: schema=..."
        )
    registry.check()
    if needs_keys and registry.personal and registry.keys is None:
        raise ValueError(
            f"event types with personal data need keys: {', '.join(sorted(registry.personal))}; "
            "call registry.use_keys(MasterKeys.from_environment()) at start-up"
        )
    return registry
