"""Everything through a PgBouncer in transaction mode, by the settings of the guide."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    AsyncGroupCommitWriter,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    GroupCommitWriter,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    import_events,
)
from eventstore.subscriptions import (
    AsyncSubscriptionRunner,
    Delivery,
    Subscription,
    SubscriptionRunner,
    parked_streams,
    replay_parked,
    wait_for,
    wait_for_async,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.subscriptions import QUICK, Base, see, seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from eventstore.events import AnyEnvelope

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "pgbouncer.md"

PSYCOPG: dict[str, Any] = {"prepare_threshold": None}
ASYNCPG: dict[str, Any] = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}


@pytest.fixture
def pooled(pooled_url: URL) -> Iterator[Engine]:
    engine = create_engine(pooled_url, pool_size=20, connect_args=PSYCOPG)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["psycopg", "asyncpg"])
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@asynccontextmanager
async def pooled_async(url: URL, driver: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        url.set(drivername=f"postgresql+{driver}"),
        pool_size=20,
        connect_args=PSYCOPG if driver == "psycopg" else ASYNCPG,
    )
    yield engine
    await engine.dispose()


@contextmanager
def store_on(engine: Engine) -> Iterator[SqlAlchemyEventStore]:
    with Session(engine) as session, session.begin():
        yield SqlAlchemyEventStore(session)


def in_autocommit(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def positions(engine: Engine) -> list[int]:
    with store_on(engine) as store:
        return [event.sequence_number for event in store.read_all_forward()]


def test_a_client_has_another_connection_each_time(pooled: Engine) -> None:
    """Else these tests would show nothing."""
    with in_autocommit(pooled).connect() as connection:
        pids = [connection.scalar(text("SELECT pg_backend_pid()")) for _ in range(6)]
    assert len(set(pids)) > 1


def test_the_guide(pooled_url: URL, capsys: pytest.CaptureFixture[str]) -> None:
    page = GUIDE.read_text(encoding="utf-8")

    def blocks(language: str) -> str:
        return "".join(re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))

    names: dict[str, Any] = {"url": pooled_url}
    exec(compile(blocks("python"), "pgbouncer.md", "exec"), names)
    names["engine"].dispose()

    assert capsys.readouterr().out == blocks("text")


@pytest.mark.parametrize("autocommit", [False, True])
def test_concurrent_appends_and_the_feed(pooled: Engine, autocommit: bool) -> None:
    engine = in_autocommit(pooled) if autocommit else pooled

    def write(writer: int) -> None:
        for number in range(10):
            with store_on(engine) as store:
                store.append_to_stream("hot", ANY, [new_event()])
                appends = [StreamAppend(f"{writer}-{number}-{n}", ANY, new_events(2)) for n in "ab"]
                store.append(*appends)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    found = positions(pooled)
    assert len(found) == 8 * 10 * 5
    assert found == sorted(found)
    with store_on(engine) as store:
        hot = [event.event_version for event in store.read_stream("hot")]
        with pytest.raises(ConcurrencyConflict):
            store.append_to_stream("hot", 3, [new_event()])
        store.save_snapshot(
            Snapshot(aggregate_id="hot", aggregate_type="Account", version=80, data={"n": 1})
        )
        assert store.get_snapshot("hot", "Account") is not None
        store.delete_stream("hot")
        store.restore_stream("hot")
    assert hot == [*range(1, 81)]


def test_group_commit_and_import(pooled: Engine) -> None:
    with GroupCommitWriter(pooled) as writer, ThreadPoolExecutor(8) as threads:
        versions = list(
            threads.map(lambda _: writer.append_to_stream("g", ANY, [new_event()]), range(50))
        )
    history = [event for n in range(20) for event in new_events(10, stream_id=f"i{n}")]
    progress = import_events(pooled, history, batch_size=30)
    assert sorted(versions) == [*range(1, 51)]
    assert progress.imported == 200
    assert len(positions(pooled)) == 250


def test_a_view_over_two_runners(pooled: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """LISTEN is given up by itself; leases, shares and fences need no session."""
    view = Subscription("view", see, partitions=4, lease_seconds=1.5, batch_size=7)
    with SubscriptionRunner(pooled, [view]) as first, SubscriptionRunner(pooled, [view]):
        for number in range(100):
            with store_on(pooled) as store:
                store.append_to_stream(f"s{number % 9}", ANY, new_events(2))
        assert wait_for(pooled, "view", 200, 60)
        first.run_until_current()
    assert seen(pooled) == [*range(1, 201)]
    assert caplog.messages == []


def test_effects_outside_parking_and_replay(pooled: Engine) -> None:
    got: list[int] = []

    def refuse(delivery: Delivery) -> None:
        if delivery.event.stream_id == "bad":
            raise ValueError("no")
        got.append(delivery.position)

    mails = Subscription("mails", refuse, external=True, retry=QUICK)
    with store_on(pooled) as store:
        for number in range(10):
            store.append_to_stream("bad" if number % 5 == 3 else f"s{number}", ANY, [new_event()])
    SubscriptionRunner(pooled, [mails], notifications=False).run_until_current()
    assert got == [1, 2, 3, 5, 6, 7, 8, 10]
    with Session(pooled) as session:
        assert [parked.position for parked in parked_streams(session, "mails")] == [4]
    cured = Subscription("mails", lambda delivery: got.append(delivery.position), external=True)
    assert replay_parked(pooled, cured) == []
    assert got[-2:] == [4, 9]


@pytest.mark.asyncio
@pytest.mark.parametrize("autocommit", [False, True])
async def test_concurrent_async_appends(
    pooled: Engine, pooled_url: URL, driver: str, autocommit: bool
) -> None:
    async with pooled_async(pooled_url, driver) as engine:
        level = "AUTOCOMMIT" if autocommit else "READ COMMITTED"
        engine_at = engine.execution_options(isolation_level=level)

        async def write(writer: int) -> None:
            for number in range(5):
                async with AsyncSession(engine_at) as session, session.begin():
                    store = AsyncSqlAlchemyEventStore(session)
                    await store.append_to_stream(f"{writer}-{number}", 0, new_events(2))
                    info = await store.get_stream_info(f"{writer}-{number}")
                    assert info is not None
                    assert info.version == 2
                    versions = [e.event_version async for e in store.read_stream(info.stream_id)]
                    assert versions == [1, 2]

        async with AsyncGroupCommitWriter(engine) as group:
            groups = (group.append_to_stream("g", ANY, [new_event()]) for _ in range(20))
            _, versions = await asyncio.gather(
                asyncio.gather(*map(write, range(8))), asyncio.gather(*groups)
            )
    assert sorted(versions) == [*range(1, 21)]
    assert len(positions(pooled)) == 100


@pytest.mark.asyncio
async def test_an_async_view(
    pooled: Engine, pooled_url: URL, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Other clients' statements pass over the same connections meanwhile."""

    async def see_async(session: AsyncSession, event: AnyEnvelope) -> None:
        await session.run_sync(see, event)

    view = Subscription("view", see_async, partitions=4, batch_size=7, lease_seconds=1.5)
    async with pooled_async(pooled_url, driver) as engine:

        async def write(writer: int) -> None:
            for number in range(10):
                async with AsyncSession(engine) as session, session.begin():
                    store = AsyncSqlAlchemyEventStore(session)
                    await store.append_to_stream(f"{writer}-{number}", ANY, new_events(2))
                    await store.get_stream_info(f"{writer}-{number}")

        async with AsyncSubscriptionRunner(engine, [view]):
            await asyncio.gather(*map(write, range(8)))
            assert await wait_for_async(engine, "view", 160, 60)
    assert seen(pooled) == [*range(1, 161)]
    # Nothing had to be tried again.
    assert caplog.messages == []
