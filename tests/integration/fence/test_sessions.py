"""Which sessions may read the feed, and what a session sees of its own events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from eventstore.errors import FeedUnavailable
from eventstore.store import SqlAlchemyEventStore

from .waiting import append, committed, feed, keys_held

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


@pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot_is_refused(engine: Engine, isolation_level: str) -> None:
    committed(engine, "s")
    with pytest.raises(FeedUnavailable, match=f"{isolation_level}.*READ COMMITTED"):
        feed(engine.execution_options(isolation_level=isolation_level))


def test_an_old_snapshot_of_a_block_by_hand_is_refused(engine: Engine) -> None:
    """SQLAlchemy holds the connection for AUTOCOMMIT, and does not know of the block."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with Session(connection) as session, pytest.raises(FeedUnavailable):
            list(SqlAlchemyEventStore(session).read_all_forward())
        connection.exec_driver_sql("COMMIT")


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "READ UNCOMMITTED", "AUTOCOMMIT"])
def test_a_snapshot_of_each_statement_is_right(engine: Engine, isolation_level: str) -> None:
    number = committed(engine, "s")
    assert feed(engine.execution_options(isolation_level=isolation_level)) == [number]


@pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_writers_of_any_isolation_hold_the_feed(engine: Engine, isolation_level: str) -> None:
    with Session(engine.execution_options(isolation_level=isolation_level)) as session:
        number = append(session, "s")
        later = committed(engine, "other")
        assert feed(engine) == []
        session.commit()
    assert feed(engine) == [number, later]


def test_autocommit_where_repeatable_read_is_the_default(database_url: URL) -> None:
    """Each statement is a transaction of its own, whatever its isolation."""
    engine = create_engine(
        database_url,
        isolation_level="AUTOCOMMIT",
        connect_args={"options": "-c default_transaction_isolation=repeatable\\ read"},
    )
    number = committed(engine, "s")
    assert feed(engine) == [number]
    engine.dispose()


def test_autocommit_appends_are_seen_at_once(engine: Engine) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(autocommit) as session:
        numbers = [append(session, "s") for _ in range(3)]
        assert keys_held(session.connection()) == []
        assert feed(engine) == numbers


def test_a_session_sees_what_it_has_written_itself(engine: Engine) -> None:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session)
        number = append(session, "s")
        assert [e.sequence_number for e in store.read_all_forward()] == [number]
        assert feed(engine) == []

        # What others commit later lies behind its own number.
        later = committed(engine, "other")
        assert [e.sequence_number for e in store.read_all_forward(number)] == [later]
        own = append(session, "s")
        assert [e.sequence_number for e in store.read_all_forward(later)] == [own]
        session.commit()
    assert feed(engine) == [number, later, own]


def test_a_session_waits_for_the_others_in_front_of_its_own_events(engine: Engine) -> None:
    with Session(engine) as other, Session(engine) as session:
        first = append(other, "other")
        second = append(session, "s")
        store = SqlAlchemyEventStore(session)
        assert list(store.read_all_forward()) == []
        other.commit()
        assert [e.sequence_number for e in store.read_all_forward()] == [first, second]


def test_numbers_that_a_session_has_seen_and_taken_back_never_come_again(engine: Engine) -> None:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session)
        savepoint = session.begin_nested()
        append(session, "s")
        checkpoint = [e.sequence_number for e in store.read_all_forward()][-1]
        savepoint.rollback()
        number = append(session, "s")
        session.commit()
    assert number > checkpoint
    assert feed(engine, checkpoint) == [number]


@pytest.mark.parametrize("end", ["COMMIT PREPARED", "ROLLBACK PREPARED"])
def test_a_prepared_transaction_holds_the_feed(
    engine: Engine, transaction_id: str, end: str
) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection, Session(connection) as session:
        connection.exec_driver_sql("BEGIN")
        number = append(session, "s")
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{transaction_id}'")
        later = committed(engine, "other")
        assert feed(engine) == []
        # Also for the session that has prepared it: it is nobody's now.
        assert list(SqlAlchemyEventStore(session).read_all_forward()) == []
        # The setting is gone with the transaction: the next append takes a lock.
        connection.exec_driver_sql("BEGIN")
        third = append(session, "s-2")
        assert keys_held(connection) == [0, later]
        connection.exec_driver_sql("COMMIT")

        connection.exec_driver_sql(f"{end} '{transaction_id}'")
    kept = [number] if end == "COMMIT PREPARED" else []
    assert feed(engine) == [*kept, later, third]
