"""Subscriptions run by threads, on a real database."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    EventFilter,
    EventMetadata,
    EventRegistry,
    SqlAlchemyEventStore,
    SubscriptionError,
)
from eventstore.operations.parking import list_parked
from eventstore.subscriptions import (
    NOW,
    SKIP,
    STOP,
    Delivery,
    Position,
    Subscription,
    SubscriptionRunner,
    subscription_status,
)
from tests.fixtures.events import new_event
from tests.fixtures.subscriptions import QUICK, append, burn, checkpoint, see, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from eventstore.events import AnyEnvelope


def run(engine: Engine, *subscriptions: Subscription) -> None:
    SubscriptionRunner(engine, subscriptions).run_until_current()


def test_a_view_gets_every_event_once_over_restarts(db: Engine) -> None:
    append(db, "a", 3)
    burn(db, 20)
    append(db, "b", 4)
    view = Subscription("view", see, batch_size=2)
    run(db, view)
    assert seen(db) == [1, 2, 3, 24, 25, 26, 27]
    assert checkpoint(db) == 27
    run(db, view)
    append(db, "a", 1)
    run(db, view)
    assert seen(db) == [1, 2, 3, 24, 25, 26, 27, 28]


def test_events_come_live(db: Engine) -> None:
    come = threading.Event()
    with SubscriptionRunner(db, [Subscription("live", lambda *_: come.set())]):
        append(db)
        assert come.wait(60)


def test_an_empty_store_and_burned_numbers_are_current(db: Engine) -> None:
    view = Subscription("view", see)
    run(db, view)
    assert checkpoint(db) == 0
    burn(db, 10_000)
    run(db, view)
    assert checkpoint(db) == 10_000
    append(db)
    run(db, view)
    assert seen(db) == [10_001]


def test_the_checkpoint_follows_what_was_scanned_but_never_beyond_the_fence(db: Engine) -> None:
    rare = Subscription("view", see, filters=EventFilter(event_types=["Rare"]))
    append(db, "a", 50)
    run(db, rare)
    assert checkpoint(db) == 50
    with Session(db) as held:
        SqlAlchemyEventStore(held).append_to_stream("h", ANY, [new_event(event_type="Rare")])
        append(db, "a", 5)
        with pytest.raises(TimeoutError):
            SubscriptionRunner(db, [rare]).run_until_current(0.1)
        assert checkpoint(db) == 50
        held.commit()
    run(db, rare)
    assert seen(db) == [51]
    assert checkpoint(db) == 56


def test_what_was_behind_the_fence_comes_without_another_append(db: Engine) -> None:
    come = threading.Event()
    with (
        Session(db) as held,
        SubscriptionRunner(db, [Subscription("live", lambda *_: come.set())]) as runner,
    ):
        SqlAlchemyEventStore(held).append_to_stream("h", ANY, [new_event()])
        append(db)
        with pytest.raises(TimeoutError):
            runner.run_until_current(0.1)
        assert not come.is_set()
        held.commit()
        assert come.wait(60)


def test_where_a_new_one_starts(db: Engine) -> None:
    yesterday, today = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)
    append(db, "a", 2, occurred_at=yesterday)
    append(db, "a", 2, occurred_at=today)
    got: dict[str, list[int]] = {}

    def collect(name: str) -> Callable[[Session, AnyEnvelope], None]:
        got[name] = []
        return lambda _session, event: got[name].append(event.sequence_number)

    starts: dict[str, Any] = {
        "now": NOW,
        "3": Position(3),
        "today": today,
        "tomorrow": today + timedelta(days=1),
    }
    subscriptions = [Subscription(name, collect(name), start=at) for name, at in starts.items()]
    run(db, *subscriptions)
    append(db, "a", 1)
    run(db, *subscriptions)
    assert got == {"now": [5], "3": [4, 5], "today": [3, 4, 5], "tomorrow": [5]}


def failing(stream_id: str, version: int, times: int = 10**9) -> Callable[..., None]:
    left = [times]

    def handler(session: Session, event: AnyEnvelope) -> None:
        see(session, event)
        session.flush()
        if (event.stream_id, event.event_version) == (stream_id, version) and left[0]:
            left[0] -= 1
            raise ValueError("no")

    return handler


def three_streams(engine: Engine) -> None:
    for _ in range(3):
        for stream_id in ("a", "b", "c"):
            append(engine, stream_id)


def test_a_failing_stream_is_parked_and_every_other_one_flows(db: Engine) -> None:
    three_streams(db)
    view = Subscription("view", failing("b", 2), retry=QUICK)
    run(db, view)
    assert seen(db) == [1, 2, 3, 4, 6, 7, 9]
    append(db, "b")
    append(db, "c")
    run(db, view)
    assert seen(db) == [1, 2, 3, 4, 6, 7, 9, 11]
    assert checkpoint(db) == 11
    with Session(db) as session:
        (parked,) = list_parked(session, "view", schema=None)
    assert (parked.stream_id, parked.position, parked.event_version) == ("b", 5, 2)
    assert (parked.attempts, parked.error) == (3, "ValueError: no")
    assert "in handler" in parked.traceback


def test_a_passing_failure_changes_nothing(db: Engine) -> None:
    three_streams(db)
    run(db, Subscription("view", failing("b", 2, times=3), retry=QUICK))
    assert seen(db) == [*range(1, 10)]
    with Session(db) as session:
        assert list_parked(session, "view", schema=None) == []


def test_stop_stops_at_the_event_and_goes_on_when_it_is_cured(db: Engine) -> None:
    three_streams(db)
    with pytest.raises(SubscriptionError, match="event at position 5: ValueError: no"):
        run(db, Subscription("view", failing("b", 2), retry=QUICK, on_failure=STOP))
    assert seen(db) == [1, 2, 3, 4]
    assert checkpoint(db) == 4
    run(db, Subscription("view", see, retry=QUICK, on_failure=STOP))
    assert seen(db) == [*range(1, 10)]


def test_a_partition_that_stops_stays_at_the_event_and_the_others_flow(db: Engine) -> None:
    three_streams(db)
    view = Subscription("view", failing("b", 2), retry=QUICK, on_failure=STOP, partitions=3)
    with (
        pytest.raises(SubscriptionError, match="event at position 5: ValueError: no"),
        SubscriptionRunner(db, [view], notifications=False) as runner,
    ):
        while not any(worker.has_halted for worker in runner._roster.workers):
            time.sleep(0.01)
        append(db, "c")
        append(db, "b")
        while 10 not in seen(db):
            time.sleep(0.01)
    assert seen(db) == [1, 2, 3, 4, 6, 7, 9, 10]
    with Session(db) as session:
        of_b, _, of_a_and_c = subscription_status(session, "view")
    assert of_b.position < 5
    assert (of_b.last_error, of_b.last_error_position) == ("ValueError: no", 5)
    assert (of_b.owner, of_b.parked, of_b.interrupted_since) == (None, 0, None)
    assert of_a_and_c.position >= 10
    run(db, Subscription("view", see, partitions=3))
    assert seen(db) == [*range(1, 12)]


def test_skip_passes_over_the_event_alone_and_leaves_a_trace(db: Engine) -> None:
    three_streams(db)
    run(db, Subscription("view", failing("b", 2), retry=QUICK, on_failure=SKIP))
    assert seen(db) == [1, 2, 3, 4, 6, 7, 8, 9]
    with Session(db) as session:
        (status,) = subscription_status(session, "view")
    assert (status.last_error, status.last_error_position) == ("ValueError: no", 5)
    assert status.last_error_at is not None


def test_an_event_that_cannot_be_decoded_is_parked_like_any_other(db: Engine) -> None:
    registry = EventRegistry()
    registry.register("Known", dict[str, int])
    append(db, "bad", 1, event_type="Unknown")
    append(db, "good", 1, event_type="Known")
    view = Subscription("view", see, retry=QUICK)
    SubscriptionRunner(db, [view], registry=registry).run_until_current()
    assert seen(db) == [2]
    with Session(db) as session:
        (parked,) = list_parked(session, "view", schema=None)
    assert parked.stream_id == "bad"
    assert "UnknownEventType" in parked.error


def test_a_constraint_that_is_checked_at_the_commit_is_the_events_fault(db: Engine) -> None:
    with db.begin() as connection:
        connection.execute(
            text(
                "ALTER TABLE seen ADD CONSTRAINT one UNIQUE (version) DEFERRABLE INITIALLY DEFERRED"
            )
        )
    append(db, "a", 1)
    append(db, "b", 1)
    run(db, Subscription("view", see, retry=QUICK))
    assert seen(db) == [1]
    with Session(db) as session:
        (parked,) = list_parked(session, "view", schema=None)
    assert parked.error == "sqlalchemy.exc.IntegrityError: SQLSTATE 23505, constraint one"


def test_a_handler_that_commits_is_refused(db: Engine) -> None:
    append(db)

    def handler(session: Session, event: AnyEnvelope) -> None:
        session.commit()

    with pytest.raises(SubscriptionError, match="has committed or rolled back"):
        run(db, Subscription("view", handler, retry=QUICK, on_failure=STOP))


def test_external_effects_come_at_least_once_and_say_so(db: Engine) -> None:
    append(db, "a", 5)
    got: list[tuple[int, int]] = []

    def handler(delivery: Delivery) -> None:
        got.append((delivery.position, delivery.attempt))
        if delivery.position == 3 and delivery.attempt < 3:
            raise ValueError("no")

    run(db, Subscription("mails", handler, external=True, retry=QUICK))
    # What took effect before the failure does not come again.
    assert got == [(1, 1), (2, 1), (3, 1), (3, 2), (3, 3), (4, 2), (5, 2)]


def test_no_transaction_is_open_while_effects_take_place(db: Engine) -> None:
    append(db)
    in_transaction: list[int] = []

    def handler(delivery: Delivery) -> None:
        with Session(db) as session:
            in_transaction.append(
                session.execute(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND state = 'idle in transaction' AND query LIKE '%parked_streams%'"
                        " AND pid <> pg_backend_pid()"
                    )
                ).scalar_one()
            )

    run(db, Subscription("mails", handler, external=True))
    assert in_transaction == [0]


def test_a_checkpoint_ahead_of_the_head_stops_loudly(db: Engine) -> None:
    append(db, "a", 3)
    run(db, Subscription("view", see))
    with db.begin() as connection:
        connection.execute(text("SELECT setval('events_sequence_number_seq', 1)"))
    with pytest.raises(SubscriptionError, match="restored to an earlier time"):
        run(db, Subscription("view", see))
    with Session(db) as session:
        (status,) = subscription_status(session, "view")
    assert "restored to an earlier time" in str(status.last_error)


def test_another_number_of_partitions_is_refused(db: Engine) -> None:
    run(db, Subscription("view", see))
    with pytest.raises(SubscriptionError, match="made with 1 partitions, not 2"):
        run(db, Subscription("view", see, partitions=2))


def test_metadata_reaches_the_handler(db: Engine) -> None:
    append(db, metadata=EventMetadata(correlation_id="c-1"))
    got: list[Any] = []
    run(db, Subscription("view", lambda _session, event: got.append(event.metadata)))
    assert [metadata.correlation_id for metadata in got] == ["c-1"]


def test_subscriptions_are_checked(engine: Engine) -> None:
    with pytest.raises(ValueError, match="empty"):
        SubscriptionRunner(engine, [])
    with pytest.raises(TypeError, match="must be of Subscription"):
        SubscriptionRunner(engine, [see])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="'view'"):
        SubscriptionRunner(engine, [Subscription("view", see), Subscription("view", see)])
