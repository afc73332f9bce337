"""The writers pass what the suite says of appends to one stream; the rest is the store's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from eventstore import (
    AsyncGroupCommitWriter,
    AsyncSqlAlchemyEventStore,
    GroupCommitWriter,
    SqlAlchemyEventStore,
)
from eventstore.testing.blocking import in_event_loop
from eventstore.testing.conformance.appending import Appending, ExpectedVersions
from eventstore.testing.conformance.loading import Missed
from eventstore.testing.conformance.retries import RetriesById, RetriesByKey
from eventstore.testing.databases import temporary_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL, Engine

    from eventstore import AsyncEventStore, EventStore


@pytest.fixture(scope="class")
def engine(event_store_server: URL, event_store_template: URL) -> Iterator[Engine]:
    """An engine on a database for this class: what a writer has written can't be taken back."""
    with temporary_database(event_store_server, template=event_store_template.database) as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        yield engine
        engine.dispose()


class StoreWithWriter(SqlAlchemyEventStore):
    """Appends to one stream by the writer, and all else as ever."""

    def __init__(self, session: Session, writer: GroupCommitWriter, *args: Any) -> None:
        super().__init__(session, *args)
        self._writer = writer

    def append_to_stream(self, *args: Any, **options: Any) -> int:
        return self._writer.append_to_stream(*args, **options)


class AsyncStoreWithWriter(AsyncSqlAlchemyEventStore):
    def __init__(self, session: AsyncSession, writer: AsyncGroupCommitWriter, *args: Any) -> None:
        super().__init__(session, *args)
        self._writer = writer

    async def append_to_stream(self, *args: Any, **options: Any) -> int:
        return await self._writer.append_to_stream(*args, **options)


class AppendSuite(Appending, ExpectedVersions, RetriesById, RetriesByKey, Missed):
    """What the suite says of appends; all of it needs plain payloads only."""


class TestGroupCommitWriter(AppendSuite):
    @pytest.fixture
    def store(self, engine: Engine) -> Iterator[EventStore]:
        with GroupCommitWriter(engine) as writer, Session(engine) as session:
            yield StoreWithWriter(session, writer)


class OnTasks:
    driver: str

    @pytest.fixture
    def store(self, engine: Engine) -> Iterator[EventStore]:
        with in_event_loop(self._open_store(engine.url)) as store:
            yield store

    @asynccontextmanager
    async def _open_store(self, url: URL) -> AsyncIterator[AsyncEventStore]:
        engine = create_async_engine(
            url.set(drivername=f"postgresql+{self.driver}"), isolation_level="AUTOCOMMIT"
        )
        async with AsyncGroupCommitWriter(engine) as writer, AsyncSession(engine) as session:
            yield AsyncStoreWithWriter(session, writer)
        await engine.dispose()


class TestAsyncGroupCommitWriterOnPsycopg(OnTasks, AppendSuite):
    driver = "psycopg"


class TestAsyncGroupCommitWriterOnAsyncpg(OnTasks, Appending, RetriesById, Missed):
    driver = "asyncpg"
