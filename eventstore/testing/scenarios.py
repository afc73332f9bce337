"""Given events, when a command is handled, then these events follow: tests of a domain, in values.

::

    given(account, Opened(), Deposited(100)).when(Withdraw(30)).then(Withdrawn(30))
    given(account, Opened()).when(Withdraw(30)).then_raises(InsufficientFunds)
    given(Account, Opened()).when(lambda it: it.deposit(5)).then(Deposited(5)).then_state(
        lambda it: it.balance == 5
    )
    given(account, Opened(), Closed()).then_state(State(open=False))

No store, no registry, no database: what is tested is what the domain decides. A subject is a
:class:`~eventstore.Decider`, a subclass of :class:`~eventstore.Aggregate`, or anything of yours
with the methods of :class:`Subject`, such as a projection into values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, overload

import pytest

from eventstore.aggregates import Aggregate, carry_out
from eventstore.deciders import Decider

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

A = TypeVar("A", bound=Aggregate)
C = TypeVar("C")
S = TypeVar("S")
E = TypeVar("E")
X = TypeVar("X", bound=BaseException)


class Subject(Protocol):
    """What a scenario is about: it folds events, and handles commands if it knows any."""

    def apply(self, event: Any) -> object:
        """Fold an event into the state."""

    def handle(self, command: Any) -> tuple[Any, ...]:
        """Return what a command leads to, folded into the state."""

    @property
    def state(self) -> Any:
        """The state now."""


@overload
def given(subject: Decider[C, S, E], *events: E) -> Scenario[C, S]: ...
@overload
def given(subject: type[A], *events: Any) -> Scenario[Callable[[A], object], A]: ...
@overload
def given(subject: Subject, *events: Any) -> Scenario[Any, Any]: ...
def given(subject: Any, *events: Any) -> Scenario[Any, Any]:
    """Begin a scenario with what has happened before; payloads, without envelopes."""
    return Scenario(_subject_of(subject), events)


class Scenario(Generic[C, S]):
    """One run of a subject. Nothing runs before it is said what should come of it.

    After that it may go on: ``given(...).when(a).then(x).when(b).then(y)``.
    """

    def __init__(self, subject: Subject, events: tuple[Any, ...]) -> None:
        self._subject = subject
        self._history = events  #: what is not folded yet
        self._commands: list[C] = []  #: what is not handled yet
        self._new_events: tuple[Any, ...] = ()

    def when(self, *commands: C) -> Self:
        """Say which commands are handled, one after the other."""
        if not self._commands:
            self._new_events = ()
        self._commands += commands
        return self

    def then(self, *events: Any) -> Self:
        """Assert that exactly these events follow from the commands since the last assertion."""
        assert self._run() == events  # noqa: S101
        return self

    def then_nothing(self) -> Self:
        """Assert that no event follows."""
        return self.then()

    def then_state(self, expected: S | Callable[[S], bool]) -> Self:
        """Assert that the state equals ``expected`` in the end, or satisfies it."""
        self._run()
        state = self._subject.state
        if callable(expected) and not isinstance(state, type(expected)):
            assert expected(state), state  # noqa: S101
        else:
            assert state == expected  # noqa: S101
        return self

    def then_raises(self, error: type[X], *, match: str | None = None) -> X:
        """Assert that the last command, and it alone, is refused with such an error; return it."""
        if not self._commands:
            raise ValueError("then_raises() is about a command; say by when() which one")
        refused = self._commands.pop()
        self._run()
        with pytest.raises(error, match=match) as caught:
            self._subject.handle(refused)
        return caught.value

    def _run(self) -> tuple[Any, ...]:
        history, self._history = self._history, ()
        for event in history:
            self._subject.apply(event)
        while self._commands:
            self._new_events += self._subject.handle(self._commands.pop(0))
        return self._new_events


class _DecidedSubject:
    def __init__(self, decider: Decider[Any, Any, Any]) -> None:
        self._decider = decider
        self.state = decider.begin().state

    def apply(self, event: Any) -> None:
        self.state = self._decider.evolve(self.state, event)

    def handle(self, command: Any) -> tuple[Any, ...]:
        events = self._decider.events_of(command, self.state)
        for event in events:
            self.apply(event)
        return events


class _AggregateSubject:
    def __init__(self, aggregate: Aggregate) -> None:
        self.state = aggregate

    def apply(self, event: Any) -> None:
        self.state.apply(event)

    def handle(self, command: Callable[[Aggregate], object]) -> tuple[Any, ...]:
        recorded = len(self.state.pending_events)
        carry_out(command, self.state)
        return self.state.pending_events[recorded:]


def _subject_of(subject: object) -> Subject:
    if isinstance(subject, Decider):
        return _DecidedSubject(subject)
    if isinstance(subject, type) and issubclass(subject, Aggregate):
        return _AggregateSubject(subject())
    if isinstance(subject, type) or not callable(getattr(subject, "apply", None)):
        raise TypeError(
            f"given() takes a Decider, a subclass of Aggregate or a Subject, not {subject!r}"
        )
    return cast("Subject", subject)
