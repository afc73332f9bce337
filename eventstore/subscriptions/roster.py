"""Which partitions a process may own: its fair share of each subscription."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from eventstore.operations.checkpoints import load_checkpoints
from eventstore.operations.conflicts import sqlstate_of
from eventstore.operations.leases import announce_worker, renew_lease, retire_worker
from eventstore.operations.read import read_feed_mark
from eventstore.operations.transactions import commit
from eventstore.subscriptions.catch_up import CatchUp
from eventstore.subscriptions.creation import create
from eventstore.subscriptions.definition import Subscription
from eventstore.subscriptions.failures import describe
from eventstore.subscriptions.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.operations.leases import Crew
    from eventstore.registry import EventRegistry


log = logging.getLogger("eventstore.subscriptions")

#: Leases are renewed so many times before they would run out; and so much sooner after a failure.
_RENEWALS: Final = 3
_SOONER: Final = 10
#: PostgreSQL manual, appendix A.
_LOCK_NOT_AVAILABLE: Final = "55P03"
#: How often a stand-by asks whether the owner is still there, at least.
LONGEST_ACQUIRE_SECONDS: Final = 1.0


def check_subscriptions(
    subscriptions: Sequence[Subscription], registry: EventRegistry | None, schema: str | None
) -> tuple[Subscription, ...]:
    """Return the subscriptions if they can be run together, on a store."""
    if not subscriptions:
        raise ValueError("subscriptions is empty; name at least one")
    for spec in subscriptions:
        if not isinstance(spec, Subscription):
            raise TypeError(f"subscriptions must be of Subscription, not {type(spec).__name__}")
        spec.check_store(registry, schema)
    names = [spec.name for spec in subscriptions]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two subscriptions have the name {min(twice)!r}; a name is for one")
    return tuple(subscriptions)


def loop_of(spec: Subscription) -> CatchUp:
    """Return the state machine of a subscription's partition."""
    return CatchUp(
        batch_size=spec.batch_size,
        retry=spec.retry,
        on_failure=spec.on_failure,
        acquire_seconds=min(spec.lease_seconds / 3, LONGEST_ACQUIRE_SECONDS),
    )


def worker_name() -> str:
    """Return a name that no other process has, and that says where to look for this one."""
    return f"{socket.gethostname()[:200]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def share_of(partitions: int, crew: Crew) -> int:
    """Return how many partitions a worker may have: all shares together are all partitions.

    They differ by one at most; the first in the order of names have one more.
    """
    each, left = divmod(partitions, max(1, crew.workers))
    return each + (crew.rank < left)


class Roster:
    """The workers of one process, and how many partitions of each subscription they may own."""

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        name: str,
        codec: PayloadCodec,
        schema: str | None,
    ) -> None:
        self.workers = [
            Worker(spec, number, name, codec, schema)
            for spec in subscriptions
            for number in range(spec.partitions)
        ]
        self._subscriptions = subscriptions
        self._name = name
        self._schema = schema
        self._shares = {spec.name: spec.partitions for spec in subscriptions}
        self._lock = threading.Lock()

    def renewal_seconds(self, *, failed: bool = False) -> float:
        """Return how long to wait before leases are renewed again."""
        pause = min(spec.lease_seconds for spec in self._subscriptions) / _RENEWALS
        return pause / _SOONER if failed else pause

    def create(self, session: Session) -> None:
        """Make the subscriptions that aren't there yet, and say that this process is; commit."""
        for spec in self._subscriptions:
            if spec.prepare is not None:
                spec.prepare(session)
            create(session, spec, spec.start_position, schema=self._schema)
        commit(session)
        self.renew(session)

    def stop(self) -> None:
        """Let each worker end after the event that it is handling."""
        for worker in self.workers:
            worker.must_stop = True

    def awaited(self, *, is_awaited: bool) -> None:
        """Say whether somebody waits for the checkpoints."""
        for worker in self.workers:
            worker.is_awaited = is_awaited

    def all_beyond(self, session: Session, position: int) -> bool:
        """Tell whether every checkpoint, whoever moves it, has come to a position.

        One that is ahead of the newest event is of another store, and has come nowhere: its worker
        is about to stop at that.
        """
        positions = [
            at.position
            for spec in self._subscriptions
            for at in load_checkpoints(session, spec.name, schema=self._schema)
        ]
        return (
            min(positions, default=0) >= position
            and max(positions, default=0) <= read_feed_mark(session, schema=self._schema).head
        )

    def may_acquire(self, worker: Worker) -> bool:
        """Tell whether the worker may take its partition, within this process's share."""
        spec = worker.subscription
        with self._lock:
            others = sum(other.claimed for other in self._workers_of(spec) if other is not worker)
            worker.claimed = others < self._shares[spec.name]
            return worker.claimed

    def renew(self, session: Session) -> bool:
        """Renew the leases, say that this process is there, and give up what is beyond its share.

        Each is a transaction of its own, so that no row stays locked for the others' time. False
        if somebody else has locked a row, so that it is to be tried again soon.
        """
        renewed = True
        for spec in self._subscriptions:
            if spec.partitions > 1:
                crew = announce_worker(
                    session, spec.name, self._name, spec.lease_seconds, schema=self._schema
                )
                commit(session)
                self._shares[spec.name] = share_of(spec.partitions, crew)
            owned = [worker for worker in self._workers_of(spec) if worker.lease is not None]
            for worker in owned:
                try:
                    self._renew_lease(session, worker)
                except DBAPIError as error:
                    if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
                        raise
                    session.rollback()
                    log_failed_renewal(error)
                    renewed = False
            for worker in owned[self._shares[spec.name] :]:
                worker.must_yield = True
        return renewed

    def _renew_lease(self, session: Session, worker: Worker) -> None:
        lease, seconds = worker.lease, worker.subscription.lease_seconds
        if lease is None:
            return  # it was given back meanwhile
        asked_at = time.monotonic()
        is_ours = renew_lease(session, lease, seconds, schema=self._schema)
        commit(session)
        if is_ours:
            worker.renewed(lease, asked_at)
        elif worker.lease == lease:
            worker.must_yield = True

    def retire(self, session: Session) -> None:
        """Say that this process is gone, so that others may have its share at once."""
        for spec in self._subscriptions:
            if spec.partitions > 1:
                retire_worker(session, spec.name, self._name, schema=self._schema)
        commit(session)

    def _workers_of(self, spec: Subscription) -> list[Worker]:
        return [worker for worker in self.workers if worker.subscription is spec]


def log_failed_renewal(error: Exception) -> None:
    """Say that leases can't be renewed; it will be tried again, and soon."""
    log.warning(
        "leases can't be renewed at the moment: %s",
        describe(error),
        extra={"action": "renewal_failed"},
    )
