"""The very large, the very long and the very odd: kept whole, or refused before any SQL."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text

from eventstore import (
    ANY,
    NO_STREAM,
    EventEnvelope,
    EventFilter,
    EventMetadata,
    EventRegistry,
    ReadOptions,
    SerializationError,
    SqlAlchemyEventStore,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.memory import peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.parametrize("count", [1, 5_000, 60_000])
def test_a_batch_of_any_size_is_one_append(event_store: SqlAlchemyEventStore, count: int) -> None:
    assert event_store.append_to_stream("s", NO_STREAM, new_events(count)) == count
    last = list(event_store.read_stream("s", ReadOptions(from_version=count)))
    assert [(event.event_version, event.event_data) for event in last] == [
        (count, {"n": count - 1})
    ]


@pytest.mark.parametrize("size", [7_900, 8_100, 1_000_000])
def test_a_payload_of_any_size(event_store: SqlAlchemyEventStore, size: int) -> None:
    event_store.append_to_stream("s", NO_STREAM, [new_event({"text": "x" * size})])
    (event,) = event_store.read_stream("s")
    assert len(event.event_data["text"]) == size


def test_names_of_255_emoji(event_store: SqlAlchemyEventStore) -> None:
    name = "🛫" * 255
    fields: dict[str, Any] = {
        "aggregate_id": name,
        "aggregate_type": "🛫" * 100,
        "event_type": "🛬" * 100,
        "metadata": EventMetadata(idempotency_key=name),
    }
    event_store.append_to_stream(name, NO_STREAM, [new_event({"🛫" * 3_000: 1}, **fields)])
    (event,) = event_store.read_all_forward(filters=EventFilter(stream_prefix="🛫"))
    assert (event.stream_id, event.aggregate_id, event.event_type) == (name, name, "🛬" * 100)
    with pytest.raises(ValueError, match="256 characters"):
        event_store.append_to_stream(name + "x", NO_STREAM, [new_event()])


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "a#b", "a?b=c", "..", '"><img src=x>', "%", "_"])
def test_odd_names_are_only_names(event_store: SqlAlchemyEventStore, name: str) -> None:
    event_store.append_to_stream(name, NO_STREAM, [new_event(event_type=name)])
    event_store.append_to_stream("other", NO_STREAM, [new_event()])
    for filters in (EventFilter(stream_prefix=name), EventFilter(event_types=[name])):
        (event,) = event_store.read_all_forward(filters=filters)
        assert (event.stream_id, event.event_type) == (name, name)


def test_a_refused_payload_sends_nothing(event_store: SqlAlchemyEventStore) -> None:
    event_store.session.commit()
    for data, path in (
        ({"note": "a\0b"}, r"\$\.note"),
        ({"a": [{"b": float("nan")}]}, r"\$\.a\[0\]\.b"),
        ({"a\0": 1}, r"\$\['a\\x00'\]"),
        ({"a": "\ud800"}, r"\$\.a"),
        ({"a": (1, 2)}, r"\$\.a"),
    ):
        with pytest.raises(SerializationError, match=path):
            event_store.append_to_stream("s", NO_STREAM, [new_event(), new_event(data)])
        assert not event_store.session.in_transaction()


def test_the_literal_six_characters_are_kept(event_store: SqlAlchemyEventStore) -> None:
    data = {"note": "a\\u0000b", "\\u0000": "\\"}
    event_store.append_to_stream("s", NO_STREAM, [new_event(data)])
    (event,) = event_store.read_stream("s")
    assert event.event_data == data


class Measured(BaseModel):
    reading: float
    count: int
    at: datetime


def test_typed_numbers_come_back_as_they_were(event_store: SqlAlchemyEventStore) -> None:
    registry = EventRegistry()
    registry.register("measured", Measured)
    store = SqlAlchemyEventStore(event_store.session, registry)
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    payloads = [
        Measured(reading=reading, count=count, at=at)
        for reading, count in [
            (2.561422288066971e16, 2**80),
            (1e300, -(10**40)),
            (5e-324, 0),
            (0.1, 1),
        ]
    ]
    events = [EventEnvelope(aggregate_type="M", event_data=payload) for payload in payloads]
    store.append_to_stream("s", NO_STREAM, events)
    read = list(store.read_stream("s"))
    assert [event.event_data for event in read] == payloads
    assert all(type(event.event_data.reading) is float for event in read)


def test_what_jsonb_keeps_of_an_untyped_object(event_store: SqlAlchemyEventStore) -> None:
    """As documented: values and their order in lists, not the order of keys."""
    data = {"b": 1, "a": [3, 1, 2], "x": 2.561422288066971e16, "one": 1.0, "big": 2**70}
    event_store.append_to_stream("s", NO_STREAM, [new_event(data)])
    (event,) = event_store.read_stream("s")
    read = event.event_data
    assert read == data | {"x": 25614222880669710}
    assert float(read["x"]) == data["x"]
    assert type(read["one"]) is float

    def canonical_hash(value: object) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    whole = {key: value for key, value in data.items() if key != "x"}
    assert canonical_hash({key: read[key] for key in whole}) == canonical_hash(whole)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns"])
def test_times_are_utc_whatever_the_sessions_zone(
    event_store: SqlAlchemyEventStore, zone: str
) -> None:
    event_store.session.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
    times = [
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    ]
    events = [new_event(occurred_at=at) for at in times]
    event_store.append_to_stream("s", NO_STREAM, events)
    read = [event.occurred_at for event in event_store.read_stream("s")]
    assert read == times
    assert {at.utcoffset() for at in read} == {timedelta(0)}
    event_store.delete_stream("s")
    info = event_store.get_stream_info("s")
    assert info is not None
    assert info.deleted_at is not None
    assert abs(info.deleted_at - datetime.now(UTC)) < timedelta(hours=1)


class Noted(BaseModel):
    n: int
    text: str


NOTES = EventRegistry()
NOTES.register("Deposited", Noted)


@pytest.mark.parametrize(
    "read",
    [
        lambda store, count: store.read_stream("s", ReadOptions(max_count=count)),
        lambda store, count: store.read_all_forward(max_count=count),
        lambda store, count: store.read_all_forward(max_count=count, as_type=Noted),
    ],
    ids=["stream", "feed", "typed feed"],
)
@pytest.mark.parametrize("registry", [None, NOTES], ids=["untyped", "registry"])
def test_memory_does_not_grow_with_the_length_of_a_read(
    event_store: SqlAlchemyEventStore,
    registry: EventRegistry | None,
    read: Callable[[SqlAlchemyEventStore, int], Iterator[EventEnvelope[Any]]],
) -> None:
    event_store.append_to_stream(
        "s", ANY, [new_event({"n": number, "text": "x" * 500}) for number in range(6_000)]
    )
    store = SqlAlchemyEventStore(event_store.session, registry)

    def peak(count: int) -> int:
        return peak_memory(lambda: sum(1 for _ in read(store, count)))

    peak(1_000)  # what is cached is cached now
    assert peak(6_000) < 1.5 * peak(1_500)
