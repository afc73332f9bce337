"""A projection that is folded when it is read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from eventstore import ANY, AsyncSqlAlchemyEventStore, EventEnvelope, SqlAlchemyEventStore
from eventstore.projections import handles, live, live_async
from tests.fixtures.stores import async_engine_of
from tests.fixtures.views import (
    Balance,
    Balances,
    Deposited,
    Entry,
    Sent,
    balances,
    committed_balances,
    deposit,
    deposits,
    registry,
    run,
)
from tests.integration.projections.elsewhere import Elsewhere, Place

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


def relations(session: Session) -> int:
    return session.scalars(
        text("SELECT count(*) FROM pg_class WHERE relname IN ('balances', 'entries')")
    ).one()


def test_it_needs_no_tables_and_leaves_none(engine: Engine) -> None:
    deposit(engine, "a", 1, 2)
    deposit(engine, "b", 5)
    with Session(engine) as session:
        with live(Balances(), SqlAlchemyEventStore(session, registry)) as view:
            assert balances(view) == {"a": 3, "b": 5}
            assert view.scalars(select(Entry.id).order_by(Entry.id)).all() == [1, 2, 3]
        assert relations(session) == 0
        session.commit()
        assert relations(session) == 0


def test_of_one_stream_and_as_of_a_position(engine: Engine) -> None:
    first = deposit(engine, "a", 1)
    second = deposit(engine, "b", 5)
    third = deposit(engine, "a", 2)
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session, registry)
        expected: dict[int, dict[str, int]] = {
            0: {},
            first: {"a": 1},
            second: {"a": 1, "b": 5},
            third: {"a": 3, "b": 5},
            third + 1000: {"a": 3, "b": 5},
        }
        for position, wanted in expected.items():
            with live(Balances(), store, as_of=position) as view:
                assert balances(view) == wanted
        with live(Balances(), store, stream_id="a", as_of=second) as view:
            assert balances(view) == {"a": 1}
        with live(Balances(), store, stream_id="missing") as view:
            assert balances(view) == {}


def test_as_of_a_time_is_when_it_happened_and_not_when_it_was_recorded(engine: Engine) -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    with Session(engine) as session, session.begin():
        store = SqlAlchemyEventStore(session, registry)
        for minutes, amount in ((5, 10), (0, 1), (9, 100)):
            happened = EventEnvelope(
                aggregate_type="Account",
                event_data=Deposited(amount=amount),
                occurred_at=noon + timedelta(minutes=minutes),
            )
            store.append_to_stream("a", ANY, [happened])
        for minutes, wanted in ((0, 1), (5, 11), (8, 11), (9, 111)):
            as_of = noon + timedelta(minutes=minutes)
            with live(Balances(), store, as_of=as_of) as view:
                assert balances(view) == {"a": wanted}


def test_the_real_tables_stay_as_they_are(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    deposit(bank, "a", 2)
    with Session(bank) as session:
        known = session.get(Balance, "a")
        assert known
        with live(Balances(), SqlAlchemyEventStore(session, registry)) as view:
            assert balances(view) == {"a": 3}
            view.add(Balance(account="z", amount=1))
            view.commit()
        assert known.amount == 1
        assert balances(session) == {"a": 1}
        session.commit()
    assert committed_balances(bank) == {"a": 1}


def test_it_sees_what_its_own_transaction_appended(engine: Engine) -> None:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session, registry)
        store.append_to_stream("a", ANY, deposits(4))
        with live(Balances(), store) as view:
            assert balances(view) == {"a": 4}
        session.rollback()


def test_a_fold_has_no_side_effects(bank: Engine) -> None:
    class Telling(Balances):
        @handles(Deposited, replay=False)
        def _tell(self, event: EventEnvelope[Deposited], session: Session) -> None:
            raise AssertionError("not in a fold")

    deposit(bank, "a", 1)
    with (
        Session(bank) as session,
        live(Telling(), SqlAlchemyEventStore(session, registry)) as view,
    ):
        assert balances(view) == {"a": 1}


def test_constraints_hold_and_a_failure_leaves_the_session_usable(engine: Engine) -> None:
    class Doubling(Balances):
        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            super()._deposited(event, session)
            session.flush()
            super()._deposited(event, session)

    with Session(engine) as session:
        store = SqlAlchemyEventStore(session, registry)
        store.append_to_stream("a", ANY, deposits(4))
        with pytest.raises(IntegrityError), live(Doubling(), store):
            raise AssertionError("not reached")
        session.commit()
    with Session(engine) as session:
        assert len(list(SqlAlchemyEventStore(session, registry).read_stream("a"))) == 1


def test_models_of_another_schema_and_references_outside(bank: Engine) -> None:
    deposit(bank, "a", 1, 2)
    with Session(bank) as session:
        store = SqlAlchemyEventStore(session, registry)
        with live(Elsewhere(), store) as view:
            assert view.scalars(select(Place.amount)).all() == [3]
        with live(Balances(), store) as view:
            assert balances(view) == {"a": 3}


@pytest.mark.parametrize("as_of", [-1, True, "2024", datetime(2024, 1, 1)])  # noqa: DTZ001
def test_wrong_bounds_are_refused(engine: Engine, as_of: Any) -> None:
    with (
        Session(engine) as session,
        pytest.raises((TypeError, ValueError), match="as_of"),
        live(Balances(), SqlAlchemyEventStore(session, registry), as_of=as_of),
    ):
        raise AssertionError("not reached")


def test_autocommit_has_nothing_to_roll_back(engine: Engine) -> None:
    with (
        Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session,
        pytest.raises(ValueError, match="AUTOCOMMIT"),
        live(Balances(), SqlAlchemyEventStore(session, registry)),
    ):
        raise AssertionError("not reached")


def test_an_async_store_folds_too(bank: Engine, async_url: URL) -> None:
    class Awaiting(Balances):
        @handles("deposited")
        async def _deposited(  # type: ignore[override]
            self, event: EventEnvelope[Deposited], session: AsyncSession
        ) -> None: ...

        @handles(Deposited)
        async def _added(self, event: EventEnvelope[Deposited], session: AsyncSession) -> None:
            balance = await session.get(Balance, event.stream_id)
            if balance is None:
                session.add(balance := Balance(account=event.stream_id, amount=0))
            balance.amount += event.event_data.amount

    async def fold(projection: Balances, **bounds: Any) -> dict[str, int]:
        async with async_engine_of(async_url) as engine, AsyncSession(engine) as session:
            store = AsyncSqlAlchemyEventStore(session, registry)
            async with live_async(projection, store, **bounds) as view:
                return await view.run_sync(balances)

    first = deposit(bank, "a", 1)
    deposit(bank, "a", 2)
    deposit(bank, "b", 5)
    assert asyncio.run(fold(Balances())) == {"a": 3, "b": 5}
    assert asyncio.run(fold(Awaiting(), as_of=first)) == {"a": 1}
    assert asyncio.run(fold(Balances(), stream_id="a")) == {"a": 3}
    with Session(bank) as session:
        assert not session.scalars(select(Sent)).all()
