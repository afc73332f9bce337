"""What a decision rests on, put together of small folds, each with the query that it needs.

A fold says which events it looks at, and what they make of its state::

    def capacity_of(course: str) -> Fold[int]:
        return Fold(
            0,
            {"course-defined": lambda _, event: event.event_data.capacity},
            tags=[f"course:{course}"],
        )

Several are made one by :func:`combine`. The names and the composition are those of the decision
models of https://dcb.events/topics/projections, which calls a fold a projection.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from eventstore.boundaries import Query, QueryItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from eventstore.events import AnyEnvelope

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class DecisionModel(Protocol[S_co]):
    """What a decision rests on: a query, and what state its events make."""

    @property
    def query(self) -> Query:
        """The events that matter."""

    def state_of(self, events: Iterable[AnyEnvelope]) -> S_co:
        """Return the state that those of ``events`` which the query means lead to."""


@dataclass(frozen=True)
class Fold(Generic[S]):
    """A state that events of some types, with all of some tags, lead to from ``initial``.

    ``handlers`` has for each event type, by today's name, the function that returns the new state
    for the one before and the event. They must leave alone what they are given.
    """

    initial: S
    handlers: Mapping[str, Callable[[S, AnyEnvelope], S]]
    query: Query

    def __init__(
        self,
        initial: S,
        handlers: Mapping[str, Callable[[S, AnyEnvelope], S]],
        *,
        tags: Iterable[str] = (),
    ) -> None:
        if not handlers:
            raise ValueError("handlers is empty; map the types of events to functions")
        object.__setattr__(self, "initial", initial)
        object.__setattr__(self, "handlers", dict(handlers))
        object.__setattr__(self, "query", Query(QueryItem(types=handlers, tags=tags)))

    def state_of(self, events: Iterable[AnyEnvelope]) -> S:
        """Return the state that those of ``events`` which the query means lead to."""
        # A copy: not every handler is as pure as it should be, and this state is everybody's.
        state = deepcopy(self.initial)
        for event in events:
            if self.query.matches(event.event_type, event.tags):
                state = self.handlers[event.event_type](state, event)
        return state


def combine(make: Callable[..., S], **models: DecisionModel[Any]) -> DecisionModel[S]:
    """Return the model whose state is ``make(name=state, ...)`` of the states of ``models``.

    ``make`` is a dataclass, say. The query is that of all models: one read serves them.
    """
    if not models:
        raise TypeError("combine() needs a model")
    return _Combined(make, models, _union(model.query for model in models.values()))


@dataclass(frozen=True)
class _Combined(Generic[S]):
    make: Callable[..., S]
    models: Mapping[str, DecisionModel[Any]]
    query: Query

    def state_of(self, events: Iterable[AnyEnvelope]) -> S:
        events = list(events)
        return self.make(**{name: model.state_of(events) for name, model in self.models.items()})


def _union(queries: Iterable[Query]) -> Query:
    """Return the query of all events that any of ``queries`` means, one item for the same tags."""
    by_tags: dict[frozenset[str], list[QueryItem]] = {}
    for item in chain.from_iterable(query.items for query in queries):
        by_tags.setdefault(frozenset(item.tags), []).append(item)
    return Query(*map(_merged, by_tags.values()))


def _merged(items: list[QueryItem]) -> QueryItem:
    any_type = not all(item.types for item in items)
    types = () if any_type else chain.from_iterable(item.types for item in items)
    return QueryItem(types=types, tags=items[0].tags)
