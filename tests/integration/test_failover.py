"""Connections that died or became read-only: typed, discarded, and recovered from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from eventstore import ANY, ConnectionUnusable, SqlAlchemyEventStore, StreamAppend
from tests.fixtures.events import new_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def one_connection(engine: Engine) -> Iterator[Engine]:
    """A pool that hands out the same connection again, as long as it is thought good."""
    pool = create_engine(engine.url, pool_size=1, max_overflow=0)
    yield pool
    pool.dispose()


def test_a_read_only_connection_is_discarded(one_connection: Engine) -> None:
    with Session(one_connection) as session:
        session.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        session.commit()
        with pytest.raises(ConnectionUnusable) as caught:
            SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()])
        assert caught.value.sqlstate == "25006"
        assert caught.value.retryable
        session.rollback()
        # The next transaction is on a new connection.
        assert SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()]) == 1
        session.commit()


def test_several_streams_on_a_read_only_connection_in_autocommit(one_connection: Engine) -> None:
    """What is raised is the cause, not that a lost connection can't roll back."""
    autocommit = one_connection.execution_options(isolation_level="AUTOCOMMIT")
    appends = [StreamAppend(stream_id, ANY, [new_event()]) for stream_id in "ab"]
    with Session(autocommit) as session:
        session.execute(text("SET default_transaction_read_only = on"))
        with pytest.raises(ConnectionUnusable):
            SqlAlchemyEventStore(session).append(*appends)
        session.rollback()
        assert SqlAlchemyEventStore(session).append(*appends)["b"].version == 1


def test_a_connection_that_the_server_ended_is_discarded(
    one_connection: Engine, engine: Engine
) -> None:
    with Session(one_connection) as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with engine.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        with pytest.raises(ConnectionUnusable) as caught:
            SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()])
        assert caught.value.sqlstate == "57P01"
        session.rollback()
        assert SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()]) == 1
        session.commit()
