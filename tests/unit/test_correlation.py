"""Correlation and causation ids flow into all events below, and explicit metadata wins."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventstore import (
    ANY,
    AsyncInMemoryEventStore,
    EventEnvelope,
    EventMetadata,
    InMemoryEventStore,
    causation,
    caused_by,
)
from eventstore.correlation import enrich
from tests.fixtures.events import new_event


def recorded(event: EventEnvelope[Any]) -> EventEnvelope[Any]:
    """The event as a store has it that appended it here."""
    store = InMemoryEventStore()
    store.append_to_stream("s", ANY, [event])
    (found,) = store.read_stream("s")
    return found


def metadata_here(**explicit: Any) -> EventMetadata:
    return recorded(new_event(metadata=EventMetadata(**explicit))).metadata


def test_outside_of_a_block_metadata_is_left_as_it_is() -> None:
    given = EventMetadata(user_id="ann")
    assert enrich(given) is given
    assert metadata_here() == EventMetadata()


def test_ids_flow_into_events_below() -> None:
    with causation(correlation_id="c", causation_id="d", user_id="ann", tenant=7):
        assert metadata_here() == EventMetadata(
            correlation_id="c", causation_id="d", user_id="ann", tenant=7
        )
    assert metadata_here() == EventMetadata()


def test_explicit_metadata_wins() -> None:
    with causation(correlation_id="c", user_id="ann", tenant=7):
        metadata = metadata_here(user_id="bob", tenant=8, idempotency_key="k", copy="x")
    assert metadata == EventMetadata(
        correlation_id="c", user_id="bob", tenant=8, idempotency_key="k", copy="x"
    )


def test_a_key_that_is_named_like_a_method_flows_too() -> None:
    with causation(correlation_id="c", copy="x"):
        assert metadata_here().model_dump()["copy"] == "x"


def test_inner_blocks_inherit_what_they_do_not_say() -> None:
    with causation(correlation_id="c", user_id="ann", tenant=1):
        with causation(causation_id="d", tenant=2) as inner:
            assert metadata_here() == inner
            assert inner == EventMetadata(
                correlation_id="c", causation_id="d", user_id="ann", tenant=2
            )
        assert metadata_here() == EventMetadata(correlation_id="c", user_id="ann", tenant=1)


def test_a_first_block_begins_a_conversation() -> None:
    with causation(user_id="ann") as outer, causation(source_service="s") as inner:
        assert UUID(str(outer.correlation_id)).version == 7
        assert inner.correlation_id == outer.correlation_id
    with causation() as other:
        assert other.correlation_id != outer.correlation_id


def test_what_an_event_causes_names_it_and_joins_its_conversation() -> None:
    with causation(correlation_id="c", user_id="ann"):
        first = recorded(new_event())
    with caused_by(first):
        second = recorded(new_event())
    with causation(correlation_id="other"), caused_by(second):
        third = recorded(new_event())
    assert second.metadata == EventMetadata(correlation_id="c", causation_id=first.event_id)
    assert third.metadata.correlation_id == "c"
    assert third.metadata.causation_id == str(second.event_id)


def test_an_event_without_a_conversation_begins_one() -> None:
    first = recorded(new_event())
    with caused_by(first):
        metadata = metadata_here()
    assert metadata.correlation_id == metadata.causation_id == str(first.event_id)


def test_ids_may_be_uuids() -> None:
    correlation_id = uuid4()
    with causation(correlation_id=correlation_id):
        assert metadata_here().correlation_id == str(correlation_id)


def test_a_block_that_fails_ends() -> None:
    with pytest.raises(KeyError), causation(correlation_id="c"):
        raise KeyError
    assert metadata_here() == EventMetadata()


def test_wrong_arguments() -> None:
    for of_one_append in ({"idempotency_key": "k"}, {"schema_version": 2}):
        with pytest.raises(TypeError, match="belongs to one append"), causation(**of_one_append):  # type: ignore[arg-type]
            pass
    with pytest.raises(ValueError, match="user_id"), causation(user_id=7):  # type: ignore[arg-type]
        pass
    assert enrich(EventMetadata()) == EventMetadata()


def test_tasks_have_contexts_of_their_own() -> None:
    async def append(store: AsyncInMemoryEventStore, name: str) -> None:
        with causation(correlation_id=name):
            await asyncio.sleep(0)
            await store.append_to_stream(name, ANY, [new_event()])

    async def all_at_once() -> list[str | None]:
        store = AsyncInMemoryEventStore()
        names = ["a", "b", "c"]
        await asyncio.gather(*(append(store, name) for name in names))
        return [
            event.metadata.correlation_id
            for name in names
            async for event in store.read_stream(name)
        ]

    assert asyncio.run(all_at_once()) == ["a", "b", "c"]


def _tracing(monkeypatch: pytest.MonkeyPatch, *, is_valid: bool = True) -> None:
    span = SimpleNamespace(
        is_valid=is_valid, trace_id=0x0AF7651916CD43DD8448EB211C80319C, span_id=7, trace_flags=1
    )
    current = SimpleNamespace(get_span_context=lambda: span)
    trace = SimpleNamespace(get_current_span=lambda: current)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)  # type: ignore[arg-type]


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01"


def test_an_active_span_adds_its_traceparent(monkeypatch: pytest.MonkeyPatch) -> None:
    _tracing(monkeypatch)
    assert metadata_here() == EventMetadata(traceparent=TRACEPARENT)
    with causation(correlation_id="c"):
        assert metadata_here() == EventMetadata(correlation_id="c", traceparent=TRACEPARENT)
    assert metadata_here(traceparent="mine") == EventMetadata(traceparent="mine")


def test_no_span_no_traceparent(monkeypatch: pytest.MonkeyPatch) -> None:
    _tracing(monkeypatch, is_valid=False)
    assert metadata_here() == EventMetadata()


def test_the_real_opentelemetry() -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(
        trace_id=0x0AF7651916CD43DD8448EB211C80319C,
        span_id=7,
        is_remote=False,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert metadata_here() == EventMetadata(traceparent=TRACEPARENT)
    assert metadata_here() == EventMetadata()
