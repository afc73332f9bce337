"""What import_events refuses before it has connected to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from eventstore import EventEnvelope, EventRegistry, SerializationError, import_events
from tests.fixtures.events import new_event

if TYPE_CHECKING:
    from collections.abc import Iterator

NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def engine() -> Any:
    return create_engine(NOWHERE)


def to_stream(**fields: Any) -> EventEnvelope[Any]:
    return new_event(stream_id="s", **fields)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (None, "NoneType"),
        (NOWHERE, "str"),
        (create_async_engine(NOWHERE), "asyncio.to_thread"),
        (create_async_engine(NOWHERE).sync_engine, "asyncio.to_thread"),
        (async_sessionmaker(create_async_engine(NOWHERE)), "asyncio.to_thread"),
    ],
)
def test_what_is_no_synchronous_engine_is_refused(given: Any, cure: str) -> None:
    with pytest.raises(TypeError, match=cure):
        import_events(given, [])


def test_sessions_on_one_connection_are_refused(engine: Any) -> None:
    class Connection:
        """What a session factory of a test is bound to; never connected."""

    with pytest.raises(TypeError, match="synchronous Engine"):
        import_events(sessionmaker(Connection()), [])  # type: ignore[call-overload]


@pytest.mark.parametrize("url", ["sqlite://", "postgresql+asyncpg://x@127.0.0.1:1/y"])
def test_another_driver_is_refused(url: str) -> None:
    engine = create_async_engine(url).sync_engine if "asyncpg" in url else create_engine(url)

    with pytest.raises((TypeError, ValueError), match=r"create_engine\("):
        import_events(engine, [])


@pytest.mark.parametrize("events", [None, 7, "events", b"", {}, to_stream()])
def test_what_is_no_iterable_of_events_is_refused(engine: Any, events: Any) -> None:
    with pytest.raises(TypeError, match="iterable of EventEnvelope"):
        import_events(engine, events)


def test_an_async_iterable_is_refused_with_the_cure(engine: Any) -> None:
    async def events() -> Any:
        yield to_stream()

    with pytest.raises(TypeError, match=r"asyncio\.to_thread"):
        import_events(engine, events())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"registry": "schema"}, TypeError),
        ({"schema": 7}, TypeError),
        ({"schema": ""}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": True}, TypeError),
        ({"batch_size": 2.5}, TypeError),
        ({"on_progress": "print"}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(
    engine: Any, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        import_events(engine, [], **arguments)


@pytest.mark.parametrize(
    ("event", "error", "message"),
    [
        (7, TypeError, "EventEnvelope, not a int"),
        (new_event(), ValueError, "stream_id is empty"),
        (new_event(stream_id="x" * 256), ValueError, "256 characters"),
        (to_stream(event_type=""), ValueError, "event_type is empty"),
        (to_stream(data={"a": float("nan")}), SerializationError, r"\$\.a"),
        (to_stream(data={"a": "\0"}), SerializationError, r"\$\.a"),
        (to_stream().model_copy(update={"occurred_at": None}), TypeError, "occurred_at"),
    ],
)
def test_a_wrong_event_is_refused_and_named(
    engine: Any, event: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        import_events(engine, [to_stream(), event])

    (note,) = raised.value.__notes__
    assert note.startswith("event 2 of the import")
    if isinstance(event, EventEnvelope):
        assert str(event.event_id) in note


def test_a_version_to_keep_must_be_one(engine: Any) -> None:
    with pytest.raises(ValueError, match="event_version"):
        import_events(engine, [to_stream(event_version=-1)], keep_versions=True)


def test_a_registry_must_know_the_payload(engine: Any) -> None:
    with pytest.raises(SerializationError, match="Deposited"):
        import_events(engine, [to_stream()], EventRegistry())


def test_what_the_source_raises_comes_through(engine: Any) -> None:
    def events() -> Iterator[EventEnvelope[Any]]:
        yield to_stream()
        raise LookupError("the file ends in the middle")

    with pytest.raises(LookupError, match="in the middle"):
        import_events(engine, events())
