"""The writer for tasks: cancelled wherever it waits, and nothing is written by halves."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    NO_STREAM,
    AsyncGroupCommitWriter,
    ConcurrencyConflict,
    ConnectionUnusable,
    DuplicateEvent,
    SqlAlchemyEventStore,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.stores import async_engine_of, statements_of, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL, Engine
    from sqlalchemy.orm import sessionmaker

    from eventstore import ExpectedVersion


@asynccontextmanager
async def writer_on(url: URL, **arguments: Any) -> AsyncIterator[AsyncGroupCommitWriter]:
    async with (
        async_engine_of(url) as engine,
        AsyncGroupCommitWriter(engine, **arguments) as writer,
    ):
        yield writer
    assert not writer._queue


class Held:
    """A stream at version 1 whose row is locked, so that appends to it wait."""

    def __init__(self, sessions: sessionmaker[Session], engine: Engine) -> None:
        self._engine = engine
        self._session = sessions()
        SqlAlchemyEventStore(self._session).append_to_stream("held", ANY, [new_event()])
        self._session.commit()
        self._session.execute(text("SELECT FROM streams WHERE stream_id = 'held' FOR UPDATE"))

    def release(self) -> None:
        self._session.close()

    async def is_waited_for(self) -> None:
        await asyncio.to_thread(wait_until_blocked, self._engine)

    async def end_who_waits(self) -> None:
        await self.is_waited_for()
        query = (
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with self._engine.begin() as connection:
            connection.execute(text(query))


@pytest.fixture
def held(sessions: sessionmaker[Session], engine: Engine) -> Iterator[Held]:
    held = Held(sessions, engine)
    yield held
    held.release()


def versions_of(engine: Engine, stream_id: str) -> list[int]:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session)
        return [event.event_version for event in store.read_stream(stream_id)]


async def all_others_wait() -> None:
    """Let each task go on until it can't."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_many_tasks_on_streams_of_their_own(async_url: URL, engine: Engine) -> None:
    async def scenario() -> int:
        async with async_engine_of(async_url) as pool, AsyncGroupCommitWriter(pool) as writer:

            async def appends(name: int) -> list[int]:
                return [
                    await writer.append_to_stream(f"s-{name}", 2 * n, new_events(2))
                    for n in range(10)
                ]

            with statements_of(pool.sync_engine) as sent:
                for versions in await asyncio.gather(*map(appends, range(32))):
                    assert versions == list(range(2, 21, 2))
            return len(sent)

    assert asyncio.run(scenario()) <= 50
    for name in range(32):
        assert versions_of(engine, f"s-{name}") == list(range(1, 21))


@pytest.mark.parametrize(("expected", "successes"), [(ANY, 20), (NO_STREAM, 1)])
def test_twenty_tasks_at_one_stream(
    async_url: URL, engine: Engine, expected: ExpectedVersion, successes: int
) -> None:
    async def scenario() -> list[Any]:
        async with writer_on(async_url) as writer:
            appends = (writer.append_to_stream("s", expected, [new_event()]) for _ in range(20))
            return await asyncio.gather(*appends, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert Counter(map(type, outcomes)) == Counter(
        {int: successes, ConcurrencyConflict: 20 - successes}
    )
    assert versions_of(engine, "s") == list(range(1, successes + 1))


def test_each_append_fails_alone(async_url: URL, engine: Engine) -> None:
    known = new_events(2)

    async def scenario() -> list[Any]:
        async with writer_on(async_url) as writer:
            await writer.append_to_stream("known", NO_STREAM, known)
            return await asyncio.gather(
                writer.append_to_stream("known", NO_STREAM, known),
                writer.append_to_stream("a", 7, [new_event()]),
                writer.append_to_stream("b", ANY, known),
                writer.append_to_stream("c", ANY, [new_event()]),
                writer.append_to_stream("d", NO_STREAM, []),
                return_exceptions=True,
            )

    repeat, conflict, duplicate, good, checked = asyncio.run(scenario())
    assert (repeat, good, checked) == (2, 1, 0)
    assert isinstance(conflict, ConcurrencyConflict)
    assert isinstance(duplicate, DuplicateEvent)


async def cancel(task: asyncio.Task[int]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_append_is_wholly_there_or_wholly_absent(
    async_url: URL, engine: Engine, held: Held
) -> None:
    """At the door, in the queue, and while the server has it."""

    async def scenario() -> int:
        async with writer_on(async_url, max_waiting=3) as writer:

            def append() -> asyncio.Task[int]:
                events = new_events(2)
                return asyncio.create_task(writer.append_to_stream("held", ANY, events))

            sent = append()
            await held.is_waited_for()
            queued, also_queued, at_the_door, also_at_the_door = (append() for _ in range(4))
            await all_others_wait()
            assert writer._door.locked()
            assert len(writer._queue) == 2
            for task in (sent, queued, at_the_door):
                await cancel(task)
            held.release()
            versions = [await also_queued, await also_at_the_door]
            assert versions == sorted(versions)
            return versions[-1]

    # What was sent is there, what was only queued is not.
    assert asyncio.run(scenario()) == 7
    assert versions_of(engine, "held") == list(range(1, 8))


def test_appends_that_are_cancelled_anywhere_leave_no_gap(async_url: URL, engine: Engine) -> None:
    """Each is cancelled after another number of steps of the event loop."""

    async def scenario() -> list[int]:
        async with writer_on(async_url, max_waiting=5) as writer:

            async def append_and_cancel(steps: int) -> None:
                for stream_id in (f"own-{steps}", "shared"):
                    append = writer.append_to_stream(stream_id, ANY, new_events(2))
                    task = asyncio.create_task(append)
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait([task])

            await asyncio.gather(*map(append_and_cancel, range(60)))
            own = (writer.append_to_stream(f"own-{n}", ANY, [new_event()]) for n in range(60))
            return await asyncio.gather(*own)

    assert set(asyncio.run(scenario())) <= {1, 3}
    versions = versions_of(engine, "shared")
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) % 2 == 0


def test_closing_writes_what_was_accepted(async_url: URL, engine: Engine, held: Held) -> None:
    async def scenario() -> list[Any]:
        async with async_engine_of(async_url) as pool:
            writer = AsyncGroupCommitWriter(pool, max_waiting=2)
            appends = [
                asyncio.create_task(writer.append_to_stream("held", ANY, [new_event()]))
                for _ in range(3)
            ]
            await held.is_waited_for()
            closing = [asyncio.create_task(writer.close()) for _ in range(2)]
            await all_others_wait()
            assert not any(task.done() for task in [*appends, *closing])
            # Whoever gives up closing does not stop the writing.
            closing.pop().cancel()
            await all_others_wait()
            held.release()
            await closing.pop()
            assert [task.done() for task in appends[:2]] == [True, True]
            with pytest.raises(RuntimeError, match="closed"):
                await writer.append_to_stream("s", ANY, [new_event()])
            await writer.close()
            return await asyncio.gather(*appends, return_exceptions=True)

    *accepted, at_the_door = asyncio.run(scenario())
    assert accepted == [2, 3]
    assert isinstance(at_the_door, RuntimeError)
    assert versions_of(engine, "held") == [1, 2, 3]


def test_a_loop_that_ends_does_not_wait_for_a_writer(
    async_url: URL, engine: Engine, held: Held
) -> None:
    """Nobody has closed it; asyncio.run() cancels all tasks, the writer's too."""

    async def scenario() -> list[asyncio.Task[int]]:
        async with async_engine_of(async_url) as pool:
            writer = AsyncGroupCommitWriter(pool)
            tasks = [
                asyncio.create_task(writer.append_to_stream("held", ANY, [new_event()]))
                for _ in range(3)
            ]
            await held.is_waited_for()
            return tasks

    assert all(task.cancelled() for task in asyncio.run(scenario()))
    held.release()
    assert versions_of(engine, "held") == [1]


def test_nobody_waits_for_a_writer_that_was_cancelled(
    async_url: URL, engine: Engine, held: Held
) -> None:
    async def scenario() -> list[Any]:
        async with writer_on(async_url) as writer:
            appends = [
                asyncio.create_task(writer.append_to_stream("held", ANY, [new_event()]))
                for _ in range(3)
            ]
            await held.is_waited_for()
            for task in writer._tasks:
                task.cancel()
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
            held.release()
            # Another one is there at once.
            assert await writer.append_to_stream("held", 1, [new_event()]) == 2
            return outcomes

    outcomes = asyncio.run(scenario())
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 3
    assert versions_of(engine, "held") == [1, 2]


@pytest.mark.parametrize("losses", [1, 2])
def test_a_lost_connection_is_replaced_once(
    async_url: URL, engine: Engine, held: Held, losses: int
) -> None:
    events = new_events(2)

    async def scenario() -> None:
        async with writer_on(async_url) as writer:
            append = asyncio.create_task(writer.append_to_stream("held", 1, events))
            for _ in range(losses):
                await held.end_who_waits()
            if losses == 1:
                await held.is_waited_for()
                held.release()
                assert await append == 3
            else:
                with pytest.raises(ConnectionUnusable) as caught:
                    await append
                assert caught.value.retryable
                held.release()
            # What the error says to do.
            assert await writer.append_to_stream("held", 1, events) == 3

    asyncio.run(scenario())
    assert versions_of(engine, "held") == [1, 2, 3]


def test_a_server_that_cant_be_reached_is_the_callers_error(async_url: URL) -> None:
    async def scenario() -> list[Any]:
        async with writer_on(async_url.set(host="127.0.0.1", port=1, query={})) as writer:
            appends = (writer.append_to_stream("s", ANY, [new_event()]) for _ in range(4))
            return await asyncio.gather(*appends, return_exceptions=True)

    for outcome in asyncio.run(scenario()):
        assert isinstance(outcome, OperationalError | OSError)


def test_a_writer_may_serve_one_loop_after_the_other(async_url: URL, engine: Engine) -> None:
    """As long as its engine may: here each loop opens connections of its own."""
    writer = AsyncGroupCommitWriter(create_async_engine(async_url, poolclass=NullPool))

    async def append() -> int:
        version = await writer.append_to_stream("s", ANY, [new_event()])
        # A loop that ends may cut short how the connection is closed.
        await asyncio.gather(*writer._tasks)
        return version

    assert [asyncio.run(append()) for _ in range(2)] == [1, 2]
