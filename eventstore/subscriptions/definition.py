"""What a subscription is: its name, its handler, its part of the feed, and what a failure means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from eventstore.reading import PAGE_SIZE, EventFilter
from eventstore.streams import MAX_ID_LENGTH, check_aware, check_number, check_text

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

    from eventstore.events import AnyEnvelope
    from eventstore.registry import EventRegistry


class OnFailure(Enum):
    """What follows when an event could not be handled as often as the retry policy allows."""

    PARK = "park"  #: take its stream aside, with what follows in it; every other stream flows
    STOP = "stop"  #: stop the subscription at the event
    SKIP = "skip"  #: pass over this event alone, and leave a trace of it

    def __repr__(self) -> str:
        return self.name


PARK: Final = OnFailure.PARK
STOP: Final = OnFailure.STOP
SKIP: Final = OnFailure.SKIP


class StartPoint(Enum):
    """Where a new subscription begins, if not at a position or a time."""

    BEGINNING = "beginning"
    NOW = "now"

    def __repr__(self) -> str:
        return self.name


BEGINNING: Final = StartPoint.BEGINNING
NOW: Final = StartPoint.NOW


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the store; a subscription that starts there gets the events behind it."""

    number: int

    def __post_init__(self) -> None:
        check_number("number", self.number)


Start: TypeAlias = StartPoint | Position | datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often an event is tried, and how long to wait between: exponential, with jitter.

    The n-th wait is ``first_seconds * 2 ** (n - 1)``, at most ``max_seconds``, of which a random
    half is left out, so that workers that failed together don't come back together (AWS
    Architecture Blog, "Exponential Backoff And Jitter", 2015: equal jitter).
    """

    max_attempts: int = 5
    first_seconds: float = 0.1
    max_seconds: float = 30.0

    def __post_init__(self) -> None:
        if check_number("max_attempts", self.max_attempts) == 0:
            raise ValueError("max_attempts must be at least 1; STOP or SKIP say what follows")
        check_seconds("first_seconds", self.first_seconds)
        check_seconds("max_seconds", self.max_seconds)

    def wait_seconds(self, attempts: int, random: float) -> float:
        """Return how long to wait after so many attempts; ``random`` is from 0 to 1."""
        # A larger exponent than 62 is beyond every maximum, and soon beyond a float.
        longest = min(self.first_seconds * 2.0 ** min(attempts - 1, 62), self.max_seconds)
        return longest * (0.5 + random / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event for a handler of effects outside: it may come again, and says so."""

    event: AnyEnvelope
    attempt: int  #: more than 1 if it may have been delivered before

    @property
    def event_id(self) -> UUID:
        """The idempotency key of the effect."""
        return self.event.event_id

    @property
    def position(self) -> int:
        """The event's place in the store: what was handled once has a lower one."""
        return self.event.sequence_number


class MadeFor(NamedTuple):
    """The store that a handler counts on."""

    registry: EventRegistry | None
    schema: str | None


#: ``handler(session, event)``, or ``handler(delivery)`` if the subscription is ``external``; for
#: the async runner, a coroutine function.
Handler: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Subscription:
    """Events of the feed, handed to ``handler`` one after the other, from a checkpoint on.

    By default the handler gets ``(session, event)``: what it writes by that session and the
    checkpoint are committed together, so each event takes effect exactly once. It must neither
    commit nor roll back. With ``external=True`` it gets one :class:`Delivery` and no transaction
    is open meanwhile: for effects outside of the database, which happen at least once.

    ``start`` matters when the subscription is run for the first time: :data:`BEGINNING`,
    :data:`NOW`, a :class:`Position`, or the time of the first events wanted.
    """

    name: str
    handler: Handler
    filters: EventFilter | None = field(default=None, kw_only=True)
    start: Start = field(default=BEGINNING, kw_only=True)
    batch_size: int = field(default=PAGE_SIZE, kw_only=True)  #: events in one transaction
    retry: RetryPolicy = field(default_factory=RetryPolicy, kw_only=True)
    on_failure: OnFailure = field(default=PARK, kw_only=True)
    #: A worker that isn't heard of for this time has lost its partitions; nor may a handler leave
    #: its transaction waiting for longer.
    lease_seconds: float = field(default=30.0, kw_only=True)
    partitions: int = field(default=1, kw_only=True)  #: by streams; work is shared out by them
    external: bool = field(default=False, kw_only=True)
    #: Of what the handler makes: a subscription that goes on must have the one it was made with.
    version: int = field(default=1, kw_only=True)
    #: Called with a session when a runner starts, to refuse or to make what the handler needs.
    prepare: Callable[[Session], object] | None = field(default=None, kw_only=True)
    #: What a runner must read with, if the handler is made for that; a projection's is.
    made_for: MadeFor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_text("name", self.name, MAX_ID_LENGTH)
        if not callable(self.handler):
            raise TypeError(f"handler must be callable, not {type(self.handler).__name__}")
        if self.filters is not None and not isinstance(self.filters, EventFilter):
            raise TypeError(f"filters must be an EventFilter, not {type(self.filters).__name__}")
        if isinstance(self.start, datetime):
            check_aware("start", self.start)
        elif not isinstance(self.start, StartPoint | Position):
            raise TypeError(
                f"start must be BEGINNING, NOW, Position(n) or a datetime, not {self.start!r}"
            )
        for name in ("batch_size", "partitions", "version"):
            if check_number(name, getattr(self, name)) == 0:
                raise ValueError(f"{name} must be at least 1")
        if not isinstance(self.retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {type(self.retry).__name__}")
        if not isinstance(self.on_failure, OnFailure):
            raise TypeError(f"on_failure must be PARK, STOP or SKIP, not {self.on_failure!r}")
        check_seconds("lease_seconds", self.lease_seconds)
        if not isinstance(self.external, bool):
            raise TypeError(f"external must be a bool, not {self.external!r}")

    def check_store(self, registry: EventRegistry | None, schema: str | None) -> None:
        """Raise ValueError if the handler is made for another store than the one that is read.

        It would look for its rows where the others are not, or pass over what it doesn't know.
        """
        if self.made_for is None:
            return
        if self.made_for.schema != schema:
            raise ValueError(
                f"subscription {self.name!r} is made for schema {self.made_for.schema!r}, not "
                f"{schema!r}; give the same one to both"
            )
        if self.made_for.registry is not registry:
            raise ValueError(
                f"subscription {self.name!r} is made for another registry; give the same object "
                "to both"
            )

    @property
    def start_position(self) -> int | datetime | None:
        """The position behind which it begins, a time, or None for now."""
        match self.start:
            case Position(number):
                return number
            case datetime():
                return self.start
            case StartPoint.NOW:
                return None
            case _:
                return 0

    @property
    def filter_fingerprint(self) -> str:
        """A digest of the filter: the same one for the same events, in every process."""
        given = self.filters or EventFilter()
        facts = [
            sorted(given.event_types),
            sorted(given.aggregate_types),
            given.stream_prefix,
            given.correlation_id,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def check_seconds(name: str, value: float) -> float:
    """Return ``value`` if it is a positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, not {value}")
    return value
