"""What a worker does on one partition of a subscription, step by step, without waiting.

Each command of the state machine is a generator. It yields what it needs (an operation on the
session, a handler's call, a commit) and is sent the answer or thrown the error; who drives it
waits, or awaits. So the thread runner and the task runner share every decision.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventstore.errors import SubscriptionError
from eventstore.operations.checkpoints import (
    Checkpoint,
    load_owned,
    mark_attempt,
    note_error,
    save_checkpoint,
)
from eventstore.operations.deliveries import Slice, limit_idle, read_slice
from eventstore.operations.leases import acquire_lease, release_lease
from eventstore.operations.parking import park_stream
from eventstore.operations.read import read_feed_mark
from eventstore.subscriptions.attempts import Attempts
from eventstore.subscriptions.catch_up import (
    SAVE_AFTER_SECONDS,
    Acquire,
    Acquired,
    AheadOfHead,
    Deliver,
    Delivered,
    Failed,
    GiveUp,
    Halt,
    Happening,
    Interrupted,
    LeaseLost,
    Refused,
    Release,
    Stale,
    StopRequested,
)
from eventstore.subscriptions.definition import PARK, OnFailure
from eventstore.subscriptions.failures import (
    describe,
    is_idle_too_long,
    is_left_broken,
    is_outage,
)
from eventstore.subscriptions.steps import Ask, Commit, Hand, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.operations.deliveries import StoredEvent
    from eventstore.operations.fence import Mark
    from eventstore.operations.leases import Lease
    from eventstore.subscriptions.definition import Subscription
    from eventstore.subscriptions.wake_up import Feed

log = logging.getLogger("eventstore.subscriptions")

#: A read covers at most so many positions: one that finds nothing ends soon.
SCAN_POSITIONS: Final = 100_000
_AHEAD_OF_HEAD: Final = (
    "its checkpoint {} is ahead of the newest event, {}: the store was restored to an earlier "
    "time; what the subscription has made is of events that are no more: make it anew, after "
    "reset_subscription()"
)


#: The commands that need a session.
Task: TypeAlias = Acquire | Deliver | GiveUp | Release | Halt
Steps: TypeAlias = Generator[Step, Any, Happening]


class Worker:
    """One partition of a subscription, as seen by the process that works on it, or wants to."""

    def __init__(
        self,
        subscription: Subscription,
        partition: int,
        owner: str,
        codec: PayloadCodec,
        schema: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.subscription = subscription
        self.partition = partition
        self.lease: Lease | None = None
        #: The partition counts as this process's own, or is about to be.
        self.claimed = False
        #: The lease is lost, or the partition is another process's share.
        self.must_yield = False
        #: The process is to end: after the event that is being handled.
        self.must_stop = False
        #: Somebody waits for the checkpoint: what was scanned in vain is saved at once.
        self.is_awaited = False
        #: It has ended at something that it can't pass; why was noted down.
        self.has_halted = False
        #: After a hint nothing could be read without a look at the fence.
        self.needs_mark = False
        #: How far it was scanned; the checkpoint may lag behind by what isn't of this partition.
        self.position = 0
        #: The hints of commits that it has followed.
        self.hints = 0
        self._owner = owner
        self._codec = codec
        self._schema = schema
        self._clock = clock
        self._at = Checkpoint(partition, 0, 0)
        self._saved_at = clock()
        # Until then by this process's clock, the lease is ours; the server counts from later on.
        self._lease_ends = 0.0
        self._readable = 0  # how far the feed can be read at least
        self._attempts = Attempts(subscription)
        self._unsaved: set[int] = set()  # what took effect outside, and may come again
        self._slice = Slice(
            subscription.name, partition, subscription.partitions, subscription.filters
        )

    @property
    def is_unsaved(self) -> bool:
        """Whether the checkpoint is behind what was scanned."""
        return self.position > self._at.position

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to do for it beside events."""
        return self.must_stop or self.must_yield or (self.is_awaited and self.is_unsaved)

    def renewed(self, lease: Lease, asked_at: float) -> None:
        """Note that the lease was renewed by a statement that was sent at a time."""
        if self.lease == lease:
            self._lease_ends = asked_at + self.subscription.lease_seconds

    def stopped(self) -> SubscriptionError:
        """Return the error that tells why the subscription has stopped."""
        reason = f"{self._attempts.reason}; it goes on from there when it is run again"
        return SubscriptionError(self.subscription.name, reason)

    def ended_by(self, error: BaseException) -> None:
        """Say that the worker has ended, and why."""
        self._attempts.ended_by(error)

    def log_interruption(self, error: BaseException) -> None:
        """Say that something failed that is no event's fault, and will be tried again."""
        log.warning(
            "subscription %r is interrupted: %s",
            self.subscription.name,
            describe(error),
            extra={"action": "interrupted", "subscription": self.subscription.name},
        )

    def perform(self, command: Task, feed: Feed) -> Steps:
        """Return the steps of a command; ``feed`` says how far the feed can be read."""
        match command:
            case Acquire():
                return self._acquire()
            case Deliver(limit, marked):
                return self._deliver(limit, feed, marked=marked)
            case GiveUp(policy):
                return self._give_up(policy)
            case Halt():
                return self._release(halted=True)
            case Release():
                return self._release(halted=False)

    def _acquire(self) -> Steps:
        spec, schema, asked_at = self.subscription, self._schema, self._clock()
        yield self._limit_idle()
        acquired = yield Ask(
            lambda session: acquire_lease(
                session, spec.name, self.partition, self._owner, spec.lease_seconds, schema=schema
            )
        )
        yield Commit()
        if acquired is None:
            self.claimed = False
            return Refused()
        # Read after the lease was taken: nobody moves the checkpoint meanwhile, and what the last
        # owner may have had in hand lies before the mark.
        mark = yield Ask(lambda session: read_feed_mark(session, schema=schema))
        self._readable = mark.position
        self.lease, self.must_yield = acquired.lease, False
        self.renewed(acquired.lease, asked_at)
        self._move_to(Checkpoint(self.partition, acquired.position, acquired.releases))
        self._attempts.resume(acquired)
        return AheadOfHead() if self._is_ahead_of(mark) else Acquired(acquired.interrupted)

    def _deliver(self, limit: int, feed: Feed, *, marked: bool) -> Steps:
        if feed.mark.head < self.position:
            # Others may have moved the checkpoint since that was read.
            mark = yield Ask(lambda session: read_feed_mark(session, schema=self._schema))
            if self._is_ahead_of(mark):
                return AheadOfHead()
        readable = max(self._readable, feed.mark.position)
        if readable <= self.position and feed.hints == self.hints:
            return (yield from self._save_scanned()) or self._caught_up()
        events, through = yield from self._scan(limit, readable, feed.hints)
        if events:
            stopped = yield from self._handle(events, through, marked=marked)
        else:
            self.position = through
            stopped = yield from self._save_scanned()
            # Not a rollback, after which psycopg would prepare its statements anew.
            yield Commit()
        if stopped is not None:
            return stopped
        if self.position >= readable and feed.hints == self.hints:
            return self._caught_up(len(events))
        return Delivered(len(events), caught_up=False)

    def _scan(
        self, limit: int, readable: int, hints: int
    ) -> Generator[Step, Any, tuple[list[StoredEvent], int]]:
        """Read the next events, and return them and the position up to which there are no others.

        If the feed is known to be readable no further, there was a hint, and it is read as far as
        that can be done without a look at the fence.
        """
        events: list[StoredEvent]
        if readable > self.position:
            until = min(readable, self.position + SCAN_POSITIONS)
            events = yield Ask(lambda session: self._read(session, until, limit))
            return events, events[-1].position if len(events) == limit else until
        events = yield Ask(lambda session: self._read(session, None, limit))
        if len(events) < limit:
            self.hints, self.needs_mark = hints, not events
        # They can be read, whatever comes of them now.
        self._readable = events[-1].position if events else self.position
        return events, self._readable

    def _caught_up(self, events: int = 0) -> Delivered:
        return Delivered(events, caught_up=True, unsaved=self.is_unsaved)

    def _read(self, session: Session, until: int | None, limit: int) -> list[StoredEvent]:
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

    def _is_ahead_of(self, mark: Mark) -> bool:
        """Tell whether the newest event is older than the checkpoint, and keep that as reason."""
        if mark.head >= self.position:
            return False
        self._attempts.halted(_AHEAD_OF_HEAD.format(self.position, mark.head))
        return True

    def _handle(
        self, events: list[StoredEvent], through: int, *, marked: bool
    ) -> Generator[Step, Any, Happening | None]:
        """Hand events over and save the checkpoint; return what comes instead, if anything does."""
        attempts = 0
        if marked:
            (event,) = events
            attempts = self._attempts.at(event) + 1
            if self._attempts.have_ended_processes(event):
                return Failed(attempts - 1)
            if not (yield from self._mark(event, attempts)):
                return (yield from self._refused())
        elif self.is_unsaved and (moved := (yield from self._look_for_releases())):
            return moved
        if self.subscription.external:
            yield Commit()  # no transaction is open while the handler is at work
        elif marked:
            yield self._limit_idle()
        handled, stopped = yield from self._hand_over(events, attempts)
        if 0 < handled < len(events):
            through = events[handled - 1].position
        events = events[:handled]
        # What has taken effect outside is not to come again, whatever has stopped the rest.
        if events and (stopped is None or self.subscription.external):
            stopped = (yield from self._complete(events, through, attempts)) or stopped
        return self._lost() if isinstance(stopped, LeaseLost) else stopped

    def _look_for_releases(self) -> Generator[Step, Any, Happening | None]:
        """Return what comes before the page, if the checkpoint's row isn't as it was.

        What was scanned in vain may be of a stream that was let go since, up to the checkpoint
        alone: its events up to here have to come before those of the page. The page was read
        before this look; so it leaves out what is let go from now on, until it is to be saved.
        """
        at = yield from self._look()
        return None if at == self._at else self._moved(at)

    def _mark(self, event: StoredEvent, attempts: int) -> Generator[Step, Any, bool]:
        lease, before, position = self._owned(), self._at, event.position
        is_marked = yield Ask(
            lambda session: mark_attempt(
                session, lease, before, position, attempts, schema=self._schema
            )
        )
        if is_marked:
            yield Commit()
            self._attempts.begun(event)
        return bool(is_marked)

    def _hand_over(
        self, events: list[StoredEvent], attempts: int
    ) -> Generator[Step, Any, tuple[int, Happening | None]]:
        """Give the handler one event after the other.

        Returns how many it has handled, and what has stopped it; neither a failure nor a lost
        lease has if the process is to end, or to leave the partition to another one.
        """
        filters = self.subscription.filters
        for handled, stored in enumerate(events):
            if self.must_stop or self.must_yield:
                return handled, None
            # A process that was frozen finds out here, before it does anything more.
            if self._clock() >= self._lease_ends:
                return handled, LeaseLost()
            attempt = self._attempt_at(stored, attempts)
            try:
                for event in stored.decoded(self._codec, filters):
                    yield Hand(event, attempt)
            except SubscriptionError:
                raise  # it is of the subscription as a whole, and no event's fault
            except Exception as error:
                if self._clock() >= self._lease_ends:
                    return handled, LeaseLost()
                if not self._attempts.count(stored, error, attempts):
                    if not self.subscription.external:
                        raise
                    self.log_interruption(error)
                    return handled, Interrupted()
                return handled, self._failed(stored, error, attempts)
        return len(events), None

    def _attempt_at(self, event: StoredEvent, attempts: int) -> int:
        """Return the number that a handler is told: more than 1 if the event may come again.

        A batch whose checkpoint couldn't be saved is delivered once more, and nothing was counted.
        """
        if self.subscription.external:
            attempts = max(attempts, int(event.position in self._unsaved))
            self._unsaved.add(event.position)
        return attempts + 1

    def _complete(
        self, events: list[StoredEvent], through: int, attempts: int
    ) -> Generator[Step, Any, Happening | None]:
        """Save the checkpoint and commit; return what stops it, if anything does."""
        if self.subscription.external:
            yield self._limit_idle()  # as the read has done for its own transaction
        try:
            refused = yield from self._save(through)
        except Exception as error:
            if not (is_left_broken(error) or is_idle_too_long(error)):
                raise
            return self._failed(events[-1], error, attempts)
        if refused is not None:
            return refused
        try:
            yield Commit()
        except Exception as error:
            # A constraint that is checked at the end is an event's fault; a lost server isn't.
            if is_outage(error):
                raise
            return self._failed(events[-1], error, attempts)
        self._move_to(self._at._replace(position=through))
        return None

    def _save_scanned(self) -> Generator[Step, Any, Happening | None]:
        """Save what was scanned in vain, if it is time to; at most once a second."""
        is_due = self._clock() >= self._saved_at + SAVE_AFTER_SECONDS
        if not self.is_unsaved or not (is_due or self.is_awaited):
            return None
        position = self.position
        yield self._limit_idle()
        refused = yield from self._save(position)
        if refused is None:
            yield Commit()
            self._move_to(self._at._replace(position=position))
        return refused

    def _save(self, through: int) -> Generator[Step, Any, Happening | None]:
        lease, before = self._owned(), self._at
        saved = yield Ask(
            lambda session: save_checkpoint(session, lease, before, through, schema=self._schema)
        )
        return None if saved else (yield from self._refused())

    def _move_to(self, at: Checkpoint) -> None:
        self._at, self.position, self._saved_at = at, at.position, self._clock()
        self._unsaved = {each for each in self._unsaved if each > at.position}

    def _refused(self) -> Steps:
        """Find out why the checkpoint could not be moved."""
        return self._moved((yield from self._look()))

    def _look(self) -> Generator[Step, Any, Checkpoint | None]:
        lease = self._owned()
        at: Checkpoint | None = yield Ask(
            lambda session: load_owned(session, lease, schema=self._schema)
        )
        return at

    def _moved(self, at: Checkpoint | None) -> Stale | LeaseLost:
        """Go on where the checkpoint is by now."""
        if at is None:
            return self._lost()
        self._move_to(at)
        return Stale()

    def abandon(self) -> None:
        """Count on the lease no more, and renew it no more."""
        self.lease, self.claimed = None, False

    def _lost(self) -> LeaseLost:
        self.abandon()
        return LeaseLost()

    def _give_up(self, policy: OnFailure) -> Steps:
        failure, lease, name = self._attempts.failure, self._owned(), self.subscription.name
        if failure is None:
            raise AssertionError("nothing has failed")
        position = failure.event.position
        yield self._limit_idle()
        if policy is PARK:
            yield Ask(
                lambda session: park_stream(
                    session,
                    name,
                    failure.event,
                    error=failure.error,
                    traceback=failure.traceback,
                    attempts=failure.attempts,
                    schema=self._schema,
                )
            )
        yield self._note(lease, failure.error, position)
        refused = yield from self._save(position)
        if refused is not None:
            return refused
        yield Commit()
        self._move_to(self._at._replace(position=position))
        log.error(
            "subscription %r: event at position %s failed %s times: %s",
            name,
            position,
            failure.attempts,
            "its stream is parked" if policy is PARK else "it is skipped",
            extra={"action": f"event_{policy.value}ed", "subscription": name, "position": position},
        )
        return Delivered(1, caught_up=False)

    def _release(self, *, halted: bool) -> Steps:
        lease, before, position = self.lease, self._at, self.position
        if lease is None:
            return StopRequested()
        yield self._limit_idle()
        if position > before.position:
            yield Ask(
                lambda session: save_checkpoint(
                    session, lease, before, position, schema=self._schema
                )
            )
        attempts = self._attempts.behind(position)
        if halted:
            attempts, failure = 0, self._attempts.failure
            yield (
                self._note(lease, self._attempts.reason, None)
                if failure is None
                else self._note(lease, failure.error, failure.event.position)
            )
        yield Ask(lambda session: release_lease(session, lease, attempts, schema=self._schema))
        yield Commit()
        self.abandon()
        self.has_halted = halted
        return StopRequested()

    def _note(self, lease: Lease, error: str, position: int | None) -> Ask:
        return Ask(lambda session: note_error(session, lease, error, position, schema=self._schema))

    def _limit_idle(self) -> Ask:
        """A process that is frozen must not keep the rows that it has locked."""
        return Ask(lambda session: limit_idle(session, self.subscription.lease_seconds))

    def _failed(self, event: StoredEvent, error: Exception, attempts: int) -> Failed:
        self._attempts.failed(event, error, attempts)
        return Failed(attempts)

    def _owned(self) -> Lease:
        if self.lease is None:
            raise AssertionError("no lease is held")
        return self.lease
