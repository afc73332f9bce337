"""Imports beside appends, readers and one another: nothing is lost, skipped or written twice."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from eventstore import ANY, SqlAlchemyEventStore, TransactionConflict, event_store, import_events
from tests.fixtures.events import new_event
from tests.fixtures.stores import DEADLINE_SECONDS, in_threads, wait_until_blocked
from tests.integration.fence.workload import Delivered, Reader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import URL, Engine

    from eventstore import EventEnvelope

STREAMS = [f"stream-{number}" for number in range(5)]


def source(count: int) -> list[EventEnvelope[Any]]:
    return [new_event({"n": number}, stream_id=STREAMS[number % 5]) for number in range(count)]


def feed(engine: Engine, from_position: int = 0) -> list[EventEnvelope[Any]]:
    with event_store(sessionmaker(engine)) as store:
        return list(store.read_all_forward(from_position))


def assert_gapless(events: Iterable[EventEnvelope[Any]]) -> None:
    versions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        versions[event.stream_id].append(event.event_version)
    for stream_id, those in versions.items():
        assert those == list(range(1, len(those) + 1)), stream_id


def test_imports_appends_and_readers_at_once(engine: Engine) -> None:
    imports_are_done, all_is_done = Event(), Event()

    def append(number: int) -> list[str]:
        ids = []
        while not imports_are_done.is_set():
            with event_store(sessionmaker(engine)) as store:
                for stream_id in STREAMS[number : number + 2]:
                    event = new_event()
                    store.append_to_stream(stream_id, ANY, [event])
                    ids.append(str(event.event_id))
        return ids

    imports = [source(500), source(500)]
    with ThreadPoolExecutor(8) as threads:
        readers = [Reader(page_size=size) for size in (7, 500)]
        reading = [threads.submit(reader.follow, engine, all_is_done) for reader in readers]
        appending = [threads.submit(append, number) for number in range(4)]
        try:
            progress = list(
                threads.map(lambda events: import_events(engine, events, batch_size=30), imports)
            )
        finally:
            imports_are_done.set()
        try:
            appended = [event_id for future in appending for event_id in future.result()]
        finally:
            all_is_done.set()
        delivered = [future.result(DEADLINE_SECONDS) for future in reading]

    found = feed(engine)
    assert_gapless(found)
    assert [each.imported for each in progress] == [500, 500]
    imported = [str(event.event_id) for events in imports for event in events]
    assert sorted(str(event.event_id) for event in found) == sorted(imported + appended)
    assert len(appended) > 20
    recorded = [
        Delivered(e.sequence_number, e.stream_id, e.event_version, str(e.event_id)) for e in found
    ]
    for events in delivered:
        assert events == recorded


def test_the_feed_waits_for_the_batch_that_is_being_written(engine: Engine) -> None:
    events = source(10)
    with engine.connect() as blocker, ThreadPoolExecutor(1) as threads:
        # Its id keeps the COPY waiting, with numbers drawn; it has no number that matters itself.
        blocker.execute(
            text(
                "INSERT INTO events (sequence_number, event_id, stream_id, aggregate_id,"
                " aggregate_type, event_type, event_data, event_version, occurred_at, metadata)"
                " VALUES (-1, :id, 'x', 'x', 'x', 'x', '{}', 1, now(), '{}')"
            ),
            {"id": events[-1].event_id},
        )
        importing = threads.submit(import_events, engine, events)
        wait_until_blocked(engine)
        with event_store(sessionmaker(engine)) as store:
            store.append_to_stream("another", ANY, [new_event()])
        before = feed(engine)
        blocker.rollback()
        assert importing.result(DEADLINE_SECONDS).imported == 10

    checkpoint = before[-1].sequence_number if before else 0
    assert before == []
    assert len(feed(engine, checkpoint)) == 11


def test_two_imports_of_one_source_are_one(engine: Engine) -> None:
    events = source(600)

    done: list[Any] = in_threads(
        *[lambda: import_events(engine, events, batch_size=40) for _ in range(3)]
    )

    assert sum(progress.imported for progress in done) == 600
    assert sum(progress.already_imported for progress in done) == 1_200
    found = feed(engine)
    assert_gapless(found)
    assert [event.event_data["n"] for event in found] == list(range(600))


def test_a_batch_that_was_given_up_for_a_deadlock_is_written_anew(
    engine: Engine, store_database: URL
) -> None:
    # The import finds the deadlock, so that it is the one that is given up.
    patient = create_engine(store_database, connect_args={"options": "-c deadlock_timeout=20s"})
    events = [new_event(stream_id="a"), new_event(stream_id="b")]
    with Session(patient) as session, ThreadPoolExecutor(1) as threads:
        store = SqlAlchemyEventStore(session)
        store.append_to_stream("b", ANY, [new_event()])
        importing = threads.submit(import_events, engine, events)
        wait_until_blocked(engine)
        try:
            store.append_to_stream("a", ANY, [new_event()])
            session.commit()
        except TransactionConflict:
            session.rollback()  # it was too late to be waited for
        assert importing.result(DEADLINE_SECONDS).imported == 2
    patient.dispose()

    assert_gapless(feed(engine))
    assert len(feed(engine)) in (2, 4)


def test_streams_are_locked_in_the_order_of_their_ids(store_database: URL) -> None:
    # A deadlock would not be broken, but end at the time limit.
    options = {"options": "-c deadlock_timeout=60s -c lock_timeout=10s"}
    engine = create_engine(store_database, connect_args=options)
    events = [new_event(stream_id="b"), new_event(stream_id="a")]
    with ThreadPoolExecutor(1) as threads:
        with Session(engine) as session, session.begin():
            store = SqlAlchemyEventStore(session)
            store.append_to_stream("a", ANY, [new_event()])
            importing = threads.submit(import_events, engine, events)
            wait_until_blocked(engine)
            # The import waits for "a" and holds nothing that comes behind it.
            store.append_to_stream("b", ANY, [new_event()])
        assert importing.result(DEADLINE_SECONDS).imported == 2
    engine.dispose()
