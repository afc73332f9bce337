"""Projections as classes: a method for each kind of event, and the models whose tables they fill.

::

    class Balances(Projection):
        name = "balances"
        models = (Balance,)

        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            balance = session.get(Balance, event.stream_id)
            ...

The same methods serve a projection that is kept by a subscription, one that is kept by each append
in its own transaction, and one that is folded when it is read. A method may be a coroutine
function; then it gets an ``AsyncSession``, and the projection is for asyncio alone.
"""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar, overload

from eventstore.personal.erasure import SUBJECT_FORGOTTEN
from eventstore.reading import EventFilter
from eventstore.registry import EventRegistry
from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH, check_number, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope, EventEnvelope

P = TypeVar("P", bound="Projection")
E = TypeVar("E")
S = TypeVar("S")
R = TypeVar("R")
_Method = TypeVar("_Method", bound="Callable[..., Any]")

_MARK: Final = "_eventstore_handles"
#: A subscription's name is made of the projection's, and its version.
_MAX_NAME_LENGTH: Final = MAX_ID_LENGTH - 20


class _Mark(NamedTuple):
    events: tuple[type | str, ...]
    replay: bool


@overload
def handles(
    event: type[E], /, *, replay: bool = True
) -> Callable[[Callable[[P, EventEnvelope[E], S], R]], Callable[[P, EventEnvelope[E], S], R]]: ...
@overload
def handles(
    event: str, /, *events: type | str, replay: bool = True
) -> Callable[[_Method], _Method]: ...
@overload
def handles(
    event: type, other: type | str, /, *events: type | str, replay: bool = True
) -> Callable[[_Method], _Method]: ...
def handles(*events: type | str, replay: bool = True) -> Any:
    """Mark the method of a :class:`Projection` that handles these events.

    Events are named by the class of their payload or, where payloads are dicts, by their type's
    name. The method is called with the event, in its envelope, and the session to write by.

    ``replay=False`` is for side effects: such a method is called, behind the other one, only for
    events that are recorded while this version of the projection is the live one; never while it
    is built or rebuilt, nor when it is folded.
    """
    if not events:
        raise TypeError("handles() takes at least one class of events")
    for event in events:
        if isinstance(event, str):
            check_text("event type", event, MAX_TYPE_LENGTH)
        elif not isinstance(event, type):
            raise TypeError(f"handles() takes classes or names of events, not {event!r}")
    if not isinstance(replay, bool):
        raise TypeError(f"replay must be a bool, not {replay!r}")

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, _Mark(events, replay))
        return method

    return mark


class Projection:
    """Base of projections: tables that are a function of the events, and nothing else.

    A projection's methods read and write the tables of its ``models``, and no others: only so can
    it be rebuilt. They must neither commit nor roll back. An event that no method is for is passed
    over.

    Raise ``version`` with each change after which the same events would give other rows, then
    :func:`~eventstore.projections.rebuild` it.
    """

    #: For good: it names the checkpoint, and the row that says which version is live.
    name: ClassVar[str]
    version: ClassVar[int] = 1
    #: The mapped classes, or tables, that it fills.
    models: ClassVar[Sequence[Any]] = ()
    #: Into how many parts, by streams, the work is shared out. More than one only if each row
    #: comes of the events of one stream, or is changed by SQL that adds to what is there.
    partitions: ClassVar[int] = 1
    #: Narrows the events down further, by aggregate types or streams.
    filters: ClassVar[EventFilter] = EventFilter()
    #: Whether its tables may hold what is personal in the events that it handles. If they do, it
    #: must also handle ``SubjectForgotten``, and remove that of the subject then.
    keeps_personal_data: ClassVar[bool] = True

    #: The name of the method for each class or type of events.
    _handlers: ClassVar[dict[type | str, str]] = {}
    _effects: ClassVar[dict[type | str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        marked = [
            (name, member, mark)
            for name, member in vars(cls).items()
            if isinstance(mark := getattr(member, _MARK, None), _Mark)
        ]
        for attribute, replay in (("_handlers", True), ("_effects", False)):
            own: dict[type | str, str] = {}
            for name, _, mark in marked:
                for event in mark.events if mark.replay is replay else ():
                    if event in own:
                        raise TypeError(
                            f"{cls.__name__} handles {_name_of(event)} twice: {own[event]}() and "
                            f"{name}()"
                        )
                    own[event] = name
            setattr(cls, attribute, getattr(cls, attribute) | own)
        _check(cls)

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Refuse a class that is not complete."""
        if not hasattr(cls, "name"):
            raise TypeError(f"{cls.__name__} has no name; give it one, for good")
        if not cls._handlers and not cls._effects:
            raise TypeError(f"{cls.__name__} handles nothing; mark a method with @handles(...)")
        return super().__new__(cls)

    def methods_for(self, event: AnyEnvelope, *, effects: bool) -> Iterator[Callable[..., Any]]:
        """Return the methods that an event is handed to, those for side effects if wanted."""
        for handlers in (self._handlers, self._effects) if effects else (self._handlers,):
            name = handlers.get(type(event.event_data)) or handlers.get(event.event_type)
            if name is not None:
                yield getattr(self, name)

    @property
    def method_names(self) -> set[str]:
        """The names of its methods, those for side effects included."""
        return {*self._handlers.values(), *self._effects.values()}

    def filter_for(self, codec: PayloadCodec) -> EventFilter:
        """Return which events it wants; ``codec`` knows the names of their classes.

        :raises ValueError: it handles a class that the store's registry doesn't have, or keeps
            personal data and isn't told, or too late, when that is erased.
        """
        wanted = EventFilter(
            event_types=[
                event if isinstance(event, str) else self._type_of(event, codec)
                for event in self._handlers | self._effects
            ],
            aggregate_types=self.filters.aggregate_types,
            stream_prefix=self.filters.stream_prefix,
            correlation_id=self.filters.correlation_id,
        )
        self._check_erasure(wanted, codec)
        return wanted

    def _check_erasure(self, wanted: EventFilter, codec: PayloadCodec) -> None:
        personal = sorted(codec.personal & wanted.event_types)
        if personal and self.keeps_personal_data and SUBJECT_FORGOTTEN not in wanted.event_types:
            raise ValueError(
                f"projection {self.name!r} handles personal data ({', '.join(personal)}): let it "
                "handle SubjectForgotten too, and remove what it keeps of that subject; or set "
                "keeps_personal_data = False, if it keeps none"
            )
        if SUBJECT_FORGOTTEN not in wanted.event_types:
            return
        if self.filters != EventFilter():
            raise ValueError(
                f"projection {self.name!r} handles SubjectForgotten, which its filters keep from "
                "it: these events have a stream of their own; filter in the methods"
            )
        if self.partitions > 1:
            raise ValueError(
                f"projection {self.name!r} handles SubjectForgotten, and has {self.partitions} "
                "partitions: one might still write what another one has removed; leave it at 1"
            )

    def _type_of(self, event_class: type, codec: PayloadCodec) -> str:
        event_type = codec.event_type_for(event_class) if isinstance(codec, EventRegistry) else None
        if event_type is None:
            raise ValueError(
                f"projection {self.name!r} handles {event_class.__name__}, which no registry "
                "gives a name: register the class, and give the registry to the store"
            )
        return event_type


def subscription_name(name: str, version: int) -> str:
    """Return the name of the subscription that keeps a version of a projection."""
    return f"{name}@{version}"


def check_projection(projection: object, *, awaits: bool) -> Projection:
    """Return ``projection`` if it is an instance of one, and who calls its methods can.

    ``awaits`` says that the caller awaits those that are coroutine functions.
    """
    if isinstance(projection, Projection):
        _refuse_coroutines(projection, awaits=awaits)
        return projection
    if isinstance(projection, type) and issubclass(projection, Projection):
        raise TypeError(f"give an instance: {projection.__name__}(), not the class")
    raise TypeError(f"projection must be a Projection, not {type(projection).__name__}")


def _refuse_coroutines(projection: Projection, *, awaits: bool) -> None:
    for name in projection.method_names:
        if not awaits and iscoroutinefunction(getattr(projection, name)):
            raise TypeError(
                f"{type(projection).__name__}.{name}() is a coroutine function; it needs the async "
                "store or runner, and async_subscription_of() or live_async()"
            )


def _check(cls: type[Projection]) -> None:
    if "name" in vars(cls):
        check_text("name", cls.name, _MAX_NAME_LENGTH)
    for name in ("version", "partitions"):
        if check_number(name, getattr(cls, name)) == 0:
            raise ValueError(f"{name} must be at least 1")
    if not isinstance(cls.filters, EventFilter):
        raise TypeError(f"filters must be an EventFilter, not {type(cls.filters).__name__}")
    if cls.filters.event_types:
        raise ValueError("filters must not name event types: the methods do")


def _name_of(event: type | str) -> str:
    return repr(event) if isinstance(event, str) else event.__name__
