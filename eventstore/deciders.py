"""Deciders: the same as an aggregate, in pure functions over plain values.

``decide`` says what a command leads to in a state, ``evolve`` what an event makes of a state, and
``initial`` is the state of which nothing has happened yet (Jérémie Chassaing, "Functional Event
Sourcing Decider", 2021)::

    account = Decider(initial=Account(), decide=decide, evolve=evolve)

None of the functions changes what it is given, so a test needs nothing but values, and a
repository may decide again on a state that it has already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from eventstore.aggregates import Aggregate

if TYPE_CHECKING:
    from datetime import datetime

C = TypeVar("C")
S = TypeVar("S")
E = TypeVar("E")


# No slots: Python 3.11 can't call Decider[C, S, E](...) of a frozen class that has them.
@dataclass(frozen=True, kw_only=True)
class Decider(Generic[C, S, E]):
    """What commands lead to, as two pure functions; C, S, E: commands, state, payloads of events.

    ``decide`` returns (or yields) the payloads of new events, none if nothing happens, or raises
    an error of the domain.
    """

    initial: S
    decide: Callable[[C, S], Iterable[E]]
    evolve: Callable[[S, E], S]

    def __post_init__(self) -> None:
        for name in ("decide", "evolve"):
            function = getattr(self, name)
            if not callable(function) or iscoroutinefunction(function):
                raise TypeError(f"{name} must be a function that isn't async, not {function!r}")

    def begin(self) -> DecidedAggregate[C, S, E]:
        """Return an aggregate of which nothing has happened yet."""
        return DecidedAggregate(self, self._beginning())

    def events_of(self, command: C, state: S) -> tuple[E, ...]:
        """Return what ``command`` leads to; TypeError if ``decide`` returns no list of events."""
        events: object = self.decide(command, state)
        if not isinstance(events, Iterable) or isinstance(events, BaseModel | Mapping | str):
            raise TypeError(
                f"decide() must return an iterable of events, not {type(events).__qualname__}"
            )
        return tuple(events)

    def fold(self, events: Iterable[E]) -> S:
        """Return the state after ``events``, from the initial one on."""
        return reduce(self.evolve, events, self._beginning())

    def _beginning(self) -> S:
        # A copy: not every evolve() is as pure as it should be, and this state is everybody's.
        return deepcopy(self.initial)


class DecidedAggregate(Aggregate, Generic[C, S, E]):
    """What a repository loads for a decider: the state, its version, and what waits to be saved."""

    def __init__(self, decider: Decider[C, S, E], state: S) -> None:
        self.decider = decider
        self._state = state
        self._folded = 0  #: how many of the pending events are in the state

    @property
    def state(self) -> S:
        """The state after all events, pending ones too."""
        for event in self._pending[self._folded :]:
            self.apply(event)
        self._folded = len(self._pending)
        return self._state

    def handle(self, command: C) -> None:
        """Decide: what the command leads to waits to be saved."""
        self._pending += self.decider.events_of(command, self.state)

    def record(self, event: object) -> None:
        """Let an event happen: it waits to be saved."""
        self._pending.append(event)

    def apply(self, event: Any) -> None:
        """Fold a payload into the state."""
        self._state = self.decider.evolve(self._state, event)

    @property
    def can_replay(self) -> bool:
        """Tell whether the state holds no pending event, so that recorded ones can be folded in."""
        return self._folded == 0

    def saved(self, version: int, since: datetime) -> None:
        """Say that the pending events are recorded, and fold them into the state."""
        self._state = self.state
        self._folded = 0
        super().saved(version, since)
