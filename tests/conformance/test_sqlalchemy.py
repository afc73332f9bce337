"""The SQL stores pass the suite that every store must pass."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore import AsyncSqlAlchemyEventStore, SqlAlchemyEventStore
from eventstore.testing.conformance import (
    AsyncEventStoreConformance,
    EventStoreConformance,
    OpenAsyncStore,
    OpenStore,
)
from eventstore.testing.rollback import rolled_back_async_session, rolled_back_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

    from eventstore import AsyncEventStore, EventRegistry


@pytest.fixture(scope="module")
def engine(event_store_database: URL) -> Iterator[Engine]:
    engine = create_engine(event_store_database)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def async_engines(event_store_database: URL) -> dict[str, AsyncEngine]:
    """An engine for each driver, without a pool: each test has an event loop of its own."""
    urls = {
        driver: event_store_database.set(drivername=f"postgresql+{driver}")
        for driver in ("psycopg", "asyncpg")
    }
    return {driver: create_async_engine(url, poolclass=NullPool) for driver, url in urls.items()}


class TestSqlAlchemyEventStore(EventStoreConformance):
    @pytest.fixture
    def session(self, engine: Engine) -> Iterator[Session]:
        with rolled_back_session(engine) as session:
            yield session

    @pytest.fixture
    def open_store(self, session: Session) -> OpenStore:
        return lambda registry: nullcontext(SqlAlchemyEventStore(session, registry))


class AsyncSuite(AsyncEventStoreConformance):
    driver: str

    @pytest.fixture
    def open_store(self, async_engines: dict[str, AsyncEngine]) -> OpenAsyncStore:
        engine = async_engines[self.driver]

        @asynccontextmanager
        async def open_store(registry: EventRegistry | None) -> AsyncIterator[AsyncEventStore]:
            async with rolled_back_async_session(engine) as session:
                yield AsyncSqlAlchemyEventStore(session, registry)

        return open_store


class TestAsyncSqlAlchemyEventStoreOnPsycopg(AsyncSuite):
    driver = "psycopg"


class TestAsyncSqlAlchemyEventStoreOnAsyncpg(AsyncSuite):
    driver = "asyncpg"
