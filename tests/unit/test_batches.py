from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from eventstore.appending import AppendedStream, AppendResult, StreamAppend
from eventstore.batches import (
    EncodedBatch,
    RecordedEvent,
    encode_batch,
    encode_batches,
    find_repeat_by_id,
    find_repeat_by_key,
    partial_repeat,
    refuse_id_twice,
    refuse_stream_twice,
)
from eventstore.errors import DuplicateEvent, IdempotencyMismatch, SerializationError
from eventstore.events import EventEnvelope
from eventstore.registry import JsonPayloads
from eventstore.streams import ANY

if TYPE_CHECKING:
    from collections.abc import Sequence


def batch(*said: str, first_id: int = 1, stream_id: str = "s") -> EncodedBatch:
    """Return events that say ``said``, each ``text`` or ``text/key``; ids from ``first_id``."""
    events = []
    for number, text in enumerate(said, start=first_id):
        data, _, key = text.partition("/")
        events.append(
            EventEnvelope(
                event_id=UUID(int=number),
                aggregate_type="a",
                event_type="noted",
                event_data={"text": data},
                metadata={"idempotency_key": key or None},  # type: ignore[arg-type]
            )
        )
    return encode_batch(stream_id, None, events, JsonPayloads())


def recorded(written: EncodedBatch) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            stream_id=written.stream_id,
            event_version=version,
            sequence_number=100 + version,
            event=event,
        )
        for version, event in enumerate(written.events, start=1)
    ]


def by_id(history: Sequence[RecordedEvent]) -> dict[UUID, RecordedEvent]:
    return {was.event.event_id: was for was in history}


def first_versions(history: Sequence[RecordedEvent]) -> dict[str, int]:
    return {
        was.event.idempotency_key: was.event_version
        for was in reversed(history)
        if was.event.idempotency_key is not None
    }


def test_a_batch_is_encoded_with_its_defaults() -> None:
    encoded = batch("a", "b/k")
    assert (encoded.stream_id, encoded.expected_version) == ("s", ANY)
    assert [event.aggregate_id for event in encoded.events] == ["s", "s"]
    assert [event.event_data for event in encoded.events] == [b'{"text":"a"}', b'{"text":"b"}']
    assert [event.idempotency_key for event in encoded.events] == [None, "k"]


@pytest.mark.parametrize(
    ("append", "error"),
    [
        (StreamAppend("", ANY, []), ValueError),
        (StreamAppend("s", -1, []), ValueError),
        (StreamAppend("s", True, []), TypeError),
        (StreamAppend("s", ANY, [{"text": "a"}]), TypeError),  # type: ignore[list-item]
        (
            StreamAppend("s", ANY, [EventEnvelope(aggregate_type="a", event_data={})]),
            ValueError,
        ),
        (
            StreamAppend(
                "s", ANY, [EventEnvelope(aggregate_type="a", event_type="b", event_data=7)]
            ),
            SerializationError,
        ),
    ],
)
def test_a_wrong_append_is_refused(append: StreamAppend, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_batches([append], [], JsonPayloads())


def test_nothing_stands_twice_in_a_call() -> None:
    refuse_stream_twice(["s", "t"])
    with pytest.raises(ValueError, match="'s' stands twice"):
        refuse_stream_twice(iter(["s", "t", "s"]))
    refuse_id_twice([batch("a", "b"), batch("c", first_id=3, stream_id="t")])
    with pytest.raises(DuplicateEvent) as caught:
        refuse_id_twice([batch("a", "b"), batch("c", first_id=2, stream_id="t")])
    assert caught.value.event_id == UUID(int=2)


@pytest.mark.parametrize(
    ("repeat", "versions"),
    [
        (batch("a", "b", "c"), [1, 2, 3]),
        (batch("a"), [1]),
        (batch("b", "c", first_id=2), [2, 3]),
        (batch("new", first_id=4), None),
        (batch("a", first_id=9), None),
    ],
)
def test_a_repeat_by_id(repeat: EncodedBatch, versions: list[int] | None) -> None:
    found = find_repeat_by_id(repeat, by_id(recorded(batch("a", "b", "c"))))
    assert (None if found is None else [was.event_version for was in found]) == versions


@pytest.mark.parametrize(
    ("other", "event_id"),
    [
        (batch("a", "b", "c", "d"), 1),
        (batch("c", "d", first_id=3), 3),
        (batch("new", "a", first_id=0), 1),
        (batch("other"), 1),
        (batch("a", "other"), 2),
        (batch("a", stream_id="t"), 1),
    ],
)
def test_not_a_repeat_by_id(other: EncodedBatch, event_id: int) -> None:
    with pytest.raises(DuplicateEvent) as caught:
        find_repeat_by_id(other, by_id(recorded(batch("a", "b", "c"))))
    assert caught.value.event_id == UUID(int=event_id)


@pytest.mark.parametrize(
    ("repeat", "versions"),
    [
        (["b/k", "c/k"], [2, 3]),
        (["a", "b/k", "c/k"], [1, 2, 3]),
        (["b/k", "c/k", "d"], [2, 3, 4]),
        (["e/l"], [5]),
        (["d", "e/l", "f/m"], [4, 5, 6]),
        (["f/m"], [6]),
        (["new/n"], None),
        (["a", "d"], None),
    ],
)
def test_a_repeat_by_key(repeat: list[str], versions: list[int] | None) -> None:
    history = recorded(batch("a", "b/k", "c/k", "d", "e/l", "f/m"))
    found = find_repeat_by_key(batch(*repeat, first_id=90), history, first_versions(history))
    assert (None if found is None else [was.event_version for was in found]) == versions


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (["b/k"], "k"),
        (["c/k"], "k"),
        (["b/k", "c/k", "d/k"], "k"),
        (["other", "b/k", "c/k"], "k"),
        (["new", "a", "b/k", "c/k"], "k"),
        (["e/l", "f/other"], "l"),
        (["e/l", "f"], "l"),
        (["f/m", "g"], "m"),
        (["f/m", "e/l"], "m"),
        (["new/n", "e/l"], "l"),
    ],
)
def test_not_a_repeat_by_key(other: list[str], key: str) -> None:
    history = recorded(batch("a", "b/k", "c/k", "d", "e/l", "f/m"))
    with pytest.raises(IdempotencyMismatch) as caught:
        find_repeat_by_key(batch(*other, first_id=90), history, first_versions(history))
    assert (caught.value.idempotency_key, caught.value.stream_id) == (key, "s")


def test_a_part_of_a_call_is_named_by_what_it_is_known_by() -> None:
    history = recorded(batch("a", "b/k"))
    by_its_id = partial_repeat(batch("a", "b/k"), history)
    assert isinstance(by_its_id, DuplicateEvent)
    assert by_its_id.event_id == UUID(int=1)
    by_its_key = partial_repeat(batch("a", "b/k", first_id=90), history)
    assert isinstance(by_its_key, IdempotencyMismatch)
    assert by_its_key.idempotency_key == "k"


def test_a_result_by_stream() -> None:
    placed: Any = [AppendedStream("s", 1, (5,)), AppendedStream("t", 2, (6, 7))]
    result = AppendResult(tuple(placed))
    assert result["t"] == placed[1]
    assert not result.already_appended
    with pytest.raises(KeyError, match="u"):
        result["u"]
