"""A learner as a decider: what commands lead to, and what events make of the state."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, TypeAlias

from eventstore import AggregateType, Decider, EveryEvents, Snapshots
from eventstore.personal import Personal, personal
from examples.wordbook.progress.events import (
    DayPractised,
    LearnerEnrolled,
    WordReviewed,
    WordTaken,
)
from examples.wordbook.progress.schedule import Card, reviewed
from examples.wordbook.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventstore import EventEnvelope


@dataclass(frozen=True)
class Enrol:
    """Begin to learn."""

    learner_id: str
    name: str
    email: str


@dataclass(frozen=True)
class TakeWord:
    """Learn a word from this day on."""

    entry_id: str
    on: date  #: the learner's own day, which begins at their midnight


@dataclass(frozen=True)
class Review:
    """Answer for a word."""

    entry_id: str
    grade: int
    on: date


Command: TypeAlias = Enrol | TakeWord | Review
Event: TypeAlias = LearnerEnrolled | WordTaken | WordReviewed | DayPractised


@dataclass(frozen=True)
class Learner:
    """What decisions need to know of a learner."""

    learner_id: str = ""  #: empty before the enrolment
    name: Annotated[Personal[str], personal(subject="learner_id")] = field(default="", repr=False)
    cards: dict[str, Card] = field(default_factory=dict)  #: by entry
    practised_on: date | None = None  #: the last day
    streak_days: int = 0  #: so many days in a row, up to that one


def decide(command: Command, learner: Learner) -> Iterator[Event]:
    """Say what follows from the command."""
    match command:
        case Enrol(learner_id, name, email):
            if not learner.learner_id:
                yield LearnerEnrolled(learner_id=learner_id, name=name, email=email)
        case _ if not learner.learner_id:
            raise Refusal("whoever learns enrols first")
        case TakeWord(entry_id, on):
            if entry_id not in learner.cards:
                yield WordTaken(entry_id=entry_id, due_on=on)
        case Review(entry_id, grade, on):
            yield _review(learner, entry_id, grade, on)
            if learner.practised_on is None or learner.practised_on < on:
                yield _practise(learner, on)


def _review(learner: Learner, entry_id: str, grade: int, on: date) -> WordReviewed:
    card = learner.cards.get(entry_id)
    if card is None:
        raise Refusal("a word is taken before it is reviewed")
    if on < card.due_on:
        raise Refusal(f"the word is due on {card.due_on}")
    after = reviewed(card, grade, on)
    return WordReviewed(
        entry_id=entry_id,
        grade=grade,
        reviewed_on=on,
        due_on=after.due_on,
        interval_days=after.interval_days,
        ease_percent=after.ease_percent,
    )


def _practise(learner: Learner, on: date) -> DayPractised:
    goes_on = learner.practised_on == on - timedelta(days=1)
    return DayPractised(day=on, streak_days=learner.streak_days + 1 if goes_on else 1)


def evolve(learner: Learner, event: Event) -> Learner:
    """Return what is known once the event has happened."""
    match event:
        case LearnerEnrolled(learner_id=learner_id, name=name):
            return replace(learner, learner_id=learner_id, name=name)
        case WordTaken(entry_id=entry_id, due_on=due_on):
            return replace(learner, cards=learner.cards | {entry_id: Card(due_on=due_on)})
        case WordReviewed():
            card = Card(
                due_on=event.due_on,
                interval_days=event.interval_days,
                ease_percent=event.ease_percent,
            )
            return replace(learner, cards=learner.cards | {event.entry_id: card})
        case DayPractised(day=day, streak_days=days):
            return replace(learner, practised_on=day, streak_days=days)


def commuting_with(command: Command) -> Callable[[EventEnvelope[Event]], bool]:
    """Return which missed events don't matter to the command: those of other words.

    So a learner's devices don't hinder one another. The first review of a day matters: whoever
    has missed it would count the day twice.
    """

    def commutes(missed: EventEnvelope[Event]) -> bool:
        match command, missed.event_data:
            case TakeWord() | Review(), WordTaken() | WordReviewed() as event:
                return event.entry_id != command.entry_id
        return False

    return commutes


learner: Decider[Command, Learner, Event] = Decider(initial=Learner(), decide=decide, evolve=evolve)

#: Learners are busy for years: a load reads a snapshot and at most a hundred events.
LEARNERS = AggregateType(
    "learner", learner, snapshots=Snapshots(EveryEvents(100), state_type=Learner)
)
