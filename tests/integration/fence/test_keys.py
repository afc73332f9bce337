"""What the locks look like: one a transaction, keyed by store and number, modulo 2^32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from eventstore.models import Base
from eventstore.operations.fence import read_mark
from eventstore.store import SqlAlchemyEventStore
from eventstore.streams import ANY

from .waiting import append, committed, feed, keys_held, new_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL


def set_sequence(engine: Engine, last_value: int, *, is_called: bool = True) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("SELECT setval('events_sequence_number_seq', :v, :c)"),
            {"v": last_value, "c": is_called},
        )


def test_an_empty_store(engine: Engine) -> None:
    """`last_value` is 1 before the first number is drawn, and after it."""
    with engine.connect() as connection:
        assert read_mark(connection, None) == (0, 0)
    with Session(engine) as first:
        assert append(first, "s") == 1
        assert keys_held(first.connection()) == [0]
        assert committed(engine, "other") == 2
        assert feed(engine) == []
        first.commit()
    assert feed(engine) == [1, 2]


def test_ten_thousand_appends_take_one_lock(engine: Engine) -> None:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session)
        for n in range(10_000):
            store.append_to_stream(f"s-{n % 10}", ANY, [new_event()])
            if n in (0, 5_000):
                committed(engine, "other")  # the last number is another one each time
        assert keys_held(session.connection()) == [0]
        assert feed(engine) == []
        session.commit()
    assert len(feed(engine)) == 10_002


def test_a_savepoint_takes_lock_and_setting_back_together(engine: Engine) -> None:
    with Session(engine) as session:
        connection = session.connection()
        savepoint = session.begin_nested()
        append(session, "s")
        inner = session.begin_nested()
        append(session, "s")
        inner.commit()
        assert keys_held(connection) == [0]
        savepoint.rollback()
        assert keys_held(connection) == []

        number = append(session, "s")
        later = committed(engine, "other")
        assert keys_held(connection) == [2]
        assert feed(engine) == []  # 1 and 2 will never exist
        session.commit()
    assert feed(engine) == [number, later] == [3, 4]


def test_a_savepoint_leaves_the_lock_that_was_there_before(engine: Engine) -> None:
    with Session(engine) as session:
        number = append(session, "s")
        with session.begin_nested() as savepoint:
            append(session, "s")
            savepoint.rollback()
        later = committed(engine, "other")
        assert keys_held(session.connection()) == [0]
        assert feed(engine) == []
        session.commit()
    assert feed(engine) == [number, later]


def test_a_released_savepoint_keeps_its_lock_to_the_end_of_the_transaction(engine: Engine) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            number = append(session, "s")
        later = committed(engine, "other")
        assert feed(engine) == []
        session.commit()
    assert feed(engine) == [number, later]


@pytest.mark.parametrize("last_value", [2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**33 + 5])
def test_keys_go_round(engine: Engine, last_value: int) -> None:
    """Held below and at a wrap-around, read above it; also where the sign of an integer ends."""
    set_sequence(engine, last_value)
    before = committed(engine, "before")
    with Session(engine) as session:
        numbers = [append(session, "s"), append(session, "s")]
        later = [committed(engine, "other") for _ in range(3)]
        assert before % 2**32 in keys_held(session.connection())
        with engine.connect() as connection:
            assert read_mark(connection, None) == (before, later[-1])
        assert feed(engine) == [before]
        session.commit()
    assert feed(engine) == [before, *numbers, *later]


@pytest.mark.parametrize(
    ("drawn", "is_seen"),
    [(2**32 - 2**24 - 1, True), (2**32 - 2**24, False)],
    ids=["the last number at which it counts", "one number more"],
)
def test_how_long_a_transaction_is_never_overlooked(
    engine: Engine, drawn: int, *, is_seen: bool
) -> None:
    """The bound that the documentation gives, to the number."""
    held = committed(engine, "before")
    with Session(engine) as session:
        append(session, "s")
        set_sequence(engine, held + drawn)
        with engine.connect() as connection:
            position = read_mark(connection, None).position
        assert position == (held if is_seen else held + drawn)


def test_a_key_that_was_taken_after_the_head_was_read_holds_nothing(engine: Engine) -> None:
    """Keys a little above the head belong to the future, not to the time before the wrap."""
    set_sequence(engine, 2**32 + 10)
    with Session(engine) as session:
        append(session, "s")
        set_sequence(engine, 2**32 + 9)  # as a reader saw it that asked a moment ago
        with engine.connect() as connection:
            assert read_mark(connection, None).position == 2**32 + 9


def test_the_sequence_has_no_cache(engine: Engine) -> None:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT seqcache, seqincrement, seqcycle FROM pg_sequence"
            " WHERE seqrelid = 'events_sequence_number_seq'::regclass"
        )
        assert found.one() == (1, 1, False)


@pytest.fixture
def stores(database_url: URL) -> Iterator[Engine]:
    """Two stores in one database."""
    engine = create_engine(database_url)
    for schema in ("a", "b"):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
            mapped = connection.execution_options(schema_translate_map={None: schema})
            Base.metadata.create_all(mapped)
    yield engine
    engine.dispose()


def test_two_stores_in_one_database_do_not_wait_for_one_another(stores: Engine) -> None:
    with Session(stores) as session:
        append(session, "s", "a")
        assert committed(stores, "s", "b") == 1
        assert feed(stores, 0, "b") == [1]
        assert feed(stores, 0, "a") == []


def test_a_transaction_over_two_stores_holds_both(stores: Engine) -> None:
    with Session(stores) as session:
        append(session, "s", "a")
        append(session, "s", "b")
        for schema in ("a", "b"):
            committed(stores, "other", schema)
            assert feed(stores, 0, schema) == []
        session.commit()
    assert feed(stores, 0, "a") == feed(stores, 0, "b") == [1, 2]


def test_locks_of_others_hold_nothing(engine: Engine) -> None:
    """Locks of the application itself: other keys, one bigint, exclusive."""
    number = committed(engine, "s")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_advisory_xact_lock_shared(1, 0), pg_advisory_xact_lock_shared(0),"
            " pg_advisory_xact_lock('events_sequence_number_seq'::regclass::oid::int, 0),"
            " pg_advisory_xact_lock_shared("
            "  ('events_sequence_number_seq'::regclass::oid::bigint << 32))"
        )
        assert feed(engine) == [number]
