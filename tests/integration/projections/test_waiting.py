"""Waiting until a projection shows an event is exact and bounded, whoever keeps it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import ANY, EventEnvelope, SqlAlchemyEventStore
from eventstore.projections import (
    handles,
    rebuild,
    subscription_of,
    wait_for_projection,
    wait_for_projection_async,
)
from eventstore.subscriptions import RetryPolicy, SubscriptionRunner, parked_streams
from tests.fixtures.stores import async_engine_of
from tests.fixtures.views import (
    Balances,
    Deposited,
    DoubledBalances,
    Noted,
    committed_balances,
    deposit,
    deposits,
    registry,
    run,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


def shown(engine: Engine, position: int, timeout_seconds: float = 0.02, **options: Any) -> bool:
    return wait_for_projection(engine, "balances", position, timeout_seconds, **options)


def test_it_is_shown_once_it_was_handled(bank: Engine) -> None:
    assert not shown(bank, 1)  # nobody has ever run it
    run(bank, Balances())
    position = deposit(bank, "a", 1)
    assert not shown(bank, position)
    run(bank, Balances())
    assert shown(bank, position)


def test_it_waits_for_a_runner(bank: Engine) -> None:
    runner = SubscriptionRunner(bank, [subscription_of(Balances(), registry)], registry=registry)
    with runner:
        for amount in range(1, 6):
            position = deposit(bank, "a", 1)
            assert shown(bank, position, 30)
            assert committed_balances(bank) == {"a": amount}


def test_what_it_does_not_handle_is_shown_after_what_it_does(bank: Engine) -> None:
    run(bank, Balances())
    with Session(bank) as session, session.begin():
        noted = EventEnvelope(aggregate_type="Account", event_data=Noted())
        store = SqlAlchemyEventStore(session, registry)
        store.append_to_stream("a", ANY, [*deposits(1), noted])
    assert not shown(bank, 2)
    run(bank, Balances())
    assert shown(bank, 2)


def test_numbers_that_were_burned_hold_nothing_up(bank: Engine) -> None:
    position = deposit(bank, "a", 1)
    run(bank, Balances())
    with bank.begin() as connection:
        connection.execute(text("SELECT nextval('events_sequence_number_seq')"))
    assert shown(bank, position + 1)
    assert not shown(bank, position + 2)


def test_an_open_transaction_is_not_overlooked(bank: Engine) -> None:
    run(bank, Balances())
    deposit(bank, "a", 1)
    run(bank, Balances())
    with Session(bank) as writer:
        SqlAlchemyEventStore(writer, registry).append_to_stream("b", ANY, deposits(1))
        assert not shown(bank, 2)
        writer.rollback()
    assert shown(bank, 2)


def test_an_event_in_a_parked_stream_is_not_shown_and_others_are(bank: Engine) -> None:
    class Strict(Balances):
        partitions = 2

        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            if event.event_data.amount < 0:
                raise ValueError("overdrawn")
            super()._deposited(event, session)

    before = deposit(bank, "a", 1)
    parked = deposit(bank, "a", -1)
    behind = deposit(bank, "a", 1)
    other = deposit(bank, "b", 1)
    run(bank, Strict(), retry=RetryPolicy(max_attempts=1, first_seconds=0.001))
    assert [shown(bank, position) for position in (before, parked, behind, other)] == [
        True,
        False,
        False,
        True,
    ]


def test_a_new_version_is_asked_once_it_is_live(bank: Engine) -> None:
    run(bank, Balances())
    deposit(bank, "a", 1)
    rebuild(bank, DoubledBalances(), registry)
    position = deposit(bank, "a", 1)
    run(bank, Balances())
    assert not shown(bank, position)
    run(bank, DoubledBalances())
    assert shown(bank, position)


def test_what_appends_keep_is_shown_at_once(bank: Engine) -> None:
    position = deposit(bank, "a", 1, projections=[Balances()])
    assert shown(bank, position)
    assert not shown(bank, position + 1)


def test_a_method_can_not_wait_for_itself(bank: Engine) -> None:
    class Waiting(Balances):
        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            shown(bank, event.sequence_number)

    deposit(bank, "a", 1)
    run(bank, Balances())
    deposit(bank, "a", 1)
    with pytest.raises(Exception, match="can't wait for its own projection"):
        run(bank, Waiting(), retry=RetryPolicy(max_attempts=1, first_seconds=0.001))
    with Session(bank) as session:
        assert not parked_streams(session, "balances@1")


def test_tasks_wait_too(bank: Engine, async_url: URL) -> None:
    async def wait(position: int) -> bool:
        async with async_engine_of(async_url) as engine:
            return await wait_for_projection_async(engine, "balances", position, 0.02)

    position = deposit(bank, "a", 1)
    run(bank, Balances())
    assert asyncio.run(wait(position))
    assert not asyncio.run(wait(position + 1))


@pytest.mark.parametrize(
    "wrong", [{"position": -1}, {"timeout_seconds": 0}, {"timeout_seconds": float("inf")}]
)
def test_wrong_arguments_are_refused(engine: Engine, wrong: dict[str, Any]) -> None:
    arguments = {"position": 1, "timeout_seconds": 1} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shown(engine, **arguments)
