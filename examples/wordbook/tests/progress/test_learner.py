"""Learners, in values: no store, no database."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import EventEnvelope, InMemoryEventStore, Repository
from eventstore.personal import SubjectForgotten
from eventstore.testing.races import Race, pausing
from eventstore.testing.scenarios import given
from examples.wordbook.progress.events import (
    DayPractised,
    LearnerEnrolled,
    WordReviewed,
    WordTaken,
    registry,
)
from examples.wordbook.progress.learner import (
    LEARNERS,
    Enrol,
    Review,
    TakeWord,
    commuting_with,
    learner,
)
from examples.wordbook.progress.schedule import Card, reviewed
from examples.wordbook.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore import Outcome
    from eventstore.testing.golden import GoldenEvents
    from examples.wordbook.progress.learner import Command, Event

TODAY = date(2025, 4, 1)
TOMORROW = TODAY + timedelta(days=1)

ENROLLED = LearnerEnrolled(learner_id="ann", name="Ann", email="ann@example.org")
RAIN_TAKEN = WordTaken(entry_id="ja-雨", due_on=TODAY)
SEA_TAKEN = WordTaken(entry_id="ja-海", due_on=TODAY)
RAIN_KNOWN = WordReviewed(
    entry_id="ja-雨",
    grade=5,
    reviewed_on=TODAY,
    due_on=TOMORROW,
    interval_days=1,
    ease_percent=260,
)
PRACTISED = DayPractised(day=TODAY, streak_days=1)


def test_whoever_learns_enrols_first_and_once() -> None:
    enrol = Enrol("ann", "Ann", "ann@example.org")
    given(learner).when(enrol, enrol).then(ENROLLED)
    given(learner).when(TakeWord("ja-雨", TODAY)).then_raises(Refusal)


def test_a_word_is_taken_once() -> None:
    take = TakeWord("ja-雨", TODAY)
    given(learner, ENROLLED).when(take, take).then(RAIN_TAKEN)


def test_the_first_review_of_a_day() -> None:
    answered = given(learner, ENROLLED, RAIN_TAKEN).when(Review("ja-雨", 5, TODAY))
    answered.then(RAIN_KNOWN, PRACTISED)


def test_a_second_review_of_the_day_does_not_count_it_again() -> None:
    scenario = given(learner, ENROLLED, RAIN_TAKEN, SEA_TAKEN, RAIN_KNOWN, PRACTISED)
    scenario.when(Review("ja-海", 5, TODAY)).then(
        RAIN_KNOWN.model_copy(update={"entry_id": "ja-海"})
    )


@pytest.mark.parametrize(("days_later", "streak_days"), [(1, 2), (2, 1)])
def test_a_streak(days_later: int, streak_days: int) -> None:
    day = TODAY + timedelta(days=days_later)
    scenario = given(learner, ENROLLED, RAIN_TAKEN, RAIN_KNOWN, PRACTISED)
    scenario.when(Review("ja-雨", 5, day)).then_state(
        lambda it: (it.practised_on, it.streak_days) == (day, streak_days)
    )


def test_only_what_was_taken_and_is_due_is_reviewed() -> None:
    given(learner, ENROLLED).when(Review("ja-雨", 5, TODAY)).then_raises(Refusal, match="taken")
    given(learner, ENROLLED, RAIN_TAKEN, RAIN_KNOWN).when(Review("ja-雨", 5, TODAY)).then_raises(
        Refusal, match="due on 2025-04-02"
    )


def test_intervals_grow_with_right_answers_and_begin_anew_with_a_wrong_one() -> None:
    card, days = Card(due_on=TODAY), []
    for grade in (4, 4, 4, 4, 2, 4):
        card = reviewed(card, grade, on=TODAY)
        days.append((card.due_on - TODAY).days)
    assert days == [1, 6, 15, 38, 1, 1]
    assert card.ease_percent == 250


def test_a_hard_word_is_never_multiplied_by_less_than_its_bound() -> None:
    card = Card(due_on=TODAY)
    for _ in range(10):
        card = reviewed(card, 3, on=TODAY)
    assert card.ease_percent == 130


@pytest.mark.parametrize(
    ("command", "missed", "commutes"),
    [
        (Review("ja-雨", 5, TODAY), SEA_TAKEN, True),
        (Review("ja-海", 5, TODAY), RAIN_KNOWN, True),
        (Review("ja-雨", 5, TODAY), RAIN_KNOWN, False),
        (Review("ja-海", 5, TODAY), PRACTISED, False),
        (Enrol("ann", "Ann", "ann@example.org"), ENROLLED, False),
    ],
)
def test_what_commutes(command: Command, missed: Event, *, commutes: bool) -> None:
    event = EventEnvelope(aggregate_type="learner", event_data=missed)
    assert commuting_with(command)(event) is commutes


@pytest.mark.parametrize("practised_before", [True, False])
def test_two_devices_review_different_words_at_once(*, practised_before: bool) -> None:
    """What the second one has decided stands, unless both have begun the day."""
    store = InMemoryEventStore(registry)
    learners = Repository(store, LEARNERS)
    learners.execute("ann", Enrol("ann", "Ann", "ann@example.org"))
    for entry_id in ("ja-朝", "ja-雨", "ja-海"):
        learners.execute("ann", TakeWord(entry_id, TODAY))
    if practised_before:
        learners.execute("ann", Review("ja-朝", 5, TODAY))

    def device(entry_id: str) -> Callable[[Callable[[str], None]], Outcome[Any]]:
        command = Review(entry_id, 5, TODAY)
        return lambda point: Repository(pausing(store, point), LEARNERS).execute(
            "ann", command, commutes=commuting_with(command)
        )

    with Race() as race:
        first, second = race.enter(device("ja-雨")), race.enter(device("ja-海"))
        first.run_to("append")
        second.run_to("append")
        first.finish()
        outcome = second.finish()

    assert outcome.attempts == 2
    assert outcome.events == (RAIN_KNOWN.model_copy(update={"entry_id": "ja-海"}),)
    events = [event.event_data for event in store.read_stream("learner-ann")]
    assert events.count(PRACTISED) == 1


def test_a_busy_learner_is_loaded_from_a_snapshot() -> None:
    learners = Repository(InMemoryEventStore(registry), LEARNERS)
    learners.execute("ann", Enrol("ann", "Ann", "ann@example.org"))
    for number in range(100):
        learners.execute("ann", TakeWord(f"ja-{number}", TODAY))
    loaded = learners.load("ann")
    assert (loaded.snapshot_version, loaded.version) == (100, 101)
    assert len(loaded.state.cards) == 100


def test_every_event_ever_written_can_be_read(golden_events: GoldenEvents) -> None:
    golden_events.check(
        registry,
        samples=[
            ENROLLED,
            RAIN_TAKEN,
            RAIN_KNOWN,
            PRACTISED,
            SubjectForgotten(subject_id="ann"),
        ],
    )
