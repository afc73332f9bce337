"""Who waits in this process is told of each commit that may have events in it, however made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    AsyncGroupCommitWriter,
    AsyncSqlAlchemyEventStore,
    EventEnvelope,
    GroupCommitWriter,
    SqlAlchemyEventStore,
    import_events,
)
from eventstore.operations.commits import listen, unlisten
from tests.fixtures.events import new_event
from tests.fixtures.stores import async_engine_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine


@pytest.fixture
def told() -> Iterator[list[str]]:
    calls: list[str] = []

    def listener() -> None:
        calls.append("told")

    listen(listener)
    yield calls
    unlisten(listener)


def test_the_outermost_commit_is_told_and_nothing_else(engine: Engine, told: list[str]) -> None:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session)
        with session.begin_nested():
            store.append_to_stream("s", ANY, [new_event()])
        session.flush()
        assert told == []
        session.commit()
        assert told == ["told"]
        session.commit()
        store.append_to_stream("s", ANY, [new_event()])
        session.rollback()
        assert told == ["told"]


def test_an_append_that_commits_by_itself_is_told(engine: Engine, told: list[str]) -> None:
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()])
        assert told == ["told"]


def test_a_group_is_told(engine: Engine, told: list[str]) -> None:
    with GroupCommitWriter(engine) as writer:
        writer.append_to_stream("s", ANY, [new_event()])
        assert told


def test_an_import_is_told(engine: Engine, told: list[str]) -> None:
    event = new_event()
    import_events(engine, [EventEnvelope(**{**dict(event), "stream_id": "s"})])
    assert told


@pytest.mark.asyncio
async def test_so_are_the_async_ones(async_url: URL, told: list[str]) -> None:
    async with async_engine_of(async_url) as engine:
        async with AsyncSession(engine) as session, session.begin():
            await AsyncSqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()])
            assert told == []
        assert told == ["told"]
        async with AsyncGroupCommitWriter(engine) as writer:
            await writer.append_to_stream("s", ANY, [new_event()])
        assert len(told) > 1


def test_a_listener_that_raises_reaches_nobody(
    engine: Engine, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ValueError("secret")

    listen(broken)
    try:
        with Session(engine) as session, session.begin():
            SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()])
    finally:
        unlisten(broken)
    assert told == ["told"]
    assert "a listener for commits has failed: ValueError" in caplog.text
    assert "secret" not in caplog.text
