"""Deciders: pure functions, and the thing that a repository loads for one."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from eventstore import Decider
from tests.fixtures.bank import (
    Deposit,
    Deposited,
    InsufficientFunds,
    Rename,
    Renamed,
    State,
    Withdraw,
    account,
)


class Happened(BaseModel):
    what: str


def test_folding() -> None:
    assert account.fold([Deposited(3), Renamed("ann")]) == State(3, "ann")
    assert account.fold([]) == State()


def test_decide_may_return_any_iterable_of_events() -> None:
    for decide in (lambda c, _: [c], lambda c, _: (c,), lambda c, _: iter([c])):
        assert Decider[int, int, int](initial=0, decide=decide, evolve=max).events_of(7, 0) == (7,)


@pytest.mark.parametrize("wrong", [Happened(what="it"), None, {"a": 1}, "event", 7])
def test_decide_must_not_return_one_event(wrong: Any) -> None:
    decider: Decider[Any, Any, Any] = Decider(
        initial=None, decide=lambda *_: wrong, evolve=lambda *_: None
    )
    with pytest.raises(TypeError, match="iterable of events, not"):
        decider.events_of(None, None)


def test_decisions_wait_to_be_saved_and_are_in_the_state() -> None:
    decided = account.begin()
    decided.handle(Deposit(10))
    decided.handle(Withdraw(4))
    assert decided.state == State(6)
    assert len(decided.pending_events) == 2
    with pytest.raises(InsufficientFunds):
        decided.handle(Withdraw(7))
    assert len(decided.pending_events) == 2


def test_the_state_is_folded_once() -> None:
    calls: list[Any] = []

    def evolve(state: int, event: int) -> int:
        calls.append(event)
        return state + event

    decided = Decider[int, int, int](initial=0, decide=lambda c, _: [c], evolve=evolve).begin()
    decided.handle(1)
    assert (decided.state, decided.state) == (1, 1)
    decided.handle(2)
    assert decided.state == 3
    assert calls == [1, 2]


def test_aggregates_do_not_share_a_state_that_is_changed_in_place() -> None:
    def evolve(state: list[int], event: int) -> list[int]:
        state.append(event)
        return state

    decider = Decider[int, list[int], int](initial=[], decide=lambda c, _: [c], evolve=evolve)
    first, second = decider.begin(), decider.begin()
    first.handle(1)
    assert first.state == [1]
    assert second.state == []
    assert decider.initial == []


def test_what_is_decided_can_be_taken_back_until_it_is_looked_at() -> None:
    decided = account.begin()
    decided.handle(Rename("ann"))
    assert decided.can_replay
    decided.forget_pending()
    assert decided.state == State()
    decided.handle(Rename("bob"))
    assert decided.state == State(name="bob")
    assert not decided.can_replay
