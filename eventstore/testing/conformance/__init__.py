"""The conformance suite: what every event store must do, as tests to inherit.

A store passes if a subclass of one of the two classes passes. The subclass says how a store is
opened, with or without an :class:`~eventstore.EventRegistry`, by the fixture ``open_store``; it may
use any other fixture, and take back at the end what a test has written::

    class TestMyStore(EventStoreConformance):
        @pytest.fixture
        def open_store(self, session):
            return lambda registry: nullcontext(MyStore(session, registry))

    class TestMyAsyncStore(AsyncEventStoreConformance):
        @pytest.fixture
        def open_store(self):
            @asynccontextmanager
            async def open_store(registry):
                async with AsyncSession(engine) as session:
                    yield MyAsyncStore(session, registry)

            return open_store

An async store is opened, used and closed in one event loop of the test; no plugin for pytest is
needed. Each test uses streams of its own and one store, and commits nothing: the suite may run in
a transaction that is rolled back, and beside other events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TypeAlias

import pytest

from eventstore.protocols import AsyncEventStore, EventStore
from eventstore.registry import EventRegistry
from eventstore.testing.blocking import in_event_loop
from eventstore.testing.conformance.accounts import registry
from eventstore.testing.conformance.appending import Appending, ExpectedVersions
from eventstore.testing.conformance.arguments import Arguments
from eventstore.testing.conformance.deleting import Deleting
from eventstore.testing.conformance.evolving import EvolvingTypes, first_deployment
from eventstore.testing.conformance.feed import FeedReading
from eventstore.testing.conformance.forgetting import Forgetting
from eventstore.testing.conformance.loading import Loading, Missed
from eventstore.testing.conformance.payloads import Metadata, PlainPayloads, TypedPayloads
from eventstore.testing.conformance.querying import AppendConditions, Querying, Tags
from eventstore.testing.conformance.reading import StreamReading
from eventstore.testing.conformance.retries import RetriesById, RetriesByKey
from eventstore.testing.conformance.several_streams import SeveralStreams
from eventstore.testing.conformance.snapshots import Snapshots

__all__ = ["AsyncEventStoreConformance", "EventStoreConformance", "OpenAsyncStore", "OpenStore"]

#: How the fixture ``open_store`` opens a store with this registry, or with none.
OpenStore: TypeAlias = Callable[[EventRegistry | None], AbstractContextManager[EventStore]]
#: The same for an async store.
OpenAsyncStore: TypeAlias = Callable[
    [EventRegistry | None], AbstractAsyncContextManager[AsyncEventStore]
]


class _Suite(
    Appending,
    ExpectedVersions,
    SeveralStreams,
    RetriesById,
    RetriesByKey,
    Deleting,
    StreamReading,
    FeedReading,
    Snapshots,
    Forgetting,
    Loading,
    Missed,
    Tags,
    Querying,
    AppendConditions,
    PlainPayloads,
    TypedPayloads,
    EvolvingTypes,
    Metadata,
    Arguments,
):
    """All tests, each a method that takes ``store`` or ``typed_store``."""


class EventStoreConformance(_Suite):
    """The suite for a sync store; a subclass gives the fixture ``open_store``."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """Return how a store is opened."""
        raise NotImplementedError("override the fixture open_store")

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[EventStore]:
        """A store that takes and gives dicts."""
        with open_store(None) as store:
            yield store

    @pytest.fixture
    def typed_store(self, open_store: OpenStore) -> Iterator[EventStore]:
        """A store that knows the events of an account."""
        with open_store(registry()) as store:
            yield store

    @pytest.fixture
    def deployed(self, open_store: OpenStore) -> Iterator[tuple[EventStore, EventRegistry]]:
        """A store, and its registry, which a test changes as a deployment would."""
        known = first_deployment()
        with open_store(known) as store:
            yield store, known


class AsyncEventStoreConformance(_Suite):
    """The suite for an async store; a subclass gives the fixture ``open_store``."""

    @pytest.fixture
    def open_store(self) -> OpenAsyncStore:
        """Return how a store is opened."""
        raise NotImplementedError("override the fixture open_store")

    @pytest.fixture
    def store(self, open_store: OpenAsyncStore) -> Iterator[EventStore]:
        """A store that takes and gives dicts."""
        with in_event_loop(open_store(None)) as store:
            yield store

    @pytest.fixture
    def typed_store(self, open_store: OpenAsyncStore) -> Iterator[EventStore]:
        """A store that knows the events of an account."""
        with in_event_loop(open_store(registry())) as store:
            yield store

    @pytest.fixture
    def deployed(self, open_store: OpenAsyncStore) -> Iterator[tuple[EventStore, EventRegistry]]:
        """A store, and its registry, which a test changes as a deployment would."""
        known = first_deployment()
        with in_event_loop(open_store(known)) as store:
            yield store, known
