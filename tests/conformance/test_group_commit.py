"""The writers pass what the suite says of appends to one stream; the rest is the store's.

The suite appends one batch at a time, and a group of one is written by the store's own statement.
So it runs once more with a companion in each group: then the group's statement is judged.
"""

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
    ConcurrencyConflict,
    GroupCommitWriter,
    SqlAlchemyEventStore,
)
from eventstore.grouping import Submission
from eventstore.operations import append_group, encode_append
from eventstore.registry import codec_of
from eventstore.testing.blocking import in_event_loop
from eventstore.testing.conformance.appending import Appending, ExpectedVersions
from eventstore.testing.conformance.loading import Missed
from eventstore.testing.conformance.retries import RetriesById, RetriesByKey
from eventstore.testing.databases import temporary_database
from tests.fixtures.events import new_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from eventstore import AsyncEventStore, EventStore


@pytest.fixture(scope="class")
def engine(event_store_server: URL, event_store_template: URL) -> Iterator[Engine]:
    """An engine on a database for this class: what a writer has written can't be taken back."""
    with temporary_database(event_store_server, template=event_store_template.database) as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        yield engine
        engine.dispose()


def append_in_company(connection: Connection, *args: Any, fetch_missed: bool = False) -> int:
    """Append in a group of two; the companion is in the statement, and writes nothing."""
    codec = codec_of(None)
    appended, companion = (
        Submission(batch=batch, rows=rows, waiter=None, fetch_missed=wants_missed)
        for (batch, rows), wants_missed in (
            (encode_append(*args, codec), fetch_missed),
            (encode_append("companion", 77, [new_event()], codec), False),
        )
    )
    outcomes = append_group(connection, [appended, companion], codec=codec, schema=None)
    assert isinstance(outcomes[companion], ConcurrencyConflict)
    outcome = outcomes[appended]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class WriterInCompany:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def append_to_stream(self, *args: Any, **options: Any) -> int:
        with self._engine.connect() as connection:
            return append_in_company(connection, *args, **options)


class AsyncWriterInCompany:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def append_to_stream(self, *args: Any, **options: Any) -> int:
        async with self._engine.connect() as connection:
            return await connection.run_sync(append_in_company, *args, **options)


class StoreWithWriter(SqlAlchemyEventStore):
    """Appends to one stream by the writer, and all else as ever."""

    def __init__(
        self, session: Session, writer: GroupCommitWriter | WriterInCompany, *args: Any
    ) -> None:
        super().__init__(session, *args)
        self._writer = writer

    def append_to_stream(self, *args: Any, **options: Any) -> int:
        return self._writer.append_to_stream(*args, **options)


class AsyncStoreWithWriter(AsyncSqlAlchemyEventStore):
    def __init__(
        self,
        session: AsyncSession,
        writer: AsyncGroupCommitWriter | AsyncWriterInCompany,
        *args: Any,
    ) -> None:
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


class TestGroupOfTwo(AppendSuite):
    @pytest.fixture
    def store(self, engine: Engine) -> Iterator[EventStore]:
        with Session(engine) as session:
            yield StoreWithWriter(session, WriterInCompany(engine))


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
        async with self._open_writer(engine) as writer, AsyncSession(engine) as session:
            yield AsyncStoreWithWriter(session, writer)
        await engine.dispose()

    @asynccontextmanager
    async def _open_writer(
        self, engine: AsyncEngine
    ) -> AsyncIterator[AsyncGroupCommitWriter | AsyncWriterInCompany]:
        async with AsyncGroupCommitWriter(engine) as writer:
            yield writer


class OnTasksInCompany(OnTasks):
    @asynccontextmanager
    async def _open_writer(self, engine: AsyncEngine) -> AsyncIterator[AsyncWriterInCompany]:
        yield AsyncWriterInCompany(engine)


class TestAsyncGroupCommitWriterOnPsycopg(OnTasks, AppendSuite):
    driver = "psycopg"


class TestAsyncGroupCommitWriterOnAsyncpg(OnTasks, Appending, RetriesById, Missed):
    driver = "asyncpg"


class TestAsyncGroupOfTwoOnPsycopg(OnTasksInCompany, AppendSuite):
    driver = "psycopg"


class TestAsyncGroupOfTwoOnAsyncpg(OnTasksInCompany, Appending, RetriesById, Missed):
    driver = "asyncpg"
