"""What the status says, and how long a reader waits for its own writes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from eventstore import ANY, EventFilter, SqlAlchemyEventStore, SubscriptionError
from eventstore.errors import ConnectionUnusable
from eventstore.subscriptions import (
    RetryPolicy,
    Subscription,
    SubscriptionRunner,
    subscription_status,
    wait_for,
)
from eventstore.subscriptions.creation import create
from eventstore.subscriptions.failures import describe
from eventstore.subscriptions.notifications import CommitListener
from tests.fixtures.events import new_event
from tests.fixtures.subscriptions import CUT, QUICK, TELL, append, burn, see

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from eventstore.events import AnyEnvelope
    from eventstore.subscriptions import PartitionStatus


def run(engine: Engine, *subscriptions: Subscription) -> None:
    SubscriptionRunner(engine, subscriptions, notifications=False).run_until_current()


def test_a_partition_that_has_caught_up(db: Engine) -> None:
    append(db, "a", 3)
    burn(db, 4)
    run(db, Subscription("view", see))
    with Session(db) as session:
        (status,) = subscription_status(session)
    assert (status.position, status.readable, status.head) == (7, 7, 7)
    assert (status.lag_events, status.lag_seconds) == (0, 0.0)
    assert (status.owner, status.is_leased, status.parked) == (None, False, 0)
    assert status.last_error is None
    assert status.fence_holder is None


def test_one_that_waits_says_for_whom(db: Engine) -> None:
    append(db, "a", 1)
    run(db, Subscription("view", see), Subscription("other", lambda *_: None))
    held = create_engine(db.url, connect_args={"application_name": "slow writer"})
    with Session(held) as writer:
        SqlAlchemyEventStore(writer).append_to_stream("h", ANY, [new_event()])
        append(db, "a", 2)
        with Session(db) as session:
            (status,) = subscription_status(session, "view")
    held.dispose()
    assert (status.position, status.readable, status.head, status.lag_events) == (1, 1, 4, 2)
    assert status.lag_seconds > 0
    assert status.fence_holder is not None
    assert status.fence_holder.application_name == "slow writer"
    assert status.fence_holder.pid is not None
    assert status.fence_holder.seconds > 0


def test_the_holder_is_the_one_that_appended_first_in_this_database(db: Engine) -> None:
    """Not the one that began first, nor one of a copy of this database, whose sequence is alike."""
    elsewhere = create_engine(db.url.set(database="postgres"))
    append(db, "a", 1)
    with Session(db) as session:
        sequence = session.scalar(text("SELECT 'events_sequence_number_seq'::regclass::oid::int"))
    with elsewhere.connect() as other, Session(db) as older, Session(db) as writer:
        other.execute(text("SELECT pg_advisory_xact_lock_shared(:oid, 0)"), {"oid": sequence})
        older.execute(text("SELECT 1"))
        pid = writer.scalar(text("SELECT pg_backend_pid()"))
        SqlAlchemyEventStore(writer).append_to_stream("b", ANY, [new_event()])
        SqlAlchemyEventStore(older).append_to_stream("c", ANY, [new_event()])
        with Session(db) as session, session.begin():
            create(session, Subscription("view", see), 1, schema=None)
        with Session(db) as session:
            (status,) = subscription_status(session)
    elsewhere.dispose()
    assert status.readable == 1
    assert status.fence_holder is not None
    assert status.fence_holder.pid == pid


def test_what_is_parked_and_what_went_wrong(db: Engine) -> None:
    def refuse(session: Session, event: AnyEnvelope) -> None:
        raise ValueError("no")

    append(db, "a", 1)
    append(db, "b", 1)
    run(db, Subscription("view", refuse, retry=QUICK, partitions=3))
    with Session(db) as session:
        statuses = subscription_status(session, "view")
    assert [status.partition for status in statuses] == [0, 1, 2]
    assert sum(status.parked for status in statuses) == 2
    assert "ValueError: no" in str([status.last_error for status in statuses])


def test_waiting_is_exact_and_bounded(db: Engine) -> None:
    append(db, "a", 2)
    assert not wait_for(db, "view", 1, 0.01)
    run(db, Subscription("view", see, filters=EventFilter(event_types=["Other"])))
    assert wait_for(db, "view", 2, 0.01)
    assert not wait_for(db, "view", 3, 0.01)
    for position, seconds in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be"):
            wait_for(db, "view", position, seconds)


def test_a_handler_can_not_wait_for_itself(db: Engine) -> None:
    append(db)
    refused: list[str] = []

    def handler(session: Session, event: AnyEnvelope) -> None:
        with pytest.raises(SubscriptionError) as error:
            wait_for(db, "view", event.sequence_number, 60)
        refused.append(error.value.subscription)

    run(db, Subscription("view", handler))
    assert refused == ["view"]


def test_a_lost_listener_is_made_anew_and_looks_after_it_listens(db: Engine) -> None:
    heard = threading.Event()
    listener = CommitListener(db, None, heard.set)
    listener.start()
    for _ in range(3):
        assert heard.wait(60)  # the first look after LISTEN
        heard.clear()
        with db.begin() as connection:
            connection.execute(TELL)
        assert heard.wait(60)
        heard.clear()
        with db.begin() as connection:
            connection.execute(CUT)
    assert heard.wait(60)
    assert listener.connected
    listener.stop()
    assert not listener.connected


def test_a_runner_says_whether_it_listens(db: Engine) -> None:
    append(db, "a", 1)
    at_work, go_on = threading.Event(), threading.Event()

    def handler(session: Session, event: AnyEnvelope) -> None:
        at_work.set()
        assert go_on.wait(60)

    deaf = SubscriptionRunner(db, [Subscription("deaf", see)], notifications=False)
    deaf.run_until_current()
    assert not deaf.listening
    with SubscriptionRunner(db, [Subscription("view", handler)]) as runner:
        assert at_work.wait(60)
        while not runner.listening:
            assert runner._listener._thread.is_alive()
        go_on.set()
    assert not runner.listening


def test_an_event_that_is_tried_again_is_shown(db: Engine) -> None:
    """While its worker waits between attempts, no error is noted down yet."""
    append(db, "a", 3)
    shown: list[tuple[int | None, int]] = []

    def refuse(session: Session, event: AnyEnvelope) -> None:
        with Session(db) as other:
            (status,) = subscription_status(other)
        shown.append((status.marked_position, status.attempts))
        if event.sequence_number == 2:
            raise ValueError("no")

    run(db, Subscription("view", refuse, retry=QUICK))
    assert [each for each in shown if each[0] == 2] == [(2, 1), (2, 2), (2, 3)]
    with Session(db) as session:
        (status,) = subscription_status(session)
    assert (status.marked_position, status.attempts) == (None, 0)


def test_what_interrupts_again_and_again_is_shown_while_it_lasts(db: Engine) -> None:
    """No event's fault, and no attempt at one."""
    append(db, "a", 2)
    shown: list[PartitionStatus] = []
    began = datetime.now(UTC)

    def handler(session: Session, event: AnyEnvelope) -> None:
        with Session(db) as other:
            (status,) = subscription_status(other)
        if status.interrupted_since is None and event.sequence_number == 2:
            raise ConnectionUnusable("08006")
        shown.append(status)
        see(session, event)

    run(db, Subscription("view", handler, retry=RetryPolicy(max_attempts=1)))
    status = shown[-1]
    assert status.last_error == describe(ConnectionUnusable("08006"))
    assert (status.last_error_position, status.position, status.parked) == (None, 1, 0)
    assert status.interrupted_since == status.last_error_at
    assert status.interrupted_since is not None
    assert began < status.interrupted_since < datetime.now(UTC)
    with Session(db) as session:
        (status,) = subscription_status(session)
    assert (status.position, status.interrupted_since) == (2, None)
    assert status.last_error == shown[-1].last_error
