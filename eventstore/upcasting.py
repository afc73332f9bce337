"""Old payloads to today's shape: small functions on the stored JSON, one step a version.

Types and versions are the nodes of a graph, and each :class:`Step` leads from one node to the
next version of its type, to nodes of other types (a split), or to none (a drop). What every step
can lead to is declared with it, so that the whole graph is checked before any event is read: it
has no hole and no loop, and each way through it ends at the version that a type has today.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

from eventstore.errors import UpcastingError

#: A payload as it is stored, when it is an object.
JsonObject: TypeAlias = dict[str, Any]
#: Returns the payload as the next version has it.
Upcaster: TypeAlias = Callable[[JsonObject], JsonObject]
#: Returns or yields the events that this one has become: several, one, or none.
Splitter: TypeAlias = "Callable[[JsonObject], Iterable[Upcast]]"

_Node: TypeAlias = tuple[str, int]

#: How many holes of one type a message tells.
_TOLD_HOLES: Final = 3


class Upcast(NamedTuple):
    """One of the events that a stored one has become: what a splitting upcaster yields."""

    #: Today's name of its type.
    event_type: str
    #: Its payload as JSON, in the version of the type that the upcaster has declared.
    data: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One upcaster, and what it leads to."""

    event_type: str
    from_version: int
    function: Callable[[Any], Any]
    #: The version of each type that may come out of it; None for the next one of its own type.
    into: Mapping[str, int] | None

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def targets(self) -> list[_Node]:
        """The types and versions that it leads to."""
        if self.into is None:
            return [(self.event_type, self.from_version + 1)]
        return list(self.into.items())

    def take(self, data: Any) -> list[tuple[_Node, Any]]:
        """Run the function, and return each payload with its type and version.

        Raises UpcastingError if it fails, or gives something else than it has declared.
        """
        try:
            given = self.function(data)
            results = [] if self.into is None else list(given)
        except Exception as error:  # noqa: BLE001 - whatever a function of the user's raises
            raise self._failed(f"raised {_told(error)}") from None
        if self.into is None:
            if not isinstance(given, dict):
                raise self._failed(f"returned a {type(given).__name__}, not a dict")
            return [(self.targets[0], given)]
        for result in results:
            if not isinstance(result, Upcast):
                raise self._failed(f"gave a {type(result).__name__}, not an Upcast")
            # Not named in the message: it may come from the payload.
            if result.event_type not in tuple(self.into):
                raise self._failed("gave an event of a type that its into= doesn't name")
        return [((name, self.into[name]), upcast) for name, upcast in results]

    def _failed(self, what: str) -> UpcastingError:
        to_version = self.from_version + 1
        if self.into is not None:
            to_version = self.into.get(self.event_type, self.from_version)
        return UpcastingError(
            self.event_type,
            "$",
            f"can't be upcast: {self.name}() {what}",
            from_version=self.from_version,
            to_version=to_version,
        )


def _told(error: Exception) -> str:
    """Return the error's kind and place; its message may show the payload."""
    traceback, line = error.__traceback__, None
    while traceback is not None:
        line, traceback = traceback.tb_lineno, traceback.tb_next
    return f"{type(error).__name__} at line {line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Upcasting:
    """The graph of all steps, and where its ways end."""

    steps: Mapping[_Node, Step]
    #: The version that each type is written in today.
    current: Mapping[str, int]
    #: The last version of each type that is no longer written.
    retired: Mapping[str, int]

    def upcast(self, event_type: str, version: int, data: Any) -> Iterator[Upcast]:
        """Yield what an event stored so has become, each in its type's version of today."""
        pending = [((event_type, version), data)]
        while pending:
            node, data = pending.pop()
            if self.current.get(node[0]) == node[1]:
                yield Upcast(node[0], data)
            else:
                pending += reversed(self.steps[node].take(data))

    def sources(self, event_types: frozenset[str]) -> frozenset[str]:
        """Return the types whose stored events are, or may have become, one of ``event_types``."""
        found, size = set(event_types), 0
        while len(found) > size:
            size = len(found)
            found |= {
                step.event_type
                for step in self.steps.values()
                if any(target in found for target, _ in step.targets)
            }
        return frozenset(found)

    def problems(self) -> list[str]:
        """Return what is wrong with the graph, a sentence each; nothing if all ways end well."""
        found = [*self._holes(), *self._bad_steps()]
        return found or list(self._loops())

    def _last_of(self, event_type: str) -> int | None:
        return self.current.get(event_type) or self.retired.get(event_type)

    def _holes(self) -> Iterator[str]:
        for event_type, version in self.current.items():
            for hole in self._without_step(event_type, version - 1):
                yield (
                    f"{event_type!r} is at version {version}, but has no upcaster "
                    f"from version {hole}"
                )
        for event_type, version in self.retired.items():
            for hole in self._without_step(event_type, version):
                yield (
                    f"{event_type!r} was retired at version {version}, but no upcaster says "
                    f"what becomes of version {hole}"
                )

    def _without_step(self, event_type: str, last: int) -> Iterator[int]:
        """Yield the first versions up to ``last`` that no step leads on from, a few at most."""
        versions = range(1, last + 1)
        return islice((v for v in versions if (event_type, v) not in self.steps), _TOLD_HOLES)

    def _bad_steps(self) -> Iterator[str]:
        for (event_type, version), step in self.steps.items():
            last = self._last_of(event_type)
            if last is None:
                yield (
                    f"{step.name}() upcasts {event_type!r}, which is neither registered nor retired"
                )
            elif version > last or (version == last and event_type in self.current):
                yield (
                    f"{step.name}() upcasts version {version} of {event_type!r}, which is only "
                    f"at version {last}"
                )
            elif version == last and step.into is None:
                yield (
                    f"{step.name}() upcasts the last version of {event_type!r}, which is retired: "
                    "say by into= what it becomes"
                )
            for target, wanted in step.targets if step.into is not None else ():
                last = self._last_of(target)
                if last is None or not 1 <= wanted <= last:
                    known = "is not registered" if last is None else f"is at version {last}"
                    yield (
                        f"{step.name}() leads into version {wanted} of {target!r}, which {known}"
                    )

    def _loops(self) -> Iterator[str]:
        graph = {node: step.targets for node, step in self.steps.items()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            way = [self.steps[node] for node in reversed(error.args[1])]
            told = (f"{step.name}() from {step.event_type!r} {step.from_version}" for step in way)
            yield f"upcasters lead in a loop: {', '.join(told)}"
