"""The protocol of the fence as a state machine, small enough to try every schedule of it.

A schedule is an order in which the steps of all actors happen. :func:`explore` walks through all of
them: two schedules that lead to the same state are walked on once, and counted twice.

The model holds what the proof speaks of and nothing else: the sequence, the locks (seen at once by
everybody), and what is published (seen through a snapshot). A commit is two steps, since PostgreSQL
publishes it before it releases locks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Step(Protocol):
    """One thing that happens at once: to the world, and to the actor who does it."""

    __name__: str

    def __call__(self, world: World, actor: Actor, /) -> tuple[World, Actor]: ...


Numbers = frozenset[int]
NOTHING: Numbers = frozenset()


class Scope(NamedTuple):
    """What a transaction or a savepoint may take back."""

    held: bool = False  #: the setting that says: the lock is held
    keys: Numbers = NOTHING  #: the locks
    written: Numbers = NOTHING  #: the numbers of its events


NO_SCOPE = Scope()


@dataclass(frozen=True)
class Actor:
    """One session: what it has done, what it knows, and the steps that it has still to do."""

    steps: tuple[Step, ...]
    # As a writer
    scope: Scope = NO_SCOPE
    savepoints: tuple[Scope, ...] = ()
    last_number: int = 0  #: as it read it for its key
    cached: tuple[int, ...] = ()  #: numbers that a sequence with a cache has given it ahead
    prepared: Scope = NO_SCOPE  #: what PREPARE TRANSACTION has taken away from the session
    # As a reader
    head: int = 0
    least: int | None = None
    snapshot: Numbers = NOTHING
    checkpoint: int = 0
    delivered: Numbers = NOTHING


@dataclass(frozen=True)
class World:
    actors: tuple[Actor, ...]
    last_number: int = 0
    published: Numbers = NOTHING

    def skipped(self) -> bool:
        """Whether a checkpoint lies behind a committed event that its reader did not get."""
        return any(
            number <= actor.checkpoint and number not in actor.delivered
            for actor in self.actors
            for number in self.published
        )


class Found(NamedTuple):
    schedules: int  #: how many orders of the steps there are
    states: int  #: how many different states they lead through
    skip: tuple[str, ...] | None  #: the first schedule that skips an event


def explore(*programs: Iterable[Step]) -> Found:
    """Run the programs in every order."""
    first = World(tuple(Actor(tuple(program)) for program in programs))
    known: dict[World, int] = {}
    skip: tuple[str, ...] | None = None

    def schedules_from(world: World, trace: tuple[str, ...]) -> int:
        nonlocal skip
        if world in known:
            return known[world]
        if skip is None and world.skipped():
            skip = trace
        following = [(at, actor) for at, actor in enumerate(world.actors) if actor.steps]
        count = 0 if following else 1
        for at, actor in following:
            step, *rest = actor.steps
            after, actor_after = step(world, actor)
            actors = list(world.actors)
            actors[at] = replace(actor_after, steps=tuple(rest))
            then = replace(after, actors=tuple(actors))
            count += schedules_from(then, (*trace, f"{at}:{step.__name__}"))
        known[world] = count
        return count

    schedules = schedules_from(first, ())
    return Found(schedules, len(known), skip)


# Steps of a writer.


def read_last_number(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, last_number=world.last_number)


def take_lock(world: World, actor: Actor) -> tuple[World, Actor]:
    if actor.scope.held:
        return world, actor
    scope = actor.scope
    keys = scope.keys | {actor.last_number}
    # What is not needed any more is forgotten, so that fewer states differ.
    return world, replace(actor, scope=scope._replace(held=True, keys=keys), last_number=0)


def draw(world: World, actor: Actor) -> tuple[World, Actor]:
    number = world.last_number + 1
    scope = actor.scope._replace(written=actor.scope.written | {number})
    return replace(world, last_number=number), replace(actor, scope=scope)


def draw_cached(world: World, actor: Actor) -> tuple[World, Actor]:
    """As with CACHE 2."""
    cached, last_number = actor.cached, world.last_number
    if not cached:
        cached, last_number = (last_number + 1, last_number + 2), last_number + 2
    number, *rest = cached
    scope = actor.scope._replace(written=actor.scope.written | {number})
    return (
        replace(world, last_number=last_number),
        replace(actor, scope=scope, cached=tuple(rest)),
    )


def savepoint(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, savepoints=(*actor.savepoints, actor.scope))


def release(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, savepoints=actor.savepoints[:-1])


def rollback_to_savepoint(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, scope=actor.savepoints[-1], savepoints=actor.savepoints[:-1])


def rollback_but_for_the_setting(world: World, actor: Actor) -> tuple[World, Actor]:
    """As with a setting that belongs to the session, not to the transaction."""
    scope = actor.savepoints[-1]._replace(held=actor.scope.held)
    return world, replace(actor, scope=scope, savepoints=actor.savepoints[:-1])


def publish(world: World, actor: Actor) -> tuple[World, Actor]:
    return replace(world, published=world.published | actor.scope.written), actor


def release_locks(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, scope=NO_SCOPE, savepoints=())


def release_locks_alone(world: World, actor: Actor) -> tuple[World, Actor]:
    """As if the locks went before the commit is published."""
    return world, replace(actor, scope=actor.scope._replace(keys=NOTHING))


def roll_back(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, scope=NO_SCOPE, savepoints=())


def prepare(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, scope=NO_SCOPE, prepared=actor.scope)


def publish_prepared(world: World, actor: Actor) -> tuple[World, Actor]:
    return replace(world, published=world.published | actor.prepared.written), actor


def release_prepared(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, prepared=NO_SCOPE)


# Steps of a reader.


def read_head(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, head=world.last_number)


def find_least_key(world: World, actor: Actor) -> tuple[World, Actor]:
    # Its own locks it ignores; one that it has prepared is nobody's.
    held = [a.prepared.keys for a in world.actors]
    held += [a.scope.keys for a in world.actors if a is not actor]
    return world, replace(actor, least=min(frozenset().union(*held), default=None))


def find_least_key_with_own(world: World, actor: Actor) -> tuple[World, Actor]:
    """As if the locks of the own session counted too."""
    held = frozenset().union(*(a.scope.keys | a.prepared.keys for a in world.actors))
    return world, replace(actor, least=min(held, default=None))


def ignore_locks(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, least=None)


def take_snapshot(world: World, actor: Actor) -> tuple[World, Actor]:
    return world, replace(actor, snapshot=world.published)


def read_page(world: World, actor: Actor, size: int = 100) -> tuple[World, Actor]:
    mark = actor.head if actor.least is None else min(actor.head, actor.least)
    visible = actor.snapshot | actor.scope.written
    page = sorted(n for n in visible if actor.checkpoint < n <= mark)[:size]
    return world, replace(
        actor,
        delivered=actor.delivered | set(page),
        checkpoint=max([actor.checkpoint, *page]),
        snapshot=NOTHING,
    )


def read_one_event(world: World, actor: Actor) -> tuple[World, Actor]:
    return read_page(world, actor, size=1)
