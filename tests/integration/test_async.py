"""Tasks: cancelled, sharing a session, and what is left of either on the server."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from eventstore import (
    ANY,
    NO_STREAM,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    ConnectionUnusable,
    DuplicateEvent,
    EventMetadata,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    TransactionConflict,
    async_event_store,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.stores import async_engine_of, async_store_on, wait_until_blocked

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session, sessionmaker


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
def test_cancelled_appends_leave_no_trace(
    async_url: URL, engine: Engine, sessions: sessionmaker[Session], isolation_level: str
) -> None:
    """Each of them waits for a row that another transaction holds, and is cancelled there."""

    async def append_and_be_cancelled(pool: AsyncEngine) -> None:
        async with async_store_on(pool) as store:
            await store.append(
                StreamAppend("held", ANY, [new_event()]), StreamAppend("more", ANY, [new_event()])
            )

    async def scenario() -> int:
        options = {"pool_size": 2, "max_overflow": 0, "isolation_level": isolation_level}
        async with async_engine_of(async_url, **options) as pool:
            for _ in range(30):
                task = asyncio.create_task(append_and_be_cancelled(pool))
                await asyncio.to_thread(wait_until_blocked, engine)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert pool.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            for _ in range(10):
                async with async_store_on(pool) as store:
                    await store.append_to_stream("free", ANY, [new_event()])
            async with pool.connect() as connection:
                busy = await connection.execute(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND pid <> pg_backend_pid() AND pid <> :holder"
                        " AND (state = 'active' OR state LIKE 'idle in transaction%')"
                    ),
                    {"holder": holder},
                )
                return int(busy.scalar_one())

    with sessions() as session:
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("held", NO_STREAM, [new_event()])
        holder = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        assert asyncio.run(scenario()) == 0
        session.commit()
        assert [event.event_version for event in store.read_stream("held")] == [1]
        assert len(list(store.read_stream("free"))) == 10


def test_tasks_that_share_a_session_take_turns(async_url: URL) -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        async with async_engine_of(async_url) as pool:
            async with async_store_on(pool) as store:
                twin = AsyncSqlAlchemyEventStore(store.session)
                versions = await asyncio.gather(
                    *(each.append_to_stream("s", ANY, [new_event()]) for each in [store, twin] * 8)
                )
            async with async_store_on(pool) as store:
                return versions, [event.event_version async for event in store.read_stream("s")]

    versions, read = asyncio.run(scenario())
    assert sorted(versions) == read == list(range(1, 17))


@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_what_is_returned_is_plain_values(async_url: URL, expire_on_commit: bool) -> None:
    async def scenario() -> tuple[object, ...]:
        async with async_engine_of(async_url) as pool:
            maker = async_sessionmaker(pool, expire_on_commit=expire_on_commit)
            async with async_event_store(maker) as store:
                metadata = EventMetadata(correlation_id="c", tenant={"id": 7})
                await store.append_to_stream("s", NO_STREAM, [new_event(metadata=metadata)])
                await store.save_snapshot(
                    Snapshot(aggregate_id="s", aggregate_type="A", version=1, data={"n": 1})
                )
                return (
                    [event async for event in store.read_stream("s")],
                    [event async for event in store.read_all_forward()],
                    await store.get_stream_info("s"),
                    await store.get_snapshot("s", "A"),
                )

    values = asyncio.run(scenario())
    ([from_stream], [from_feed], _, _) = values
    # After the commit, outside of any greenlet, and as good in another process.
    assert from_stream == from_feed
    assert pickle.loads(pickle.dumps(values)) == values
    assert b"asyncpg" not in pickle.dumps(values)
    assert from_stream.metadata.model_extra == {"tenant": {"id": 7}}


def test_the_context_manager_rolls_back_on_cancellation(async_url: URL) -> None:
    async def scenario() -> object:
        async with async_engine_of(async_url) as pool:
            maker = async_sessionmaker(pool)
            appended = asyncio.Event()

            async def append_and_wait() -> None:
                async with async_event_store(maker) as store:
                    await store.append_to_stream("s", NO_STREAM, [new_event()])
                    appended.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(append_and_wait())
            await appended.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with async_event_store(maker) as store:
                return await store.get_stream_info("s")

    assert asyncio.run(scenario()) is None


def test_a_long_stream_is_read_in_pages_while_the_session_is_used(async_url: URL) -> None:
    async def scenario() -> list[int]:
        async with async_engine_of(async_url) as pool, AsyncSession(pool) as session:
            store = AsyncSqlAlchemyEventStore(session)
            await store.append_to_stream("s", NO_STREAM, new_events(1_200))
            seen = []
            async for event in store.read_stream("s"):
                if event.event_version % 300 == 0:
                    await store.append_to_stream("other", ANY, [new_event()])
                seen.append(event.event_version)
            return seen

    assert asyncio.run(scenario()) == list(range(1, 1_201))


def test_what_the_server_says_is_recognised_on_every_driver(async_url: URL) -> None:
    """Constraint names and SQLSTATEs: each driver has its own place for them."""

    async def scenario() -> None:
        async with async_engine_of(async_url) as pool, AsyncSession(pool) as session:
            store = AsyncSqlAlchemyEventStore(session)
            known = new_event()
            await store.append_to_stream("s", NO_STREAM, [known])
            # The stream's row says less than its events: the constraint is the arbiter.
            await session.execute(text("UPDATE streams SET version = 0"))
            with pytest.raises(ConcurrencyConflict) as conflict:
                await store.append_to_stream("s", NO_STREAM, [new_event()])
            assert (conflict.value.expected, conflict.value.actual) == (0, 1)
            await session.execute(text("UPDATE streams SET version = 1"))
            with pytest.raises(DuplicateEvent):
                await store.append_to_stream("t", NO_STREAM, [known])
            await session.commit()

            await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await session.execute(text("SELECT count(*) FROM events"))
            async with async_store_on(pool) as other:
                await other.append_to_stream("s", 1, [new_event()])
            with pytest.raises(TransactionConflict) as lost:
                await store.append_to_stream("s", 1, [new_event()])
            assert lost.value.sqlstate == "40001"
            await session.rollback()

            pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            async with pool.connect() as killer:
                await killer.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
            with pytest.raises(ConnectionUnusable):
                await store.append_to_stream("s", 2, [new_event()])
            await session.rollback()
            assert await store.append_to_stream("s", 2, [new_event()]) == 3
            await session.rollback()

    asyncio.run(scenario())


def test_each_call_is_a_transaction_in_autocommit(async_url: URL) -> None:
    async def scenario() -> None:
        async with (
            async_engine_of(async_url, isolation_level="AUTOCOMMIT") as pool,
            AsyncSession(pool) as session,
        ):
            store = AsyncSqlAlchemyEventStore(session)
            known = new_events(2)
            await store.append_to_stream("s", NO_STREAM, known)
            await store.append(
                StreamAppend("a", NO_STREAM, [new_event()]), StreamAppend("b", 0, [new_event()])
            )
            assert await store.append_to_stream("s", ANY, known) == 2
            for refused in (
                store.append(StreamAppend("c", 0, [new_event()]), StreamAppend("a", 7, known)),
                store.append_to_stream("t", NO_STREAM, [known[0]]),
            ):
                with pytest.raises((ConcurrencyConflict, DuplicateEvent)):
                    await refused
            feed = [event.stream_id async for event in store.read_all_forward()]
            assert feed == ["s", "s", "a", "b"]
            assert await store.get_stream_info("c") is None
            await session.rollback()
            assert await store.append_to_stream("s", 2, [new_event()]) == 3

    asyncio.run(scenario())
