"""Repositories on PostgreSQL: round trips, transactions, and commands that meet."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    AggregateType,
    AsyncRepository,
    AsyncSqlAlchemyEventStore,
    ConnectionUnusable,
    EveryEvents,
    Repository,
    Retries,
    Snapshots,
    SqlAlchemyEventStore,
    TransactionConflict,
    async_event_store,
    causation,
    event_store,
)
from eventstore.testing.races import Race, pausing
from eventstore.testing.rollback import rolled_back_async_session, rolled_back_session
from tests.conformance.repository_suite import RepositorySuite, event
from tests.fixtures.bank import (
    DECIDED,
    OBJECTS,
    Account,
    Deposit,
    Deposited,
    InsufficientFunds,
    Rename,
    Renamed,
    State,
    Withdraw,
    account,
    registry,
)
from tests.fixtures.repositories import Bank, async_bank
from tests.fixtures.stores import async_engine_of, in_threads, statements_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sqlalchemy import URL, Engine

    from eventstore import AsyncEventStore, EventStore, Outcome
    from eventstore.snapshots import AnySnapshot

SNAPSHOTTED = AggregateType(
    "account", account, snapshots=Snapshots(EveryEvents(2), state_type=State)
)


class TestOnSqlAlchemy(RepositorySuite):
    @pytest.fixture
    def bank(self, event_store_database: URL) -> Iterator[Bank]:
        engine = create_engine(event_store_database, poolclass=NullPool)
        with rolled_back_session(engine) as session:
            yield Bank(SqlAlchemyEventStore(session, registry))


class TestOnAsyncpg(RepositorySuite):
    @pytest.fixture
    def bank(self, event_store_database: URL) -> Iterator[Bank]:
        url = event_store_database.set(drivername="postgresql+asyncpg")

        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncEventStore]:
            engine = create_async_engine(url, poolclass=NullPool)
            async with rolled_back_async_session(engine) as session:
                yield AsyncSqlAlchemyEventStore(session, registry)

        with async_bank(opening()) as bank:
            yield bank


def own_transactions(sessions: sessionmaker[Session], **options: Any) -> Any:
    return Repository(lambda: event_store(sessions, registry), DECIDED, **options)


@pytest.mark.parametrize("kind", [DECIDED, OBJECTS, SNAPSHOTTED])
def test_loading_takes_one_round_trip_and_executing_two(
    engine: Engine, sessions: sessionmaker[Session], kind: Any
) -> None:
    command: Any = (lambda it: it.deposit(1)) if kind is OBJECTS else Deposit(1)
    own_transactions(sessions).execute("1", Deposit(1))
    with sessions() as session:
        accounts: Any = Repository(SqlAlchemyEventStore(session, registry), kind)
        for _ in range(9):
            accounts.execute("1", command)
        with statements_of(engine) as sent:
            assert accounts.load("1").version == 10
        assert len(sent) == 1
        session.commit()
        with statements_of(engine) as sent:
            accounts.execute("1", command)
            session.commit()
        assert len(sent) == 2


def test_a_conflict_costs_one_round_trip_more_and_another_for_the_new_append(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    own_transactions(sessions).execute("1", Deposit(1))
    with sessions() as session:
        bank = Bank(SqlAlchemyEventStore(session, registry))
        accounts = bank.repository(DECIDED)
        bank.interfere("account-1", event(Deposited(1)))
        with statements_of(engine) as sent:
            assert accounts.execute("1", Deposit(1)).version == 3
        # Load, what somebody else appends, append, what was missed, append.
        assert len(sent) == 5


def test_in_the_callers_transaction_all_is_the_callers(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        session.execute(text("INSERT INTO notes VALUES ('first')"))
        bank = Bank(SqlAlchemyEventStore(session, registry))
        bank.interfere("account-1", event(Deposited(100)))
        accounts = bank.repository(SNAPSHOTTED)
        assert accounts.execute("1", Deposit(1)).attempts == 2
        with pytest.raises(InsufficientFunds):
            accounts.execute("1", Withdraw(1000))
        session.execute(text("INSERT INTO notes VALUES ('second')"))
        session.commit()
    with sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM notes")) == 2
        accounts = Repository(SqlAlchemyEventStore(session, registry), SNAPSHOTTED)
        assert accounts.load("1").state == State(101)
        accounts.execute("2", Deposit(1))
        accounts.execute("2", Deposit(1))
        session.rollback()
        store = SqlAlchemyEventStore(session, registry)
        assert store.get_stream_info("account-2") is None
        assert store.get_snapshot("account-2", "account") is None


def test_an_error_of_the_domain_rolls_its_own_transaction_back(
    sessions: sessionmaker[Session],
) -> None:
    def deposit_then_fail(it: Account) -> None:
        it.deposit(1)
        raise InsufficientFunds

    accounts = Repository(lambda: event_store(sessions, registry), OBJECTS)
    with pytest.raises(InsufficientFunds):
        accounts.execute("1", deposit_then_fail)
    assert accounts.load("1").version == 0


def race_for_a_withdrawal(
    sessions: sessionmaker[Session], command: Any, **options: Any
) -> Callable[[Callable[[str], None]], Outcome[Any]]:
    def job(point: Callable[[str], None]) -> Outcome[Any]:
        with event_store(sessions, registry) as store:
            outcome = Repository(pausing(store, point), DECIDED).execute("1", command, **options)
            point("commit")
            return outcome

    return job


def test_two_withdrawals_cannot_both_have_the_last_money(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    own_transactions(sessions).execute("1", Deposit(100))
    with Race() as race:
        first, second = (
            race.enter(race_for_a_withdrawal(sessions, Withdraw(80))) for _ in range(2)
        )
        first.run_to("append")
        second.run_to("append")
        first.run_to("commit")
        second.run_until_blocked(engine)
        assert first.finish().version == 2
        with pytest.raises(InsufficientFunds):
            second.finish()
    assert own_transactions(sessions).load("1").state == State(20)


def test_a_conflict_is_met_once_in_a_transaction(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    own_transactions(sessions).execute("1", Deposit(100))
    with Race() as race:
        late = race.enter(race_for_a_withdrawal(sessions, Withdraw(1)))
        late.run_to("append")
        for _ in range(3):
            own_transactions(sessions).execute("1", Withdraw(1))
        late.run_to("append")
        # From its first attempt on the stream is locked: nobody comes between any more.
        other = race.enter(race_for_a_withdrawal(sessions, Withdraw(1)))
        other.run_to("append")
        other.run_until_blocked(engine)
        outcome = late.finish()
        assert (outcome.version, outcome.attempts) == (5, 2)
        assert (other.finish().version, other.finish().attempts) == (6, 2)


def test_each_runner_is_awaited_at_the_lock(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    arrived: list[str] = []

    def append(name: str) -> Callable[[Callable[[str], None]], int]:
        def job(point: Callable[[str], None]) -> int:
            with event_store(sessions, registry) as store:
                for _ in range(50):
                    store.get_stream_info("account-1")
                arrived.append(name)
                outcome = Repository(store, DECIDED).execute("1", Deposit(1))
                if name == "a":
                    point("commit")
                return outcome.version

        return job

    with Race() as race:
        first, second, third = (race.enter(append(name)) for name in "abc")
        first.run_to("commit")
        second.run_until_blocked(engine)
        third.run_until_blocked(engine)
        assert arrived == ["a", "b", "c"]
        assert first.finish() == 1
        assert {second.finish(), third.finish()} == {2, 3}
        refused = race.enter(race_for_a_withdrawal(sessions, Withdraw(80)))
        refused.run_to("load_stream")
        with pytest.raises(InsufficientFunds):
            refused.run_until_blocked(engine)


def test_two_executions_under_one_key_are_one(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    own_transactions(sessions).execute("1", Deposit(100))
    with Race() as race:
        first, second = (
            race.enter(race_for_a_withdrawal(sessions, Withdraw(80), idempotency_key="k"))
            for _ in range(2)
        )
        first.run_to("append")
        second.run_to("append")
        first.run_to("commit")
        second.run_until_blocked(engine)
        outcomes = first.finish(), second.finish()
    assert [outcome.already_appended for outcome in outcomes] == [False, True]
    assert {(outcome.version, outcome.positions) for outcome in outcomes} == {
        (2, outcomes[0].positions)
    }
    assert own_transactions(sessions).load("1").state == State(20)


@pytest.mark.parametrize("commutes", [(), (Deposited, Renamed)])
def test_sixteen_writers_at_one_stream(sessions: sessionmaker[Session], commutes: Any) -> None:
    accounts = own_transactions(sessions)

    def job(number: int) -> Callable[[], list[int]]:
        command = Rename(str(number)) if number % 4 == 0 else Deposit(number)
        return lambda: [
            accounts.execute("1", command, commutes=commutes).attempts for _ in range(3)
        ]

    attempts: list[Any] = in_threads(*(job(number) for number in range(16)))
    assert all(isinstance(each, list) and max(each) <= 2 for each in attempts), attempts
    loaded = accounts.load("1")
    assert loaded.state.balance == 3 * sum(n for n in range(16) if n % 4)


def test_a_serialization_failure_at_the_commit_is_run_again(store_database: URL) -> None:
    """Each transaction reads what the other one writes: only one of two such can be committed."""
    engine = create_engine(store_database, isolation_level="SERIALIZABLE")
    sessions = sessionmaker(engine)
    for account_id in ("1", "2"):
        own_transactions(sessions).execute(account_id, Deposit(100))

    def withdrawing_from(account_id: str) -> Callable[[Callable[[str], None]], Outcome[Any]]:
        def job(point: Callable[[str], None]) -> Outcome[Any]:
            @contextmanager
            def reading_both() -> Iterator[EventStore]:
                with event_store(sessions, registry) as store:
                    for each in ("1", "2"):
                        store.load_stream(f"account-{each}")
                    yield store
                    point("commit")

            accounts = Repository(reading_both, DECIDED, sleep=lambda _: None)
            return accounts.execute(account_id, Withdraw(1))

        return job

    with Race() as race:
        first, second = race.enter(withdrawing_from("1")), race.enter(withdrawing_from("2"))
        first.run_to("commit")
        second.run_to("commit")
        assert first.finish().version == 2
        second.run_to("commit")
        assert second.finish().version == 2
    assert own_transactions(sessions).load("2").state == State(99)
    engine.dispose()


def test_a_commit_that_fails_is_told_by_type(store_database: URL) -> None:
    engine = create_engine(store_database, isolation_level="SERIALIZABLE")
    sessions = sessionmaker(engine)

    def reading_and_writing(this: str, other: str) -> Callable[[Callable[[str], None]], None]:
        def job(point: Callable[[str], None]) -> None:
            with event_store(sessions, registry) as store:
                store.load_stream(other)
                store.append_to_stream(this, 0, [event(Deposited(1))])
                point("commit")

        return job

    with Race() as race:
        first = race.enter(reading_and_writing("a", "b"))
        second = race.enter(reading_and_writing("b", "a"))
        first.run_to("commit")
        second.run_to("commit")
        first.finish()
        with pytest.raises(TransactionConflict) as caught:
            second.finish()
    assert caught.value.sqlstate == "40001"
    engine.dispose()


def test_a_connection_lost_at_the_commit(engine: Engine, sessions: sessionmaker[Session]) -> None:
    kill = text("SELECT pg_terminate_backend(:pid)")
    with pytest.raises(ConnectionUnusable), event_store(sessions, registry) as store:
        store.append_to_stream("s", 0, [event(Deposited(1))])
        pid = store.session.scalar(text("SELECT pg_backend_pid()"))
        with engine.connect() as connection:
            connection.execute(kill, {"pid": pid})


def test_snapshots_are_written_by_another_session_after_the_commit(
    sessions: sessionmaker[Session],
) -> None:
    def write(snapshot: AnySnapshot) -> None:
        with event_store(sessions) as store:
            assert store.get_stream_info(snapshot.aggregate_id) is not None
            store.save_snapshot(snapshot)

    accounts = Repository(
        lambda: event_store(sessions, registry), SNAPSHOTTED, write_snapshot=write
    )
    for _ in range(3):
        accounts.execute("1", Deposit(1))
    assert accounts.load("1").snapshot_version == 2


@pytest.mark.asyncio
async def test_tasks_with_transactions_of_their_own(async_url: URL) -> None:
    async with async_engine_of(async_url, pool_size=16) as engine:
        sessions = async_sessionmaker(engine)
        accounts = AsyncRepository(
            lambda: async_event_store(sessions, registry), DECIDED, retries=Retries(attempts=3)
        )

        async def deposit(number: int) -> int:
            with causation(correlation_id=str(number)):
                outcome = await accounts.execute("1", Deposit(1))
            return outcome.version

        versions = await asyncio.gather(*(deposit(number) for number in range(16)))
        assert sorted(versions) == list(range(1, 17))
        async with AsyncSession(engine) as session:
            store = AsyncSqlAlchemyEventStore(session, registry)
            recorded = [event async for event in store.read_stream("account-1")]
        # The context is that of the task, across SQLAlchemy's greenlets.
        assert [each.metadata.correlation_id for each in recorded] == [
            str(versions.index(version)) for version in range(1, 17)
        ]


@pytest.mark.asyncio
async def test_a_failed_commit_is_run_again_with_asyncio(async_url: URL) -> None:
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    async with async_engine_of(async_url, isolation_level="SERIALIZABLE") as engine:
        sessions = async_sessionmaker(engine)
        met = asyncio.Barrier(2)

        def withdrawing_from(account_id: str) -> AsyncRepository[Any, Any]:
            meets = iter([True])

            @asynccontextmanager
            async def reading_both() -> AsyncIterator[AsyncEventStore]:
                async with async_event_store(sessions, registry) as store:
                    for each in ("1", "2"):
                        await store.load_stream(f"account-{each}")
                    yield store
                    if next(meets, False):
                        await met.wait()

            return AsyncRepository(reading_both, DECIDED, sleep=sleep)

        outcomes = await asyncio.gather(
            *(withdrawing_from(each).execute(each, Deposit(1)) for each in ("1", "2"))
        )
    assert [outcome.version for outcome in outcomes] == [1, 1]
    # One of the two at least; PostgreSQL may give up more than it would have to.
    assert delays
