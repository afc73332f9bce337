"""Each rule of the loop, without a clock, a thread or a database."""

from __future__ import annotations

import random
from typing import Any

import pytest

from eventstore.subscriptions import PARK, SKIP, STOP, OnFailure, RetryPolicy
from eventstore.subscriptions.catch_up import (
    SAVE_AFTER_SECONDS,
    Acquire,
    Acquired,
    AheadOfHead,
    Await,
    CatchUp,
    Deliver,
    Delivered,
    Failed,
    GiveUp,
    Halt,
    Interrupted,
    LeaseLost,
    Pause,
    Refused,
    Release,
    Report,
    Reported,
    Stale,
    Started,
    StopRequested,
    Woken,
)

BATCH = Deliver(10, marked=False)
SINGLE = Deliver(1, marked=True)
NO_JITTER = 1.0


def machine(on_failure: OnFailure = PARK, jitter: float = NO_JITTER, **retry: Any) -> CatchUp:
    return CatchUp(
        batch_size=10,
        retry=RetryPolicy(**({"max_attempts": 3, "first_seconds": 1, "max_seconds": 3} | retry)),
        on_failure=on_failure,
        acquire_seconds=7,
        jitter=lambda: jitter,
    )


def owner(**options: Any) -> CatchUp:
    made = machine(**options)
    made.decide(Started())
    assert made.decide(Acquired(interrupted=False)) == BATCH
    return made


def test_it_takes_the_lease_first_and_tries_again_while_it_is_refused() -> None:
    loop = machine()
    assert loop.decide(Started()) == Acquire()
    assert loop.decide(Refused()) == Pause(7)
    assert loop.decide(Woken()) == Acquire()
    assert loop.decide(Acquired(interrupted=False)) == BATCH


def test_it_delivers_until_it_has_caught_up_and_then_waits() -> None:
    loop = owner()
    assert loop.decide(Delivered(10, caught_up=False)) == BATCH
    assert loop.decide(Delivered(3, caught_up=True)) == Await()
    assert loop.decide(Woken()) == BATCH
    assert loop.decide(Delivered(0, caught_up=True)) == Await()


def test_a_failed_batch_is_delivered_one_by_one_at_once() -> None:
    loop = owner()
    assert loop.decide(Failed(attempts=0)) == SINGLE
    for _ in range(9):
        assert loop.decide(Delivered(1, caught_up=False)) == SINGLE
    assert loop.decide(Delivered(1, caught_up=False)) == BATCH


def test_single_events_end_when_there_are_no_more() -> None:
    loop = owner()
    loop.decide(Failed(attempts=0))
    assert loop.decide(Delivered(1, caught_up=True)) == Await()
    assert loop.decide(Woken()) == BATCH


def test_an_owner_that_died_makes_the_next_one_careful() -> None:
    loop = machine()
    loop.decide(Started())
    assert loop.decide(Acquired(interrupted=True)) == SINGLE


def test_waits_grow_up_to_the_longest() -> None:
    loop = owner(max_attempts=99)
    loop.decide(Failed(attempts=0))
    waits = []
    for attempts in range(1, 5):
        waits.append(loop.decide(Failed(attempts)))
        assert loop.decide(Woken()) == SINGLE
    assert waits == [Pause(1), Pause(2), Pause(3), Pause(3)]


def test_jitter_leaves_out_up_to_half() -> None:
    loop = owner(jitter=0.0)
    loop.decide(Failed(attempts=0))
    assert loop.decide(Failed(attempts=1)) == Pause(0.5)


@pytest.mark.parametrize(
    ("policy", "command"), [(PARK, GiveUp(PARK)), (SKIP, GiveUp(SKIP)), (STOP, Halt())]
)
@pytest.mark.parametrize("attempts", [3, 4])
def test_the_policy_follows_the_last_attempt(
    policy: OnFailure, command: Any, attempts: int
) -> None:
    loop = owner(on_failure=policy)
    loop.decide(Failed(attempts=0))
    assert loop.decide(Failed(attempts)) == command


def test_after_a_parked_event_the_rest_of_the_batch_stays_single() -> None:
    loop = owner()
    loop.decide(Failed(attempts=0))
    loop.decide(Failed(attempts=3))
    assert loop.decide(Delivered(1, caught_up=False)) == SINGLE


def test_what_is_no_events_fault_is_tried_for_ever() -> None:
    loop = owner()
    waits, after = [], []
    for _ in range(100):
        command = loop.decide(Interrupted())
        assert isinstance(command, Pause)
        waits.append(command.seconds)
        after.append(loop.decide(Woken()))
    # What interrupts every batch may be in one event: then the others flow.
    assert after == [BATCH, BATCH] + 98 * [Report()]
    assert loop.decide(Reported()) == SINGLE
    assert waits[:3] == [0.05, 0.1, 0.2]
    assert max(waits) == 5.0
    loop.decide(Delivered(0, caught_up=True))
    assert loop.decide(Interrupted()) == Pause(0.05)


def test_giving_up_is_tried_again_and_not_the_event() -> None:
    loop = owner()
    loop.decide(Failed(attempts=0))
    assert loop.decide(Failed(attempts=3)) == GiveUp(PARK)
    for _ in range(2):
        assert isinstance(loop.decide(Interrupted()), Pause)
        assert loop.decide(Woken()) == GiveUp(PARK)
    for _ in range(2):
        assert isinstance(loop.decide(Interrupted()), Pause)
        assert loop.decide(Woken()) == Report()
        assert loop.decide(Reported()) == GiveUp(PARK)
    assert loop.decide(Delivered(1, caught_up=False)) == SINGLE
    loop.decide(Interrupted())
    assert loop.decide(Woken()) == SINGLE


def test_so_is_the_note_of_a_stop() -> None:
    loop = owner(on_failure=STOP)
    loop.decide(Failed(attempts=0))
    assert loop.decide(Failed(attempts=3)) == Halt()
    loop.decide(Interrupted())
    assert loop.decide(Woken()) == Halt()


@pytest.mark.parametrize("happening", [LeaseLost(), Stale()])
def test_what_was_to_be_given_up_is_forgotten_if_somebody_else_may_have_done_it(
    happening: Any,
) -> None:
    loop = owner()
    loop.decide(Failed(attempts=0))
    loop.decide(Failed(attempts=3))
    loop.decide(happening)
    assert not isinstance(loop.decide(Woken()), GiveUp)


def test_a_store_that_was_restored_to_an_earlier_time_halts_it() -> None:
    assert owner().decide(AheadOfHead()) == Halt()
    loop = machine()
    loop.decide(Started())
    assert loop.decide(AheadOfHead()) == Halt()


def test_what_was_scanned_in_vain_is_saved_after_a_while() -> None:
    loop = owner()
    assert loop.decide(Delivered(0, caught_up=True, unsaved=True)) == Await(SAVE_AFTER_SECONDS)
    assert loop.decide(Woken()) == BATCH


def test_an_interruption_before_the_lease_leads_back_to_it() -> None:
    loop = machine()
    loop.decide(Started())
    loop.decide(Interrupted())
    assert loop.decide(Woken()) == Acquire()


def test_an_interruption_forgets_no_caution() -> None:
    loop = owner()
    loop.decide(Failed(attempts=0))
    loop.decide(Interrupted())
    assert loop.decide(Woken()) == SINGLE


def test_a_lost_lease_is_asked_for_again_and_nothing_is_delivered_before() -> None:
    loop = owner()
    assert loop.decide(LeaseLost()) == Pause(7)
    assert loop.decide(Woken()) == Acquire()


def test_a_batch_that_went_stale_is_read_again() -> None:
    assert owner().decide(Stale()) == BATCH


@pytest.mark.parametrize("before", [Started(), Refused(), Woken(), Interrupted(), LeaseLost()])
def test_it_ends_from_anywhere(before: Any) -> None:
    loop = machine()
    loop.decide(before)
    assert loop.decide(StopRequested()) == Release()


def test_every_answer_to_every_command_leads_on() -> None:
    """No order of happenings confuses it, and only an owner ever delivers or gives up."""
    answers: dict[type, list[Any]] = {
        Acquire: [
            AheadOfHead(),
            Acquired(interrupted=False),
            Acquired(interrupted=True),
            Refused(),
            Interrupted(),
        ],
        Deliver: [
            Delivered(1, caught_up=False),
            Delivered(0, caught_up=True),
            Delivered(0, caught_up=True, unsaved=True),
            AheadOfHead(),
            Failed(0),
            Failed(2),
            Failed(3),
            Stale(),
            LeaseLost(),
            Interrupted(),
        ],
        GiveUp: [Delivered(1, caught_up=False), LeaseLost(), Stale(), Interrupted()],
        Report: [Reported(), LeaseLost(), Interrupted()],
        Halt: [StopRequested(), Interrupted()],
        Await: [Woken(), LeaseLost()],
        Pause: [Woken(), LeaseLost()],
    }
    seed = random.randrange(2**32)
    chooser = random.Random(seed)
    for _ in range(500):
        loop = machine(chooser.choice([PARK, SKIP, STOP]))
        command: Any = loop.decide(Started())
        owns = False
        for _ in range(40):
            if isinstance(command, Release):
                break
            assert owns or not isinstance(command, Deliver | GiveUp | Report | Await), (
                f"seed {seed}"
            )
            answer = chooser.choice(answers[type(command)])
            owns = isinstance(answer, Acquired) or (owns and not isinstance(answer, LeaseLost))
            command = loop.decide(answer)


@pytest.mark.parametrize("attempts", [1, 64, 10**6])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_no_wait_is_longer_than_the_longest(attempts: int, chance: float) -> None:
    policy = RetryPolicy(first_seconds=0.1, max_seconds=30)
    assert 0 < policy.wait_seconds(attempts, chance) <= 30
