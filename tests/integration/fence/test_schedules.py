"""Writers and readers of the real database, halted between each two steps, in every order.

Each run takes 100 of the 2,520 schedules, others by each seed; EVENTSTORE_TEST_ALL_SCHEDULES=1 runs
them all.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from .steps import Reader, Writer, interleavings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

Steps = list["Callable[[], None]"]


@pytest.fixture
def connections(engine: Engine) -> Iterator[Callable[..., Connection]]:
    """Open connections that end with the test."""
    with ExitStack() as stack:

        def connect(**options: str) -> Connection:
            return stack.enter_context(engine.connect().execution_options(**options))

        yield connect


@pytest.fixture
def one(connections: Callable[..., Connection]) -> Writer:
    return Writer(connections(), "one")


@pytest.fixture
def two(connections: Callable[..., Connection]) -> Writer:
    return Writer(connections(), "two")


@pytest.fixture
def autocommit(connections: Callable[..., Connection]) -> Connection:
    return connections(isolation_level="AUTOCOMMIT")


@pytest.mark.parametrize(
    "end", ["commits", "rolls back", "rolls back to a savepoint, then appends again"]
)
def test_no_schedule_skips(
    one: Writer, two: Writer, autocommit: Connection, seed: int, end: str
) -> None:
    append = [one.read_last_number, one.take_lock, one.draw]

    def rollback_and_append() -> None:
        one.rollback_to_savepoint()
        for step in append:
            step()
        one.commit()

    ends = {
        "commits": one.commit,
        "rolls back": one.roll_back,
        "rolls back to a savepoint, then appends again": rollback_and_append,
    }
    for writer in (one, two):
        writer.lock_stream()
        writer.commit()

    def begin_one() -> None:
        one.lock_stream()
        one.savepoint()

    def append_two() -> None:
        for step in (two.read_last_number, two.take_lock, two.draw):
            step()

    schedules = list(interleavings(5, 2, 3))
    if not os.environ.get("EVENTSTORE_TEST_ALL_SCHEDULES"):
        schedules = random.Random(seed).sample(schedules, k=100)
    checkpoint = 0
    autocommit.exec_driver_sql("SET eventstore.maintenance = 'on'")
    for schedule in schedules:
        autocommit.exec_driver_sql("DELETE FROM events")  # versions begin anew
        reader = Reader(autocommit, checkpoint)
        actors: list[Steps] = [
            [begin_one, *append, ends[end]],
            [append_two, two.commit],
            [reader.read_head, reader.find_mark, reader.read_page],
        ]
        turns = [iter(actor) for actor in actors]
        for actor in schedule:
            next(turns[actor])()
        reader.poll()
        assert not reader.skipped(), schedule
        assert reader.delivered == sorted(reader.delivered)
        assert two.number in reader.delivered
        assert (one.number in reader.delivered) == (end != "rolls back")
        checkpoint = reader.checkpoint
    print(len(schedules), "schedules")  # noqa: T201


def overtaken(one: Writer, two: Writer) -> None:
    """The second writer draws a later number and commits earlier."""
    for writer in (one, two):
        writer.lock_stream()
    for step in (one.read_last_number, one.take_lock, one.draw):
        step()
    for step in (two.read_last_number, two.take_lock, two.draw, two.commit):
        step()


def test_the_right_order_waits(one: Writer, two: Writer, autocommit: Connection) -> None:
    reader = Reader(autocommit)
    overtaken(one, two)
    reader.poll()
    assert reader.delivered == []
    one.commit()
    reader.poll()
    assert reader.delivered == [one.number, two.number]


def test_a_lock_after_the_number_skips(one: Writer, two: Writer, autocommit: Connection) -> None:
    reader = Reader(autocommit)
    for step in (one.lock_stream, one.read_last_number, one.draw):
        step()
    for step in (two.lock_stream, two.read_last_number, two.take_lock, two.draw, two.commit):
        step()
    reader.poll()
    one.take_lock()
    one.commit()
    assert reader.skipped() == {one.number}


def test_locks_before_the_head_skip(one: Writer, two: Writer, autocommit: Connection) -> None:
    reader = Reader(autocommit)
    reader.find_least_key_first()
    overtaken(one, two)
    reader.read_head_last()
    reader.read_page()
    one.commit()
    assert reader.skipped() == {one.number}


def test_a_head_without_the_locks_skips(one: Writer, two: Writer, autocommit: Connection) -> None:
    reader = Reader(autocommit)
    overtaken(one, two)
    reader.take_head_for_mark()
    reader.read_page()
    one.commit()
    assert reader.skipped() == {one.number}


@pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_page_in_the_snapshot_of_the_mark_skips(
    one: Writer,
    two: Writer,
    connections: Callable[..., Connection],
    autocommit: Connection,
    isolation_level: str,
) -> None:
    reader = Reader(connections(isolation_level=isolation_level))
    overtaken(one, two)
    reader.read_head()  # takes the snapshot
    one.commit()
    reader.find_mark()
    reader.read_page()
    reader.connection.commit()
    assert reader.skipped() == {one.number}


def test_a_setting_of_the_session_skips(one: Writer, two: Writer, autocommit: Connection) -> None:
    """A setting that stays when a savepoint takes the lock back: nobody takes the lock again."""
    reader = Reader(autocommit)
    for step in (one.lock_stream, one.savepoint, one.read_last_number, one.take_lock):
        step()
    one.rollback_to_savepoint()
    one.connection.exec_driver_sql(
        "SELECT set_config('eventstore.fence_' ||"
        " 'events_sequence_number_seq'::regclass::oid, 'held', true)"
    )
    overtaken(one, two)
    reader.poll()
    one.commit()
    assert reader.skipped() == {one.number}


def test_a_sequence_with_a_cache_skips(one: Writer, two: Writer, autocommit: Connection) -> None:
    autocommit.exec_driver_sql("ALTER SEQUENCE events_sequence_number_seq CACHE 10")
    reader = Reader(autocommit)
    for step in (one.lock_stream, one.read_last_number, one.take_lock, one.draw, one.commit):
        step()
    first = one.number
    one.connection.exec_driver_sql("UPDATE streams SET version = 1")
    for step in (two.lock_stream, two.read_last_number, two.take_lock, two.draw, two.commit):
        step()
    for step in (one.read_last_number, one.take_lock, one.draw):
        step()
    reader.poll()
    one.commit()
    assert reader.delivered == [first, two.number]
    assert reader.skipped() == {one.number}
