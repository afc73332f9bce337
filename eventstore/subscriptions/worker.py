"""What a worker does on one partition of a subscription, step by step, without waiting.

Each command of the state machine is a generator. It yields what it needs (an operation on the
session, a handler's call, a commit) and is sent the answer or thrown the error; who drives it
waits, or awaits. So the thread runner and the task runner share every decision. How a worker comes
by its partition and keeps its checkpoint is told in :mod:`eventstore.subscriptions.owner`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from eventstore.errors import SubscriptionError
from eventstore.operations.deliveries import Slice, read_slice
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
    Report,
    Reported,
    StopRequested,
)
from eventstore.subscriptions.definition import PARK, OnFailure
from eventstore.subscriptions.failures import (
    describe,
    is_idle_too_long,
    is_left_broken,
    is_outage_of_commit,
)
from eventstore.subscriptions.owner import Owner
from eventstore.subscriptions.steps import Ask, Commit, Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.operations.deliveries import StoredEvent
    from eventstore.operations.fence import Mark
    from eventstore.subscriptions.definition import Subscription
    from eventstore.subscriptions.owner import Steps, Unless
    from eventstore.subscriptions.steps import Step
    from eventstore.subscriptions.wake_up import Feed

log = logging.getLogger("eventstore.subscriptions")

#: A read covers at most so many positions: one that finds nothing ends soon.
SCAN_POSITIONS: Final = 100_000
#: A read brings at least so many events, if they are there: several transactions share one page.
READ_AHEAD: Final = 100
#: A transaction that begins so long after its page was read reads anew: what was let go since is
#: not in the page, and would have it rolled back.
READ_AHEAD_SECONDS: Final = 1.0
_AHEAD_OF_HEAD: Final = (
    "its checkpoint {} is ahead of the newest event, {}: the store was restored to an earlier "
    "time; what the subscription has made is of events that are no more: make it anew, after "
    "reset_subscription()"
)


class _Page(NamedTuple):
    """What was read, and not handed over yet."""

    events: list[StoredEvent]
    through: int  #: up to here there are no others
    read_at: float


class _Interruptions(NamedTuple):
    """Of the same work, one after the other."""

    since: float
    error: str  #: the last one


#: The commands that need a session.
Task: TypeAlias = Acquire | Deliver | GiveUp | Report | Release | Halt


class Worker(Owner):
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
        super().__init__(subscription, partition, owner, schema, clock=clock)
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
        #: The hints of commits that it has followed.
        self.hints = 0
        self._codec = codec
        self._readable = 0  # how far the feed can be read at least
        self._ahead: _Page | None = None  # what follows the checkpoint, if that was read already
        self._attempts = Attempts(subscription)
        self._interruptions: _Interruptions | None = None
        self._has_reported = False  # the status shows interruptions, until something is saved
        self._handed = 0  # up to here, what has effects outside may have been handed over before
        self._slice = Slice(
            subscription.name, partition, subscription.partitions, subscription.filters
        )

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to do for it beside events."""
        return self.must_stop or self.must_yield or (self.is_awaited and self.is_unsaved)

    def stopped(self) -> SubscriptionError:
        """Return the error that tells why the subscription has stopped."""
        reason = f"{self._attempts.reason}; it goes on from there when it is run again"
        return SubscriptionError(self.subscription.name, reason)

    def ended_by(self, error: BaseException) -> None:
        """Say that the worker has ended, and why."""
        self._attempts.ended_by(error)

    def interrupted(self, error: BaseException) -> None:
        """Say that something failed that is no event's fault, and will be tried again."""
        since = self._interruptions.since if self._interruptions else self._clock()
        self._interruptions = _Interruptions(since, describe(error))
        log.warning(
            "subscription %r is interrupted: %s",
            self.subscription.name,
            self._interruptions.error,
            extra={"action": "interrupted", "subscription": self.subscription.name},
        )

    def perform(self, command: Task, feed: Feed) -> Steps:
        """Take the steps of a command; ``feed`` says how far the feed can be read."""
        happening = yield from self._steps_of(command, feed)
        if not isinstance(happening, Interrupted | Reported):
            self._interruptions = None
        return happening

    def _steps_of(self, command: Task, feed: Feed) -> Steps:
        match command:
            case Acquire():
                return self._acquire()
            case Deliver(limit, marked):
                return self._deliver(limit, feed, marked=marked)
            case GiveUp(policy):
                return self._give_up(policy)
            case Report():
                return self._report()
            case Halt():
                return self._release(halted=True)
            case Release():
                return self._release(halted=False)

    def _acquire(self) -> Steps:
        acquired = yield from self._take()
        if acquired is None:
            return Refused()
        self.must_yield = False
        # Read after the lease was taken: nobody moves the checkpoint meanwhile, and what the last
        # owner may have had in hand lies before the mark.
        mark = yield Ask(lambda session: read_feed_mark(session, schema=self._schema))
        self._readable, self._ahead = mark.position, None
        self._attempts.resume(acquired)
        if self.subscription.external:
            self._handed = max(self._handed, acquired.marked_position or 0)
        return AheadOfHead() if self._is_ahead_of(mark) else Acquired(acquired.interrupted)

    def _deliver(self, limit: int, feed: Feed, *, marked: bool) -> Steps:
        # Whatever stops this has it read anew. An external handler's events are not read ahead,
        # since its effects can't be rolled back; nor are personal ones, whose keys come with them.
        page, self._ahead = self._ahead, None
        if feed.mark.head < self.position:
            # Others may have moved the checkpoint since that was read.
            mark = yield Ask(lambda session: read_feed_mark(session, schema=self._schema))
            if self._is_ahead_of(mark):
                return AheadOfHead()
        readable = max(self._readable, feed.mark.position)
        if readable <= self.position and feed.hints == self.hints:
            return (yield from self._save_scanned()) or self._caught_up()
        if page is None or self._clock() >= page.read_at + READ_AHEAD_SECONDS:
            reads_ahead = not (marked or self.subscription.external or self._codec.personal)
            wanted = max(limit, READ_AHEAD) if reads_ahead else limit
            page = yield from self._scan(wanted, readable, feed.hints)
        else:
            yield self._limit_idle()  # as a read does for its own transaction
        events, rest = page.events[:limit], page.events[limit:]
        if events:
            through = events[-1].position if rest else page.through
            stopped = yield from self._handle(events, through, marked=marked)
        else:
            self.position = page.through
            stopped = yield from self._save_scanned()
            # Not a rollback, after which psycopg would prepare its statements anew.
            yield Commit()
        if stopped is not None:
            return stopped
        if rest and self.position == through:
            self._ahead = page._replace(events=rest)
        elif self.position >= readable and feed.hints == self.hints:
            return self._caught_up(len(events))
        return Delivered(len(events), caught_up=False)

    def _scan(self, limit: int, readable: int, hints: int) -> Generator[Step, Any, _Page]:
        """Read the next events.

        If the feed is known to be readable no further, there was a hint, and it is read as far as
        that can be done without a look at the fence.
        """
        read_at = self._clock()
        events: list[StoredEvent]
        if readable > self.position:
            until = min(readable, self.position + SCAN_POSITIONS)
            events = yield Ask(lambda session: self._read(session, until, limit))
            through = events[-1].position if len(events) == limit else until
            return _Page(events, through, read_at)
        events = yield Ask(lambda session: self._read(session, None, limit))
        if len(events) < limit:
            self.hints, self.needs_mark = hints, not events
        # They can be read, whatever comes of them now.
        self._readable = events[-1].position if events else self.position
        return _Page(events, self._readable, read_at)

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

    def _handle(self, events: list[StoredEvent], through: int, *, marked: bool) -> Unless:
        """Hand events over and save the checkpoint; return what comes instead, if anything does."""
        attempts = 0
        if marked:
            (event,) = events
            attempts = self._attempts.at(event) + 1
            if self._attempts.have_ended_processes(event):
                return Failed(attempts - 1)
            if not (yield from self._mark(event.position, attempts)):
                return (yield from self._refused())
            self._attempts.begun(event)
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

    def _look_for_releases(self) -> Unless:
        """Return what comes before the page, if the checkpoint's row isn't as it was.

        What was scanned in vain may be of a stream that was let go since, up to the checkpoint
        alone: its events up to here have to come before those of the page. The page was read
        before this look; so it leaves out what is let go from now on, until it is to be saved.
        """
        at = yield from self._look()
        return None if at == self._at else self._moved(at)

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
            if self._is_over():
                return handled, LeaseLost()
            attempt = self._attempt_at(stored, attempts)
            try:
                for event in stored.decoded(self._codec, filters):
                    yield Hand(event, attempt)
            except SubscriptionError:
                raise  # it is of the subscription as a whole, and no event's fault
            except Exception as error:
                if self._is_over():
                    return handled, LeaseLost()
                if not self._attempts.count(stored, error, attempts):
                    if not self.subscription.external:
                        raise
                    self.interrupted(error)
                    return handled, Interrupted()
                return handled, self._failed(stored, error, attempts)
        return len(events), None

    def _attempt_at(self, event: StoredEvent, attempts: int) -> int:
        """Return the number that a handler is told: more than 1 if the event may come again.

        A batch whose checkpoint couldn't be saved is delivered once more, and nothing was counted.
        """
        if self.subscription.external:
            attempts = max(attempts, int(event.position <= self._handed))
            self._handed = max(self._handed, event.position)
        return attempts + 1

    def _complete(self, events: list[StoredEvent], through: int, attempts: int) -> Unless:
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
            if is_outage_of_commit(error):
                raise
            return self._failed(events[-1], error, attempts)
        self._saved(through)
        return None

    def _save_scanned(self) -> Unless:
        """Save what was scanned in vain, if it is time to; at most once a second.

        At once, if the status is to show no interruptions any more.
        """
        is_due = self._clock() >= self._saved_at + SAVE_AFTER_SECONDS or self.is_awaited
        if not (self._has_reported or (self.is_unsaved and is_due)):
            return None
        yield self._limit_idle()
        return (yield from self._save_and_commit(self.position))

    def _saved(self, through: int) -> None:
        super()._saved(through)
        self._has_reported = False

    def _give_up(self, policy: OnFailure) -> Steps:
        failure, name = self._attempts.failure, self.subscription.name
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
        yield self._note(failure.error, position)
        refused = yield from self._save_and_commit(position)
        if refused is not None:
            return refused
        log.error(
            "subscription %r: event at position %s failed %s times: %s",
            name,
            position,
            failure.attempts,
            "its stream is parked" if policy is PARK else "it is skipped",
            extra={
                "action": "event_parked" if policy is PARK else "event_skipped",
                "subscription": name,
                "position": position,
            },
        )
        return Delivered(1, caught_up=False)

    def _report(self) -> Steps:
        if self._interruptions is None:
            raise AssertionError("nothing was interrupted")
        seconds = self._clock() - self._interruptions.since
        yield self._limit_idle()
        yield self._note_interruption(self._interruptions.error, seconds)
        yield Commit()
        self._has_reported = True
        return Reported()

    def _release(self, *, halted: bool) -> Steps:
        if self.lease is None:
            return StopRequested()
        yield self._limit_idle()
        if self.is_unsaved:
            yield from self._save(self.position)
        if self.lease is not None:
            if halted:
                yield self._note_halt()
            attempts = 0 if halted else self._attempts.behind(self.position)
            unsure = self._handed if self._handed > self.position and not attempts else None
            yield from self._give_back(attempts, unsure)
        self.has_halted = halted
        return StopRequested()

    def _note_halt(self) -> Ask:
        failure = self._attempts.failure
        if failure is None:
            return self._note(self._attempts.reason, None)
        return self._note(failure.error, failure.event.position)

    def _failed(self, event: StoredEvent, error: Exception, attempts: int) -> Failed:
        self._attempts.failed(event, error, attempts)
        return Failed(attempts)
