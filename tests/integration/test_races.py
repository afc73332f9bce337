"""Appends that meet: real threads, real tasks, and one outcome that is right."""

from __future__ import annotations

import asyncio
from collections import Counter
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    NO_STREAM,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    DuplicateEvent,
    ReadOptions,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.stores import (
    async_engine_of,
    in_threads,
    statements_of,
    wait_until_blocked,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine
    from sqlalchemy.orm import sessionmaker

    from eventstore import EventEnvelope, ExpectedVersion

    Events = list[EventEnvelope[Any]]


def appending(
    sessions: sessionmaker[Session],
    events: Events,
    expected: ExpectedVersion,
    barrier: Barrier,
    stream_id: str = "s",
) -> Callable[[], int]:
    def job() -> int:
        with sessions.begin() as session:
            session.connection()
            barrier.wait()
            return SqlAlchemyEventStore(session).append_to_stream(stream_id, expected, events)

    return job


def versions_of(sessions: sessionmaker[Session], stream_id: str = "s") -> list[int]:
    with sessions() as session:
        store = SqlAlchemyEventStore(session)
        return [event.event_version for event in store.read_stream(stream_id)]


def test_any_queues_and_never_conflicts(sessions: sessionmaker[Session]) -> None:
    barrier = Barrier(20)
    outcomes = in_threads(*(appending(sessions, [new_event()], ANY, barrier) for _ in range(20)))
    assert sorted(outcomes) == list(range(1, 21))
    assert versions_of(sessions) == list(range(1, 21))


def test_one_of_many_wins_an_expected_version(sessions: sessionmaker[Session]) -> None:
    barrier = Barrier(20)
    batches = [new_events(1) for _ in range(20)]
    outcomes = in_threads(*(appending(sessions, batch, 0, barrier) for batch in batches))
    assert Counter(type(outcome) for outcome in outcomes) == {int: 1, ConcurrencyConflict: 19}
    winner = next(i for i, outcome in enumerate(outcomes) if isinstance(outcome, int))
    with sessions() as session:
        (event,) = SqlAlchemyEventStore(session).read_stream("s")
    assert event.event_id == batches[winner][0].event_id


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
def test_ten_threads_of_fifty_appends_to_a_new_stream(engine: Engine, isolation_level: Any) -> None:
    bound = engine.execution_options(isolation_level=isolation_level)

    def job() -> list[int]:
        returned = []
        for _ in range(50):
            with Session(bound) as session:
                store = SqlAlchemyEventStore(session)
                returned.append(store.append_to_stream("s", ANY, [new_event()]))
                session.commit()
        return returned

    outcomes = in_threads(*(job for _ in range(10)))
    assert sorted(version for versions in outcomes for version in versions) == list(range(1, 501))


@pytest.mark.parametrize("expected", [ANY, NO_STREAM])
@pytest.mark.parametrize("is_known_by", ["ids", "key"])
def test_two_identical_retries_that_race_are_one_append(
    sessions: sessionmaker[Session], engine: Engine, expected: ExpectedVersion, is_known_by: str
) -> None:
    """The second waits at the stream's row; its snapshot is from before the first's commit."""
    first = new_events(3, key="request-1")
    second = first if is_known_by == "ids" else new_events(3, key="request-1")
    with sessions() as early, sessions() as late:
        assert SqlAlchemyEventStore(early).append_to_stream("s", expected, first) == 3

        def retry() -> int:
            late.execute(text("INSERT INTO notes VALUES ('before')"))
            version = SqlAlchemyEventStore(late).append_to_stream("s", expected, second)
            late.execute(text("INSERT INTO notes VALUES ('after')"))
            late.commit()
            return version

        def commit_the_first() -> None:
            wait_until_blocked(engine)
            early.commit()

        assert in_threads(retry, commit_the_first)[0] == 3
    assert versions_of(sessions) == [1, 2, 3]
    with sessions() as session:
        assert session.execute(text("SELECT count(*) FROM notes")).scalar_one() == 2


@pytest.mark.parametrize("expected", [ANY, NO_STREAM])
@pytest.mark.parametrize("is_known_by", ["ids", "key"])
def test_async_twins_of_the_racing_retries(
    async_url: URL, engine: Engine, expected: ExpectedVersion, is_known_by: str
) -> None:
    first = new_events(3, key="request-1")
    second = first if is_known_by == "ids" else new_events(3, key="request-1")

    async def race() -> int:
        async with (
            async_engine_of(async_url) as pool,
            AsyncSession(pool) as early,
            AsyncSession(pool) as late,
        ):
            await AsyncSqlAlchemyEventStore(early).append_to_stream("s", expected, first)
            store = AsyncSqlAlchemyEventStore(late)
            retry = asyncio.create_task(store.append_to_stream("s", expected, second))
            await asyncio.to_thread(wait_until_blocked, engine)
            await early.commit()
            version = await retry
            await store.append_to_stream("other", ANY, [new_event()])
            await late.commit()
            return version

    assert asyncio.run(race()) == 3


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_same_ids_racing_to_another_stream(
    sessions: sessionmaker[Session], engine: Engine, isolation_level: Any, size: int
) -> None:
    events = new_events(size)
    with (
        sessions() as early,
        Session(engine.execution_options(isolation_level=isolation_level)) as late,
    ):
        SqlAlchemyEventStore(early).append_to_stream("a", NO_STREAM, events)

        def reuse() -> None:
            late.execute(text("INSERT INTO notes VALUES ('before')"))
            store = SqlAlchemyEventStore(late)
            try:
                store.append_to_stream("b", ANY, events)
            finally:
                # The session is usable, and the stream as it was.
                assert store.get_stream_info("b") is None
                assert store.append_to_stream("b", NO_STREAM, [new_event()]) == 1
                late.commit()

        def commit_the_first() -> None:
            wait_until_blocked(engine)
            early.commit()

        error, _ = in_threads(reuse, commit_the_first)
    assert isinstance(error, DuplicateEvent)
    assert error.event_id == events[0].event_id
    assert versions_of(sessions, "b") == [1]


def test_a_batch_that_was_half_written_can_never_be_committed(
    sessions: sessionmaker[Session], engine: Engine
) -> None:
    """Some of its ids are being written to another stream: the one case that needs a rollback."""
    known, *fresh = new_events(3)
    with sessions() as early, sessions() as late:
        SqlAlchemyEventStore(early).append_to_stream("a", NO_STREAM, [known])

        def reuse() -> None:
            late.execute(text("INSERT INTO notes VALUES ('lost')"))
            try:
                SqlAlchemyEventStore(late).append_to_stream("b", ANY, [fresh[0], known, fresh[1]])
            finally:
                with pytest.raises(PendingRollbackError):
                    late.commit()

        def commit_the_first() -> None:
            wait_until_blocked(engine)
            early.commit()

        error, _ = in_threads(reuse, commit_the_first)
    assert isinstance(error, DuplicateEvent)
    assert error.event_id == known.event_id
    assert versions_of(sessions, "b") == []


def test_decisions_on_one_anothers_absence_cant_both_pass(
    sessions: sessionmaker[Session],
) -> None:
    """Each requires that the other's stream does not exist: the classic write skew."""
    barrier = Barrier(2)

    def deciding(own: str, others: str) -> Callable[[], int]:
        def job() -> int:
            with sessions.begin() as session:
                session.connection()
                barrier.wait()
                result = SqlAlchemyEventStore(session).append(
                    StreamAppend(own, NO_STREAM, [new_event()]),
                    require=[StreamAt(others, NO_STREAM)],
                )
                return result[own].version

        return job

    for number in range(10):
        a, b = f"a{number}", f"b{number}"
        outcomes = in_threads(deciding(a, b), deciding(b, a))
        assert sorted(map(str, map(type, outcomes))) == sorted(map(str, (int, ConcurrencyConflict)))


def test_appends_to_several_streams_in_any_order_never_deadlock(
    sessions: sessionmaker[Session],
) -> None:
    def job(order: list[str]) -> Callable[[], int]:
        def appends() -> int:
            for _ in range(25):
                with sessions.begin() as session:
                    SqlAlchemyEventStore(session).append(
                        *(StreamAppend(stream_id, ANY, [new_event()]) for stream_id in order)
                    )
            return 25

        return appends

    orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["c", "a", "b"]]
    assert in_threads(*map(job, orders)) == [25] * 4
    for stream_id in "abc":
        assert versions_of(sessions, stream_id) == list(range(1, 101))


def test_an_append_is_one_statement(engine: Engine, sessions: sessionmaker[Session]) -> None:
    with sessions() as session, statements_of(engine) as sent:
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("s", NO_STREAM, new_events(1))
        store.append_to_stream("s", 1, new_events(100))
        store.append_to_stream("s", ANY, new_events(2, key="k"))
        store.append(StreamAppend("s", 103, new_events(1)))
        assert len(sent) == 4
        list(store.read_stream("s", ReadOptions(page_size=200)))
        assert len(sent) == 5
        session.commit()


def test_a_delete_waits_for_an_append_and_judges_its_outcome(
    sessions: sessionmaker[Session], engine: Engine
) -> None:
    with sessions() as early, sessions() as late:
        SqlAlchemyEventStore(early).append_to_stream("s", NO_STREAM, new_events(1))
        early.commit()
        SqlAlchemyEventStore(early).append_to_stream("s", 1, new_events(1))

        def commit_the_append() -> None:
            wait_until_blocked(engine)
            early.commit()

        def delete() -> None:
            SqlAlchemyEventStore(late).delete_stream("s", 1)

        error, _ = in_threads(delete, commit_the_append)
    assert isinstance(error, ConcurrencyConflict)
    assert (error.expected, error.actual) == (1, 2)
