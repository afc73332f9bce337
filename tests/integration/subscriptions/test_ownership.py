"""Who owns a partition, whatever is killed, frozen or cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    EventFilter,
    EventStoreError,
    SqlAlchemyEventStore,
    SubscriptionError,
)
from eventstore.operations.attempts import mark_attempt
from eventstore.operations.checkpoints import (
    Checkpoint,
    Definition,
    create_subscription,
    load_owned,
    save_checkpoint,
)
from eventstore.operations.leases import acquire_lease, release_lease, renew_lease
from eventstore.subscriptions import (
    PARK,
    STOP,
    Subscription,
    SubscriptionRunner,
    parked_streams,
    wait_for,
)
from tests.fixtures.events import new_events
from tests.fixtures.subscriptions import QUICK, append, checkpoint, see, seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from eventstore.events import AnyEnvelope
    from eventstore.operations.leases import Lease

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("worker_process.py")


@contextmanager
def process(engine: Engine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which prints a line for each thing it has done."""
    url = engine.url.render_as_string(hide_password=False)
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), url, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            assert pipe is not None
            pipe.close()


def line_of(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def expire(engine: Engine) -> None:
    """The time of all leases is over: what a test would else wait for."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE subscriptions SET lease_expires_at = 'epoch'"))


@pytest.fixture
def leased(db: Engine) -> tuple[Engine, Lease]:
    with Session(db) as session, session.begin():
        create_subscription(session, "view", Definition(), 0, schema=None)
        acquired = acquire_lease(session, "view", 0, "one", 60, schema=None)
    assert acquired is not None
    assert not acquired.interrupted
    return db, acquired.lease


def test_a_lease_is_one_owners_until_it_is_given_back(leased: tuple[Engine, Lease]) -> None:
    engine, lease = leased
    with Session(engine) as session:
        assert acquire_lease(session, "view", 0, "two", 60, schema=None) is None
        assert renew_lease(session, lease, 60, schema=None)
        release_lease(session, lease, schema=None)
        acquired = acquire_lease(session, "view", 0, "two", 60, schema=None)
        assert acquired is not None
        assert acquired.lease.epoch == lease.epoch + 1
        assert not acquired.interrupted
        assert not renew_lease(session, lease, 60, schema=None)


def test_one_that_ran_out_is_taken_over_and_the_old_owner_is_fenced(
    leased: tuple[Engine, Lease],
) -> None:
    engine, lease = leased
    expire(engine)
    with Session(engine) as session:
        before = load_owned(session, lease, schema=None)
        assert before is not None
        acquired = acquire_lease(session, "view", 0, "two", 60, schema=None)
        assert acquired is not None
        assert acquired.interrupted
        assert not save_checkpoint(session, lease, before, 5, schema=None)
        assert not mark_attempt(session, lease, before, 5, 1, schema=None)
        assert load_owned(session, lease, schema=None) is None
        # The epoch fences, whatever the names: an owner's own older lease is worth nothing.
        again = acquire_lease(session, "view", 0, "two", 60, schema=None)
        assert again is not None
        assert not renew_lease(session, acquired.lease, 60, schema=None)
        assert not save_checkpoint(session, acquired.lease, before, 5, schema=None)
        acquired = again
        assert mark_attempt(session, acquired.lease, before, 5, 1, schema=None)
        assert save_checkpoint(session, acquired.lease, before, 5, schema=None)
        # A commit that seemed lost and wasn't: the same step can't be made twice.
        assert not save_checkpoint(session, acquired.lease, before, 5, schema=None)
        assert not mark_attempt(session, acquired.lease, before, 5, 1, schema=None)


def test_attempts_are_told_to_the_next_owner(leased: tuple[Engine, Lease]) -> None:
    engine, lease = leased
    with Session(engine) as session, session.begin():
        assert mark_attempt(session, lease, Checkpoint(0, 0, 0), 7, 3, schema=None)
        # Given back in the midst of its attempts: the third one has not come to an end.
        release_lease(session, lease, 2, schema=None)
        acquired = acquire_lease(session, "view", 0, "two", 60, schema=None)
        assert acquired is not None
        assert (acquired.marked_position, acquired.attempts) == (7, 2)
        assert acquired.interrupted
        assert not acquired.died


def test_an_owner_that_lost_its_lease_at_work_changes_nothing(db: Engine) -> None:
    append(db, "a", 2)
    at_work, go_on = threading.Event(), threading.Event()

    def slow(session: Session, each: AnyEnvelope) -> None:
        at_work.set()
        assert go_on.wait(60)
        see(session, each)

    with SubscriptionRunner(db, [Subscription("view", slow)], notifications=False):
        assert at_work.wait(60)
        expire(db)
        SubscriptionRunner(db, [Subscription("view", see)], notifications=False).run_until_current()
        assert checkpoint(db) == 2
        go_on.set()
    assert seen(db) == [1, 2]
    assert checkpoint(db) == 2


def test_a_row_that_somebody_locks_holds_up_no_other_lease(db: Engine) -> None:
    """And the owner of that one finds out by its own clock, since nothing else can tell it."""
    handled: list[str] = []
    subscriptions = [
        Subscription("locked", lambda *_: handled.append("locked"), lease_seconds=1),
        Subscription("free", lambda *_: handled.append("free"), lease_seconds=1),
    ]
    lock = text("SELECT 1 FROM subscriptions WHERE name = 'locked' FOR UPDATE")
    expiry = text("SELECT lease_expires_at FROM subscriptions WHERE name = 'free'")
    with (
        SubscriptionRunner(db, subscriptions, notifications=False) as runner,
        db.connect().execution_options(isolation_level="AUTOCOMMIT") as other,
    ):
        owner, free = runner._roster.workers
        while owner.lease is None or free.lease is None:
            other.execute(text("SELECT pg_sleep(0.01)"))
        with db.begin() as operator:
            operator.execute(lock)
            first = other.execute(expiry).scalar_one()
            while other.execute(expiry).scalar_one() < first + timedelta(seconds=1):
                other.execute(text("SELECT pg_sleep(0.01)"))
            append(db)
            while owner.lease is not None or "free" not in handled:
                other.execute(text("SELECT pg_sleep(0.01)"))
            assert handled == ["free"]
        runner.run_until_current()
    assert sorted(handled) == ["free", "locked"]


def test_an_event_that_kills_its_process_is_parked(db: Engine) -> None:
    append(db, "good", 2)
    append(db, "poison", 1)
    append(db, "good", 2)
    for _ in range(3):  # the first time in a batch, which tells on nobody
        with process(db, "kill-at", "3") as worker:
            assert worker.wait() == -signal.SIGKILL
        expire(db)
    assert seen(db) == [1, 2]
    with process(db, "kill-at", "3", "until-current") as worker:
        assert worker.wait() == 0
    assert seen(db) == [1, 2, 4, 5]
    with Session(db) as session:
        (parked,) = parked_streams(session, "view")
    assert (parked.stream_id, parked.attempts) == ("poison", 2)
    assert "the process died" in parked.error


def test_a_frozen_owner_is_taken_over_and_moves_nothing_when_it_wakes(db: Engine) -> None:
    append(db, "a", 3)
    with process(db, "slow") as worker:
        assert line_of(worker) == "at work"
        worker.send_signal(signal.SIGSTOP)
        expire(db)
        SubscriptionRunner(db, [Subscription("view", see)], notifications=False).run_until_current()
        assert checkpoint(db) == 3
        worker.send_signal(signal.SIGCONT)
        assert worker.stdin is not None
        worker.stdin.write("go on\n")
        worker.stdin.flush()
        assert line_of(worker) == "handled"
        append(db, "a", 1)
        SubscriptionRunner(db, [Subscription("view", see)], notifications=False).run_until_current()
    assert seen(db) == [1, 2, 3, 4]


def test_lost_connections_change_nothing(db: Engine) -> None:
    """Everything that the runner has open is cut, again and again, while it works."""
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    killer = db.execution_options(isolation_level="AUTOCOMMIT")
    subscription = Subscription("view", see, batch_size=7)
    with killer.connect() as connection, SubscriptionRunner(db, [subscription]) as runner:
        for number in range(10):
            for _ in range(5):
                with Session(bind=connection) as session:
                    SqlAlchemyEventStore(session).append_to_stream(f"s{number}", ANY, new_events(4))
            connection.execute(cut)
        # The connections of the pool that were cut are found out by their first use.
        for _ in range(100):
            with suppress(DBAPIError, EventStoreError):
                runner.run_until_current()
                break
    assert seen(db) == [*range(1, 201)]


def test_partitions_are_shared_out_and_order_within_a_stream_holds(db: Engine) -> None:
    streams = [f"s{number}" for number in range(12)]
    first = SubscriptionRunner(
        db, [Subscription("view", see, partitions=4, lease_seconds=0.6)], notifications=False
    )
    second = SubscriptionRunner(
        db, [Subscription("view", see, partitions=4, lease_seconds=0.6)], notifications=False
    )
    with first:
        for stream_id in streams:
            append(db, stream_id, 3)
        with second:
            owners = text("SELECT count(*) FROM subscriptions GROUP BY owner ORDER BY owner")
            for _ in range(10_000):
                with Session(db) as session:
                    counts = list(session.scalars(owners))
                    session.execute(text("SELECT pg_sleep(0.005)"))
                if counts == [2, 2]:
                    break
            assert counts == [2, 2]
            for stream_id in streams:
                append(db, stream_id, 3)
            first.run_until_current()
    assert seen(db) == [*range(1, 73)]


@pytest.mark.parametrize("external", [False, True])
def test_no_transaction_that_locks_the_row_may_lie_idle(db: Engine, *, external: bool) -> None:
    """A process that is frozen between any two of its statements is ended by the server."""
    append(db, "a", 2)
    append(db, "bad", 1)
    own = create_engine(db.url)
    is_limited, unlimited = [False], list[str]()

    @event.listens_for(own, "begin")
    def begin(_connection: Connection) -> None:
        is_limited[0] = False

    @event.listens_for(own, "before_cursor_execute")
    def execute(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        is_limited[0] |= "idle_in_transaction_session_timeout" in statement
        if "UPDATE subscriptions" in statement and not is_limited[0]:
            unlimited.append(statement)

    def handler(*arguments: object) -> None:
        if "bad" in str(arguments[-1]):
            raise ValueError("no")

    rare = EventFilter(event_types=["Rare"])
    for name, filters in (("view", None), ("rare", rare)):
        for policy in (STOP, PARK):
            spec = Subscription(
                name, handler, filters=filters, external=external, retry=QUICK, on_failure=policy
            )
            with suppress(SubscriptionError):
                SubscriptionRunner(own, [spec], notifications=False).run_until_current()
    with SubscriptionRunner(own, [spec], notifications=False):
        append(db, "a", 1)
        assert wait_for(db, "rare", 4, 60)  # what was scanned in vain is saved a second later
    own.dispose()
    assert (checkpoint(db), checkpoint(db, "rare")) == (3, 4)
    assert unlimited == []
