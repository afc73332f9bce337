"""The vocabulary through HTTP, on a real PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import AsyncSqlAlchemyEventStore
from examples.wordbook.vocabulary import SCHEMA
from examples.wordbook.vocabulary.events import registry

if TYPE_CHECKING:
    from httpx import AsyncClient, Response
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

pytestmark = pytest.mark.asyncio

RAIN = {"language": "ja", "headword": "雨", "meanings": ["rain"]}
IT_RAINS = {"sentence": "雨が降る。", "translation": "It rains."}
URL = "/entries/ja-雨"


async def draft(client: AsyncClient, **headers: str) -> Response:
    return await client.post("/entries", json=RAIN, headers=headers)


async def add_example(client: AsyncClient, seen: str, **headers: str) -> Response:
    headers["If-Match"] = seen
    return await client.post(f"{URL}/examples", json=IT_RAINS, headers=headers)


def assert_problem(response: Response, status: int) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"]) == (status, status), body
    assert response.headers["Content-Type"] == "application/problem+json"
    return body


async def test_an_entry_from_draft_to_publication(client: AsyncClient) -> None:
    drafted = await draft(client)
    assert drafted.status_code == 201
    assert drafted.headers["ETag"] == '"1"'
    location = drafted.headers["Location"]

    await add_example(client, '"1"')
    published = await client.put(f"{URL}/publication", headers={"If-Match": '"2"'})
    shown = await client.get(location)

    assert published.headers["ETag"] == shown.headers["ETag"] == '"3"'
    assert published.json() == shown.json()
    assert shown.json() == {
        "entry_id": "ja-雨",
        **RAIN,
        "examples": [IT_RAINS],
        "published": True,
    }


async def test_who_changes_something_says_what_they_have_seen(client: AsyncClient) -> None:
    await draft(client)
    assert_problem(await client.post(f"{URL}/examples", json=IT_RAINS), 428)
    assert_problem(await add_example(client, 'W/"1"'), 412)
    assert (await add_example(client, "*")).headers["ETag"] == '"2"'


async def test_who_is_late_learns_what_they_have_missed(client: AsyncClient) -> None:
    await draft(client)
    await add_example(client, '"1"')
    late = await add_example(client, '"1"')

    (missed,) = assert_problem(late, 412)["missed"]
    assert late.headers["ETag"] == '"2"'
    assert (missed["version"], missed["type"], missed["data"]) == (2, "example-added", IT_RAINS)


async def test_an_example_does_not_make_a_revision_late(client: AsyncClient) -> None:
    await draft(client)
    await add_example(client, '"1"')
    body, seen = {"meanings": ["rain", "rainy weather"]}, {"If-Match": '"1"'}
    revised = await client.put(f"{URL}/meanings", json=body, headers=seen)
    assert (revised.status_code, revised.headers["ETag"]) == (200, '"3"')
    assert_problem(await client.put(f"{URL}/meanings", json=body, headers=seen), 412)


async def test_a_headword_has_one_entry(client: AsyncClient) -> None:
    await draft(client)
    assert_problem(await draft(client), 409)


async def test_a_request_that_is_sent_again_is_answered_as_the_first_time(
    client: AsyncClient,
) -> None:
    key = {"Idempotency-Key": "a"}
    first = await draft(client, **key)
    await add_example(client, '"1"')
    again = await draft(client, **key)
    assert (again.status_code, again.headers["ETag"]) == (201, '"1"')
    assert again.json() == first.json()


async def test_what_the_domain_refuses(client: AsyncClient) -> None:
    await draft(client)
    refused = await client.put(f"{URL}/publication", headers={"If-Match": '"1"'})
    assert "example" in assert_problem(refused, 409)["detail"]


async def test_what_is_not_there_and_what_is_there_no_more(client: AsyncClient) -> None:
    assert_problem(await client.get(URL), 404)
    for seen in ("*", '"7"'):
        assert_problem(await add_example(client, seen), 404)
    assert_problem(await client.get("/nowhere"), 404)
    await draft(client)
    withdrawn = await client.delete(URL, headers={"If-Match": '"1"'})
    assert withdrawn.status_code == 204
    assert_problem(await client.get(URL), 410)
    assert_problem(await add_example(client, '"1"'), 410)


@pytest.mark.parametrize("headword", ["", "   ", "\0", "\ud800", "…", "雨" * 200, 7])
async def test_what_can_not_be_read(client: AsyncClient, headword: object) -> None:
    response = await client.post(
        "/entries",
        content=json.dumps(RAIN | {"headword": headword}),
        headers={"Content-Type": "application/json"},
    )
    (error,) = assert_problem(response, 422)["errors"]
    assert error["at"] == ["body", "headword"]


async def test_a_conversation_has_an_id(
    client: AsyncClient, sessions: async_sessionmaker[AsyncSession]
) -> None:
    drafted = await draft(client, **{"X-Correlation-Id": "conversation-7"})
    added = await add_example(client, '"1"')

    assert drafted.headers["X-Correlation-Id"] == "conversation-7"
    async with sessions() as session:
        store = AsyncSqlAlchemyEventStore(session, registry, schema=SCHEMA)
        first, second = [event.metadata async for event in store.read_stream("entry-ja-雨")]
    assert (first.correlation_id, first.source_service) == ("conversation-7", "wordbook")
    assert second.correlation_id == added.headers["X-Correlation-Id"]
