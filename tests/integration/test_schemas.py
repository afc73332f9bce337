"""Many stores in one database, one schema each, whatever the schema is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    NO_STREAM,
    ConcurrencyConflict,
    EventMetadata,
    Query,
    QueryItem,
    SchemaOutOfDate,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
    migrate,
    no_new,
)
from eventstore.models import EventRecord
from tests.fixtures.events import new_event, new_events

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

ODD_NAMES = ["tenant_a", "Order Events", 'we"ird', "100%", "user", "日本"]


@pytest.fixture
def empty(database_url: URL) -> Engine:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("schema", ODD_NAMES)
def test_every_operation_keeps_to_its_schema(empty: Engine, schema: str) -> None:
    migrate.upgrade(empty, schema=schema)
    with Session(empty) as session:
        store = SqlAlchemyEventStore(session, schema=schema)
        metadata = EventMetadata(idempotency_key="k")
        events = new_events(2, metadata=metadata)
        assert store.append_to_stream("s", NO_STREAM, events) == 2
        assert store.append_to_stream("s", NO_STREAM, events) == 2
        assert store.append_to_stream("s", ANY, new_events(2, metadata=metadata)) == 2
        with pytest.raises(ConcurrencyConflict):
            store.append_to_stream("s", 7, [new_event()])
        store.append(
            StreamAppend("t", NO_STREAM, [new_event()]), require=[StreamAt("u", NO_STREAM)]
        )
        store.save_snapshot(Snapshot(aggregate_id="s", aggregate_type="A", version=2, data={}))
        with pytest.raises(ConcurrencyConflict) as caught:
            store.append_to_stream("s", 1, [new_event()], fetch_missed=True)
        assert len(caught.value.missed or ()) == 1
        loaded = store.load_stream("s", "A", idempotency_key="k")
        assert (loaded.snapshot is None, loaded.version, loaded.recorded) == (False, 2, (1, 2))
        store.delete_stream("t")
        store.restore_stream("t")
        query = Query(QueryItem(tags=["v:1"]), QueryItem(types=["no such"]))
        tagged = [new_event(tags=["v:1"])]
        store.append(StreamAppend("v", NO_STREAM, tagged), require=no_new(query))
        token = store.read_by_query(query).token
        narrow = Query(QueryItem(tags=["v:2"]))
        store.append(StreamAppend("v", 1, []), require=[no_new(query, after=token), no_new(narrow)])
        session.commit()
        assert len(list(store.read_stream("s"))) == 2
        assert len(list(store.read_all_forward())) == 4
        assert store.get_snapshot("s", "A") is not None
        assert store.get_stream_info("u") is None


def test_stores_in_one_database_know_nothing_of_one_another(empty: Engine) -> None:
    events = new_events(1)
    for schema in ("a", "b", None):
        migrate.upgrade(empty, schema=schema)
    with Session(empty) as session:
        stores = [SqlAlchemyEventStore(session, schema=schema) for schema in ("a", "b", None)]
        for number, store in enumerate(stores):
            # The same ids and streams: each store has its own, in one transaction.
            assert store.append_to_stream("s", NO_STREAM, events) == 1
            if number:
                store.append_to_stream("s", 1, new_events(number))
        session.commit()
        assert [len(list(store.read_all_forward())) for store in stores] == [1, 2, 3]


def test_a_translate_map_names_the_schema(empty: Engine) -> None:
    migrate.upgrade(empty, schema="tenant")
    tenant = empty.execution_options(schema_translate_map={None: "tenant"})
    with Session(tenant) as session:
        SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, [new_event()])
        assert session.query(EventRecord).count() == 1
        session.commit()
    with Session(empty) as session:
        assert len(list(SqlAlchemyEventStore(session, schema="tenant").read_stream("s"))) == 1


@pytest.mark.parametrize("path", ["es, public", "public, es"])
def test_the_search_path_finds_the_tables(empty: Engine, path: str) -> None:
    migrate.upgrade(empty, schema="es")
    with Session(empty) as session:
        session.execute(text(f"SET search_path = {path}"))
        store = SqlAlchemyEventStore(session)
        assert store.append_to_stream("s", NO_STREAM, [new_event()]) == 1
        assert len(list(store.read_all_forward())) == 1


def test_a_session_with_several_engines_finds_the_events(engine: Engine, empty: Engine) -> None:
    maker = sessionmaker(empty, binds={EventRecord: engine})
    with maker() as session:
        assert SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, [new_event()]) == 1


def test_missing_tables_are_told_with_the_cure(empty: Engine) -> None:
    with Session(empty) as session:
        store = SqlAlchemyEventStore(session)
        for attempt in (
            lambda: store.append_to_stream("s", ANY, [new_event()]),
            lambda: list(store.read_stream("s")),
            lambda: list(store.read_all_forward()),
            lambda: store.get_snapshot("s", "A"),
        ):
            with pytest.raises(SchemaOutOfDate, match="upgrade head"):
                attempt()
            session.rollback()


def test_another_database_is_refused() -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(ValueError, match="sqlite"):
        SqlAlchemyEventStore(session).append_to_stream("s", ANY, [new_event()])
    engine.dispose()
