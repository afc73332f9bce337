"""The table of keys: made with an event, asked once a page, rolled back with it, rotated."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    MasterKeyError,
    SerializationError,
    SqlAlchemyEventStore,
    SubjectErased,
    event_store,
    export_events,
    exported_events,
    import_events,
    migrate,
)
from eventstore.key_rotation import rotate_master_key
from eventstore.models import events_table, subject_keys_table
from eventstore.operations.subject_keys import SubjectKeyTable
from eventstore.personal import Erased, MasterKeys
from tests.fixtures.learners import (
    ANN,
    BOB,
    new_master_key,
    noted,
    registered,
    registry_with,
)
from tests.fixtures.stores import in_threads, statements_of, wait_until_blocked

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Engine

    from eventstore import EventRegistry


@pytest.fixture(scope="module")
def master_key() -> bytes:
    return new_master_key()


@pytest.fixture
def registry(master_key: bytes) -> EventRegistry:
    return registry_with(MasterKeys(master_key))


def append(engine: Engine, registry: EventRegistry, *subjects: str, stream_id: str = "s") -> None:
    with event_store(sessionmaker(engine), registry) as store:
        store.append_to_stream(stream_id, ANY, [registered(each) for each in subjects])


def emails(engine: Engine, registry: EventRegistry, stream_id: str = "s") -> list[Any]:
    with event_store(sessionmaker(engine), registry) as store:
        return [event.event_data.email for event in store.read_stream(stream_id)]


def count(engine: Engine, table: Any) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def about_keys(statements: list[str]) -> list[str]:
    return [each for each in statements if "subject_keys" in each]


def test_what_is_not_personal_costs_no_statement(engine: Engine, registry: EventRegistry) -> None:
    append(engine, registry, "learner-1")
    with statements_of(engine) as sent, event_store(sessionmaker(engine), registry) as store:
        store.append_to_stream("plain", 0, [noted(), noted()])
        assert len(list(store.read_stream("plain"))) == 2
        assert list(store.read_stream("s", as_type=bytes))
        assert store.load_stream("plain").version == 2
    assert about_keys(sent) == []
    with statements_of(engine) as sent, event_store(sessionmaker(engine)) as untyped:
        untyped.append_to_stream("plain", 2, [noted()])
        assert len(list(untyped.read_all_forward())) == 4
    assert about_keys(sent) == []


def test_a_page_and_an_append_ask_once(engine: Engine, registry: EventRegistry) -> None:
    subjects = [f"learner-{number}" for number in range(50)]
    with statements_of(engine) as sent:
        append(engine, registry, *subjects)
    assert len(about_keys(sent)) == 3  # which are there, new ones, and who was first
    with statements_of(engine) as sent:
        append(engine, registry, *subjects)
    assert len(about_keys(sent)) == 1
    with statements_of(engine) as sent:
        assert emails(engine, registry) == [ANN] * 100
    assert len(about_keys(sent)) == 1


def test_a_key_goes_with_the_transaction_that_made_it(
    engine: Engine, registry: EventRegistry
) -> None:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session, registry)
        savepoint = session.begin_nested()
        store.append_to_stream("s", 0, [registered("undone")])
        savepoint.rollback()
        store.append_to_stream("s", 0, [registered("kept")])
        session.commit()
    with Session(engine) as session:
        SqlAlchemyEventStore(session, registry).append_to_stream("t", 0, [registered("undone")])
        session.rollback()

    assert count(engine, subject_keys_table) == count(engine, events_table) == 1
    append(engine, registry, "undone")
    assert emails(engine, registry) == [ANN, ANN]


def test_a_forgetting_that_is_rolled_back_has_not_happened(
    engine: Engine, registry: EventRegistry
) -> None:
    append(engine, registry, "learner-1")
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session, registry)
        assert store.forget("learner-1")
        assert next(iter(store.read_stream("s"))).event_data.email == Erased("learner-1")
        session.rollback()

    assert emails(engine, registry) == [ANN]
    assert count(engine, events_table) == 1


def test_two_writers_of_a_new_subject_use_one_key(engine: Engine, registry: EventRegistry) -> None:
    """The second waits at the first one's row, and then has its key."""
    with Session(engine) as first:
        SqlAlchemyEventStore(first, registry).append_to_stream("a", 0, [registered()])
        thread = threading.Thread(
            target=append, args=(engine, registry, "learner-1"), kwargs={"stream_id": "b"}
        )
        thread.start()
        wait_until_blocked(engine)
        first.commit()
    thread.join()

    assert count(engine, subject_keys_table) == 1
    assert emails(engine, registry, "a") == emails(engine, registry, "b") == [ANN]


def test_a_writer_whose_rival_rolls_back_makes_the_key(
    engine: Engine, registry: EventRegistry
) -> None:
    with Session(engine) as first:
        SqlAlchemyEventStore(first, registry).append_to_stream("a", 0, [registered()])
        thread = threading.Thread(target=append, args=(engine, registry, "learner-1"))
        thread.start()
        wait_until_blocked(engine)
        first.rollback()
    thread.join()

    assert emails(engine, registry) == [ANN]


def test_many_writers_and_one_who_forgets(engine: Engine, registry: EventRegistry) -> None:
    """Whoever comes first: afterwards all of it is erased, and nothing is garbage."""
    barrier = threading.Barrier(9)

    def write(number: int) -> None:
        barrier.wait()
        append(engine, registry, "p", "q", stream_id=f"s-{number}")

    def forget() -> None:
        barrier.wait()
        with event_store(sessionmaker(engine), registry) as store:
            store.forget("p")

    results = in_threads(forget, *(lambda n=n: write(n) for n in range(8)))

    assert {type(each) for each in results} <= {type(None), SubjectErased}
    with event_store(sessionmaker(engine), registry) as store:
        for event in store.read_all_forward():
            if event.event_type == "registered":
                erased = event.event_data.learner_id == "p"
                assert event.event_data.email == (Erased("p") if erased else ANN)


def test_a_reader_in_a_transaction_of_its_own_snapshot_sees_its_time(
    engine: Engine, registry: EventRegistry
) -> None:
    append(engine, registry, "learner-1")
    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(repeatable) as before, Session(engine) as other:
        store = SqlAlchemyEventStore(before, registry)
        assert store.get_stream_info("s") is not None
        SqlAlchemyEventStore(other, registry).forget("learner-1")
        other.commit()
        assert next(iter(store.read_stream("s"))).event_data.email == ANN
    assert emails(engine, registry) == [Erased("learner-1")]


def test_in_autocommit_too(engine: Engine, registry: EventRegistry) -> None:
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        store = SqlAlchemyEventStore(session, registry)
        event = registered()
        assert store.append_to_stream("s", 0, [event]) == 1
        assert store.append_to_stream("s", 0, [event]) == 1
        assert next(iter(store.read_stream("s"))).event_data.email == ANN
        assert store.forget("learner-1")
        assert not store.forget("learner-1")
        assert store.append_to_stream("s", 0, [event]) == 1
        with pytest.raises(SubjectErased):
            store.append_to_stream("s", 1, [registered()])


def test_a_schema_of_its_own(engine: Engine, registry: EventRegistry) -> None:
    migrate.upgrade(engine, schema="tenant")
    with event_store(sessionmaker(engine), registry, schema="tenant") as store:
        store.append_to_stream("s", 0, [registered()])
    with event_store(sessionmaker(engine), registry, schema="tenant") as store:
        store.forget("learner-1")
        assert next(iter(store.read_stream("s"))).event_data.email == Erased("learner-1")
    assert count(engine, subject_keys_table) == count(engine, events_table) == 0


def test_a_wrong_master_key_is_an_error_and_nothing_is_written(
    engine: Engine, registry: EventRegistry
) -> None:
    append(engine, registry, "learner-1")
    wrong = registry_with(MasterKeys(new_master_key()))

    with pytest.raises(MasterKeyError, match="is needed to read"):
        emails(engine, wrong)
    with pytest.raises(MasterKeyError):
        append(engine, wrong, "learner-1")
    assert emails(engine, registry) == [ANN]
    with event_store(sessionmaker(engine), wrong) as store:
        assert store.forget("learner-1")  # needs none
    assert emails(engine, wrong) == [Erased("learner-1")]


def test_a_store_without_a_registry_forgets_and_relays_ciphertext(
    engine: Engine, registry: EventRegistry
) -> None:
    append(engine, registry, "learner-1")
    with event_store(sessionmaker(engine)) as store:
        (event,) = store.read_stream("s")
        assert event.event_data["email"]["$personal"] == "sealed/1"
        assert "secret" not in str(event)
        assert store.forget("learner-1")
    assert emails(engine, registry) == [Erased("learner-1")]


def test_a_value_that_was_put_elsewhere_is_an_error(
    engine: Engine, registry: EventRegistry
) -> None:
    append(engine, registry, "learner-1")
    with event_store(sessionmaker(engine)) as untyped:
        (event,) = untyped.read_stream("s")
        data = event.event_data
        for stream_id, moved in [
            (
                "type",
                noted(
                    event_type="introduced",
                    event_data={
                        "teacher": "learner-1",
                        "learner": "p",
                        "teacher_email": data["email"],
                    },
                ),
            ),
            ("path", noted(event_type="registered", event_data=data | {"address": data["email"]})),
        ]:
            untyped.append_to_stream(stream_id, 0, [moved])

    for stream_id in ("type", "path"):
        with pytest.raises(SerializationError, match="sealed elsewhere, or was changed"):
            emails(engine, registry, stream_id)


def test_an_export_is_ciphertext_and_comes_back(
    engine: Engine, registry: EventRegistry, tmp_path: Path, database_url: URL
) -> None:
    append(engine, registry, "learner-1", "learner-2")
    with event_store(sessionmaker(engine), registry) as store:
        store.forget("learner-2")
    lines = tmp_path / "events"
    with lines.open("wb") as file:
        export_events(engine, file, registry=registry)
    assert b"secret" not in lines.read_bytes()

    with lines.open("rb") as file:
        again = import_events(engine, exported_events(file))
    assert again.already_imported == 3

    other = create_engine(database_url)
    migrate.upgrade(other)
    with lines.open("rb") as file:
        import_events(other, exported_events(file))
    with pytest.raises(SerializationError, match="doesn't have"):
        emails(other, registry)
    _copy_keys(engine, other)
    assert emails(other, registry) == [ANN, Erased("learner-2")]
    other.dispose()


def _copy_keys(source: Engine, target: Engine) -> None:
    with source.connect() as reading, target.begin() as writing:
        rows = [dict(row._mapping) for row in reading.execute(select(subject_keys_table))]
        writing.execute(subject_keys_table.insert(), rows)


class TestRotation:
    def test_every_key_is_wrapped_anew(
        self, engine: Engine, registry: EventRegistry, master_key: bytes
    ) -> None:
        subjects = [f"learner-{number}" for number in range(7)]
        append(engine, registry, *subjects)
        with event_store(sessionmaker(engine), registry) as store:
            store.forget("learner-3")
        new = new_master_key()
        both, done = MasterKeys(new, master_key), []

        assert rotate_master_key(engine, both, batch_size=2, on_progress=done.append) == 6
        assert done == [2, 4, 6]
        assert rotate_master_key(engine, both) == 0
        only_new = registry_with(MasterKeys(new))
        expected = [Erased(each) if each == "learner-3" else ANN for each in subjects]
        assert emails(engine, only_new) == expected
        with pytest.raises(MasterKeyError):
            emails(engine, registry)

    def test_it_goes_on_where_it_was_interrupted(
        self, engine: Engine, registry: EventRegistry, master_key: bytes
    ) -> None:
        append(engine, registry, *(f"learner-{number}" for number in range(5)))
        both = MasterKeys(new_master_key(), master_key)

        def interrupt(done: int) -> None:
            if done == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rotate_master_key(engine, both, batch_size=2, on_progress=interrupt)
        assert rotate_master_key(engine, both, batch_size=2) == 1

    def test_it_never_brings_back_what_is_forgotten_meanwhile(
        self, engine: Engine, registry: EventRegistry, master_key: bytes
    ) -> None:
        append(engine, registry, "learner-1")
        both = MasterKeys(new_master_key(), master_key)
        with Session(engine) as forgetting:
            SqlAlchemyEventStore(forgetting, registry).forget("learner-1")
            thread = threading.Thread(target=rotate_master_key, args=(engine, both))
            thread.start()
            wait_until_blocked(engine)
            forgetting.commit()
        thread.join()
        assert emails(engine, registry) == [Erased("learner-1")]

    def test_an_old_master_key_that_is_missing_is_told_and_nothing_is_lost(
        self, engine: Engine, registry: EventRegistry
    ) -> None:
        append(engine, registry, "learner-1")
        with pytest.raises(MasterKeyError, match="is needed to read"):
            rotate_master_key(engine, MasterKeys(new_master_key()))
        assert emails(engine, registry) == [ANN]

    def test_it_takes_an_engine(self, master_key: bytes) -> None:
        keys, wrong = MasterKeys(master_key), create_engine("postgresql+asyncpg://")
        for engine in (None, "postgresql://", wrong):
            with pytest.raises(TypeError, match="synchronous Engine"):
                rotate_master_key(engine, keys)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="batch_size"):
            rotate_master_key(create_engine("postgresql+psycopg://"), keys, batch_size=0)


def test_a_key_without_its_state_is_refused_by_the_table(engine: Engine) -> None:
    with engine.begin() as connection:
        table = SubjectKeyTable(connection, None)
        table.forget("learner-1")
        table.forget("learner-1")
        assert table.read(["learner-1", "nobody"]) == {"learner-1": None}
    with engine.connect() as connection, pytest.raises(Exception, match="key_or_forgotten"):
        connection.execute(text("UPDATE subject_keys SET forgotten_at = NULL"))


def test_emails_of_two(engine: Engine, registry: EventRegistry) -> None:
    """A ciphertext of one subject is opened by nobody else's key."""
    with event_store(sessionmaker(engine), registry) as store:
        store.append_to_stream("s", 0, [registered("p", ANN), registered("q", BOB)])
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE subject_keys SET wrapped_key = "
                "(SELECT wrapped_key FROM subject_keys WHERE subject_id = 'q') "
                "WHERE subject_id = 'p'"
            )
        )
    with pytest.raises(MasterKeyError, match="was changed"):
        emails(engine, registry)
