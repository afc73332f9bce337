"""Aggregates: events are applied by their class, when they are recorded and when replayed."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import pytest

from eventstore import Aggregate, AggregateType, InMemoryEventStore, Repository, applies
from tests.fixtures.bank import Account, Deposited, InsufficientFunds, Renamed, Withdrawn, registry


def test_a_command_records_events_that_change_the_state_at_once() -> None:
    account = Account()
    account.deposit(10)
    account.withdraw(4)
    assert account.balance == 6
    assert account.pending_events == (Deposited(10), Withdrawn(4))
    assert account.version == 0


def test_a_refused_command_records_nothing() -> None:
    account = Account()
    with pytest.raises(InsufficientFunds):
        account.withdraw(1)
    assert account.pending_events == ()


def test_an_event_without_a_method_is_refused() -> None:
    class Other:
        pass

    account = Account()
    with pytest.raises(TypeError, match=r"Account has no method for .*@applies\(Other\)"):
        account.record(Other())
    assert account.pending_events == ()


def test_a_subclass_inherits_methods_and_may_replace_them() -> None:
    class Doubling(Account):
        @applies(Deposited)
        def _doubled(self, event: Deposited) -> None:
            self.balance += 2 * event.amount

    account = Doubling()
    account.deposit(5)
    account.rename("ann")
    assert (account.balance, account.name) == (10, "ann")
    plain = Account()
    plain.deposit(5)
    assert plain.balance == 5


def test_methods_of_all_bases_count() -> None:
    class Named:
        name = ""

        @applies(Renamed)
        def _renamed(self, event: Renamed) -> None:
            self.name = event.name

    class Saving(Aggregate):
        saved_up = 0

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.saved_up += event.amount

    class Spending(Aggregate):
        spent = 0

        @applies(Withdrawn, Deposited)
        def _moved(self, event: Withdrawn | Deposited) -> None:
            self.spent += event.amount

    class Wallet(Named, Saving, Spending):
        pass

    wallet = Wallet()
    for event in (Renamed("ann"), Deposited(3), Withdrawn(1)):
        wallet.record(event)
    assert (wallet.name, wallet.saved_up, wallet.spent) == ("ann", 3, 1)


def test_a_method_that_is_replaced_applies_what_it_says_itself() -> None:
    class Plain(Account):
        @applies(Withdrawn)
        def _deposited(self, event: Withdrawn) -> None: ...  # type: ignore[override]

    account = Plain()
    account.record(Withdrawn(1))
    with pytest.raises(TypeError, match="no method for Deposited"):
        account.record(Deposited(1))


def test_one_method_may_apply_several_classes() -> None:
    class Counter(Aggregate):
        count = 0

        @applies(Deposited, Withdrawn)
        def _counted(self, _event: object) -> None:
            self.count += 1

    counter = Counter()
    for event in (Deposited(1), Withdrawn(1)):
        counter.record(event)
    assert counter.count == 2


def test_two_methods_for_one_class_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Twice applies Deposited twice: one\(\) and two\(\)"):

        class Twice(Aggregate):
            @applies(Deposited)
            def one(self, event: Deposited) -> None: ...

            @applies(Deposited)
            def two(self, event: Deposited) -> None: ...


@pytest.mark.parametrize("field", ["version", "record", "_pending", "aggregate_id"])
def test_a_field_that_would_hide_the_base_is_refused(field: str) -> None:
    with pytest.raises(TypeError, match=f"Hiding.{field} would hide Aggregate.{field}"):
        type("Hiding", (Aggregate,), {"__annotations__": {field: int}, field: 0})


@pytest.mark.parametrize("name", ["replay", "version", "begun", "snapshot_taken"])
def test_a_command_that_would_hide_the_base_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"Hiding.{name} would hide Aggregate.{name}; rename it"):
        type("Hiding", (Aggregate,), {name: lambda _: None})


def test_a_dataclass_may_have_slots() -> None:
    @dataclass(slots=True)
    class Slotted(Aggregate):
        balance: int = 0

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.balance += event.amount

    slotted = Slotted()
    slotted.record(Deposited(1))
    assert (slotted.balance, slotted.version) == (1, 0)


@pytest.mark.parametrize("wrong", [(), ("Deposited",), (Deposited(1),)])
def test_applies_takes_classes(wrong: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match=r"applies\(\) takes"):
        applies(*wrong)  # type: ignore[arg-type]


def test_a_copy_has_events_of_its_own() -> None:
    account = Account()
    account.deposit(1)
    copy = deepcopy(account)
    copy.deposit(2)
    assert account.pending_events == (Deposited(1),)
    assert copy.pending_events == (Deposited(1), Deposited(2))


def test_an_aggregate_need_not_be_a_dataclass() -> None:
    class Names(Aggregate):
        def __init__(self) -> None:
            self.names: list[str] = []

        @applies(Renamed)
        def _renamed(self, event: Renamed) -> None:
            self.names.append(event.name)

    names = Repository(InMemoryEventStore(registry), AggregateType("names", Names))
    for name in ("ann", "bob"):
        names.execute("1", lambda it, name=name: it.record(Renamed(name)))  # type: ignore[misc]
    assert names.load("1").names == ["ann", "bob"]
    assert names.load("1").aggregate_id == "1"


def test_fields_compare_and_bookkeeping_does_not() -> None:
    @dataclass
    class Empty(Aggregate):
        pass

    first, second = Empty(), Empty()
    second.replayed_to(7)
    assert first == second
