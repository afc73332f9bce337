"""What is exported can be imported elsewhere, and nothing is left out."""

from __future__ import annotations

import gzip
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    EventEnvelope,
    EventFilter,
    EventMetadata,
    EventRegistry,
    SqlAlchemyEventStore,
    event_store,
    export_events,
    exported_events,
    import_events,
    migrate,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.memory import peak_memory

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Engine

#: What a format of lines, quotes and delimiters might stumble over.
AWKWARD: dict[str, Any] = {
    "text": 'a\nb\tc\r "quoted" \\ back\\slash \u0001\u0002 \x7f \u2028 ü \U0001f600 %s %(after)s',
    "\\.": ["\\.", "\\N", "", None, 2.5, -0.1, 10**20],
}


def feed(engine: Engine, schema: str | None = None) -> list[EventEnvelope[Any]]:
    with event_store(sessionmaker(engine), schema=schema) as store:
        return list(store.read_all_forward())


def without_places(events: list[EventEnvelope[Any]]) -> list[EventEnvelope[Any]]:
    return [event.model_copy(update={"sequence_number": 0}) for event in events]


def test_an_export_is_imported_as_it_was(engine: Engine) -> None:
    with event_store(sessionmaker(engine)) as store:
        store.append_to_stream(
            "it's 100%",
            ANY,
            [new_event(AWKWARD, metadata=EventMetadata(note=AWKWARD), tags=["it's:1", "\\ü:2"])],
        )
        store.append_to_stream("other", ANY, new_events(3))
        store.append_to_stream("it's 100%", ANY, new_events(2))
    lines = BytesIO()
    position = export_events(engine, lines)
    assert lines.getvalue().count(b"\n") == 6
    migrate.upgrade(engine, schema="copy")
    import_events(
        engine,
        exported_events(lines.getvalue().splitlines()),
        schema="copy",
        keep_versions=True,
    )
    assert without_places(feed(engine, "copy")) == without_places(feed(engine))
    assert position == feed(engine)[-1].sequence_number


def test_an_export_goes_on_and_stops_at_the_fence(engine: Engine, tmp_path: Path) -> None:
    with event_store(sessionmaker(engine)) as store:
        store.append_to_stream("early", ANY, new_events(2))
    with gzip.open(tmp_path / "events.gz", "wb") as file:
        position = export_events(engine, file)
        with Session(engine) as late:
            SqlAlchemyEventStore(late).append_to_stream("late", ANY, new_events(1))
            with event_store(sessionmaker(engine)) as store:
                store.append_to_stream("quick", ANY, new_events(1))
            # The one that is not committed yet has the lower position.
            position = export_events(engine, file, position)
            late.commit()
        position = export_events(engine, file, position)
        assert export_events(engine, file, position) == position
    with gzip.open(tmp_path / "events.gz", "rb") as file:
        assert list(exported_events(file)) == feed(engine)


def test_filters_and_schemas(engine: Engine) -> None:
    migrate.upgrade(engine, schema='"odd" %s')
    with event_store(sessionmaker(engine), schema='"odd" %s') as store:
        store.append_to_stream("a'b%", ANY, [new_event(event_type="it's")])
        store.append_to_stream("b", ANY, new_events(2))
    lines = BytesIO()
    export_events(
        engine,
        lines,
        filters=EventFilter(event_types=["it's"], stream_prefix="a'b%"),
        schema='"odd" %s',
    )
    (event,) = exported_events(lines.getvalue().splitlines())
    assert (event.stream_id, event.event_type) == ("a'b%", "it's")


def test_progress_and_memory_go_by_ranges(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.export._POSITIONS_A_STATEMENT", 2)
    with event_store(sessionmaker(engine)) as store:
        store.append_to_stream("s", ANY, new_events(5))
    lines, told = BytesIO(), list[int]()
    last = export_events(engine, lines, on_progress=told.append)
    assert told == sorted({*range(2, last, 2), last})
    assert list(exported_events(lines.getvalue().splitlines())) == feed(engine)


def test_memory_does_not_grow_with_the_export(engine: Engine) -> None:
    class Counted:
        lines = 0

        def write(self, data: bytes) -> None:
            self.lines += data.count(b"\n")

    def peak(count: int) -> int:
        with event_store(sessionmaker(engine)) as store:
            store.append_to_stream(f"{count} more", ANY, new_events(count))
        written = Counted()
        highest = peak_memory(
            lambda: export_events(
                engine, written, filters=EventFilter(stream_prefix=f"{count} more")
            )
        )
        assert written.lines == count
        return highest

    peak(200)  # what is cached is cached now
    assert peak(4_000) < 1.5 * peak(1_000)


def test_a_filter_by_todays_name_finds_what_was_stored_before(engine: Engine) -> None:
    class Placed(BaseModel):
        order: int

    registry = EventRegistry()
    registry.register("order-placed", Placed, aliases=("OrderPlaced",))
    with event_store(sessionmaker(engine)) as store:
        store.append_to_stream("s", ANY, [new_event({"order": 1}, event_type="OrderPlaced")])
    lines = BytesIO()
    wanted = EventFilter(event_types=["order-placed"])
    export_events(engine, lines, filters=wanted, registry=registry)
    assert [each.event_type for each in exported_events(lines.getvalue().splitlines())] == [
        "OrderPlaced"
    ]


def test_what_the_destination_raises_leaves_the_connection_usable(store_database: URL) -> None:
    class Full(BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError("no space left")

    engine = create_engine(store_database, pool_size=1, max_overflow=0, pool_timeout=5)
    try:
        with event_store(sessionmaker(engine)) as store:
            store.append_to_stream("s", ANY, new_events(500))
        for _ in range(3):
            with pytest.raises(OSError, match="no space left"):
                export_events(engine, Full())
        assert len(feed(engine)) == 500
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None,), "destination must have a write method"),
        ((BytesIO(), -1), "from_position"),
        ((BytesIO(), True), "from_position"),
    ],
)
def test_wrong_arguments_are_refused(
    engine: Engine, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        export_events(engine, *arguments)


def test_a_line_that_is_no_event_is_named() -> None:
    with pytest.raises(ValueError, match=r"line 1 is no exported event: the line: json_invalid"):
        list(exported_events([b"secret"]))
    with pytest.raises(ValueError, match=r"line 1 is no exported event: aggregate_type: missing"):
        list(exported_events(['{"event_data": {"pin": 1234}}']))
