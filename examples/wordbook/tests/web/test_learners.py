"""The progress of learners through HTTP, on a real PostgreSQL."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from eventstore import AsyncSqlAlchemyEventStore, ReadOptions
from eventstore.personal import Erased
from examples.wordbook.progress import SCHEMA
from examples.wordbook.progress.events import WordTaken, registry
from examples.wordbook.web import learners

if TYPE_CHECKING:
    from httpx import AsyncClient, Response
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

pytestmark = pytest.mark.asyncio

TODAY = date(2025, 4, 1)
ANN = {"name": "Ann", "email": "ann@example.org"}


@pytest_asyncio.fixture(autouse=True)
async def published_entry(client: AsyncClient) -> None:
    """There is the word ja-雨."""
    any_version = {"If-Match": "*"}
    await client.post("/entries", json={"language": "ja", "headword": "雨", "meanings": ["rain"]})
    example = {"sentence": "雨が降る。", "translation": "It rains."}
    await client.post("/entries/ja-雨/examples", json=example, headers=any_version)
    await client.put("/entries/ja-雨/publication", headers=any_version)


async def take_word(client: AsyncClient, entry_id: str = "ja-雨") -> Response:
    return await client.put(f"/learners/ann/words/{entry_id}", json={"on": f"{TODAY}"})


async def review(
    client: AsyncClient, *, on: date = TODAY, grade: int = 5, key: str | None = None
) -> Response:
    body = {"entry_id": "ja-雨", "grade": grade, "on": f"{on}"}
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post("/learners/ann/reviews", json=body, headers=headers)


async def test_a_word_is_taken_and_reviewed(client: AsyncClient) -> None:
    await client.put("/learners/ann", json=ANN)
    assert (await take_word(client)).status_code == 200
    answer = (await review(client)).json()
    assert (answer["due_on"], answer["streak_days"]) == ("2025-04-02", 1)

    shown = await client.get("/learners/ann")
    assert shown.json() == {
        "name": "Ann",
        "words": 1,
        "streak_days": 1,
        "practised_on": "2025-04-01",
    }


async def test_a_review_whose_reply_was_lost(client: AsyncClient) -> None:
    await client.put("/learners/ann", json=ANN)
    await take_word(client)
    first = await review(client, key="a")
    await review(client, on=TODAY + timedelta(days=1))
    again = await review(client, key="a")
    assert (again.status_code, again.json()) == (201, first.json())


async def test_enrolling_and_taking_twice_changes_nothing(client: AsyncClient) -> None:
    enrolled, taken = await client.put("/learners/ann", json=ANN), await take_word(client)
    assert taken.json()["position"] > enrolled.json()["position"]
    assert (await client.put("/learners/ann", json=ANN)).json() == {"position": None}
    assert (await take_word(client)).json() == {"position": None}
    assert (await client.get("/learners/ann")).json()["words"] == 1


async def test_what_is_refused(client: AsyncClient) -> None:
    assert (await client.get("/learners/ann")).status_code == 404
    assert (await take_word(client)).status_code == 404
    await client.put("/learners/ann", json=ANN)
    assert (await take_word(client, "ja-海")).status_code == 404
    assert (await review(client)).status_code == 409
    assert (await review(client, grade=6)).status_code == 422

    await client.post("/entries", json={"language": "ja", "headword": "海", "meanings": ["sea"]})
    assert (await take_word(client, "ja-海")).status_code == 409
    await client.delete("/entries/ja-雨", headers={"If-Match": "*"})
    assert (await take_word(client)).status_code == 410


async def test_who_waits_for_what_does_not_come(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learners, "PATIENCE_SECONDS", 0.001)
    response = await client.get(f"/learners/ann/due?on={TODAY}&after=1")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert (await client.get(f"/learners/ann/due?on={TODAY}")).json() == []


async def test_a_learner_is_forgotten(
    client: AsyncClient, sessions: async_sessionmaker[AsyncSession]
) -> None:
    await client.put("/learners/ann", json=ANN)
    await take_word(client)
    assert (await client.delete("/learners/ann")).status_code == 204

    assert (await client.get("/learners/ann")).status_code == 410
    async with sessions() as session:
        store = AsyncSqlAlchemyEventStore(session, registry, schema=SCHEMA)
        events = store.read_stream("learner-ann", ReadOptions(include_deleted=True))
        enrolled, taken = [event.event_data async for event in events]
    assert (enrolled.name, enrolled.email) == (Erased("ann"), Erased("ann"))
    assert taken == WordTaken(entry_id="ja-雨", due_on=TODAY)
