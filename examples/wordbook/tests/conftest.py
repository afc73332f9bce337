"""A database with all schemas: to be rolled back after each test, or of the test's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from eventstore.personal import MasterKeys
from eventstore.testing.databases import temporary_database
from eventstore.testing.rollback import rolled_back_async_sessions
from examples.wordbook.database import prepare
from examples.wordbook.progress.events import registry
from examples.wordbook.web.app import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL


@pytest.fixture(scope="session", autouse=True)
def _master_key() -> None:
    """Give the learners' events a key by which persons' keys are kept."""
    registry.use_keys(MasterKeys(os.urandom(32)))


@pytest.fixture(scope="session")
def wordbook_template(event_store_server: URL) -> Iterator[URL]:
    """Give a database that nobody uses: the others are its copies."""
    with temporary_database(event_store_server) as database:
        engine = create_engine(database, poolclass=NullPool)
        prepare(engine)
        yield database


@pytest.fixture(scope="session")
def wordbook_database(event_store_server: URL, wordbook_template: URL) -> Iterator[URL]:
    """Give the database in which tests are rolled back."""
    with temporary_database(event_store_server, template=wordbook_template.database) as database:
        yield database


@pytest.fixture
def committed_wordbook(event_store_server: URL, wordbook_template: URL) -> Iterator[URL]:
    """Give a database of the test's own."""
    with temporary_database(event_store_server, template=wordbook_template.database) as database:
        yield database


@pytest_asyncio.fixture
async def engine(wordbook_database: URL) -> AsyncIterator[AsyncEngine]:
    """Give an engine for what is rolled back."""
    engine = create_async_engine(wordbook_database, poolclass=NullPool)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def sessions(engine: AsyncEngine) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Give sessions whose work is undone after the test, whatever they commit."""
    async with rolled_back_async_sessions(engine) as sessions:
        yield sessions


@pytest_asyncio.fixture
async def client(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> AsyncIterator[httpx.AsyncClient]:
    """Give somebody who talks to the application, without a socket."""
    transport = httpx.ASGITransport(create_app(engine, sessions))
    async with httpx.AsyncClient(transport=transport, base_url="http://wordbook") as client:
        yield client
