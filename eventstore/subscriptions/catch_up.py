"""The loop of a subscription, as a pure state machine: told what happened, it says what to do.

It knows no clock, no thread and no database, so that both runners obey the same rules, and the
rules can be tested one by one. The whole of it::

    Started ──▶ Acquire ──Refused──▶ Pause, and Acquire again
                  │
               Acquired
                  ▼
       ┌──▶ Deliver(limit) ──Delivered, more to come──▶ Deliver
       │        │   │
       │        │   └──Delivered, caught up──▶ Await ──Woken──▶ Deliver
       │     Failed
       │        ├── in a batch: narrow down to single events, at once
       │        ├── attempts left: Pause, and try the event again
       └────────┴── none left: GiveUp (park, skip) or Halt (stop)

    Interrupted ──▶ Pause, and the same again    LeaseLost ──▶ Pause, and Acquire
         └── again and again: Pause, Report ──Reported──▶ the same again

A batch that failed, or in which the last owner died, is delivered again one event at a time, each
attempt counted and committed before it is made: the event at fault is found, and one that kills
its process is given up after as many attempts as any other. Healthy batches pay nothing for that:
the mark of a batch in flight is the lease itself, which a dead owner didn't give back.

What comes of a lost connection or a server that restarts, in the handler or outside of it, is no
event's fault: it counts as no attempt, and is tried again for as long as it takes. If it happens
again and again, the status is to show it, and single events are delivered, so that the rest flows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from eventstore.subscriptions.definition import OnFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.subscriptions.definition import RetryPolicy


# What happened.


@dataclass(frozen=True, slots=True)
class Started:
    """The worker is there."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lease is ours."""

    interrupted: bool  #: the last owner died in the midst of a batch, or may have


@dataclass(frozen=True, slots=True)
class Refused:
    """The lease is somebody else's."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The events up to a position were handled, and the checkpoint is saved."""

    events: int
    caught_up: bool  #: there was nothing more to read
    unsaved: bool = False  #: what was scanned in vain is still to be saved


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or an event could not be decoded; nothing of it was kept."""

    attempts: int  #: at this event by itself, counted in the database; 0 in a batch


@dataclass(frozen=True, slots=True)
class Stale:
    """The checkpoint was moved by a lost commit, or a parked stream was let go: read anew."""


@dataclass(frozen=True, slots=True)
class AheadOfHead:
    """The checkpoint lies behind the newest event: the store was restored to an earlier time."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Something failed that is not an event's fault: the connection, the server, the commit."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The status shows what interrupts the work."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Somebody else owns the partition by now, or is to have it."""


@dataclass(frozen=True, slots=True)
class Woken:
    """A pause is over, or there may be new events."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The worker is to end."""


Happening: TypeAlias = (
    Started
    | Acquired
    | Refused
    | Delivered
    | Failed
    | Stale
    | AheadOfHead
    | Interrupted
    | Reported
    | LeaseLost
    | Woken
    | StopRequested
)


# What to do.


@dataclass(frozen=True, slots=True)
class Acquire:
    """Take the lease; answer Acquired, Refused, AheadOfHead or Interrupted."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand over what follows, read now or before, and save the checkpoint, in one transaction.

    Answer Delivered, Failed, Stale, AheadOfHead, LeaseLost or Interrupted.
    """

    limit: int  #: at most so many events
    marked: bool  #: count and commit the attempt first; the limit is 1


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Park the stream of the event that failed, or skip the event; answers as of Deliver."""

    policy: OnFailure


@dataclass(frozen=True, slots=True)
class Report:
    """Let the status show what interrupts the work again and again; answer Reported."""


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until there may be events; answer Woken."""

    seconds: float | None = None  #: and no longer than that


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for a time, whatever comes; answer Woken."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Release:
    """Give the lease back, and end."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Note down why it can't go on, give the lease back, and end; or answer Interrupted."""


Command: TypeAlias = Acquire | Deliver | GiveUp | Report | Await | Pause | Release | Halt

#: Between attempts to reach a server that doesn't answer.
_MAX_RECONNECT_SECONDS: Final = 5.0
_FIRST_RECONNECT_SECONDS: Final = 0.05
#: So many interruptions in a row are more than a passing one: the status shows them, and a batch is
#: not tried as a whole any more.
_MANY_INTERRUPTIONS: Final = 3
#: What was scanned in vain is saved so long after, at the latest.
SAVE_AFTER_SECONDS: Final = 1.0


class CatchUp:
    """What the worker on one partition of a subscription does next."""

    def __init__(
        self,
        *,
        batch_size: int,
        retry: RetryPolicy,
        on_failure: OnFailure,
        acquire_seconds: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._batch_size = batch_size
        self._retry = retry
        self._on_failure = on_failure
        self._acquire_seconds = acquire_seconds
        self._jitter = jitter
        self._owns = False
        self._singles = 0  # so many events are still to be delivered one by one
        self._interruptions = 0
        self._ending: GiveUp | Halt | None = None  # what is to be done about an event that failed

    def decide(self, happening: Happening) -> Command:  # noqa: C901, PLR0911, PLR0912
        """Return what to do now that this has happened."""
        if not isinstance(happening, Interrupted | Reported | Woken):
            self._interruptions, self._ending = 0, None
        match happening:
            case Started():
                return Acquire()
            case Acquired(interrupted):
                self._owns = True
                self._singles = self._batch_size if interrupted else 0
                return self._deliver()
            case Refused():
                return Pause(self._acquire_seconds)
            case LeaseLost():
                self._owns = False
                return Pause(self._acquire_seconds)
            case Delivered(events, caught_up, unsaved):
                self._singles = 0 if caught_up else max(0, self._singles - events)
                if not caught_up:
                    return self._deliver()
                return Await(SAVE_AFTER_SECONDS if unsaved else None)
            case Failed(attempts):
                return self._after_failure(attempts)
            case Stale():
                return self._deliver()
            case AheadOfHead():
                self._ending = Halt()
                return self._ending
            case Interrupted():
                self._interruptions += 1
                if self._interruptions >= _MANY_INTERRUPTIONS:
                    self._singles = self._batch_size
                return Pause(self._reconnect_seconds())
            case Woken():
                if not self._owns:
                    return Acquire()
                if self._interruptions >= _MANY_INTERRUPTIONS:
                    return Report()
                return self._ending or self._deliver()
            case Reported():
                return self._ending or self._deliver()
            case StopRequested():
                return Release()

    def _deliver(self) -> Deliver:
        if self._singles:
            return Deliver(1, marked=True)
        return Deliver(self._batch_size, marked=False)

    def _after_failure(self, attempts: int) -> Command:
        if not attempts:
            self._singles = self._batch_size
            return self._deliver()
        if attempts < self._retry.max_attempts:
            return Pause(self._retry.wait_seconds(attempts, self._jitter()))
        self._ending = Halt() if self._on_failure is OnFailure.STOP else GiveUp(self._on_failure)
        return self._ending

    def _reconnect_seconds(self) -> float:
        longest = _FIRST_RECONNECT_SECONDS * 2.0 ** min(self._interruptions - 1, 62)
        return min(longest, _MAX_RECONNECT_SECONDS) * (0.5 + self._jitter() / 2)
