"""The head of the store, where there is nothing, or less than there was."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import ANY, SqlAlchemyEventStore, SubscriptionError
from eventstore.subscriptions import Subscription, SubscriptionRunner, wait_for
from tests.fixtures.events import new_events
from tests.fixtures.subscriptions import append, checkpoint, see, seen

if TYPE_CHECKING:
    from sqlalchemy import Engine

DEADLINE_SECONDS = 60


def test_ten_thousand_burned_numbers_at_the_head_hold_nothing(db: Engine) -> None:
    append(db, "a", 3)
    with SubscriptionRunner(db, [Subscription("view", see, partitions=2)]) as runner:
        for _ in range(10):
            with Session(db) as session:
                SqlAlchemyEventStore(session).append_to_stream("burned", ANY, new_events(1_000))
                session.rollback()
        assert wait_for(db, "view", 10_003, DEADLINE_SECONDS)
        runner.run_until_current()
        append(db, "a", 1)
        assert wait_for(db, "view", 10_004, DEADLINE_SECONDS)
    assert seen(db) == [1, 2, 3, 10_004]
    # The other partition may save later how far it has come in vain.
    assert checkpoint(db) >= 10_003


def test_a_store_that_is_restored_to_an_earlier_time_stops_a_running_subscription(
    db: Engine,
) -> None:
    append(db, "a", 3)
    runner = SubscriptionRunner(db, [Subscription("view", see)])
    with pytest.raises(SubscriptionError, match="restored to an earlier time"), runner:
        assert wait_for(db, "view", 3, DEADLINE_SECONDS)
        with db.begin() as connection:
            connection.execute(text("SELECT setval('events_sequence_number_seq', 1)"))
        (worker,) = (each for each in threading.enumerate() if each.name == "view/0")
        worker.join(DEADLINE_SECONDS)
        assert not worker.is_alive()
