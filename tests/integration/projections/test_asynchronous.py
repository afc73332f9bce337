"""A projection that a subscription keeps: once each, side effects from when it is live."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from eventstore import EventEnvelope, SqlAlchemyEventStore, SubscriptionError, migrate
from eventstore.projections import (
    async_subscription_of,
    handles,
    live,
    projection_versions,
    rebuild,
    subscription_of,
)
from eventstore.subscriptions import (
    AsyncSubscriptionRunner,
    RetryPolicy,
    SubscriptionRunner,
    parked_streams,
    replay_parked,
)
from tests.fixtures.stores import async_engine_of
from tests.fixtures.views import (
    Balance,
    Balances,
    Base,
    Deposited,
    DoubledBalances,
    Entry,
    Renamed,
    Sent,
    balances,
    committed_balances,
    deposit,
    registry,
    run,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncSession


class Telling(Balances):
    """Leaves a trace of each side effect."""

    @handles(Deposited, replay=False)
    def _tell(self, event: EventEnvelope[Deposited], session: Session) -> None:
        session.add(Sent(position=event.sequence_number, by=self.version))


def sent(engine: Engine) -> list[int]:
    with Session(engine) as session:
        return list(session.scalars(select(Sent.position).order_by(Sent.position)))


def test_each_event_counts_once(bank: Engine) -> None:
    deposit(bank, "a", 1, 2)
    deposit(bank, "b", 5)
    run(bank, Balances())
    assert committed_balances(bank) == {"a": 3, "b": 5}
    deposit(bank, "a", 10)
    run(bank, Balances())
    run(bank, Balances())
    assert committed_balances(bank) == {"a": 13, "b": 5}
    with Session(bank) as session:
        versions = session.execute(
            select(Entry.account, Entry.version).order_by(Entry.account, Entry.version)
        )
        assert [tuple(row) for row in versions] == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]


def test_the_first_event_after_it_began_has_side_effects(bank: Engine) -> None:
    subscription = subscription_of(Telling(), registry)
    with SubscriptionRunner(bank, [subscription], registry=registry) as runner:
        position = deposit(bank, "a", 1)
        runner.run_until_current()
    assert sent(bank) == [position]


def test_what_happened_before_it_was_there_has_no_side_effects(bank: Engine) -> None:
    deposit(bank, "a", 1, 2)
    run(bank, Telling())
    assert sent(bank) == []
    last = deposit(bank, "a", 3)
    run(bank, Telling())
    assert sent(bank) == [last]
    assert committed_balances(bank) == {"a": 6}


def test_partitions_share_the_work(bank: Engine) -> None:
    class Partitioned(Balances):
        partitions = 3

    accounts = [f"account-{number}" for number in range(12)]
    for account in accounts:
        deposit(bank, account, 1, 1)
    run(bank, Partitioned(), batch_size=3)
    assert committed_balances(bank) == dict.fromkeys(accounts, 2)


def test_changed_code_under_the_old_version_is_refused(bank: Engine) -> None:
    class Changed(Balances):
        @handles(Renamed)
        def _renamed(self, event: EventEnvelope[Renamed], session: Session) -> None: ...

    deposit(bank, "a", 1)
    run(bank, Balances())
    deposit(bank, "a", 1)
    with pytest.raises(SubscriptionError, match=r"raise the version of the projection") as refused:
        run(bank, Changed())
    assert refused.value.subscription == "balances@1"
    assert committed_balances(bank) == {"a": 1}


def test_another_set_of_tables_is_changed_code(bank: Engine) -> None:
    class Narrow(Balances):
        models = (Balance,)

    deposit(bank, "a", 1)
    run(bank, Balances())
    deposit(bank, "a", 1)
    with pytest.raises(SubscriptionError, match="fills other tables"):
        run(bank, Narrow())


def test_a_version_that_was_never_built_is_refused(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    with pytest.raises(SubscriptionError, match=r"version 1 is live; build it beside that one"):
        run(bank, DoubledBalances())
    with Session(bank) as session:
        assert not parked_streams(session, "balances@2")
    assert committed_balances(bank) == {"a": 1}


def test_a_stream_that_fails_is_parked_and_replayed(bank: Engine) -> None:
    class Failing(Balances):
        broken = True

        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            super()._deposited(event, session)
            if self.broken and event.stream_id == "b":
                raise ValueError("no such account")

    deposit(bank, "a", 1)
    deposit(bank, "b", 2)
    deposit(bank, "a", 3)
    quick = RetryPolicy(max_attempts=2, first_seconds=0.001)
    run(bank, Failing(), retry=quick)
    assert committed_balances(bank) == {"a": 4}
    Failing.broken = False
    assert not replay_parked(bank, subscription_of(Failing(), registry), registry=registry)
    assert committed_balances(bank) == {"a": 4, "b": 2}


def test_tables_in_a_schema_of_their_own(engine: Engine) -> None:
    mapped = engine.execution_options(schema_translate_map={None: "tenant"})
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        Base.metadata.create_all(
            connection.execution_options(schema_translate_map={None: "tenant"})
        )
    migrate.upgrade(engine, schema="tenant")
    deposit(mapped, "a", 7)
    run(mapped, Balances())
    assert committed_balances(mapped) == {"a": 7}
    rebuild(mapped, DoubledBalances(), registry)
    assert committed_balances(mapped) == {"a": 14}
    with Session(mapped) as session:
        (first, _) = projection_versions(session)
        assert first.tables == (("tenant", "balances"), ("tenant", "entries"))
        store = SqlAlchemyEventStore(session, registry)
        with live(Balances(), store) as view:
            assert balances(view) == {"a": 7}
        assert balances(session) == {"a": 14}


class Awaiting(Balances):
    """Beside a method that is called, one that is awaited."""

    @handles(Deposited, replay=False)
    async def _tell(self, event: EventEnvelope[Deposited], session: AsyncSession) -> None:
        await session.merge(Sent(position=event.sequence_number, by=1))


def test_methods_of_either_kind_are_kept_by_tasks(bank: Engine, async_url: URL) -> None:
    async def keep() -> None:
        async with async_engine_of(async_url) as engine:
            subscription = async_subscription_of(Awaiting(), registry)
            runner = AsyncSubscriptionRunner(engine, [subscription], registry=registry)
            await runner.run_until_current()

    deposit(bank, "a", 1)
    asyncio.run(keep())
    last = deposit(bank, "a", 2)
    asyncio.run(keep())
    assert committed_balances(bank) == {"a": 3}
    assert sent(bank) == [last]
