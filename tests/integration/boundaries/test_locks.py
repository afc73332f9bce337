"""The locks on tags: few, in one order, a store's own, and none where there are no tags."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import asyncpg, psycopg
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    AppendConditionFailed,
    Query,
    QueryItem,
    SqlAlchemyEventStore,
    StreamAppend,
    migrate,
    no_new,
)
from eventstore.operations import append_statement, group_append
from eventstore.operations.statements import _compile
from tests.fixtures.courses import event
from tests.fixtures.stores import in_threads, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import sessionmaker


@pytest.mark.parametrize("dialect", [psycopg.dialect(), asyncpg.dialect()])
def test_an_append_without_tags_sends_no_word_of_them(dialect: Any) -> None:
    statements = [group_append._group_statement(tagged=False)]
    for *parts, clash in itertools.product(*[(True, False)] * 4, append_statement.Clash):
        exact, creates, keyed, single = parts
        shape = append_statement.Shape(exact, creates, keyed, False, single, clash)
        statements += [
            append_statement.append_statement(shape),
            append_statement.recording_statement(shape),
        ]
    for statement in statements:
        sent = _compile(statement, dialect, None).text
        assert "tag" not in sent
        assert "RETURNING events.sequence_number, events.metadata" not in sent


def own_locks(session: Session) -> int:
    """How many locks on tags this session holds."""
    query = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND objsubid = 1"
    return int(session.execute(text(query)).scalar_one())


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_batch_of_many_tags_takes_one_lock(
    engine: Engine, sessions: sessionmaker[Session], autocommit: bool
) -> None:
    bind = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else engine
    batch = [event("tagged", tags=[f"t:{number}"]) for number in range(300)]
    with Session(bind) as session:
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("s", ANY, batch)
        assert own_locks(session) == (0 if autocommit else 1)
        session.commit()
    with sessions() as session:
        query = Query(*(QueryItem(tags=[f"t:{number}"]) for number in (0, 299)))
        assert len(SqlAlchemyEventStore(session).read_by_query(query)) == 2


def test_a_transaction_of_many_tags_takes_only_so_many(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as crowded, sessions() as deciding:
        store = SqlAlchemyEventStore(crowded)
        with crowded.begin_nested() as savepoint:
            store.append_to_stream("s", ANY, [event("x", tags=[f"r:{n}"]) for n in range(200)])
            savepoint.rollback()
        # What was rolled back doesn't count.
        for number in range(5):
            tags = [f"t:{number}-{n}" for n in range(60)]
            store.append_to_stream("s", ANY, [event("x", tags=tags)])
        assert own_locks(crowded) == 4 * 60 + 1

        def commit_it() -> None:
            wait_until_blocked(engine)
            crowded.commit()

        # The last tags have no lock of their own: the gate is theirs.
        condition = no_new(Query(QueryItem(tags=["t:4-59"])))
        deciding_store = SqlAlchemyEventStore(deciding)
        refused, _ = in_threads(
            lambda: deciding_store.append(StreamAppend("d", ANY, []), require=condition), commit_it
        )
        assert isinstance(refused, AppendConditionFailed)


def test_the_count_ends_with_its_transaction(engine: Engine) -> None:
    with engine.connect() as connection, Session(connection) as session:
        for number in range(2):
            batch = [event("x", tags=[f"{number}:{each}"]) for each in range(200)]
            SqlAlchemyEventStore(session).append_to_stream("s", ANY, batch)
            assert own_locks(session) == 200
            session.commit()


@pytest.mark.parametrize("streams", [1, 2])
def test_what_an_append_has_locked_is_not_counted_again(
    sessions: sessionmaker[Session], streams: int
) -> None:
    """Else one of these would take the gate while it shares it with the other."""
    with sessions() as one, sessions() as other:
        for session, name in ((one, "one"), (other, "other")):
            batch = [event("x", tags=[f"{name}:{number}"]) for number in range(200)]
            appends = [StreamAppend(f"{name}-{number}", ANY, batch[number::streams])
                       for number in range(streams)]  # fmt: skip
            condition = no_new(Query(QueryItem(tags=[f"{name}:0"])))
            SqlAlchemyEventStore(session).append(*appends, require=condition)
        assert own_locks(one) == own_locks(other) == 201


def test_stores_in_one_database_do_not_lock_one_another(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    migrate.upgrade(engine, schema="other")
    condition = no_new(Query(QueryItem(tags=["t:1"])))
    everything = no_new(Query.all())
    with sessions() as one, sessions() as other:
        for require in ([condition], [everything]):
            for session, schema in ((one, None), (other, "other")):
                store = SqlAlchemyEventStore(session, schema=schema)
                store.append(StreamAppend("s", ANY, []), require=require)
        for session, schema in ((one, None), (other, "other")):
            store = SqlAlchemyEventStore(session, schema=schema)
            store.append_to_stream("s", ANY, [event("x", tags=["t:1"])])
            session.commit()


def test_no_two_calls_wait_for_each_other(sessions: sessionmaker[Session], seed: int) -> None:
    """Appends of all kinds over few tags and streams; a deadlock would be TransactionConflict."""
    tags, streams = [f"t:{number}" for number in range(5)], ["a", "b", "c"]

    def job(number: int) -> Callable[[], int]:
        chance = random.Random(seed + number)

        def query() -> Query:
            items = [QueryItem(tags=chance.sample(tags, 2)) for _ in range(chance.randint(1, 3))]
            return Query(*items, *[QueryItem(types=["y"])] * (chance.random() < 0.2))

        def write() -> int:
            written = 0
            for _ in range(12):
                appends = [
                    StreamAppend(stream, ANY, [event("x", tags=chance.sample(tags, 2))])
                    for stream in chance.sample(streams, chance.randint(1, 2))
                ]
                require = [no_new(query())] * (chance.random() < 0.6)
                with sessions.begin() as session:
                    store = SqlAlchemyEventStore(session)
                    require = [
                        no_new(each.query, after=store.read_by_query(each.query).token)
                        for each in require
                    ]
                    with suppress(AppendConditionFailed):
                        written += len(list(store.append(*appends, require=require)))
            return written

        return write

    outcomes = in_threads(*(job(number) for number in range(8)))
    assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
    with sessions() as session:
        assert len(SqlAlchemyEventStore(session).read_by_query(Query.all())) == sum(outcomes)
