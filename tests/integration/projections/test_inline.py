"""A projection that each append keeps, in its own transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from eventstore import (
    ANY,
    NO_STREAM,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    EventEnvelope,
    SqlAlchemyEventStore,
    StreamAppend,
    SubscriptionError,
    event_store,
)
from eventstore.projections import handles
from tests.fixtures.stores import async_engine_of, in_threads, wait_until_blocked
from tests.fixtures.views import (
    Balances,
    Deposited,
    DoubledBalances,
    Entry,
    Noted,
    Sent,
    balances,
    committed_balances,
    deposit,
    deposits,
    registry,
    run,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


def inline(session: Session, *projections: Any) -> SqlAlchemyEventStore:
    return SqlAlchemyEventStore(session, registry, projections=projections or [Balances()])


def entries(session: Session) -> list[tuple[str, int, int]]:
    found = select(Entry.account, Entry.version, Entry.position).order_by(Entry.position)
    return [(account, version, position) for account, version, position in session.execute(found)]


def test_the_view_is_there_before_the_commit(bank: Engine) -> None:
    with Session(bank) as session:
        store = inline(session)
        assert store.append_to_stream("a", NO_STREAM, deposits(1, 2)) == 2
        assert balances(session) == {"a": 3}
        assert committed_balances(bank) == {}
        session.commit()
    assert committed_balances(bank) == {"a": 3}


def test_it_sees_version_and_position_of_its_events(bank: Engine) -> None:
    with Session(bank) as session, session.begin():
        result = inline(session).append(
            StreamAppend("b", ANY, deposits(1, 2)), StreamAppend("a", ANY, deposits(3))
        )
        places = {(account, version): position for account, version, position in entries(session)}
        assert places == {
            ("b", 1): result["b"].positions[0],
            ("b", 2): result["b"].positions[1],
            ("a", 1): result["a"].positions[0],
        }


def test_what_was_appended_before_is_not_projected_again(bank: Engine) -> None:
    events = deposits(5)
    for _ in range(2):
        with Session(bank) as session, session.begin():
            inline(session).append_to_stream("a", NO_STREAM, events)
    assert committed_balances(bank) == {"a": 5}


def test_a_failure_takes_the_append_back_even_if_the_caller_goes_on(bank: Engine) -> None:
    class Failing(Balances):
        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            super()._deposited(event, session)
            if event.event_data.amount < 0:
                raise ValueError("overdrawn")

    with Session(bank) as session:
        store = inline(session, Failing())
        store.append_to_stream("a", ANY, deposits(5))
        with pytest.raises(ValueError, match="overdrawn"):
            store.append_to_stream("a", ANY, deposits(3, -1))
        session.add(Sent(position=1, by=1))
        session.commit()
        assert [event.event_version for event in store.read_stream("a")] == [1]
        assert session.get(Sent, (1, 1))
    assert committed_balances(bank) == {"a": 5}


def test_a_conflict_leaves_the_session_usable(bank: Engine) -> None:
    with Session(bank) as session, session.begin():
        store = inline(session)
        store.append_to_stream("a", ANY, deposits(5))
        with pytest.raises(ConcurrencyConflict) as conflict:
            store.append_to_stream("a", 7, deposits(1), fetch_missed=True)
        assert conflict.value.actual == 1
        store.append_to_stream("a", 1, deposits(1))
    assert committed_balances(bank) == {"a": 6}


def test_events_of_other_types_and_empty_appends_pass(bank: Engine) -> None:
    with Session(bank) as session, session.begin():
        store = inline(session)
        noted = EventEnvelope(aggregate_type="Account", event_data=Noted())
        assert store.append_to_stream("a", ANY, [noted, *deposits(1)]) == 2
        assert store.append_to_stream("a", 2, []) == 2
        assert entries(session)[0][:2] == ("a", 2)


def test_side_effects_happen_with_the_append(bank: Engine) -> None:
    class Telling(Balances):
        @handles(Deposited, replay=False)
        def _tell(self, event: EventEnvelope[Deposited], session: Session) -> None:
            session.add(Sent(position=event.sequence_number, by=0))

    position = deposit(bank, "a", 1, projections=[Telling()])
    with Session(bank) as session:
        assert list(session.scalars(select(Sent.position))) == [position]


def test_any_number_of_first_appends_at_once(bank: Engine) -> None:
    accounts = [f"account-{number}" for number in range(6)]
    outcomes = in_threads(
        *(
            lambda account=account: deposit(bank, account, 1, 1, projections=[Balances()])
            for account in accounts
        )
    )
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert not refused
    assert committed_balances(bank) == dict.fromkeys(accounts, 2)


def test_a_first_append_waits_for_another_one_and_misses_nothing(bank: Engine) -> None:
    with Session(bank) as first:
        inline(first).append_to_stream("a", ANY, deposits(1))

        def commit() -> None:
            wait_until_blocked(bank)
            first.commit()

        _, last = in_threads(commit, lambda: deposit(bank, "b", 2, projections=[Balances()]))
    assert isinstance(last, int)
    assert committed_balances(bank) == {"a": 1, "b": 2}


def test_it_is_refused_where_it_would_miss_what_was_before(bank: Engine) -> None:
    deposit(bank, "a", 1)
    with pytest.raises(SubscriptionError, match="events that it hasn't seen"):
        deposit(bank, "a", 1, projections=[Balances()])
    assert committed_balances(bank) == {}


def test_events_that_it_does_not_handle_are_nothing_to_miss(bank: Engine) -> None:
    with Session(bank) as session, session.begin():
        noted = EventEnvelope(aggregate_type="Account", event_data=Noted())
        SqlAlchemyEventStore(session, registry).append_to_stream("a", ANY, [noted])
    deposit(bank, "a", 1, projections=[Balances()])
    assert committed_balances(bank) == {"a": 1}


def test_a_subscription_that_keeps_it_is_left_alone(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    deposit(bank, "a", 2, projections=[Balances()])
    assert committed_balances(bank) == {"a": 1}
    run(bank, Balances())
    assert committed_balances(bank) == {"a": 3}


def test_what_appends_keep_no_subscription_may_keep_too(bank: Engine) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    with pytest.raises(SubscriptionError, match="each append keeps this projection"):
        run(bank, Balances())
    assert committed_balances(bank) == {"a": 1}


def test_an_append_by_code_of_another_version_is_refused(bank: Engine) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    with pytest.raises(SubscriptionError, match="version 1 is live, and kept by each append"):
        deposit(bank, "a", 1, projections=[DoubledBalances()])
    assert committed_balances(bank) == {"a": 1}


def test_autocommit_has_no_transaction_to_share(bank: Engine) -> None:
    with (
        Session(bank.execution_options(isolation_level="AUTOCOMMIT")) as session,
        pytest.raises(ValueError, match="AUTOCOMMIT"),
    ):
        inline(session).append_to_stream("a", ANY, deposits(1))
    assert committed_balances(bank) == {}


def test_in_a_serializable_transaction(bank: Engine) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    with (
        Session(bank.execution_options(isolation_level="SERIALIZABLE")) as session,
        session.begin(),
    ):
        inline(session).append_to_stream("a", ANY, deposits(2))
    assert committed_balances(bank) == {"a": 3}


def test_the_store_of_a_block_and_a_scoped_session(bank: Engine) -> None:
    with event_store(sessionmaker(bank), registry, projections=[Balances()]) as store:
        store.append_to_stream("a", ANY, deposits(1))
    scoped = scoped_session(sessionmaker(bank))
    SqlAlchemyEventStore(scoped, registry, projections=[Balances()]).append_to_stream(
        "a", ANY, deposits(2)
    )
    scoped.commit()
    scoped.remove()
    assert committed_balances(bank) == {"a": 3}


def test_a_projection_is_named_once() -> None:
    with pytest.raises(ValueError, match="named twice: balances"):
        inline(Session(), Balances(), DoubledBalances())


def test_an_async_store_awaits_and_calls_methods(bank: Engine, async_url: URL) -> None:
    class Awaiting(Balances):
        @handles(Deposited, replay=False)
        async def _tell(self, event: EventEnvelope[Deposited], session: AsyncSession) -> None:
            if event.event_data.amount < 0:
                raise ValueError("overdrawn")
            await session.merge(Sent(position=event.sequence_number, by=1))

    async def append(*amounts: int) -> None:
        async with async_engine_of(async_url) as engine, AsyncSession(engine) as session:
            store = AsyncSqlAlchemyEventStore(session, registry, projections=[Awaiting()])
            await store.append_to_stream("a", ANY, deposits(*amounts))
            with pytest.raises(ValueError, match="overdrawn"):
                await store.append_to_stream("a", ANY, deposits(1, -1))
            await session.commit()

    asyncio.run(append(1, 2))
    assert committed_balances(bank) == {"a": 3}
    with Session(bank) as session:
        assert len(list(session.scalars(select(Sent)))) == 2
