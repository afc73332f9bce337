"""The progress of learners over HTTP, and what is due today."""

# Without "from __future__ import annotations": FastAPI reads the annotations as it runs.
from datetime import date
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from pydantic import BaseModel, Field

from eventstore import (
    STREAM_EXISTS,
    AsyncRepository,
    DecidedAggregate,
    StreamNotFound,
    async_event_store,
)
from eventstore.personal import Erased
from eventstore.subscriptions import wait_for_async
from examples.wordbook.progress import SCHEMA
from examples.wordbook.progress.events import WordReviewed, registry
from examples.wordbook.progress.learner import (
    LEARNERS,
    Command,
    Enrol,
    Event,
    Learner,
    Review,
    TakeWord,
    commuting_with,
)
from examples.wordbook.progress.schedule import MAX_GRADE
from examples.wordbook.refusal import Refusal
from examples.wordbook.study.keeping import CARDS
from examples.wordbook.study.tables import DueWord, due_words
from examples.wordbook.web.entries import EntryId, InEntries, Text, existing
from examples.wordbook.web.preconditions import IdempotencyKey
from examples.wordbook.web.sessions import Engine, Sessions

#: A learner's own day, which only their device knows.
Day = Annotated[date, Field(ge=date(2000, 1, 1), lt=date(3000, 1, 1))]
#: Where an event stands in the feed.
Position = Annotated[int | None, Query(ge=0, lt=2**63)]
#: How long a reader waits for their own answer to be seen.
PATIENCE_SECONDS: Final = 5.0
LearnerId = Annotated[str, Path(max_length=100, pattern=r"^[\w-]+$")]


class Enrolment(BaseModel):
    """Who wants to learn."""

    name: Text
    email: Text


class Beginning(BaseModel):
    """From when on a word is learned."""

    on: Day


class Answer(BaseModel):
    """How well a word was known."""

    entry_id: str
    grade: Annotated[int, Field(ge=0, le=MAX_GRADE)]
    on: Day


class LearnerView(BaseModel):
    """Where a learner stands."""

    name: str
    words: int
    streak_days: int
    practised_on: date | None


class Recorded(BaseModel):
    """What was asked for has happened."""

    #: Of the last event that followed, for ``GET .../due?after=``; None if nothing had to change.
    position: int | None


class Reviewed(Recorded):
    """An answer was recorded."""

    due_on: date
    streak_days: int


Learners: TypeAlias = AsyncRepository[Command, DecidedAggregate[Command, Learner, Event]]


def learners_of(sessions: Sessions) -> Learners:
    """Return the learners; each call is a transaction of its own."""
    return AsyncRepository(lambda: async_event_store(sessions, registry, schema=SCHEMA), LEARNERS)


InLearners = Annotated[Learners, Depends(learners_of)]

router = APIRouter(prefix="/learners", tags=["progress"])


@router.put("/{learner_id}")
async def enrol(learner_id: LearnerId, body: Enrolment, learners: InLearners) -> Recorded:
    """Begin to learn; again, it changes nothing."""
    outcome = await learners.execute(learner_id, Enrol(learner_id, body.name, body.email))
    return Recorded(position=max(outcome.positions, default=None))


@router.get("/{learner_id}")
async def show(learner_id: LearnerId, learners: InLearners) -> LearnerView:
    """Show where the learner stands."""
    learner = await learners.load(learner_id)
    if learner.version == 0:
        raise StreamNotFound(LEARNERS.stream_of(learner_id))
    state = learner.state
    return LearnerView(
        name="" if isinstance(state.name, Erased) else state.name,
        words=len(state.cards),
        streak_days=state.streak_days,
        practised_on=state.practised_on,
    )


@router.delete("/{learner_id}", status_code=204)
async def forget(learner_id: LearnerId, sessions: Sessions) -> None:
    """Forget who the learner was: what is personal can be read nowhere any more."""
    async with async_event_store(sessions, registry, schema=SCHEMA) as store:
        await store.delete_stream(LEARNERS.stream_of(learner_id))
        await store.forget(learner_id)


@router.put("/{learner_id}/words/{entry_id}")
async def take_word(
    learner_id: LearnerId,
    entry_id: EntryId,
    body: Beginning,
    learners: InLearners,
    entries: InEntries,
) -> Recorded:
    """Learn a word that the vocabulary has published; again, it changes nothing."""
    # It may be withdrawn a moment later all the same: what is due leaves out such words.
    if not (await existing(entries, entry_id)).published:
        raise Refusal("the entry is not published yet")
    command = TakeWord(entry_id, body.on)
    outcome = await learners.execute(
        learner_id, command, expected_version=STREAM_EXISTS, commutes=commuting_with(command)
    )
    return Recorded(position=max(outcome.positions, default=None))


@router.post("/{learner_id}/reviews", status_code=201)
async def review(
    learner_id: LearnerId, body: Answer, learners: InLearners, key: IdempotencyKey = None
) -> Reviewed:
    """Record an answer. A device that has lost the reply sends it again under its key."""
    command = Review(body.entry_id, body.grade, body.on)
    outcome = await learners.execute(
        learner_id,
        command,
        expected_version=STREAM_EXISTS,
        commutes=commuting_with(command),
        idempotency_key=key,
    )
    (reviewed,) = (event for event in outcome.events if isinstance(event, WordReviewed))
    return Reviewed(
        due_on=reviewed.due_on,
        streak_days=outcome.aggregate.state.streak_days,
        position=outcome.positions[-1],
    )


@router.get("/{learner_id}/due")
async def due(
    learner_id: LearnerId, on: Day, sessions: Sessions, engine: Engine, after: Position = None
) -> list[DueWord]:
    """Show what is to be reviewed; with ``after``, as it is behind the event at that position."""
    if after is not None and not await wait_for_async(
        engine, CARDS, after, PATIENCE_SECONDS, schema=SCHEMA
    ):
        raise HTTPException(503, "it is not there yet", {"Retry-After": "1"})
    async with sessions() as session:
        return await session.run_sync(due_words, learner_id, on)
