"""Until it is current: what was committed before the call is handled, and the wait is bounded."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import ANY, SqlAlchemyEventStore
from eventstore.projections import async_subscription_of, subscription_of
from eventstore.subscriptions import AsyncSubscriptionRunner, SubscriptionRunner
from tests.fixtures.stores import async_engine_of, in_threads
from tests.fixtures.views import Balances, committed_balances, deposit, deposits, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Engine


@contextmanager
def held(engine: Engine) -> Iterator[Callable[[], None]]:
    """An append that is not committed, and what commits it."""
    with Session(engine) as session:
        SqlAlchemyEventStore(session, registry).append_to_stream("held", ANY, deposits(1))
        yield session.commit


def keep(engine: Engine, timeout_seconds: float = 60) -> None:
    subscription = subscription_of(Balances(), registry)
    runner = SubscriptionRunner(engine, [subscription], registry=registry)
    runner.run_until_current(timeout_seconds)


def test_what_an_older_transaction_holds_back_is_waited_for(bank: Engine) -> None:
    with held(bank) as commit:
        deposit(bank, "a", 1)
        with pytest.raises(TimeoutError):
            keep(bank, 0.1)
        assert committed_balances(bank) == {}
        assert in_threads(lambda: keep(bank), commit) == [None, None]
    assert committed_balances(bank) == {"a": 1, "held": 1}


def test_what_is_appended_later_is_not(bank: Engine) -> None:
    deposit(bank, "a", 1)
    with held(bank):
        keep(bank)
        assert committed_balances(bank) == {"a": 1}


def test_numbers_that_were_burned_are_nothing_to_wait_for(bank: Engine) -> None:
    deposit(bank, "a", 1)
    with bank.begin() as connection:
        connection.execute(
            text("SELECT nextval('events_sequence_number_seq') FROM generate_series(1, 1000)")
        )
    keep(bank)
    keep(bank)
    assert committed_balances(bank) == {"a": 1}


def test_by_tasks(bank: Engine, async_url: URL) -> None:
    async def keep_async(timeout_seconds: float) -> None:
        async with async_engine_of(async_url) as engine:
            subscription = async_subscription_of(Balances(), registry)
            runner = AsyncSubscriptionRunner(engine, [subscription], registry=registry)
            await runner.run_until_current(timeout_seconds)

    with held(bank) as commit:
        deposit(bank, "a", 1)
        with pytest.raises(TimeoutError):
            asyncio.run(keep_async(0.1))
        commit()
    asyncio.run(keep_async(60))
    assert committed_balances(bank) == {"a": 1, "held": 1}
