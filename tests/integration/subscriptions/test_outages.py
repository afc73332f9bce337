"""What a lost connection is worth: no attempt, no event, no wedge; whatever it interrupts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from eventstore.subscriptions import (
    RetryPolicy,
    Subscription,
    SubscriptionRunner,
    parked_streams,
)
from tests.fixtures.subscriptions import QUICK, append, checkpoint, see, seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from eventstore.events import AnyEnvelope

ONE_ATTEMPT = RetryPolicy(max_attempts=1)
CUT = text("SELECT pg_terminate_backend(:pid)")


def run(engine: Engine, *subscriptions: Subscription) -> None:
    SubscriptionRunner(engine, subscriptions, notifications=False).run_until_current()


def parked(engine: Engine) -> list[tuple[str, int, str]]:
    with Session(engine) as session:
        return [
            (each.stream_id, each.attempts, each.error) for each in parked_streams(session, "view")
        ]


def cut(engine: Engine, pid: int) -> None:
    with engine.begin() as connection:
        connection.execute(CUT, {"pid": pid})


@pytest.mark.parametrize("reaction", ["lets it pass", "wraps it", "swallows it", "hides it"])
def test_a_connection_that_is_lost_in_a_handler_is_no_attempt(db: Engine, reaction: str) -> None:
    append(db, "a", 3)
    losses = [4]

    def handler(session: Session, each: AnyEnvelope) -> None:
        see(session, each)
        if each.sequence_number == 2 and losses[0]:
            losses[0] -= 1
            cut(db, session.execute(text("SELECT pg_backend_pid()")).scalar_one())
            try:
                session.execute(text("SELECT 1"))
            except DBAPIError as error:
                match reaction:
                    case "lets it pass":
                        raise
                    case "wraps it":
                        raise ValueError("no") from error
                    case "hides it":
                        raise ValueError("no") from None
                    case _:
                        return

    run(db, Subscription("view", handler, retry=ONE_ATTEMPT))
    assert losses == [0]
    assert parked(db) == []
    assert seen(db) == [1, 2, 3]


def test_an_outage_of_another_database_is_waited_for(db: Engine) -> None:
    append(db, "a", 2)
    elsewhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    refusals = [3]

    def handler(session: Session, each: AnyEnvelope) -> None:
        if refusals[0]:
            refusals[0] -= 1
            elsewhere.connect()
        see(session, each)

    run(db, Subscription("view", handler, retry=ONE_ATTEMPT))
    assert parked(db) == []
    assert seen(db) == [1, 2]


def too_many_parameters(session: Session) -> None:
    numbers = tuple(range(70_000))
    marks = ",".join(["%s"] * len(numbers))
    session.connection().exec_driver_sql(f"SELECT 1 WHERE 1 IN ({marks})", numbers)


def missing_table_of_sqlite(_session: Session) -> None:
    with create_engine("sqlite://", poolclass=NullPool).connect() as elsewhere:
        elsewhere.execute(text("SELECT * FROM nothing"))


@pytest.mark.parametrize("statement", [too_many_parameters, missing_table_of_sqlite])
def test_a_statement_that_fails_on_a_live_connection_is_an_attempt(
    db: Engine, statement: Callable[[Session], None]
) -> None:
    """There is no SQLSTATE, as while connecting; yet it would fail for ever."""
    append(db, "bad", 1)
    append(db, "good", 1)

    def handler(session: Session, each: AnyEnvelope) -> None:
        if each.stream_id == "bad":
            statement(session)
        see(session, each)

    run(db, Subscription("view", handler, retry=ONE_ATTEMPT))
    assert parked(db) == [("bad", 1, "sqlalchemy.exc.OperationalError")]
    assert seen(db) == [2]


def test_what_another_database_refuses_at_the_commit_is_an_attempt(
    db: Engine, tmp_path: Path
) -> None:
    """Its driver gives no SQLSTATE, and ours has not lost its connection."""
    append(db, "bad", 1)
    append(db, "good", 1)
    file = tmp_path / "elsewhere"
    elsewhere = create_engine(f"sqlite:///{file}", connect_args={"timeout": 0}, poolclass=NullPool)
    with elsewhere.begin() as connection:
        connection.execute(text("CREATE TABLE notes (n INTEGER)"))
        connection.execute(text("INSERT INTO notes VALUES (1)"))

    def note_elsewhere(_session: Session) -> None:
        with elsewhere.begin() as connection:
            connection.execute(text("INSERT INTO notes VALUES (2)"))

    def handler(session: Session, each: AnyEnvelope) -> None:
        see(session, each)
        if each.stream_id == "bad":
            event.listen(session, "before_commit", note_elsewhere, once=True)

    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")  # who commits there has to wait for its end
        reader.execute("SELECT n FROM notes").fetchall()
        run(db, Subscription("view", handler, retry=ONE_ATTEMPT))
    assert parked(db) == [("bad", 1, "sqlalchemy.exc.OperationalError")]
    assert seen(db) == [2]


def test_an_event_whose_failed_statement_is_swallowed_wedges_nothing(db: Engine) -> None:
    append(db, "bad", 1)
    append(db, "good", 1)

    def handler(session: Session, each: AnyEnvelope) -> None:
        see(session, each)
        if each.stream_id == "bad":
            try:
                session.execute(text("SELECT 1 / 0"))
            except DBAPIError:
                return

    run(db, Subscription("view", handler, retry=QUICK))
    assert [(stream_id, attempts) for stream_id, attempts, _ in parked(db)] == [("bad", 3)]
    assert seen(db) == [2]


def test_a_handler_that_leaves_its_transaction_idle_fails_by_itself(db: Engine) -> None:
    append(db, "slow", 1)
    append(db, "good", 1)
    state = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")

    def handler(session: Session, each: AnyEnvelope) -> None:
        see(session, each)
        session.flush()
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        if each.stream_id == "slow":
            with db.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                while other.execute(state, {"pid": pid}).scalar_one():
                    other.execute(text("SELECT pg_sleep(0.01)"))

    view = Subscription("view", handler, retry=RetryPolicy(max_attempts=2), lease_seconds=0.3)
    run(db, view)
    assert [stream_id for stream_id, *_ in parked(db)] == ["slow"]
    assert seen(db) == [2]


def test_a_connection_that_is_lost_at_any_statement_changes_nothing(db: Engine) -> None:
    """Each statement of the handlers' sessions in turn, and each commit."""
    append(db, "a", 1)
    append(db, "bad", 1)
    append(db, "a", 1)
    retry = RetryPolicy(max_attempts=2, first_seconds=0.001)
    own = create_engine(db.url)
    count = lose_at = 0

    def lose(connection: Connection) -> None:
        nonlocal count
        count += 1
        if count == lose_at:
            driver: Any = connection.connection.driver_connection
            cut(db, driver.info.backend_pid)

    event.listen(own, "before_cursor_execute", lambda connection, *_: lose(connection))
    event.listen(own, "commit", lose)

    def handler(session: Session, each: AnyEnvelope) -> None:
        if each.stream_id == "bad":
            raise ValueError("no")
        see(session, each)

    while count >= lose_at:
        lose_at, count = lose_at + 1, 0
        clear(db)
        run(own, Subscription("view", handler, retry=retry, batch_size=3))
        assert seen(db) == [1, 3], lose_at
        assert checkpoint(db) == 3, lose_at
        assert parked(db) == [("bad", 2, "ValueError: no")], lose_at
    own.dispose()
    assert lose_at > 20


def clear(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE seen, subscriptions, parked_streams"))


def test_handlers_that_hold_all_connections_starve_no_lease(db: Engine) -> None:
    append(db, "a", 1)
    small = create_engine(db.url, pool_size=1, max_overflow=0)
    expiry = text("SELECT lease_expires_at FROM subscriptions")

    def handler(session: Session, each: AnyEnvelope) -> None:
        see(session, each)
        with db.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            first = other.execute(expiry).scalar_one()
            while other.execute(expiry).scalar_one() == first:  # until it is renewed
                session.execute(text("SELECT pg_sleep(0.01)"))

    run(small, Subscription("view", handler, retry=ONE_ATTEMPT, lease_seconds=0.5))
    small.dispose()
    assert seen(db) == [1]
