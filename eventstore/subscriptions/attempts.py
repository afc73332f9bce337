"""Attempts at events that would not be handled: how often each was tried, and what came of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from eventstore.subscriptions.failures import (
    Failure,
    describe,
    failure_of,
    is_lost_without_a_word,
    is_outage,
)

if TYPE_CHECKING:
    from eventstore.operations.deliveries import StoredEvent
    from eventstore.operations.leases import Acquired
    from eventstore.subscriptions.definition import Subscription

log = logging.getLogger("eventstore.subscriptions")

#: An event that seems to end its process is tried by itself at least so often: once may be chance.
_LEAST_DEATHS: Final = 2
#: So often in a row may a connection break at one event that is delivered by itself. From then on
#: it counts: an event that takes its server process with it would hold up the rest for ever.
_MAX_LOSSES: Final = 5


class _Tried(NamedTuple):
    """An event that is delivered by itself, and how many attempts have come to an end."""

    position: int
    attempts: int
    died: bool = False  #: the last one was another owner's, and was never heard of again


class Attempts:
    """The attempts at one event after the other, and the last failure.

    The number is kept here and written to the partition's row before each attempt. So an attempt
    that was interrupted doesn't count, and only what a dead owner has left counts unseen.
    """

    def __init__(self, subscription: Subscription) -> None:
        self.failure: Failure | None = None  #: of the event at fault, if one is
        self.reason = "it has stopped"  #: of the end, if it comes now
        self._subscription = subscription
        self._epoch = -1  # of the lease that was held last
        self._tried = _Tried(0, 0)
        self._losses = 0, 0  # of connections: at which event, and how many

    def resume(self, acquired: Acquired) -> None:
        """Go on where the last owner of the partition has ended."""
        if acquired.lease.epoch != self._epoch + 1:  # else that was this one
            self._tried = _Tried(acquired.marked_position or 0, acquired.attempts, acquired.died)
        self._epoch = acquired.lease.epoch

    def at(self, event: StoredEvent) -> int:
        """Return how many attempts at the event by itself have come to an end, or may have."""
        return self._tried.attempts if self._tried.position == event.position else 0

    def behind(self, position: int) -> int:
        """Return the same for whichever event is being tried behind a checkpoint."""
        return self._tried.attempts if self._tried.position > position else 0

    def begun(self, event: StoredEvent) -> None:
        """Note that one more attempt is written down; it has yet to come to an end."""
        self._tried = _Tried(event.position, self.at(event))

    def have_ended_processes(self, event: StoredEvent) -> bool:
        """Tell whether the event has ended its process so often that it is to be given up."""
        limit = max(self._subscription.retry.max_attempts, _LEAST_DEATHS)
        if not self._tried.died or self.at(event) < limit:
            return False
        error = "the last attempt to handle the event came to no end: the process died"
        self._keep(Failure(event, error, "", self.at(event)))
        return True

    def count(self, event: StoredEvent, error: Exception, attempts: int) -> bool:
        """Tell whether an error is the event's failure; an outage isn't, and comes to nothing."""
        if not is_outage(error):
            return True
        if not attempts or not is_lost_without_a_word(error):
            return False
        position, losses = self._losses
        losses = losses + 1 if position == event.position else 1
        self._losses = event.position, losses
        return losses > _MAX_LOSSES

    def failed(self, event: StoredEvent, error: Exception, attempts: int) -> None:
        """Keep a failure; ``attempts`` is 0 in a batch, which tells on nobody."""
        log.warning(
            "subscription %r: event at position %s failed: %s",
            self._subscription.name,
            event.position,
            type(error).__qualname__,
            extra={
                "action": "event_failed",
                "subscription": self._subscription.name,
                "position": event.position,
                "attempts": attempts,
            },
        )
        self._keep(failure_of(event, error, attempts))

    def ended_by(self, error: BaseException) -> None:
        """Keep what ends the worker, and is no event's fault."""
        self.halted(describe(error))
        log.error(
            "subscription %r has stopped: %s",
            self._subscription.name,
            self.reason,
            extra={"action": "subscription_stopped", "subscription": self._subscription.name},
        )

    def halted(self, reason: str) -> None:
        """Keep why the subscription can't go on; it is no event's fault."""
        self.failure, self.reason = None, reason

    def _keep(self, failure: Failure) -> None:
        position = failure.event.position
        if failure.attempts:
            self._tried = _Tried(position, failure.attempts)
        self.failure = failure
        self.reason = f"event at position {position}: {failure.error}"
