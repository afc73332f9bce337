"""Every way into and out of the store seals and opens: group commit, import, subscriptions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import URL, text
from sqlalchemy.event import listen
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    AsyncGroupCommitWriter,
    ConcurrencyConflict,
    DuplicateEvent,
    GroupCommitWriter,
    SqlAlchemyEventStore,
    SubjectErased,
    event_store,
    import_events,
)
from eventstore.operations.deliveries import read_parked_events
from eventstore.operations.parking import list_parked
from eventstore.personal import Erased, MasterKeys
from eventstore.subscriptions import RetryPolicy, Subscription, SubscriptionRunner
from tests.fixtures.learners import (
    ANN,
    BOB,
    new_master_key,
    noted,
    registered,
    registry_with,
)
from tests.fixtures.stores import async_engine_of, in_threads

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from eventstore import EventEnvelope, EventRegistry


@pytest.fixture
def registry() -> EventRegistry:
    return registry_with(MasterKeys(new_master_key()))


def payloads(engine: Engine, registry: EventRegistry) -> list[Any]:
    with event_store(sessionmaker(engine), registry) as store:
        return [event.event_data for event in store.read_all_forward()]


def forget(engine: Engine, registry: EventRegistry, subject_id: str) -> None:
    with event_store(sessionmaker(engine), registry) as store:
        store.forget(subject_id)


def is_sealed(engine: Engine) -> bool:
    with engine.connect() as connection:
        return not connection.scalar(
            text("SELECT count(*) FROM events WHERE event_data::text LIKE '%secret%'")
        )


def test_group_commit(engine: Engine, registry: EventRegistry) -> None:
    failed: list[Any] = []
    listen(engine, "handle_error", failed.append)
    with GroupCommitWriter(engine, registry) as writer:
        events = [registered(f"learner-{number % 3}") for number in range(20)]
        versions = in_threads(
            *(lambda e=e: writer.append_to_stream("s", ANY, [e]) for e in events),
            *(lambda: writer.append_to_stream("s", ANY, [noted()]) for _ in range(20)),
        )
        assert sorted(versions) == list(range(1, 41))  # type: ignore[type-var]
        # What is personal has not spoiled the statement of a group for the others in it.
        assert failed == []
        assert is_sealed(engine)
        (first,) = {writer.append_to_stream("s", ANY, events[:1]) for _ in range(2)}
        assert first == versions[0]
        with pytest.raises(ConcurrencyConflict):
            writer.append_to_stream("s", 1, [registered()], fetch_missed=True)
        forget(engine, registry, "learner-0")
        assert writer.append_to_stream("s", ANY, events[:1]) == first
        with pytest.raises(SubjectErased):
            writer.append_to_stream("s", ANY, [registered("learner-0")])
    found = payloads(engine, registry)
    assert sum(getattr(each, "email", None) == ANN for each in found) == 13
    assert sum(getattr(each, "email", None) == Erased("learner-0") for each in found) == 7


def test_group_commit_of_tasks(engine: Engine, registry: EventRegistry, async_url: URL) -> None:
    async def write() -> list[int]:
        async with (
            async_engine_of(async_url) as async_engine,
            AsyncGroupCommitWriter(async_engine, registry) as writer,
        ):
            appends = [writer.append_to_stream("s", ANY, [registered()]) for _ in range(8)]
            return await asyncio.gather(*appends)

    assert sorted(asyncio.run(write())) == list(range(1, 9))
    assert is_sealed(engine)
    assert {each.email for each in payloads(engine, registry)} == {ANN}


@pytest.mark.parametrize("exact", [True, False])
def test_a_group_of_both_kinds_keeps_the_order_of_a_stream(
    engine: Engine, registry: EventRegistry, async_url: URL, exact: bool
) -> None:
    async def write() -> list[int]:
        async with (
            async_engine_of(async_url) as async_engine,
            AsyncGroupCommitWriter(async_engine, registry) as writer,
        ):
            events = [[registered(), noted(), noted()][number % 3] for number in range(12)]
            return await asyncio.gather(
                *(
                    writer.append_to_stream("s", number if exact else ANY, [event])
                    for number, event in enumerate(events)
                )
            )

    assert asyncio.run(write()) == list(range(1, 13))


def in_stream(event: EventEnvelope[Any], stream_id: str = "s") -> EventEnvelope[Any]:
    return event.model_copy(update={"stream_id": stream_id})


def test_import(engine: Engine, registry: EventRegistry) -> None:
    history = [in_stream(registered(f"learner-{number % 2}")) for number in range(6)]
    assert import_events(engine, history[:4], registry, batch_size=3).imported == 4
    assert is_sealed(engine)

    forget(engine, registry, "learner-1")
    again = import_events(engine, [*history[:4], history[4]], registry)
    assert (again.imported, again.already_imported) == (1, 4)
    with pytest.raises(SubjectErased):
        import_events(engine, history, registry)
    changed = registered("learner-0", BOB, event_id=history[0].event_id)
    with pytest.raises(DuplicateEvent):
        import_events(engine, [in_stream(changed)], registry)
    new = in_stream(registered("learner-8"))
    twice = [new, in_stream(registered("learner-9", event_id=new.event_id))]
    with pytest.raises(DuplicateEvent):
        import_events(engine, twice, registry)


def test_a_subscription_reads_what_is_there_and_is_told_of_erasures(
    engine: Engine, registry: EventRegistry
) -> None:
    with event_store(sessionmaker(engine), registry) as store:
        store.append_to_stream("s", 0, [registered("p"), registered("q", BOB), noted()])
    forget(engine, registry, "p")
    seen: list[Any] = []
    statements = Subscription("mails", lambda _, event: seen.append(event.event_data))
    SubscriptionRunner(engine, [statements], registry=registry).run_until_current()

    assert seen == payloads(engine, registry)
    assert [getattr(each, "email", None) for each in seen[:2]] == [Erased("p"), BOB]
    assert seen[-1].subject_id == "p"


def test_a_parked_stream_is_erased_when_it_is_replayed(
    engine: Engine, registry: EventRegistry
) -> None:
    with event_store(sessionmaker(engine), registry) as store:
        store.append_to_stream("s", 0, [registered("p"), registered("q", BOB)])

    def fail(_session: Session, event: EventEnvelope[Any]) -> None:
        raise ValueError("not yet")

    once = RetryPolicy(max_attempts=1, first_seconds=0.001, max_seconds=0.001)
    mails = Subscription("mails", fail, retry=once)
    SubscriptionRunner(engine, [mails], registry=registry).run_until_current()
    with Session(engine) as session:
        assert len(list_parked(session, "mails", schema=None)) == 1
        parked = session.execute(text("SELECT * FROM parked_streams")).one()
        assert "secret" not in str(parked)

        SqlAlchemyEventStore(session, registry).forget("p")
        waiting = read_parked_events(
            session, "s", None, registry, after=0, until=9, limit=9, schema=None
        )
        found = [event for each in waiting for event in each.decoded(registry, None)]
    assert [each.event_data.email for each in found] == [Erased("p"), BOB]
