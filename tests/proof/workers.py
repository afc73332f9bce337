"""What the processes of the proof do: run subscriptions, and append."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore import ANY, EventStoreError, SqlAlchemyEventStore
from eventstore.subscriptions import Delivery, RetryPolicy, Subscription, SubscriptionRunner
from tests.fixtures.events import new_events
from tests.proof import ledger

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from sqlalchemy import Engine

    from eventstore.events import AnyEnvelope

#: Few enough to be contended, enough for every partition to have some.
STREAMS = [f"stream-{number}" for number in range(24)]

#: So soon the work of a process that is gone is taken over.
LEASE_SECONDS = 1.0

#: How often an event is tried that ends its process.
POISON_ATTEMPTS = 3

#: An event that can never be applied is parked in the end; one whose process is killed by chance,
#: or whose handler fails by chance, is not.
_PATIENT = RetryPolicy(max_attempts=20, first_seconds=0.01, max_seconds=0.1)


class MishapError(Exception): ...


def subscriptions(engine: Engine, seed: str) -> list[Subscription]:
    """Two views and effects outside, whose handlers fail once in a while."""
    chance = random.Random(seed)

    def perhaps_fail() -> None:
        if chance.random() < 0.005:
            raise MishapError

    def apply(session: Session, event: AnyEnvelope) -> None:
        ledger.apply(session, event)
        perhaps_fail()

    def take_note(session: Session, event: AnyEnvelope) -> None:
        ledger.take_note(session, event)
        perhaps_fail()

    def record(delivery: Delivery) -> None:
        ledger.record_effect(engine, delivery, seed)
        perhaps_fail()

    options: dict[str, Any] = {"retry": _PATIENT, "lease_seconds": LEASE_SECONDS, "batch_size": 20}
    return [
        Subscription("view", apply, partitions=4, **options),
        Subscription("notes", take_note, **options),
        Subscription("effects", record, partitions=2, external=True, **options),
    ]


def run_subscriptions(engine: Engine, pipe: Connection, seed: str) -> None:
    """Run the subscriptions until the other end of the pipe is closed, and append beside them."""
    threading.Thread(target=append_until, args=(engine, pipe.poll, seed), daemon=True).start()
    while not pipe.poll():
        # Whoever calls start() is told if its connection is lost, and calls it again.
        with (
            suppress(SQLAlchemyError, EventStoreError),
            SubscriptionRunner(engine, subscriptions(engine, seed)),
        ):
            pipe.poll(None)


def keep_appending(engine: Engine, pipe: Connection, seed: str) -> None:
    """Append until the other end of the pipe is closed."""
    append_until(engine, pipe.poll, seed)


def append_until(engine: Engine, is_over: Any, seed: str) -> None:
    """Run transactions with some appends each; some are held open, some rolled back."""
    chance = random.Random(seed)
    while not is_over():
        try:
            with Session(engine) as session:
                store = SqlAlchemyEventStore(session)
                # In the order of their names, so that writers can't deadlock.
                for stream_id in sorted(chance.sample(STREAMS, chance.randint(1, 3))):
                    store.append_to_stream(stream_id, ANY, new_events(chance.randint(1, 3)))
                    time.sleep(chance.uniform(0, 0.05))
                if chance.random() < 0.8:
                    session.commit()
        except (SQLAlchemyError, EventStoreError):
            continue  # its connection was cut


def run_halting(engine: Engine, pipe: Connection, *, external: bool) -> None:
    """Run one subscription, and say which event it has done; after the first, await an answer."""

    def halt_at(event: AnyEnvelope) -> None:
        pipe.send(event.sequence_number)
        if event.sequence_number == 1:
            pipe.recv()

    def apply(session: Session, event: AnyEnvelope) -> None:
        ledger.apply(session, event)
        halt_at(event)

    def record(delivery: Delivery) -> None:
        ledger.record_effect(engine, delivery, "old")
        halt_at(delivery.event)

    handler = record if external else apply
    spec = Subscription("work", handler, external=external, lease_seconds=LEASE_SECONDS)
    SubscriptionRunner(engine, [spec]).start()
    threading.Event().wait()


def run_poisoned(engine: Engine, _pipe: Connection, *, external: bool) -> None:
    """Come as far as possible; the first event of the stream ``poison`` ends the process."""

    def apply(session: Session, event: AnyEnvelope) -> None:
        if (event.stream_id, event.event_version) == ("poison", 1):
            os.kill(os.getpid(), signal.SIGKILL)
        ledger.apply(session, event)

    def record(delivery: Delivery) -> None:
        if (delivery.event.stream_id, delivery.event.event_version) == ("poison", 1):
            os._exit(1)
        ledger.record_effect(engine, delivery, "poisoned")

    handler = record if external else apply
    retry = RetryPolicy(max_attempts=POISON_ATTEMPTS, first_seconds=0.001)
    spec = Subscription("work", handler, external=external, retry=retry)
    SubscriptionRunner(engine, [spec]).run_until_current()
