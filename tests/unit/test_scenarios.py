"""The kit for domain tests passes what is right, and fails what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from eventstore import Decider
from eventstore.testing.fakes import FakeClock, SequentialIds
from eventstore.testing.scenarios import given
from tests.fixtures.bank import (
    Account,
    Deposit,
    Deposited,
    InsufficientFunds,
    Rename,
    Renamed,
    State,
    Withdraw,
    Withdrawn,
    account,
)


def test_a_decider() -> None:
    given(account, Deposited(10)).when(Withdraw(4)).then(Withdrawn(4)).then_state(State(6))
    given(account).when(Withdraw(4)).then_raises(InsufficientFunds)
    given(account, Renamed("ann")).when(Rename("ann")).then_nothing()
    given(account, Deposited(1), Renamed("ann")).then_state(State(1, "ann"))


def test_an_aggregate() -> None:
    given(Account, Deposited(10)).when(lambda it: it.withdraw(4)).then(Withdrawn(4)).then_state(
        lambda it: it.balance == 6
    )
    given(Account).when(lambda it: it.withdraw(4)).then_raises(InsufficientFunds)
    given(Account, Deposited(1)).then_state(Account(1))


def test_commands_one_after_the_other() -> None:
    scenario = given(account).when(Deposit(2), Withdraw(1)).when(Withdraw(1))
    scenario.then(Deposited(2), Withdrawn(1), Withdrawn(1)).then_state(State())
    given(account).when(Deposit(1), Withdraw(1), Withdraw(1)).then_raises(InsufficientFunds)


def test_a_scenario_goes_on() -> None:
    scenario = given(account).when(Deposit(2)).then(Deposited(2)).when(Withdraw(1))
    scenario.then(Withdrawn(1)).then(Withdrawn(1)).then_state(State(1))
    scenario.when(Withdraw(2)).then_raises(InsufficientFunds)
    scenario.then_nothing().then_state(State(1))


def test_the_last_command_alone_may_be_refused() -> None:
    with pytest.raises(InsufficientFunds):
        given(account).when(Withdraw(1), Deposit(1)).then_raises(InsufficientFunds)
    with pytest.raises(ValueError, match="when"):
        given(account, Deposited(1)).then_raises(InsufficientFunds)


def test_scenarios_share_no_state() -> None:
    def evolve(state: list[int], event: int) -> list[int]:
        state.append(event)  # not as pure as it should be
        return state

    sums = Decider[int, list[int], int](
        initial=[], decide=lambda command, _: [command], evolve=evolve
    )
    for _ in range(2):
        given(sums, 1).when(2).then(2).then_state([1, 2])
        assert sums.fold([1]) == [1]


def test_a_projection() -> None:
    class Total:
        def __init__(self) -> None:
            self.state = 0

        def apply(self, event: Any) -> None:
            self.state += event.amount

        def handle(self, command: Any) -> tuple[Any, ...]:
            raise NotImplementedError

    given(Total(), Deposited(1), Deposited(2)).then_state(3)
    with pytest.raises(AssertionError):
        given(Total(), Deposited(1)).then_state(2)


@pytest.mark.parametrize("subject", [account, Account])
def test_what_is_wrong_fails(subject: Any) -> None:
    command: Any = Withdraw(4) if subject is account else lambda it: it.withdraw(4)
    scenario = given(subject, Deposited(10)).when(command)
    for wrong in ([], [Withdrawn(5)], [Withdrawn(4), Withdrawn(4)], [Deposited(4)]):
        with pytest.raises(AssertionError):
            scenario.then(*wrong)
    with pytest.raises(AssertionError):
        scenario.then_nothing()
    with pytest.raises(AssertionError):
        scenario.then_state(lambda _: False)
    with pytest.raises(AssertionError):
        scenario.then_state(State(5))
    with pytest.raises(pytest.fail.Exception):
        given(subject, Deposited(10)).when(command).then_raises(InsufficientFunds)


def test_a_command_is_not_awaited() -> None:
    async def deposit(it: Account) -> None:
        it.deposit(1)

    with pytest.raises(TypeError, match="can't be awaited"):
        given(Account).when(deposit).then_nothing()


def test_an_error_of_the_domain_is_not_hidden() -> None:
    with pytest.raises(InsufficientFunds):
        given(account).when(Withdraw(4)).then_nothing()
    with pytest.raises(InsufficientFunds):
        given(account).when(Withdraw(4)).then_state(State())


def test_an_error_says_what_was_refused() -> None:
    def refuse(_: Account) -> None:
        raise InsufficientFunds("4 of 0")

    error = given(Account).when(refuse).then_raises(InsufficientFunds, match="4 of")
    assert str(error) == "4 of 0"
    with pytest.raises(AssertionError):
        given(Account).when(refuse).then_raises(InsufficientFunds, match="5 of")


@pytest.mark.parametrize("wrong", [None, State(), int, "account"])
def test_what_is_no_subject(wrong: Any) -> None:
    with pytest.raises(TypeError, match="given"):
        given(wrong)


def test_time_passes_when_it_is_told_to() -> None:
    clock = FakeClock(datetime(2024, 2, 28, tzinfo=UTC))
    assert clock() == clock() == datetime(2024, 2, 28, tzinfo=UTC)
    clock.advance(days=1, seconds=30)
    assert clock() == datetime(2024, 2, 29, 0, 0, 30, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        FakeClock(datetime(2024, 2, 28))  # noqa: DTZ001


def test_ids_count() -> None:
    ids = SequentialIds()
    assert [ids(), ids()] == [UUID(int=1), UUID(int=2)]
