"""The fixtures as a user's test suite has them: each suite in a run of pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

SYNC = """
    import pytest
    from eventstore import ANY, EventEnvelope, SqlAlchemyEventStore
    from sqlalchemy import create_engine, func, select, text
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import Session
    from eventstore.models import EventRecord, StreamRecord

    def event():
        return EventEnvelope(aggregate_type="A", event_type="t", event_data={})

    @pytest.mark.parametrize("again", [1, 2])
    def test_what_is_committed_is_rolled_back(event_store, again):
        session = event_store.session
        assert event_store.append_to_stream("s", 0, [event()]) == 1
        session.commit()
        session.rollback()
        assert [e.event_version for e in event_store.read_all_forward()] == [1]
        with pytest.raises(IntegrityError):
            session.add(StreamRecord(stream_id="s", version=1))
            session.flush()
        session.rollback()
        assert event_store.append_to_stream("s", 1, [event()]) == 2
        session.commit()

    @pytest.mark.parametrize("again", [1, 2])
    def test_what_is_committed_there_is_committed(committed_database, again):
        engine = create_engine(committed_database)
        with Session(engine) as session:
            assert SqlAlchemyEventStore(session).append_to_stream("s", 0, [event()]) == 1
            session.commit()
        with Session(engine) as session:
            assert session.scalar(select(func.count()).select_from(EventRecord)) == 1
        engine.dispose()

    class TestRegistry:
        @pytest.fixture
        def event_registry(self):
            from eventstore import EventRegistry
            registry = EventRegistry()
            registry.register("t", dict)
            return registry

        def test_the_registry_is_the_suites(self, event_store):
            from eventstore import UnknownEventType
            with pytest.raises(UnknownEventType):
                event_store.append_to_stream(
                    "s", 0, [EventEnvelope(aggregate_type="A", event_type="u", event_data={})]
                )
"""

ASYNC = """
    import pytest
    from eventstore import EventEnvelope
    from sqlalchemy import text

    pytestmark = pytest.mark.{marker}

    @pytest.fixture(scope="session")
    def event_store_schema():
        return "orders"

    @pytest.mark.parametrize("again", [1, 2])
    async def test_what_is_committed_is_rolled_back(async_event_store, again):
        event = EventEnvelope(aggregate_type="A", event_type="t", event_data={{}})
        assert await async_event_store.append_to_stream("s", 0, [event]) == 1
        await async_event_store.session.commit()
        await async_event_store.session.rollback()
        assert [e.event_version async for e in async_event_store.read_stream("s")] == [1]
        where = text("SELECT schemaname FROM pg_tables WHERE tablename = 'events'")
        schemas = await async_event_store.session.scalars(where)
        assert list(schemas) == ["orders"]
"""

GOLDEN = """
    from eventstore import EventRegistry
    from pydantic import BaseModel

    registry = EventRegistry()

    @registry.register("order-placed")
    class OrderPlaced(BaseModel):
        order_id: str

    def test_every_event_ever_written_can_be_read(golden_events):
        golden_events.check(registry, samples=[OrderPlaced(order_id="7")])
"""

ANYIO = """
    import sys
    sys.modules["pytest_asyncio"] = None  # as where it is not installed
    import pytest

    @pytest.fixture
    def anyio_backend():
        return "asyncio"
"""


#: Plugins that the suites don't need, one of which imports Hypothesis for each.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:hypothesispytest")


def run_suite(
    pytester: pytest.Pytester, server: URL, suite: str, *options: str, failing: bool = False
) -> str:
    """Run the suite in this process, whose imports it shares."""
    pytester.makepyfile(test_suite=suite)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    dsn = server.set(drivername="postgresql").render_as_string(hide_password=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVENTSTORE_TEST_DSN", dsn)
        done = pytester.runpytest_inprocess(*WITHOUT, *options)
    output = str(done.stdout)
    assert done.ret == failing, output + str(done.stderr)
    return output


def test_the_sync_fixtures_leave_no_database(
    pytester: pytest.Pytester, server_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: set[str] = set()  # other tests make databases on the server at the same time

    def noted() -> UUID:
        number = uuid4()
        made.add(f"eventstore_test_{number.hex}")
        return number

    monkeypatch.setattr("eventstore.testing.databases.uuid4", noted)
    output = run_suite(pytester, server_url, SYNC, "-p", "no:asyncio")
    with create_engine(server_url, poolclass=NullPool).connect() as connection:
        there = set(connection.execute(text("SELECT datname FROM pg_database")).scalars())
    assert made
    assert made.isdisjoint(there)
    assert "5 passed" in output
    assert "eventstore: the server of EVENTSTORE_TEST_DSN" in output


def test_the_async_fixture_under_pytest_asyncio(pytester: pytest.Pytester, server_url: URL) -> None:
    option = ("-o", "asyncio_default_fixture_loop_scope=function")
    assert "2 passed" in run_suite(pytester, server_url, ASYNC.format(marker="asyncio"), *option)


def test_the_async_fixture_under_anyio(tmp_path: Path, server_url: URL) -> None:
    """A process of its own, in which the plugin is imported without pytest-asyncio."""
    (tmp_path / "without_pytest_asyncio.py").write_text(dedent(ANYIO))
    (tmp_path / "test_suite.py").write_text(dedent(ASYNC.format(marker="anyio")))
    dsn = server_url.set(drivername="postgresql").render_as_string(hide_password=False)
    options = (*WITHOUT, "-p", "no:asyncio", "-p", "without_pytest_asyncio")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", *options],
        cwd=tmp_path,
        env=os.environ | {"EVENTSTORE_TEST_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_golden_events_are_written_on_request_only(pytester: pytest.Pytester) -> None:
    nowhere = make_url("postgresql://nobody@127.0.0.1:1/none")  # no database is asked
    plain = ("-p", "no:asyncio")
    output = run_suite(pytester, nowhere, GOLDEN, *plain, failing=True)
    assert "there is none of 'order-placed', version 1" in output
    run_suite(pytester, nowhere, GOLDEN, *plain, "--write-golden-events")
    run_suite(pytester, nowhere, GOLDEN, *plain)
    golden = pytester.path / "golden" / "order-placed" / "v1.json"
    assert golden.read_text() == '{\n  "order_id": "7"\n}\n'
    run_suite(pytester, nowhere, GOLDEN.replace("order_id", "id"), *plain, failing=True)
