"""What happens to a learner.

The events hold what the schedule has said at the time: another algorithm changes what will be
decided, never what was.
"""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads it
from typing import Annotated

from pydantic import BaseModel, ConfigDict

from eventstore import EventRegistry
from eventstore.personal import Personal, personal

registry = EventRegistry()


class Fact(BaseModel):
    """What happened; nobody changes it any more."""

    model_config = ConfigDict(frozen=True)


@registry.register("learner-enrolled")
class LearnerEnrolled(Fact):
    """Somebody wants to learn. Who it is can be forgotten: then the rest says it of nobody."""

    learner_id: str
    name: Annotated[Personal[str], personal(subject="learner_id")]
    email: Annotated[Personal[str], personal(subject="learner_id")]


@registry.register("word-taken")
class WordTaken(Fact):
    """The learner has begun to learn a word."""

    entry_id: str
    due_on: date


@registry.register("word-reviewed")
class WordReviewed(Fact):
    """The learner was asked for the word."""

    entry_id: str
    grade: int
    reviewed_on: date
    due_on: date
    interval_days: int
    ease_percent: int


@registry.register("day-practised")
class DayPractised(Fact):
    """The first review of a day: the streak goes on, or begins anew."""

    day: date
    streak_days: int
