"""What is read after a hint, without a look at the fence, skips nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import ANY, SqlAlchemyEventStore
from eventstore.operations.deliveries import Slice, read_slice
from eventstore.registry import codec_of
from eventstore.subscriptions import Subscription, SubscriptionRunner
from tests.fixtures.events import new_events
from tests.fixtures.stores import in_threads
from tests.fixtures.subscriptions import append, burn, see, seen

if TYPE_CHECKING:
    from sqlalchemy import Engine


def read(engine: Engine, after: int, limit: int = 100, partitions: int = 1) -> list[int]:
    with Session(engine) as session:
        events = read_slice(
            session,
            Slice("view", 0, partitions, None),
            codec_of(None),
            after=after,
            until=None,
            limit=limit,
            idle_seconds=60,
            schema=None,
        )
        return [each.position for each in events]


def test_it_ends_at_the_first_gap(db: Engine) -> None:
    append(db, "a", 3)
    with Session(db) as held:
        SqlAlchemyEventStore(held).append_to_stream("held", ANY, new_events(2))
        append(db, "b", 3)
        assert read(db, 0) == [1, 2, 3]
        assert read(db, 3) == []
        held.commit()
    assert read(db, 0) == [*range(1, 9)]
    assert read(db, 0, limit=4) == [1, 2, 3, 4]
    burn(db)
    append(db, "a", 1)
    assert read(db, 6) == [7, 8]
    assert read(db, 9) == [10]


def test_it_ends_there_for_a_partition_too(db: Engine) -> None:
    for number in range(8):
        append(db, f"s{number}", 1)
    with Session(db) as held:
        SqlAlchemyEventStore(held).append_to_stream("held", ANY, new_events(1))
        for number in range(8):
            append(db, f"s{number}", 1)
        positions = read(db, 0, partitions=2)
    assert 0 < len(positions) < 8
    assert positions[-1] <= 8


@pytest.mark.parametrize("partitions", [1, 3])
def test_nothing_is_skipped_while_many_append_hold_and_roll_back(
    db: Engine, partitions: int
) -> None:
    seed = random.randrange(2**32)
    view = Subscription("view", see, partitions=partitions, batch_size=7)

    def write(number: int) -> None:
        choose = random.Random(seed + number)
        for _ in range(40):
            with Session(db) as session:
                store = SqlAlchemyEventStore(session)
                for _ in range(choose.randint(1, 3)):
                    stream_id = f"s{number}-{choose.randint(0, 2)}"
                    store.append_to_stream(stream_id, ANY, new_events(choose.randint(1, 3)))
                    session.execute(text("SELECT pg_sleep(:n)"), {"n": choose.random() / 200})
                if choose.random() < 0.2:
                    session.rollback()
                else:
                    session.commit()

    with SubscriptionRunner(db, [view]) as runner:
        assert in_threads(*[lambda n=n: write(n) for n in range(6)]) == [None] * 6  # type: ignore[misc]
        runner.run_until_current()
    with Session(db) as session:
        every = text("SELECT sequence_number FROM events ORDER BY 1")
        assert seen(db) == list(session.scalars(every)), f"seed {seed}"
        # In the order in which they were committed to the view, versions rise by one.
        order = text(
            "SELECT count(*) FROM (SELECT version, lag(version, 1, 0) OVER"
            " (PARTITION BY stream_id ORDER BY xmin::text::bigint, position) AS before FROM seen)"
            " AS pairs WHERE version <> before + 1"
        )
        assert session.scalar(order) == 0, f"seed {seed}"
