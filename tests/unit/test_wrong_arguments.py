"""Wrong arguments are told when the call is made, by what was given and what is wanted."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    AsyncSqlAlchemyEventStore,
    EventEnvelope,
    EventFilter,
    InMemoryEventStore,
    ReadOptions,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    StreamAt,
)
from eventstore.batches import encode_batch
from eventstore.operations.incoming import rows_of
from eventstore.registry import JsonPayloads

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore import EventStore

EVENT = EventEnvelope(aggregate_type="A", event_type="t", event_data={})
SNAPSHOT = Snapshot(aggregate_id="s", aggregate_type="A", version=1, data={})

CALLS: dict[str, Callable[[Any], object]] = {
    "a str for appends": lambda store: store.append("s"),
    "a list for appends": lambda store: store.append([StreamAppend("s", ANY, [EVENT])]),
    "a requirement for an append": lambda store: store.append(StreamAt("s", ANY)),
    "a str for requirements": lambda store: store.append(
        StreamAppend("s", ANY, [EVENT]), require="ab"
    ),
    "a str for events": lambda store: store.append_to_stream("s", ANY, ""),
    "a dict for events": lambda store: store.append_to_stream("s", ANY, {}),
    "None for events": lambda store: store.append_to_stream("s", ANY, None),
    "no options": lambda store: store.read_stream("s", None),
    "a dict for options": lambda store: store.read_stream("s", {}),
    "an odd type": lambda store: store.read_stream("s", as_type=5),
    "a str for a filter": lambda store: store.read_all_forward(filters="x"),
    "a dict for a snapshot": lambda store: store.save_snapshot({}),
    "a text for a flag": lambda _: ReadOptions(backward="no"),  # type: ignore[arg-type]
    "a text for another": lambda _: ReadOptions(include_deleted="no"),  # type: ignore[arg-type]
    "no prefix": lambda _: EventFilter(stream_prefix=None),  # type: ignore[arg-type]
    **{
        f"a copy with {name}={value!r}": lambda store, name=name, value=value: (  # type: ignore[misc]
            store.append_to_stream("s", ANY, [EVENT.model_copy(update={name: value})])
        )
        for name, value in {
            "event_id": "garbage",
            "occurred_at": datetime(2026, 1, 1),  # noqa: DTZ001 - naive is what is wrong
            "aggregate_id": "x" * 300,
            "aggregate_type": "",
            "event_type": 7,
            "metadata": {},
        }.items()
    },
    "a copied snapshot": lambda store: store.save_snapshot(
        SNAPSHOT.model_copy(update={"version": -1})
    ),
}


@pytest.fixture(params=["sql", "memory"])
def store(request: pytest.FixtureRequest) -> EventStore:
    """Without a database behind it: nothing may be sent."""
    return SqlAlchemyEventStore(Session()) if request.param == "sql" else InMemoryEventStore()


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_told_at_once(store: EventStore, name: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        CALLS[name](store)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SqlAlchemyEventStore(object()), "AsyncSqlAlchemyEventStore"),  # type: ignore[arg-type]
        (lambda: AsyncSqlAlchemyEventStore(Session()), "SqlAlchemyEventStore"),  # type: ignore[arg-type]
        (lambda: SqlAlchemyEventStore(Session(), "tenant"), "schema="),  # type: ignore[arg-type]
        (lambda: SqlAlchemyEventStore(Session(), schema=5), "schema"),  # type: ignore[arg-type]
        (lambda: SqlAlchemyEventStore(Session(), schema=""), "schema"),
    ],
)
def test_a_wrong_constructor_argument_names_the_cure(
    make: Callable[[], object], words: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_a_batch_that_jsonb_cant_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.operations.incoming.MAX_BATCH_BYTES", 100)
    with pytest.raises(ValueError, match="several calls of one transaction"):
        rows_of(encode_batch("s", ANY, [EVENT], JsonPayloads()))
