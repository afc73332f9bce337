"""What a worker does on one partition of a subscription, step by step, without waiting.

Each command of the state machine is a generator. It yields what it needs (an operation on the
session, a handler's call, a commit) and is sent the answer or thrown the error; who drives it
waits, or awaits. So the thread runner and the task runner share every decision.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from eventstore.errors import EventStoreError, SubscriptionError
from eventstore.operations.checkpoints import (
    Checkpoint,
    load_owned,
    mark_attempt,
    note_error,
    save_checkpoint,
)
from eventstore.operations.conflicts import constraint_of, sqlstate_of
from eventstore.operations.deliveries import Slice, limit_idle, read_slice
from eventstore.operations.leases import acquire_lease, release_lease
from eventstore.operations.parking import park_stream
from eventstore.operations.read import read_feed_mark
from eventstore.subscriptions.catch_up import (
    Acquire,
    Acquired,
    Deliver,
    Delivered,
    Failed,
    GiveUp,
    Halt,
    Happening,
    LeaseLost,
    Refused,
    Release,
    Stale,
    StopRequested,
)
from eventstore.subscriptions.definition import PARK, OnFailure

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.operations.deliveries import StoredEvent
    from eventstore.operations.fence import Mark
    from eventstore.operations.leases import Lease
    from eventstore.subscriptions.definition import Subscription

log = logging.getLogger("eventstore.subscriptions")

#: Of a traceback, its end: that is where the error was raised.
_MAX_TRACEBACK: Final = 8_000
_MAX_MESSAGE: Final = 1_000
TRANSACTION_ENDED: Final = (
    "the handler has committed or rolled back the session that it was given; its writes are "
    "committed together with the checkpoint"
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Run the operation on the session, and send what it returns."""

    operation: Callable[[Session], Any]


@dataclass(frozen=True, slots=True)
class Hand:
    """Call the handler, and flush what it left in the session."""

    event: AnyEnvelope
    attempt: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the session; what follows is another transaction."""


#: The commands that need a session.
Task: TypeAlias = Acquire | Deliver | GiveUp | Release | Halt
Step: TypeAlias = Ask | Hand | Commit
Steps: TypeAlias = Generator[Step, Any, Happening]


@dataclass(frozen=True, slots=True)
class Failure:
    """An event that could not be handled, and why."""

    event: StoredEvent
    error: str
    traceback: str
    attempts: int  #: at this event by itself


class Worker:
    """One partition of a subscription, as seen by the process that works on it, or wants to."""

    def __init__(
        self,
        subscription: Subscription,
        partition: int,
        owner: str,
        codec: PayloadCodec,
        schema: str | None,
    ) -> None:
        self.subscription = subscription
        self.partition = partition
        self.lease: Lease | None = None
        self.failure: Failure | None = None
        #: The partition counts as this process's own, or is about to be.
        self.claimed = False
        #: The lease is lost, or the partition is another process's share.
        self.must_yield = False
        self._owner = owner
        self._codec = codec
        self._schema = schema
        self._at = Checkpoint(partition, 0, 0)
        self._slice = Slice(
            subscription.name, partition, subscription.partitions, subscription.filters
        )

    @property
    def position(self) -> int:
        """Up to where the partition was scanned, as far as this process knows."""
        return self._at.position

    def stopped(self) -> SubscriptionError:
        """Return the error that tells why the subscription has stopped."""
        reason = "it has stopped" if self.failure is None else _note(self.failure)
        return SubscriptionError(
            self.subscription.name, f"{reason}; it goes on from there when it is run again"
        )

    def log_end(self, error: BaseException) -> None:
        """Say that the worker has ended, and why."""
        log.error(
            "subscription %r has stopped: %s",
            self.subscription.name,
            describe(error),
            extra={"action": "subscription_stopped", "subscription": self.subscription.name},
        )

    def log_interruption(self, error: BaseException) -> None:
        """Say that something failed that is no event's fault, and will be tried again."""
        log.warning(
            "subscription %r is interrupted: %s",
            self.subscription.name,
            describe(error),
            extra={"action": "interrupted", "subscription": self.subscription.name},
        )

    def perform(self, command: Task, mark: Mark) -> Steps:
        """Return the steps of a command; ``mark`` says how far the feed can be read."""
        match command:
            case Acquire():
                return self._acquire()
            case Deliver(limit, marked):
                return self._deliver(limit, mark.position, marked=marked)
            case GiveUp(policy):
                return self._give_up(policy)
            case Halt():
                return self._release(self.failure)
            case Release():
                return self._release(None)

    def _acquire(self) -> Steps:
        spec, schema = self.subscription, self._schema
        acquired = yield Ask(
            lambda session: acquire_lease(
                session, spec.name, self.partition, self._owner, spec.lease_seconds, schema=schema
            )
        )
        if acquired is None:
            self.claimed = False
            return Refused()
        # Read after the lease was taken: nobody has moved the checkpoint since.
        mark = yield Ask(lambda session: read_feed_mark(session, schema=schema))
        if acquired.position > mark.head:
            raise SubscriptionError(
                spec.name,
                f"its checkpoint {acquired.position} is ahead of the newest event, {mark.head}: "
                "the store was restored to an earlier time; what the subscription has made is "
                "of events that are no more: rebuild it under another name",
            )
        yield Commit()
        self.lease, self.must_yield = acquired.lease, False
        self._at = Checkpoint(self.partition, acquired.position, acquired.releases)
        return Acquired(acquired.interrupted)

    def _deliver(self, limit: int, until: int, *, marked: bool) -> Steps:
        if until <= self.position:
            return Delivered(0, caught_up=True)
        events = yield Ask(lambda session: self._read(session, until, limit))
        attempts = 0
        if events and marked:
            attempts = yield from self._mark(events[0])
            if not attempts:
                return (yield from self._refused())
            if attempts > self.subscription.retry.max_attempts:
                return self._died_at(events[0], attempts)
        if self.subscription.external:
            yield Commit()  # no transaction is open while the handler is at work
        elif marked:
            yield Ask(lambda session: limit_idle(session, self.subscription.lease_seconds))
        through = events[-1].position if len(events) == limit else until
        stopped = (yield from self._hand_over(events, attempts)) or (
            yield from self._complete(events, through, attempts)
        )
        return stopped or Delivered(len(events), caught_up=through >= until)

    def _read(self, session: Session, until: int, limit: int) -> list[StoredEvent]:
        return read_slice(
            session,
            self._slice,
            self._codec,
            after=self.position,
            until=until,
            limit=limit,
            idle_seconds=self.subscription.lease_seconds,
            schema=self._schema,
        )

    def _mark(self, event: StoredEvent) -> Generator[Step, Any, int]:
        lease, position = self._owned(), event.position
        attempts = yield Ask(
            lambda session: mark_attempt(session, lease, position, schema=self._schema)
        )
        yield Commit()
        return attempts or 0

    def _hand_over(
        self, events: list[StoredEvent], attempts: int
    ) -> Generator[Step, Any, Happening | None]:
        """Give the handler one event after the other; return what stops it, if anything does."""
        filters, handled = self.subscription.filters, 0
        for stored in events:
            try:
                for event in stored.decoded(self._codec, filters):
                    yield Hand(event, attempts + 1)
            except SubscriptionError:
                raise  # it is of the subscription as a whole, and no event's fault
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is its failure
                failed = self._failed(stored, error, attempts)
                if self.subscription.external and handled:
                    # What has taken effect outside is not to come again.
                    return (yield from self._complete([], handled, 0)) or failed
                return failed
            handled = stored.position
        return None

    def _complete(
        self, events: list[StoredEvent], through: int, attempts: int
    ) -> Generator[Step, Any, Happening | None]:
        """Save the checkpoint and commit; return what stops it, if anything does."""
        saved = yield from self._save(through)
        if saved is not None:
            return saved
        try:
            yield Commit()
        except Exception as error:
            # A constraint that is checked at the end is an event's fault; a lost server isn't.
            if not events or is_outage(error):
                raise
            return self._failed(events[-1], error, attempts)
        self._at = self._at._replace(position=through)
        return None

    def _save(self, through: int) -> Generator[Step, Any, Happening | None]:
        lease, before = self._owned(), self._at
        saved = yield Ask(
            lambda session: save_checkpoint(session, lease, before, through, schema=self._schema)
        )
        return None if saved else (yield from self._refused())

    def _refused(self) -> Steps:
        """Find out why the checkpoint could not be moved."""
        lease = self._owned()
        at = yield Ask(lambda session: load_owned(session, lease, schema=self._schema))
        if at is None:
            self.lease, self.claimed = None, False
            return LeaseLost()
        self._at = at
        return Stale()

    def _give_up(self, policy: OnFailure) -> Steps:
        failure, lease, name = self.failure, self._owned(), self.subscription.name
        if failure is None:
            raise AssertionError("nothing has failed")
        position = failure.event.position
        if policy is PARK:
            yield Ask(lambda session: park(session, name, failure, schema=self._schema))
        yield Ask(lambda session: note_error(session, lease, _note(failure), schema=self._schema))
        saved = yield from self._save(position)
        if saved is not None:
            return saved
        yield Commit()
        self._at = self._at._replace(position=position)
        log.error(
            "subscription %r: event at position %s failed %s times: %s",
            name,
            position,
            failure.attempts,
            "its stream is parked" if policy is PARK else "it is skipped",
            extra={"action": f"event_{policy.value}ed", "subscription": name, "position": position},
        )
        return Delivered(1, caught_up=False)

    def _release(self, failure: Failure | None) -> Steps:
        lease, self.lease, self.claimed = self.lease, None, False
        if lease is not None:
            if failure is not None:
                yield Ask(
                    lambda session: note_error(session, lease, _note(failure), schema=self._schema)
                )
            yield Ask(lambda session: release_lease(session, lease, schema=self._schema))
            yield Commit()
        return StopRequested()

    def _failed(self, event: StoredEvent, error: Exception, attempts: int) -> Failed:
        self.failure = failure_of(event, error, attempts)
        log.warning(
            "subscription %r: event at position %s failed: %s",
            self.subscription.name,
            event.position,
            type(error).__qualname__,
            extra={
                "action": "event_failed",
                "subscription": self.subscription.name,
                "position": event.position,
                "attempts": attempts,
            },
        )
        return Failed(attempts)

    def _died_at(self, event: StoredEvent, attempts: int) -> Failed:
        attempts -= 1
        error = "no attempt to handle the event came to an end: the process died"
        self.failure = Failure(event, error, "", attempts)
        return Failed(attempts)

    def _owned(self) -> Lease:
        if self.lease is None:
            raise AssertionError("no lease is held")
        return self.lease


def park(session: Session, subscription: str, failure: Failure, *, schema: str | None) -> None:
    """Take the stream of the event that failed aside."""
    park_stream(
        session,
        subscription,
        failure.event,
        error=failure.error,
        traceback=failure.traceback,
        attempts=failure.attempts,
        schema=schema,
    )


def failure_of(event: StoredEvent, error: Exception, attempts: int) -> Failure:
    """Describe an error: what it is and where it was raised, bounded, and without a payload."""
    where = "".join(traceback.format_tb(error.__traceback__))[-_MAX_TRACEBACK:]
    return Failure(event, describe(error), where, attempts)


def describe(error: BaseException) -> str:
    """Return the type of an error and what it says, unless that may show a payload."""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, ValidationError):
        return f"{name}: {error.error_count()} errors in {error.title}"
    if isinstance(error, DBAPIError):
        # The server's words hold values, and SQLAlchemy's the parameters.
        facts = ("SQLSTATE", sqlstate_of(error)), ("constraint", constraint_of(error))
        return f"{name}: " + ", ".join(f"{what} {value}" for what, value in facts if value)
    return f"{name}: {error}"[:_MAX_MESSAGE]


def is_passing(error: Exception) -> bool:
    """Tell whether trying again may help, where no event was being handled."""
    if isinstance(error, EventStoreError):
        return error.retryable
    return isinstance(error, DBAPIError | PoolTimeoutError | OSError)


def is_outage(error: BaseException) -> bool:
    """Tell whether an error is the connection's or the server's, so that it may pass."""
    if isinstance(error, EventStoreError):
        return error.retryable
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _note(failure: Failure) -> str:
    return f"event at position {failure.event.position}: {failure.error}".replace("\0", "\\0")
