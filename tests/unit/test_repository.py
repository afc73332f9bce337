"""Repositories over stores in memory, and what needs no store at all."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import (
    AggregateType,
    AsyncInMemoryEventStore,
    AsyncRepository,
    ConnectionUnusable,
    Decider,
    EveryEvents,
    InMemoryEventStore,
    Repository,
    Retries,
    Snapshots,
    TransactionConflict,
    applies,
)
from tests.conformance.repository_suite import RepositorySuite
from tests.fixtures.bank import DECIDED, Account, Deposit, Deposited, account, registry
from tests.fixtures.repositories import Bank, async_bank

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from eventstore import AsyncEventStore, EventStore


class TestInMemory(RepositorySuite):
    @pytest.fixture
    def bank(self) -> Bank:
        return Bank(InMemoryEventStore(registry))


class TestAsyncInMemory(RepositorySuite):
    @pytest.fixture
    def bank(self) -> Iterator[Bank]:
        @asynccontextmanager
        async def opening() -> AsyncIterator[AsyncEventStore]:
            yield AsyncInMemoryEventStore(registry)

        with async_bank(opening()) as bank:
            yield bank


class Failing:
    """Opens stores whose first transactions fail at their commit."""

    def __init__(self, *errors: Exception) -> None:
        self.store = InMemoryEventStore(registry)
        self.errors = list(errors)

    @contextmanager
    def __call__(self) -> Iterator[EventStore]:
        committed = InMemoryEventStore.__new__(InMemoryEventStore)
        committed.__dict__.update(self.store.__dict__)
        yield self.store
        if self.errors:
            # What was appended is taken back.
            self.store = InMemoryEventStore(registry)
            raise self.errors.pop(0)


ACCOUNTS = AggregateType("account", Account)


def test_an_aggregate_that_nobody_has_named_is_not_saved() -> None:
    store = InMemoryEventStore(registry)
    new = Account()
    new.deposit(1)
    for save in (Repository(store, ACCOUNTS).save, Repository(store, ACCOUNTS).changes):
        with pytest.raises(ValueError, match=r"no id; get it from begin\("):
            save(new)
    assert list(store.read_all_forward()) == []


@pytest.mark.parametrize("wrong", [None, 7, b"7", ""])
def test_what_can_be_no_id(wrong: Any) -> None:
    accounts = Repository(InMemoryEventStore(registry), ACCOUNTS)
    for call in (accounts.load, accounts.begin, lambda it: accounts.execute(it, len)):  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match="aggregate_id must"):
            call(wrong)


def test_an_aggregate_is_saved_by_a_repository_of_its_type() -> None:
    store = InMemoryEventStore(registry)
    accounts, decided = Repository(store, ACCOUNTS), Repository(store, DECIDED)
    another = Decider(initial=account.initial, decide=account.decide, evolve=account.evolve)
    strangers: list[Any] = [
        decided.begin("1"),
        AggregateType("account", another).begin("1"),
        accounts.begin("1"),
        "account",
    ]
    for repository, others in ((accounts, strangers[:2]), (decided, strangers[1:])):
        for stranger in others:
            with pytest.raises(TypeError, match=r"for 'account', not for .*changes\(\)"):
                repository.save(stranger)


def test_a_command_is_not_awaited() -> None:
    async def deposit(it: Account) -> None:
        it.deposit(1)

    store = InMemoryEventStore(registry)
    with pytest.raises(TypeError, match="can't be awaited"):
        Repository(store, ACCOUNTS).execute("1", deposit)
    with pytest.raises(TypeError, match="evolve must be a function"):
        Decider(initial=None, decide=lambda *_: [], evolve=deposit)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"deposit\(\) must not be async"):
        applies(Deposited)(deposit)  # type: ignore[arg-type]


def test_a_transaction_that_was_given_up_is_run_again() -> None:
    opening = Failing(TransactionConflict("40001"), TransactionConflict("40P01"))
    delays: list[float] = []
    retries = Retries(first_delay_seconds=1.0, max_delay_seconds=10.0, jitter=lambda: 0.5)
    accounts = Repository(opening, DECIDED, retries=retries, sleep=delays.append)
    assert accounts.execute("1", Deposit(1)).version == 1
    assert delays == [0.5, 1.0]
    assert accounts.load("1").state.balance == 1


def test_it_is_run_again_a_bounded_number_of_times() -> None:
    opening = Failing(*(TransactionConflict("40001") for _ in range(5)))
    delays: list[float] = []
    retries = Retries(attempts=5, first_delay_seconds=1, max_delay_seconds=3, jitter=lambda: 1)
    with pytest.raises(TransactionConflict):
        Repository(opening, DECIDED, retries=retries, sleep=delays.append).load("1")
    assert delays == [1, 2, 3, 3]


def test_a_lost_connection_leaves_it_open_whether_it_was_committed() -> None:
    sleep: Any = lambda _: None  # noqa: E731
    accounts = Repository(Failing(ConnectionUnusable("08006")), DECIDED, sleep=sleep)
    with pytest.raises(ConnectionUnusable):
        accounts.execute("1", Deposit(1))
    accounts = Repository(Failing(ConnectionUnusable("08006")), DECIDED, sleep=sleep)
    assert accounts.execute("1", Deposit(1), idempotency_key="k").version == 1
    accounts = Repository(Failing(ConnectionUnusable("08006")), DECIDED, sleep=sleep)
    new = accounts.begin("1")
    new.handle(Deposit(1))
    assert accounts.save(new).streams[0].version == 1
    assert new.version == 1


def test_in_the_callers_transaction_it_is_the_caller_who_runs_it_again() -> None:
    class GivenUp(InMemoryEventStore):
        def load_stream(self, *_args: Any, **_kwargs: Any) -> Any:
            raise TransactionConflict("40001")

    with pytest.raises(TransactionConflict):
        Repository(GivenUp(registry), DECIDED, sleep=pytest.fail).load("1")


SNAPSHOTTED = AggregateType("account", Account, snapshots=Snapshots(EveryEvents(1)))


def test_a_snapshot_may_be_written_after_the_commit() -> None:
    opening = Failing(TransactionConflict("40001"))
    written: list[Any] = []
    accounts = Repository(opening, SNAPSHOTTED, write_snapshot=written.append, sleep=lambda _: None)
    accounts.execute("1", lambda it: it.deposit(1))
    (snapshot,) = written
    assert (snapshot.aggregate_id, snapshot.version) == ("account-1", 1)
    assert opening.store.get_snapshot("account-1", "account") is None


def test_a_writer_of_snapshots_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def write(_snapshot: Any) -> None:
        raise OSError

    opening = Failing()
    accounts = Repository(opening, SNAPSHOTTED, write_snapshot=write)
    assert accounts.execute("1", lambda it: it.deposit(1)).version == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert accounts.load("1") == Account(1)


def test_a_snapshot_must_not_outlive_a_rolled_back_transaction() -> None:
    with pytest.raises(ValueError, match="write_snapshot needs a function that opens stores"):
        Repository(InMemoryEventStore(registry), SNAPSHOTTED, write_snapshot=print)


def test_wrong_arguments() -> None:
    store: Any = InMemoryEventStore(registry)
    async_store: Any = AsyncInMemoryEventStore(registry)
    with pytest.raises(TypeError, match="there is AsyncRepository"):
        Repository(async_store, DECIDED)
    with pytest.raises(TypeError, match="there is Repository"):
        AsyncRepository(store, DECIDED)
    session: Any = object()
    with pytest.raises(TypeError, match="EventStore or a function"):
        Repository(session, DECIDED)
    model: Any = Account
    with pytest.raises(TypeError, match="must be an AggregateType"):
        Repository(store, model)
    for wrong in (object, Account(), "account"):
        with pytest.raises(TypeError, match="subclass of Aggregate or a Decider"):
            AggregateType("account", wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="state_type"):
        AggregateType("account", account, snapshots=Snapshots(EveryEvents(1)))
    for count in (0, -1, True, "1"):
        with pytest.raises((TypeError, ValueError), match="count"):
            EveryEvents(count)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attempts"):
        Retries(attempts=0)


def test_the_twins_are_alike() -> None:
    for name in ("load", "save", "execute"):
        method, twin = getattr(Repository, name), getattr(AsyncRepository, name)
        assert inspect.signature(method).parameters == inspect.signature(twin).parameters
        assert inspect.getdoc(method) == inspect.getdoc(twin)
        assert inspect.iscoroutinefunction(twin)
    parameters = [inspect.signature(twin).parameters for twin in (Repository, AsyncRepository)]
    assert parameters[0].keys() == parameters[1].keys()
