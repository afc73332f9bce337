"""Which partitions a process may own: its fair share of each subscription."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from typing import TYPE_CHECKING, Final

from eventstore.operations.leases import announce_worker, renew_lease, retire_worker
from eventstore.operations.transactions import commit
from eventstore.subscriptions.catch_up import CatchUp
from eventstore.subscriptions.definition import Subscription
from eventstore.subscriptions.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec


#: How often a stand-by asks whether the owner is still there, at least.
LONGEST_ACQUIRE_SECONDS: Final = 1.0


def check_subscriptions(subscriptions: Sequence[Subscription]) -> tuple[Subscription, ...]:
    """Return the subscriptions if they can be run together."""
    if not subscriptions:
        raise ValueError("subscriptions is empty; name at least one")
    for spec in subscriptions:
        if not isinstance(spec, Subscription):
            raise TypeError(f"subscriptions must be of Subscription, not {type(spec).__name__}")
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


def share_of(partitions: int, workers: int) -> int:
    """Return how many partitions a worker may have: so many that all are taken."""
    return -(-partitions // max(1, workers))


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

    def may_acquire(self, worker: Worker) -> bool:
        """Tell whether the worker may take its partition, within this process's share."""
        spec = worker.subscription
        with self._lock:
            others = sum(other.claimed for other in self._workers_of(spec) if other is not worker)
            worker.claimed = others < self._shares[spec.name]
            return worker.claimed

    def renew(self, session: Session) -> None:
        """Renew the leases, say that this process is there, and give up what is beyond its share.

        Each is a transaction of its own, so that no row stays locked for the others' time.
        """
        for spec in self._subscriptions:
            if spec.partitions > 1:
                workers = announce_worker(
                    session, spec.name, self._name, spec.lease_seconds, schema=self._schema
                )
                commit(session)
                self._shares[spec.name] = share_of(spec.partitions, workers)
            owned = [worker for worker in self._workers_of(spec) if worker.lease is not None]
            for worker in owned:
                lease = worker.lease
                if lease is None:
                    continue  # it was given back meanwhile
                renewed = renew_lease(session, lease, spec.lease_seconds, schema=self._schema)
                commit(session)
                if not renewed and worker.lease == lease:
                    worker.must_yield = True
            for worker in owned[self._shares[spec.name] :]:
                worker.must_yield = True

    def retire(self, session: Session) -> None:
        """Say that this process is gone, so that others may have its share at once."""
        for spec in self._subscriptions:
            if spec.partitions > 1:
                retire_worker(session, spec.name, self._name, schema=self._schema)
        commit(session)

    def _workers_of(self, spec: Subscription) -> list[Worker]:
        return [worker for worker in self.workers if worker.subscription is spec]
