"""What the owner of a partition does with its row: take the lease, keep the checkpoint, give back.

Each is made of steps (:mod:`eventstore.subscriptions.steps`). Whatever changes the row names the
lease's epoch and the checkpoint that it goes on from, so that an owner finds out here that it is
none any more, or that something has changed under its hands.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from eventstore.operations.attempts import mark_attempt, note_error, note_interruption
from eventstore.operations.checkpoints import Checkpoint, load_owned, save_checkpoint
from eventstore.operations.deliveries import limit_idle
from eventstore.operations.leases import acquire_lease, release_lease
from eventstore.subscriptions.catch_up import Happening, LeaseLost, Stale
from eventstore.subscriptions.steps import Ask, Commit, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.operations.leases import Acquired, Lease
    from eventstore.subscriptions.definition import Subscription

Steps: TypeAlias = Generator[Step, Any, Happening]
#: What comes instead of what was to be done, if anything does.
Unless: TypeAlias = Generator[Step, Any, Happening | None]


class Owner:
    """Who owns a partition of a subscription, or wants to."""

    def __init__(
        self,
        subscription: Subscription,
        partition: int,
        name: str,
        schema: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.subscription = subscription
        self.partition = partition
        self.lease: Lease | None = None
        #: The partition counts as this process's own, or is about to be.
        self.claimed = False
        #: How far it was scanned; the checkpoint may lag behind by what isn't of this partition.
        self.position = 0
        self._name = name
        self._schema = schema
        self._clock = clock
        self._at = Checkpoint(partition, 0, 0)
        self._saved_at = clock()
        # Until then by this process's clock, the lease is ours; the server counts from later on.
        self._lease_ends = 0.0

    @property
    def is_unsaved(self) -> bool:
        """Whether the checkpoint is behind what was scanned."""
        return self.position > self._at.position

    def renewed(self, lease: Lease, asked_at: float) -> None:
        """Note that the lease was renewed by a statement that was sent at a time."""
        if self.lease == lease:
            self._lease_ends = asked_at + self.subscription.lease_seconds

    def abandon(self) -> None:
        """Count on the lease no more, and renew it no more."""
        self.lease, self.claimed = None, False

    def _is_over(self) -> bool:
        """Tell whether the lease has run out, by this process's clock: it asks nobody for that."""
        return self._clock() >= self._lease_ends

    def _owned(self) -> Lease:
        if self.lease is None:
            raise AssertionError("no lease is held")
        return self.lease

    def _take(self) -> Generator[Step, Any, Acquired | None]:
        """Take the lease, and stand where the last owner has left the checkpoint."""
        spec, asked_at = self.subscription, self._clock()
        yield self._limit_idle()
        acquired: Acquired | None = yield Ask(
            lambda session: acquire_lease(
                session,
                spec.name,
                self.partition,
                self._name,
                spec.lease_seconds,
                schema=self._schema,
            )
        )
        yield Commit()
        if acquired is None:
            self.claimed = False
            return None
        self.lease = acquired.lease
        self.renewed(acquired.lease, asked_at)
        self._move_to(Checkpoint(self.partition, acquired.position, acquired.releases))
        return acquired

    def _mark(self, position: int, attempts: int) -> Generator[Step, Any, bool]:
        """Write down that the event at a position is about to be tried, and commit that."""
        lease, before = self._owned(), self._at
        is_marked: bool = yield Ask(
            lambda session: mark_attempt(
                session, lease, before, position, attempts, schema=self._schema
            )
        )
        if is_marked:
            yield Commit()
        return is_marked

    def _save(self, through: int) -> Unless:
        """Move the checkpoint on, in the transaction that is open."""
        lease, before = self._owned(), self._at
        saved = yield Ask(
            lambda session: save_checkpoint(session, lease, before, through, schema=self._schema)
        )
        return None if saved else (yield from self._refused())

    def _save_and_commit(self, through: int) -> Unless:
        refused = yield from self._save(through)
        if refused is None:
            yield Commit()
            self._saved(through)
        return refused

    def _saved(self, through: int) -> None:
        self._move_to(self._at._replace(position=through))

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

    def _move_to(self, at: Checkpoint) -> None:
        self._at, self.position, self._saved_at = at, at.position, self._clock()

    def _lost(self) -> LeaseLost:
        self.abandon()
        return LeaseLost()

    def _give_back(self, attempts: int, unsure: int | None) -> Generator[Step, Any, None]:
        """End the lease; the next owner goes on counting, and knows what may come again."""
        lease = self._owned()
        yield Ask(
            lambda session: release_lease(session, lease, attempts, unsure, schema=self._schema)
        )
        yield Commit()
        self.abandon()

    def _note(self, error: str, position: int | None) -> Ask:
        lease = self._owned()
        return Ask(lambda session: note_error(session, lease, error, position, schema=self._schema))

    def _note_interruption(self, error: str, seconds: float) -> Ask:
        lease = self._owned()
        return Ask(
            lambda session: note_interruption(session, lease, error, seconds, schema=self._schema)
        )

    def _limit_idle(self) -> Ask:
        """A process that is frozen must not keep the rows that it has locked."""
        return Ask(lambda session: limit_idle(session, self.subscription.lease_seconds))
