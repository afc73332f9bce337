"""Aggregates as classes: a method for each command, and one for each kind of event.

A command's method looks at the state and records events; a method marked by :func:`applies` folds
one kind of event into the state, when it is recorded and when it is replayed alike::

    @dataclass
    class Account(Aggregate):
        balance: int = 0

        def withdraw(self, amount: int) -> None:
            if amount > self.balance:
                raise InsufficientFunds(amount)
            self.record(Withdrawn(amount))

        @applies(Withdrawn)
        def _withdrawn(self, event: Withdrawn) -> None:
            self.balance -= event.amount

An aggregate knows no store: :class:`~eventstore.Repository` loads and saves it. It need not be a
dataclass, unless snapshots are taken of it.
"""

from __future__ import annotations

from inspect import get_annotations, isawaitable, iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Self

    from eventstore.events import AnyEnvelope

A = TypeVar("A", bound="Aggregate")
E = TypeVar("E")
_Method = TypeVar("_Method", bound="Callable[..., None]")

_MARK: Final = "_eventstore_applies"


@overload
def applies(
    event_class: type[E], /
) -> Callable[[Callable[[A, E], None]], Callable[[A, E], None]]: ...
@overload
def applies(*event_classes: type) -> Callable[[_Method], _Method]: ...
def applies(*event_classes: type) -> Any:
    """Mark the method of an :class:`Aggregate` that folds events of these classes into its state.

    A class of events has one method; a subclass of the aggregate may give it another. The methods
    of all base classes count, also of those that are no aggregates, in Python's order.
    """
    if not event_classes:
        raise TypeError("applies() takes at least one class of events")
    for event_class in event_classes:
        if not isinstance(event_class, type):
            raise TypeError(f"applies() takes classes of events, not {event_class!r}")

    def mark(method: _Method) -> _Method:
        if iscoroutinefunction(method):
            raise TypeError(f"{method.__qualname__}() must not be async: it only changes the state")
        setattr(method, _MARK, event_classes)
        return method

    return mark


class Aggregate:
    """Base of aggregates: the state is folded from events, and new events wait to be saved.

    The class must be callable without arguments: that is an aggregate of which nothing has
    happened yet. Payloads are told apart by their class; an event whose class no method applies is
    refused with TypeError, when it is recorded and when it is replayed: give an event that changes
    nothing an empty method.
    """

    # Slots, since pydantic fills a dataclass without __init__, and takes all of its __dict__.
    __slots__ = (
        "_aggregate_id",
        "_pending",
        "_snapshot_version",
        "_unsnapshotted_since",
        "_version",
    )

    _aggregate_id: str
    _pending: list[Any]
    _snapshot_version: int
    _unsnapshotted_since: datetime | None
    _version: int

    #: The name of the method for each class of events.
    _appliers: ClassVar[dict[type, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_hidden_names(cls)
        appliers: dict[type, str] = {}
        for base in reversed(cls.__mro__):
            own = _marked_in(base)
            replaced = own.values()
            appliers = {each: name for each, name in appliers.items() if name not in replaced}
            appliers |= own
        cls._appliers = appliers

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Set what an aggregate has besides its state."""
        aggregate = super().__new__(cls)
        aggregate._aggregate_id = ""
        aggregate._version = aggregate._snapshot_version = 0
        aggregate._unsnapshotted_since = None
        aggregate._pending = []
        return aggregate

    @property
    def aggregate_id(self) -> str:
        """The id under which it was loaded, empty before."""
        return self._aggregate_id

    @property
    def version(self) -> int:
        """The version of the last recorded event in the state; 0 if there is none."""
        return self._version

    @property
    def pending_events(self) -> tuple[Any, ...]:
        """The payloads that wait to be saved."""
        return tuple(self._pending)

    @property
    def snapshot_version(self) -> int:
        """The version of the snapshot from which it was loaded or that was taken; else 0."""
        return self._snapshot_version

    @property
    def unsnapshotted_since(self) -> datetime | None:
        """When the oldest event happened that no snapshot includes; None if there is none."""
        return self._unsnapshotted_since

    def record(self, event: object) -> None:
        """Let ``event`` happen: it changes the state now, and waits to be saved."""
        self.apply(event)
        self._pending.append(event)

    def apply(self, event: Any) -> None:
        """Fold a payload into the state, by the method that :func:`applies` has marked for it."""
        name = self._appliers.get(type(event))
        if name is None:
            raise TypeError(
                f"{type(self).__name__} has no method for {type(event).__qualname__}; "
                f"mark one with @applies({type(event).__name__})"
            )
        getattr(self, name)(event)

    # The rest is for repositories.

    @property
    def can_replay(self) -> bool:
        """Tell whether the state holds no pending event, so that recorded ones can be folded in."""
        return not self._pending

    def begun(self, aggregate_id: str, snapshot_version: int = 0) -> Self:
        """Name an aggregate whose state is that of no events, or of a snapshot."""
        self._aggregate_id = aggregate_id
        self._version = self._snapshot_version = snapshot_version
        return self

    def replay(self, event: AnyEnvelope) -> None:
        """Fold a recorded event into the state."""
        self.apply(event.event_data)
        self._version = event.event_version
        self._unsnapshotted_since = self._unsnapshotted_since or event.occurred_at

    def replayed_to(self, version: int) -> None:
        """Say which version the state is of: an old event may have become none by upcasting."""
        self._version = version

    def forget_pending(self) -> None:
        """Take back what was decided on a state that is past; the state must not hold it yet."""
        self._pending.clear()

    def saved(self, version: int, since: datetime) -> None:
        """Say that the pending events are recorded, up to this version and from that time on."""
        self._pending.clear()
        self._version = version
        self._unsnapshotted_since = self._unsnapshotted_since or since

    def superseded(self, version: int) -> None:
        """Say that the pending events were recorded before, behind an earlier ``version``.

        What was decided now is not in the stream, so that the state is that of no version. It is
        given the one of before: whatever is decided on it meets a conflict.
        """
        self._pending.clear()
        self._version = version

    def snapshot_taken(self) -> None:
        """Say that the state as it is now has been kept."""
        self._snapshot_version = self._version
        self._unsnapshotted_since = None


def carry_out(command: Any, aggregate: Aggregate) -> None:
    """Let an aggregate carry out a command: call it with the aggregate.

    TypeError for what can't be called, and for what would have to be awaited.
    """
    name = type(aggregate).__name__
    if not callable(command):
        raise TypeError(
            f"a command for {name} is a callable that takes one, such as lambda it: it.do(), not "
            f"{type(command).__qualname__}"
        )
    result = command(aggregate)
    if isawaitable(result):
        if iscoroutine(result):
            result.close()
        raise TypeError(
            f"a command for {name} can't be awaited, since it may be decided several times; await "
            "what it needs before, and let it take the result"
        )


def _marked_in(cls: type) -> dict[type, str]:
    """Return the methods that ``cls`` itself marks, by the classes of events that they apply."""
    own: dict[type, str] = {}
    for name, member in vars(cls).items():
        for event_class in getattr(member, _MARK, ()):
            if event_class in own:
                raise TypeError(
                    f"{cls.__name__} applies {event_class.__name__} twice: "
                    f"{own[event_class]}() and {name}()"
                )
            own[event_class] = name
    return own


_OWN_NAMES: Final = frozenset(
    name for name in {**vars(Aggregate), **get_annotations(Aggregate)} if not name.startswith("__")
)

#: Those that no subclass can mean, so that a command of that name was meant to be something else.
_FINAL_NAMES: Final = frozenset(name for name in _OWN_NAMES if not name.startswith("_")) - {
    "apply",
    "can_replay",
    "record",
    "saved",
}


def _refuse_hidden_names(cls: type[Aggregate]) -> None:
    """Raise TypeError for a field or a method that would hide something of the base."""
    hidden = _OWN_NAMES.intersection(get_annotations(cls))
    hidden |= _FINAL_NAMES.intersection(vars(cls))
    if hidden:
        raise TypeError(
            f"{cls.__name__}.{min(hidden)} would hide Aggregate.{min(hidden)}; rename it"
        )
