"""Personal data in every store: read, erased, recognised, and never forgotten half."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore import (
    ANY,
    Aggregate,
    AggregateType,
    AsyncInMemoryEventStore,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    DuplicateEvent,
    EventFilter,
    EventMetadata,
    EveryEvents,
    IdempotencyMismatch,
    InMemoryEventStore,
    ReadOptions,
    Repository,
    Snapshot,
    Snapshots,
    SqlAlchemyEventStore,
    StreamAppend,
    SubjectErased,
    applies,
)
from eventstore.personal import (
    ERASURES_STREAM,
    Erased,
    MasterKeys,
    Personal,
    SubjectForgotten,
    WrappedKey,
    personal,
)
from eventstore.personal.keys import InMemoryKeyStore
from eventstore.testing.blocking import in_event_loop
from eventstore.testing.rollback import rolled_back_async_session, rolled_back_session
from tests.fixtures.learners import (
    ANN,
    BOB,
    Address,
    Introduced,
    Registered,
    new_master_key,
    noted,
    registered,
    registry_with,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager

    from sqlalchemy import URL

    from eventstore import EventRegistry

    Opening = Callable[[EventRegistry], AbstractContextManager[Any]]


@pytest.fixture(params=["memory", "async memory", "psycopg", "async psycopg", "asyncpg"])
def opening(request: pytest.FixtureRequest) -> Opening:
    """How a store is opened with a registry."""
    kind: str = request.param
    if kind == "memory":
        return _in_memory
    if kind == "async memory":
        return lambda registry: in_event_loop(_async_memory(registry))
    url: URL = request.getfixturevalue("event_store_database")
    if kind == "psycopg":
        return lambda registry: _sync(url, registry)
    url = url.set(drivername=f"postgresql+{kind.removeprefix('async ')}")
    return lambda registry: in_event_loop(_async(url, registry))


@contextmanager
def _in_memory(registry: EventRegistry) -> Iterator[Any]:
    yield InMemoryEventStore(registry)


@asynccontextmanager
async def _async_memory(registry: EventRegistry) -> AsyncIterator[Any]:
    yield AsyncInMemoryEventStore(registry)


@contextmanager
def _sync(url: URL, registry: EventRegistry) -> Iterator[Any]:
    engine = create_engine(url, poolclass=NullPool)
    with rolled_back_session(engine) as session:
        yield SqlAlchemyEventStore(session, registry)


@asynccontextmanager
async def _async(url: URL, registry: EventRegistry) -> AsyncIterator[Any]:
    engine = create_async_engine(url, poolclass=NullPool)
    async with rolled_back_async_session(engine) as session:
        yield AsyncSqlAlchemyEventStore(session, registry)


@pytest.fixture
def store(opening: Opening) -> Iterator[Any]:
    with opening(registry_with(MasterKeys(new_master_key()))) as store:
        yield store


def payloads(store: Any, stream_id: str = "s") -> list[Any]:
    return [event.event_data for event in store.read_stream(stream_id)]


def stored(store: Any, stream_id: str = "s") -> str:
    return " ".join(
        event.event_data.decode() for event in store.read_stream(stream_id, as_type=bytes)
    )


def test_what_is_read_is_what_was_appended_and_stored_is_ciphertext(store: Any) -> None:
    address = Address(street="Mill Lane", city="Ulm")
    events = [registered(data={"address": address}), noted(), registered("learner-2", BOB)]
    store.append_to_stream("s", 0, events)

    expected = [event.event_data for event in events]
    assert payloads(store) == expected
    assert [event.event_data for event in store.read_all_forward()][-3:] == expected
    assert [event.event_data for event in store.load_stream("s").events] == expected
    (typed,) = store.read_stream("s", ReadOptions(max_count=1), as_type=Registered)
    assert typed.event_data == expected[0]
    untyped = list(store.read_stream("s", as_type=dict))
    assert untyped[0].event_data["email"]["$personal"] == "sealed/1"
    for secret in ("secret", "Mill", "Ulm"):
        assert secret not in stored(store)
    assert "python" in stored(store)


def test_a_forgotten_subject_is_erased_everywhere_and_nobody_else_is(store: Any) -> None:
    both = Introduced(teacher="t", learner="p", teacher_email=BOB, nicknames=["a", "b"])
    store.append_to_stream("s", 0, [noted(event_type="", event_data=both), registered("p", ANN)])
    before = list(store.read_stream("s"))

    assert store.forget("p")

    after = list(store.read_stream("s"))
    assert after[0].event_data == Introduced(
        teacher="t", learner="p", teacher_email=BOB, nicknames=[Erased("p"), Erased("p")]
    )
    assert after[1].event_data == Registered(learner_id="p", email=Erased("p"))
    assert [event.event_data for event in store.read_all_forward()][-3:-1] == payloads(store)
    for was, now in zip(before, after, strict=True):
        assert was.model_dump(exclude={"event_data"}) == now.model_dump(exclude={"event_data"})


def test_forgetting_is_told_once_by_an_event_of_the_feed(store: Any) -> None:
    store.append_to_stream("s", 0, [registered()])
    metadata = EventMetadata(user_id="officer", correlation_id="request 9")

    assert store.forget("learner-1", metadata=metadata) is True
    assert store.forget("learner-1") is False
    assert store.forget("never seen") is True

    told = list(store.read_all_forward(filters=EventFilter(event_types={"subject-forgotten"})))
    assert [event.event_data for event in told] == [
        SubjectForgotten(subject_id="learner-1"),
        SubjectForgotten(subject_id="never seen"),
    ]
    assert told[0].metadata.user_id == "officer"
    assert told[0].aggregate_id == "learner-1"
    assert told[0].stream_id == ERASURES_STREAM


def test_nothing_can_be_stored_for_a_forgotten_subject(store: Any) -> None:
    store.forget("p")

    both = Introduced(teacher="t", learner="p", teacher_email=BOB, nicknames=["a"])
    for event in (registered("p"), noted(event_type="", event_data=both)):
        with pytest.raises(SubjectErased, match="'p' was forgotten") as refused:
            store.append_to_stream("s", ANY, [noted(), event])
        assert refused.value.subject_id == "p"
        with pytest.raises(SubjectErased):
            store.append(StreamAppend("s", ANY, [noted()]), StreamAppend("o", ANY, [event]))
    assert payloads(store) == payloads(store, "o") == []
    # What names the subject and says nothing about it can be.
    store.append_to_stream("s", 0, [registered("p", Erased("p"))])
    assert payloads(store) == [Registered(learner_id="p", email=Erased("p"))]


class TestRetries:
    """The same batch again is recognised, whatever has become of its subject."""

    def test_by_ids(self, store: Any) -> None:
        batch = [registered(), noted(), registered("learner-2", BOB)]
        store.append_to_stream("s", 0, batch)

        again = store.append(StreamAppend("s", 0, batch))
        assert again.already_appended
        assert again.streams[0].version == 3

    def test_by_key_with_other_ids(self, store: Any) -> None:
        metadata = EventMetadata(idempotency_key="request 1")
        store.append_to_stream("s", 0, [registered(metadata=metadata)])

        assert store.append(StreamAppend("s", 0, [registered(metadata=metadata)])).already_appended
        with pytest.raises(IdempotencyMismatch):
            store.append_to_stream("s", ANY, [registered(email=BOB, metadata=metadata)])

    def test_the_same_id_with_other_personal_data_is_another_event(self, store: Any) -> None:
        event = registered()
        store.append_to_stream("s", 0, [event])

        changed = registered(email=BOB, event_id=event.event_id)
        with pytest.raises(DuplicateEvent):
            store.append_to_stream("s", ANY, [changed])

    @pytest.mark.parametrize("count", [1, 2])
    def test_by_ids_after_the_erasure(self, store: Any, count: int) -> None:
        batch = [registered() for _ in range(count)]
        store.append_to_stream("s", 0, batch)
        store.forget("learner-1")

        again = store.append(StreamAppend("s", 0, batch))
        assert again.already_appended
        assert store.append_to_stream("s", 0, batch) == count
        with pytest.raises(DuplicateEvent):
            store.append_to_stream("other", ANY, batch)
        with pytest.raises(DuplicateEvent):
            store.append_to_stream("s", ANY, [*batch, registered()])

    def test_by_key_after_the_erasure(self, store: Any) -> None:
        metadata = EventMetadata(idempotency_key="request 1")
        store.append_to_stream("s", 0, [registered(metadata=metadata)])
        store.forget("learner-1")

        assert store.append(StreamAppend("s", 0, [registered(metadata=metadata)])).already_appended
        with pytest.raises(IdempotencyMismatch):
            store.append_to_stream("s", ANY, [registered(metadata=metadata), registered()])


def test_a_conflict_brings_what_was_missed(store: Any) -> None:
    store.append_to_stream("s", 0, [noted(), registered()])

    with pytest.raises(ConcurrencyConflict) as late:
        store.append_to_stream("s", 1, [registered("learner-2")], fetch_missed=True)
    assert late.value.missed is not None
    assert late.value.missed[0].event_data.email == ANN


class Profile(BaseModel):
    learner_id: str
    email: Annotated[Personal[str], personal(subject="learner_id")]


class TestSnapshots:
    def test_of_a_model(self, store: Any) -> None:
        store.append_to_stream("s", 0, [registered()])
        profile = Profile(learner_id="learner-1", email=ANN)
        store.save_snapshot(
            Snapshot(aggregate_id="s", aggregate_type="learner", version=1, data=profile)
        )

        assert store.get_snapshot("s", "learner", Profile).data == profile
        assert store.load_stream("s", "learner").snapshot.data["email"]["value"] == ANN
        store.forget("learner-1")
        erased = Profile(learner_id="learner-1", email=Erased("learner-1"))
        assert store.get_snapshot("s", "learner", Profile).data == erased

    def test_of_an_aggregate(self, store: Any, caplog: pytest.LogCaptureFixture) -> None:
        learners = Repository(store, LEARNERS)
        learners.execute("1", lambda learner: learner.register(ANN))

        loaded = learners.load("1")
        assert loaded.snapshot_version == 1
        assert loaded.email == ANN
        store.forget("1")
        assert learners.load("1").snapshot_version == 1
        assert learners.load("1").email == Erased("1")
        learners.execute("1", lambda learner: learner.note())
        assert learners.load("1").snapshot_version == 2
        assert learners.load("1").email == Erased("1")
        assert not caplog.records

    def test_of_a_subject_that_was_forgotten_meanwhile(self, store: Any) -> None:
        learners = Repository(store, LEARNERS)
        learners.execute("1", lambda learner: learner.register(ANN))
        loaded = learners.load("1")
        store.forget("1")

        loaded.note()
        learners.save(loaded)

        assert learners.load("1").snapshot_version == 2
        assert learners.load("1").email == Erased("1")


@dataclass
class Learner(Aggregate):
    learner_id: str = "1"
    email: Annotated[Personal[str] | None, personal(subject="learner_id")] = field(
        default=None, repr=False
    )

    def register(self, email: str) -> None:
        self.record(Registered(learner_id=self.learner_id, email=email))

    def note(self) -> None:
        self.record(Introduced(teacher="t", learner="none", teacher_email=BOB))

    @applies(Registered)
    def _registered(self, event: Registered) -> None:
        self.email = event.email

    @applies(Introduced)
    def _introduced(self, event: Introduced) -> None: ...


LEARNERS = AggregateType("learner", Learner, snapshots=Snapshots(EveryEvents(1)))


class TestKeysKeptElsewhere:
    """A key store of one's own, beside the events' database and its backups."""

    def test_it_is_asked_and_told(self, opening: Opening) -> None:
        keys = InMemoryKeyStore()
        with opening(registry_with(MasterKeys(new_master_key()), keys)) as store:
            store.append_to_stream("s", 0, [registered()])
            assert keys.read(["learner-1"])["learner-1"] is not None
            assert payloads(store)[0].email == ANN

            assert store.forget("learner-1")
            assert keys.read(["learner-1"]) == {"learner-1": None}
            assert payloads(store)[0].email == Erased("learner-1")

    def test_an_asynchronous_one_serves_async_stores(
        self, opening: Opening, request: pytest.FixtureRequest
    ) -> None:
        waits = "async p" in request.node.name or "asyncpg" in request.node.name
        registry = registry_with(AsyncKms(new_master_key()), AsyncKeys())
        with opening(registry) as store:
            if not waits:
                with pytest.raises(TypeError, match="is asynchronous"):
                    store.append_to_stream("s", 0, [registered()])
                with pytest.raises(TypeError, match="is asynchronous"):
                    store.forget("learner-1")
                return
            store.append_to_stream("s", 0, [registered()])
            assert payloads(store)[0].email == ANN
            assert store.forget("learner-1")
            assert payloads(store)[0].email == Erased("learner-1")


class AsyncKms:
    def __init__(self, key: bytes) -> None:
        self._keys = MasterKeys(key)
        self.current_id = self._keys.current_id

    async def wrap(self, subject_id: str, data_key: bytes) -> WrappedKey:
        await asyncio.sleep(0)
        return self._keys.wrap(subject_id, data_key)

    async def unwrap(self, subject_id: str, wrapped: WrappedKey) -> bytes:
        await asyncio.sleep(0)
        return self._keys.unwrap(subject_id, wrapped)


class AsyncKeys:
    def __init__(self) -> None:
        self._keys = InMemoryKeyStore()

    async def read(self, subject_ids: Collection[str]) -> Mapping[str, WrappedKey | None]:
        await asyncio.sleep(0)
        return self._keys.read(subject_ids)

    async def add(self, keys: Mapping[str, WrappedKey]) -> None:
        await asyncio.sleep(0)
        self._keys.add(keys)

    async def forget(self, subject_id: str) -> None:
        await asyncio.sleep(0)
        self._keys.forget(subject_id)
