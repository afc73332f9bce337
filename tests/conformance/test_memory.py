from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import ConcurrencyConflict
from eventstore.memory import InMemoryEventStore
from eventstore.memory_aio import AsyncInMemoryEventStore
from eventstore.protocols import AsyncEventStore, EventStore
from eventstore.streams import ANY, NO_STREAM, ExpectedVersion
from eventstore.testing.conformance import (
    AsyncEventStoreConformance,
    EventStoreConformance,
    OpenAsyncStore,
    OpenStore,
)
from eventstore.testing.conformance.accounts import noted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventstore.registry import EventRegistry


class TestInMemoryEventStore(EventStoreConformance):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return lambda registry: nullcontext(InMemoryEventStore(registry))


class TestAsyncInMemoryEventStore(AsyncEventStoreConformance):
    @pytest.fixture
    def open_store(self) -> OpenAsyncStore:
        @asynccontextmanager
        async def open_store(registry: EventRegistry | None) -> AsyncIterator[AsyncEventStore]:
            yield AsyncInMemoryEventStore(registry)

        return open_store


def test_both_satisfy_their_protocol() -> None:
    store: EventStore = InMemoryEventStore()
    async_store: AsyncEventStore = AsyncInMemoryEventStore()
    assert isinstance(store, EventStore)
    assert isinstance(async_store, AsyncEventStore)


def test_the_twins_are_alike() -> None:
    public = [
        (name, method)
        for name, method in inspect.getmembers(InMemoryEventStore, inspect.isfunction)
        if not name.startswith("_")
    ]
    assert len(public) == 12
    for name, method in public:
        twin = getattr(AsyncInMemoryEventStore, name)
        assert inspect.signature(method).parameters == inspect.signature(twin).parameters, name
        assert inspect.getdoc(method) == inspect.getdoc(twin), name
        is_iterated = name in {"read_stream", "read_all_forward"}
        assert inspect.iscoroutinefunction(twin) is not is_iterated, name


@pytest.mark.parametrize(("expected", "successes"), [(ANY, 20), (NO_STREAM, 1)])
def test_twenty_threads_at_one_stream(expected: ExpectedVersion, successes: int) -> None:
    store, barrier = InMemoryEventStore(), Barrier(20)

    def append(number: int) -> int | None:
        barrier.wait()
        try:
            return store.append_to_stream("s", expected, [noted(str(number))])
        except ConcurrencyConflict:
            return None

    with ThreadPoolExecutor(20) as threads:
        versions = list(threads.map(append, range(20)))
    events = list(store.read_stream("s"))
    assert [event.event_version for event in events] == list(range(1, successes + 1))
    # The version that was returned is that of the caller's own event.
    assert {str(n): version for n, version in enumerate(versions) if version is not None} == {
        event.event_data["text"]: event.event_version for event in events
    }


def test_a_retry_races_its_first_try() -> None:
    store, barrier, event = InMemoryEventStore(), Barrier(8), noted("once")

    def append(_: int) -> int:
        barrier.wait()
        return store.append_to_stream("s", NO_STREAM, [event])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(append, range(8))) == [1] * 8


def test_what_is_stored_is_a_copy() -> None:
    store, labels = InMemoryEventStore(), ["a"]
    event = noted(event_data={"labels": labels}, metadata={"further": labels})
    store.append_to_stream("s", NO_STREAM, [event])
    labels.append("changed by the writer")
    (recorded,) = store.read_stream("s")
    assert recorded.event_data == {"labels": ["a"]}
    assert recorded.metadata.model_dump()["further"] == ["a"]


def test_keys_come_back_in_the_order_of_jsonb() -> None:
    store = InMemoryEventStore()
    store.append_to_stream("s", NO_STREAM, [noted(event_data={"ccc": 1, "bb": {"z": 1, "y": 1}})])
    (recorded,) = store.read_stream("s")
    assert list(recorded.event_data) == ["bb", "ccc"]
    assert list(recorded.event_data["bb"]) == ["y", "z"]
