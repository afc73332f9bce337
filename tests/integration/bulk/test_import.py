"""What an import records, and what it refuses: one batch after another, each all or nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    ConcurrencyConflict,
    DuplicateEvent,
    EventEnvelope,
    EventMetadata,
    IdempotencyMismatch,
    ImportProgress,
    SchemaOutOfDate,
    SerializationError,
    SqlAlchemyEventStore,
    StreamDeleted,
    causation,
    event_store,
    import_events,
    migrate,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.memory import peak_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import URL, Engine

    AnyEnvelope = EventEnvelope[Any]


def feed(engine: Engine, schema: str | None = None) -> list[AnyEnvelope]:
    with event_store(sessionmaker(engine), schema=schema) as store:
        return list(store.read_all_forward())


def places(events: Iterable[AnyEnvelope]) -> list[tuple[str, int]]:
    return [(each.stream_id, each.event_version) for each in events]


def append(engine: Engine, stream_id: str, *events: AnyEnvelope) -> int:
    with event_store(sessionmaker(engine)) as store:
        return store.append_to_stream(stream_id, ANY, events)


def in_turns(count: int, *stream_ids: str) -> list[AnyEnvelope]:
    """Events of several streams, one after the other."""
    return [
        new_event({"n": number}, stream_id=stream_ids[number % len(stream_ids)])
        for number in range(count)
    ]


def isolation_levels_of(engine: Engine) -> set[str]:
    """Return the set of those in which transactions will have begun."""
    levels: set[str] = set()
    event.listen(engine, "begin", lambda each: levels.add(each.get_isolation_level()))
    return levels


def test_all_that_an_event_says_is_kept_and_its_place_is_assigned(engine: Engine) -> None:
    events = [
        new_event(
            {"text": "ein Ü, ein 😀, ein \\u0000", "number": 1.5, "nothing": None},
            stream_id="s" * 200 + "ö" * 55,
            occurred_at=datetime(1, 1, 1, tzinfo=UTC),
            event_version=77,
            sequence_number=77,
        ),
        new_event(
            stream_id="t",
            aggregate_id="another",
            aggregate_type="日" * 100,
            occurred_at=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            metadata=EventMetadata(correlation_id="c", user_id="u", further={"a": [1]}),
        ),
        new_event(stream_id="t"),
    ]

    progress = import_events(engine, iter(events))

    assert (progress.imported, progress.new_streams, progress.position) == (3, 2, 3)
    found = feed(engine)
    assert places(found) == [(events[0].stream_id, 1), ("t", 1), ("t", 2)]
    for position, (given, recorded) in enumerate(zip(events, found, strict=True), start=1):
        assigned = {"event_version": recorded.event_version, "sequence_number": position}
        assigned["aggregate_id"] = given.aggregate_id or given.stream_id
        assert recorded == given.model_copy(update=assigned)


def test_history_is_not_of_the_importers_context(engine: Engine) -> None:
    with causation(correlation_id="of the import", user_id="ann"):
        import_events(engine, in_turns(1, "s"))

    assert feed(engine)[0].metadata == EventMetadata()


def test_the_feed_of_another_store_goes_over_as_it_is(engine: Engine) -> None:
    migrate.upgrade(engine, schema="copy")
    import_events(engine, in_turns(50, "a", "b", "c"), batch_size=7)
    with Session(engine) as session:
        source = SqlAlchemyEventStore(session).read_all_forward(page_size=10)
        import_events(engine, source, schema="copy", batch_size=20, keep_versions=True)

    assert feed(engine, "copy") == feed(engine)


def test_streams_go_on_at_their_versions(engine: Engine) -> None:
    append(engine, "s", *new_events(3))

    progress = import_events(engine, in_turns(5, "s", "t"), batch_size=2)

    assert places(feed(engine))[3:] == [("s", 4), ("t", 1), ("s", 5), ("t", 2), ("s", 6)]
    assert progress.new_streams == 1
    assert append(engine, "s", new_event()) == 7


def test_progress_is_told_behind_each_commit(engine: Engine) -> None:
    told: list[ImportProgress] = []
    seen: list[int] = []

    def on_progress(progress: ImportProgress) -> None:
        told.append(progress)
        seen.append(len(feed(engine)))

    result = import_events(engine, in_turns(7, "a", "b"), batch_size=3, on_progress=on_progress)

    assert [progress.imported for progress in told] == seen == [3, 6, 7]
    assert [progress.position for progress in told] == [3, 6, 7]
    assert [progress.new_streams for progress in told] == [2, 2, 2]
    assert 0 < told[0].seconds <= told[1].seconds <= told[2].seconds
    assert result == told[-1]


def test_nothing_to_import_is_no_error(engine: Engine) -> None:
    result = import_events(engine, [])

    assert (result.imported, result.already_imported, result.position) == (0, 0, 0)


def test_what_the_callback_raises_ends_the_import_behind_its_batch(engine: Engine) -> None:
    def stop(progress: ImportProgress) -> None:
        if progress.imported == 6:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        import_events(engine, in_turns(20, "s"), batch_size=3, on_progress=stop)

    assert len(feed(engine)) == 6


def test_a_failing_source_leaves_the_batches_before_it(engine: Engine) -> None:
    told: list[int] = []

    def source() -> Iterator[AnyEnvelope]:
        yield from in_turns(7, "s")
        raise LookupError("the file ends in the middle")

    with pytest.raises(LookupError):
        import_events(
            engine,
            source(),
            batch_size=3,
            on_progress=lambda progress: told.append(progress.imported),
        )

    assert len(feed(engine)) == 6
    assert told == [3, 6]


def test_an_event_that_cannot_be_stored_stops_its_batch_alone(engine: Engine) -> None:
    events = in_turns(8, "s")
    events[5] = new_event({"n": float("inf")}, stream_id="s")

    with pytest.raises(SerializationError) as raised:
        import_events(engine, events, batch_size=3)

    assert "event 6 of the import" in raised.value.__notes__[0]
    assert len(feed(engine)) == 3


def test_a_deleted_stream_gets_no_events(engine: Engine) -> None:
    events = in_turns(6, "s", "t")
    import_events(engine, events[:4])
    with event_store(sessionmaker(engine)) as store:
        store.delete_stream("t")

    # What it has is history, and may be imported again.
    assert import_events(engine, events[:4]).already_imported == 4
    with pytest.raises(StreamDeleted) as raised:
        import_events(engine, events)

    assert raised.value.stream_id == "t"
    assert len(feed(engine)) == 4
    assert append(engine, "s", new_event()) == 3  # nor was the other stream moved on


def test_versions_are_kept_on_demand(engine: Engine) -> None:
    events = [new_event(stream_id="s", event_version=version) for version in (1, 2, 0, 4)]
    assert import_events(engine, events, keep_versions=True).imported == 4
    assert import_events(engine, events, keep_versions=True).already_imported == 4

    with pytest.raises(ConcurrencyConflict) as raised:
        import_events(
            engine, [*events, new_event(stream_id="s", event_version=7)], keep_versions=True
        )

    assert (raised.value.expected, raised.value.actual, raised.value.stream_id) == (6, 4, "s")
    assert len(feed(engine)) == 4


def test_events_past_the_streams_row_are_a_conflict(engine: Engine) -> None:
    append(engine, "s", *new_events(3))
    with engine.begin() as connection:
        connection.execute(text("UPDATE streams SET version = 1"))

    with pytest.raises(ConcurrencyConflict) as raised:
        import_events(engine, in_turns(3, "r", "s"))

    assert (raised.value.expected, raised.value.actual, raised.value.stream_id) == (1, 3, "s")


class TestIdempotencyKeys:
    def test_a_key_that_the_stream_has_used_is_refused(self, engine: Engine) -> None:
        append(engine, "s", new_event(key="k"))
        others = [new_event(stream_id="t", key="k"), new_event(stream_id="s", key="l")]
        assert import_events(engine, others).imported == 2

        with pytest.raises(IdempotencyMismatch) as raised:
            import_events(engine, [*in_turns(2, "s"), new_event(stream_id="s", key="k")])

        assert (raised.value.idempotency_key, raised.value.stream_id) == ("k", "s")
        assert len(feed(engine)) == 3

    def test_the_events_of_a_request_may_lie_in_several_batches(self, engine: Engine) -> None:
        for batch_size in (1, 2, 3):
            stream = f"by {batch_size}"
            events = [new_event({"n": n}, stream_id=stream, key="k") for n in range(4)]
            # Interrupted behind the second, and gone on with.
            assert import_events(engine, events[:2], batch_size=batch_size).imported == 2
            progress = import_events(engine, events, batch_size=batch_size)

            assert (progress.imported, progress.already_imported) == (2, 2)
            assert places(feed(engine))[-4:] == [(stream, version) for version in (1, 2, 3, 4)]

    def test_keys_of_known_events_are_no_reason_to_stop(self, engine: Engine) -> None:
        known = new_event(stream_id="s", key="k")
        append(engine, "s", known)

        # The first batch is all new, so that the second is written without looking ids up.
        progress = import_events(engine, [*in_turns(2, "s"), known], batch_size=2)

        assert (progress.imported, progress.already_imported) == (2, 1)


class TestEngines:
    def test_the_import_has_its_own_transactions(self, store_database: URL) -> None:
        for isolation in ("AUTOCOMMIT", "REPEATABLE READ", "SERIALIZABLE"):
            engine = create_engine(store_database, isolation_level=isolation)
            levels = isolation_levels_of(engine)
            events = in_turns(4, isolation)
            events[3] = events[0].model_copy(update={"event_data": {"n": "another"}})

            with pytest.raises(DuplicateEvent):
                import_events(engine, events, batch_size=2)

            assert levels == {"READ COMMITTED"}
            with engine.connect() as connection:
                level = connection.execute(text("SHOW transaction_isolation")).scalar_one()
            assert level == {"AUTOCOMMIT": "read committed"}.get(isolation, isolation.lower())
            engine.dispose()
        engine = create_engine(store_database)
        assert [each.event_version for each in feed(engine)] == [1, 2] * 3
        engine.dispose()

    def test_a_session_factory_will_do(self, engine: Engine) -> None:
        assert import_events(sessionmaker(engine), in_turns(3, "s")).imported == 3

    def test_any_schema_will_do(self, engine: Engine) -> None:
        for schema in ("tenant_a", 'we"ird', "100%", "日本"):
            migrate.upgrade(engine, schema=schema)
            mapped = engine.execution_options(schema_translate_map={None: schema})
            events = in_turns(3, "s")

            assert import_events(engine, events, schema=schema).imported == 3
            assert import_events(mapped, events).already_imported == 3
            assert feed(engine) == []

    def test_any_client_encoding_will_do(self, store_database: URL) -> None:
        engine = create_engine(store_database, client_encoding="latin1")
        import_events(engine, [new_event({"text": "日本"}, stream_id="日本")])

        engine.dispose()
        engine = create_engine(store_database)
        (only,) = feed(engine)
        assert (only.stream_id, only.event_data) == ("日本", {"text": "日本"})
        engine.dispose()

    def test_missing_tables_are_told_with_the_cure(self, engine: Engine) -> None:
        migrate.upgrade(engine, schema="half")
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE half.events CASCADE"))
        for schema in ("nowhere", "half"):
            with pytest.raises(SchemaOutOfDate, match="upgrade head"):
                import_events(engine, in_turns(1, "s"), schema=schema)


def test_what_we_cannot_name_stays_sqlalchemys_error_without_payload(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE events ADD CONSTRAINT small CHECK (event_version < 3)")
        )

    with pytest.raises(IntegrityError, match="small") as raised:
        import_events(engine, in_turns(3, "s"))

    assert raised.value.params is None
    assert feed(engine) == []


def test_large_events_make_small_batches(engine: Engine) -> None:
    told: list[int] = []
    events = [new_event({"text": "x" * 3_000_000}, stream_id="s") for _ in range(21)]

    import_events(engine, events, on_progress=lambda progress: told.append(progress.imported))

    assert told == [16, 18, 20, 21]  # how large they are is learned from the first


def test_what_is_recorded_already_tells_the_size_of_batches_too(engine: Engine) -> None:
    told: list[int] = []
    events = in_turns(300, "s")
    import_events(engine, events)

    import_events(
        engine, events, on_progress=lambda progress: told.append(progress.already_imported)
    )

    assert told == [16, 300]


def test_nobody_waits_for_a_slow_source(engine: Engine) -> None:
    def source() -> Iterator[AnyEnvelope]:
        for number, envelope in enumerate(in_turns(7, "s")):
            # The feed is not held, nor is the stream's row.
            assert len(feed(engine)) == number // 3 * 3 + number
            append(engine, "s", new_event())
            yield envelope

    assert import_events(engine, source(), batch_size=3).imported == 7


def test_memory_does_not_grow_with_the_source(engine: Engine) -> None:
    def peak(count: int) -> int:
        source = (new_event({"n": n}, stream_id=f"stream-{n % 40}") for n in range(count))
        return peak_memory(lambda: import_events(engine, source, batch_size=100))

    peak(200)  # what is cached is cached now
    assert peak(1_600) < 1.5 * peak(400)
    assert len(feed(engine)) == 2_200
