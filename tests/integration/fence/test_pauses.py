"""The real append and the real feed, halted inside."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from eventstore.store import SqlAlchemyEventStore

from .steps import read_state
from .waiting import append, committed, eventually, feed, keys_held, waiting_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def test_between_the_key_and_its_lock(engine: Engine, thread: ThreadPoolExecutor) -> None:
    """The append knows its key and waits for the lock, while later numbers are drawn."""
    before = committed(engine, "s")
    with engine.connect() as halting:
        oid, key = read_state(halting)
        halting.exec_driver_sql("SELECT pg_advisory_xact_lock(%s::oid::int, %s)", (oid, key))
        appending = thread.submit(committed, engine, "paused")
        eventually(waiting_for(engine, "advisory"))
        with engine.begin() as burning:
            burning.exec_driver_sql("SELECT nextval('events_sequence_number_seq')")
        later = committed(engine, "other")

        # Nobody holds a lock: the feed goes on, and its checkpoint lies behind the waiting key.
        assert feed(engine) == [before, later]
        halting.rollback()

    assert appending.result() > later
    assert feed(engine, later) == [appending.result()]


def test_between_the_lock_and_the_number(engine: Engine, thread: ThreadPoolExecutor) -> None:
    """The append holds its lock and waits for its stream's row: it has no number yet."""
    before = committed(engine, "paused")
    with engine.connect() as halting:
        halting.exec_driver_sql("SELECT FROM streams WHERE stream_id = 'paused' FOR UPDATE")
        appending = thread.submit(committed, engine, "paused")
        eventually(waiting_for(engine, "transactionid"))
        assert keys_held(halting) == [before]
        later = committed(engine, "other")

        assert feed(engine) == [before]
        halting.rollback()

    assert appending.result() > later
    assert feed(engine, before) == [later, appending.result()]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_between_the_number_and_the_end(engine: Engine, end: str) -> None:
    before = committed(engine, "s")
    with Session(engine) as halted:
        number = append(halted, "halted")
        later = committed(engine, "other")
        assert feed(engine) == [before]
        getattr(halted, end)()

    assert feed(engine, before) == ([number, later] if end == "commit" else [later])


def test_commits_between_the_statements_of_the_reader(engine: Engine) -> None:
    """R03: what commits after the mark was read is left for the next poll, or seen; not skipped."""
    held = [Session(engine) for _ in range(4)]
    numbers = [append(session, f"held-{n}") for n, session in enumerate(held)]
    later = committed(engine, "other")
    halted = engine.execution_options()

    @event.listens_for(halted, "after_cursor_execute")
    def commit_one(*_: object) -> None:
        if held:
            # Out of order: the last number first.
            with held.pop() as session:
                session.commit()

    delivered: list[int] = []
    while held or not delivered or delivered[-1] != later:
        delivered += feed(halted, delivered[-1] if delivered else 0)
    assert delivered == [*numbers, later]


def test_a_slow_reader_among_writers(engine: Engine, thread: ThreadPoolExecutor) -> None:
    """R03: 200 ms between the reader's statements, while four writers commit out of order."""
    slow = engine.execution_options()

    @event.listens_for(slow, "after_cursor_execute")
    def delay(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        if "pg_locks" in statement:
            time.sleep(0.2)

    def write(name: int) -> list[int]:
        numbers = []
        for count in range(25):
            with Session(engine) as session:
                numbers.append(append(session, f"s-{name}"))
                time.sleep(0.001 * ((name + count) % 4))  # who waits longest commits last
                session.commit()
        return numbers

    writing = [thread.submit(write, name) for name in range(4)]
    delivered: list[int] = []
    done = False
    while not done:
        done = all(future.done() for future in writing)
        page = feed(slow, delivered[-1] if delivered else 0)
        delivered += page
    assert delivered == sorted(n for future in writing for n in future.result())


def test_pages_below_one_mark(engine: Engine) -> None:
    """A mark is kept for all pages; what commits between them lies above it, or was below it."""
    numbers = [committed(engine, f"s-{n}") for n in range(3)]
    with Session(engine) as writing, Session(engine) as reading:
        late = append(writing, "late")
        pages = SqlAlchemyEventStore(reading).read_all_forward(page_size=1)
        first = next(pages).sequence_number
        later = committed(engine, "other")
        writing.commit()
        delivered = [first, *(event.sequence_number for event in pages)]

    assert delivered == numbers
    assert feed(engine, delivered[-1]) == [late, later]
