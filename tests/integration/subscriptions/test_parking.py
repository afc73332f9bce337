"""Parked streams come back in order, by themselves or not at all, and move no checkpoint."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.orm import Session

from eventstore import EventFilter, SubscriptionError
from eventstore.operations.read import read_feed_mark
from eventstore.registry import codec_of
from eventstore.subscriptions import (
    Delivery,
    Subscription,
    SubscriptionRunner,
    discard_parked,
    parked_streams,
    replay_parked,
    replay_parked_async,
)
from eventstore.subscriptions.catch_up import Acquire, Deliver, Stale
from eventstore.subscriptions.driving import drive
from eventstore.subscriptions.wake_up import Feed
from eventstore.subscriptions.worker import Worker
from tests.fixtures.stores import async_engine_of, in_threads
from tests.fixtures.subscriptions import QUICK, append, checkpoint, see, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine

    from eventstore.events import AnyEnvelope
    from eventstore.subscriptions.catch_up import Happening
    from eventstore.subscriptions.worker import Task


def refusing(*versions: int, stream_id: str = "a") -> Callable[[Session, AnyEnvelope], None]:
    def handler(session: Session, event: AnyEnvelope) -> None:
        if event.stream_id == stream_id and event.event_version in versions:
            raise ValueError("no")
        see(session, event)

    return handler


def run(engine: Engine, handler: Callable[..., Any], **options: Any) -> Subscription:
    subscription = Subscription("view", handler, retry=QUICK, **options)
    SubscriptionRunner(engine, [subscription], notifications=False).run_until_current()
    return subscription


def park(engine: Engine) -> None:
    """Stream a at 1 to 3 and 7, of which 2 and what follows wait; stream b at 4 to 6."""
    append(engine, "a", 3)
    append(engine, "b", 3)
    append(engine, "a", 1)
    run(engine, refusing(2))
    assert seen(engine) == [1, 4, 5, 6]


def test_a_replay_delivers_what_waits_and_moves_no_checkpoint(db: Engine) -> None:
    park(db)
    for _ in range(3):
        assert replay_parked(db, Subscription("view", see), "a") == []
        assert checkpoint(db) == 7
    assert seen(db) == [1, 2, 3, 4, 5, 6, 7]
    append(db, "a")
    run(db, see)
    assert seen(db) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_replay_that_fails_again_stays_parked_where_it_fails(db: Engine) -> None:
    park(db)
    (parked,) = replay_parked(db, Subscription("view", refusing(2)))
    assert (parked.position, parked.attempts) == (2, 4)
    (parked,) = replay_parked(db, Subscription("view", refusing(3)))
    assert (parked.position, parked.event_version, parked.attempts) == (3, 3, 1)
    assert seen(db) == [1, 2, 4, 5, 6]
    assert replay_parked(db, Subscription("view", see)) == []
    assert seen(db) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"filters": EventFilter(event_types=["Other"])}, {"partitions": 2}]
)
def test_a_replay_by_changed_code_is_refused(
    db: Engine, async_url: URL, change: dict[str, Any]
) -> None:
    async def replay() -> None:
        async with async_engine_of(async_url) as engine:
            await replay_parked_async(engine, changed)

    park(db)
    changed = Subscription("view", see, **change)
    with pytest.raises(SubscriptionError, match="it was made with"):
        replay_parked(db, changed)
    with pytest.raises(SubscriptionError, match="it was made with"):
        asyncio.run(replay())
    assert replay_parked(db, Subscription("view", see)) == []
    assert seen(db) == [1, 2, 3, 4, 5, 6, 7]


def test_a_handler_that_can_not_work_at_all_is_no_fault_of_the_event(db: Engine) -> None:
    def refuse(session: Session, event: AnyEnvelope) -> None:
        raise SubscriptionError("view", "its tables are not there")

    park(db)
    with pytest.raises(SubscriptionError, match="not there"):
        replay_parked(db, Subscription("view", refuse))
    with Session(db) as session:
        (parked,) = parked_streams(session, "view")
    assert (parked.attempts, parked.error) == (3, "ValueError: no")


def test_a_discarded_stream_flows_again_from_the_checkpoint_on(db: Engine) -> None:
    park(db)
    with Session(db) as session, session.begin():
        assert discard_parked(session, "view", "a")
        assert not discard_parked(session, "view", "b")
    append(db, "a")
    run(db, see)
    assert seen(db) == [1, 4, 5, 6, 8]


def test_a_replay_of_external_effects(db: Engine) -> None:
    got: list[int] = []
    broken = [True]

    def handler(delivery: Delivery) -> None:
        if broken[0] and delivery.position == 2:
            raise ValueError("no")
        got.append(delivery.position)

    append(db, "a", 3)
    subscription = run(db, handler, external=True)
    assert got == [1]
    broken[0] = False
    assert replay_parked(db, subscription) == []
    assert got == [1, 2, 3]


def test_a_batch_that_passes_the_stream_over_is_read_anew_when_it_is_let_go(db: Engine) -> None:
    """The worker has read a page without the stream, then the stream is let go, then it saves."""
    park(db)
    append(db, "b", 1)
    append(db, "a", 1)
    at_work, go_on = threading.Event(), threading.Event()

    def handler(session: Session, event: AnyEnvelope) -> None:
        at_work.set()
        assert go_on.wait(60)
        see(session, event)

    runner = SubscriptionRunner(db, [Subscription("view", handler)], notifications=False)
    with runner:
        assert at_work.wait(60)
        assert replay_parked(db, Subscription("view", see)) == []
        go_on.set()
        runner.run_until_current()
    assert seen(db) == [*range(1, 10)]


@pytest.mark.parametrize("external", [False, True])
def test_what_was_scanned_in_vain_of_a_stream_comes_before_what_follows(
    db: Engine, *, external: bool
) -> None:
    """The worker is ahead of its checkpoint when the stream is let go, from the checkpoint on."""
    got: list[int] = []

    def handler(*arguments: Any) -> None:
        got.append(arguments[-1].position if external else arguments[-1].sequence_number)

    park(db)
    subscription = Subscription("view", handler, external=external)
    # Its clock stands still, so that it never is time to save what was scanned in vain.
    worker = Worker(subscription, 0, "w", codec_of(None), None, clock=lambda: 0.0)

    def perform(command: Task) -> Happening:
        with Session(db) as session:
            feed = Feed(read_feed_mark(session, schema=None), 0)
            return drive(session, subscription, worker.perform(command, feed))

    perform(Acquire())
    append(db, "a")
    perform(Deliver(10, marked=False))
    assert (worker.position, checkpoint(db), got) == (8, 7, [])
    assert replay_parked(db, subscription) == []
    append(db, "a")
    assert perform(Deliver(10, marked=False)) == Stale()
    perform(Deliver(10, marked=False))
    assert (checkpoint(db), got) == (9, [2, 3, 7, 8, 9])


def test_two_replays_at_once_deliver_once(db: Engine) -> None:
    park(db)
    jobs = [lambda: replay_parked(db, Subscription("view", see))] * 4
    assert in_threads(*jobs) == [[]] * 4
    assert seen(db) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_parked_can_be_listed(db: Engine) -> None:
    park(db)
    with Session(db) as session:
        (parked,) = parked_streams(session, "view")
        assert parked_streams(session, "other") == []
    assert (parked.subscription, parked.stream_id, parked.error) == ("view", "a", "ValueError: no")
