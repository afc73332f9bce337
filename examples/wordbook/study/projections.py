"""From the events of both contexts to the tables, a projection for each context's feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete

from eventstore.personal import SubjectForgotten
from eventstore.projections import Projection, handles
from examples.wordbook.progress.events import WordReviewed, WordTaken
from examples.wordbook.study.tables import CardRow, WordRow
from examples.wordbook.vocabulary.events import (
    EntryDrafted,
    EntryPublished,
    EntryWithdrawn,
    ExampleAdded,
    MeaningsRevised,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore import EventEnvelope


class Words(Projection):
    """The vocabulary, as learners see it."""

    name = "study-words"
    models = (WordRow,)

    @handles(EntryDrafted)
    def _drafted(self, event: EventEnvelope[EntryDrafted], session: Session) -> None:
        entry = event.event_data
        session.add(
            WordRow(
                entry_id=event.aggregate_id,
                language=entry.language,
                headword=entry.headword,
                meanings=list(entry.meanings),
            )
        )

    @handles(MeaningsRevised)
    def _revised(self, event: EventEnvelope[MeaningsRevised], session: Session) -> None:
        word = session.get_one(WordRow, event.aggregate_id)
        word.meanings = list(event.event_data.meanings)

    @handles(ExampleAdded)
    def _example_added(self, event: EventEnvelope[ExampleAdded], session: Session) -> None:
        word = session.get_one(WordRow, event.aggregate_id)
        word.sentence = event.event_data.sentence
        word.translation = event.event_data.translation

    @handles(EntryPublished)
    def _published(self, event: EventEnvelope[EntryPublished], session: Session) -> None:
        session.get_one(WordRow, event.aggregate_id).published = True

    @handles(EntryWithdrawn)
    def _withdrawn(self, event: EventEnvelope[EntryWithdrawn], session: Session) -> None:
        session.delete(session.get_one(WordRow, event.aggregate_id))


class Cards(Projection):
    """The words that learners have taken, and when each is due."""

    name = "study-cards"
    models = (CardRow,)

    @handles(WordTaken, WordReviewed)
    def _due(self, event: EventEnvelope[WordTaken | WordReviewed], session: Session) -> None:
        session.merge(
            CardRow(
                learner_id=event.aggregate_id,
                entry_id=event.event_data.entry_id,
                due_on=event.event_data.due_on,
            )
        )

    @handles(SubjectForgotten)
    def _forgotten(self, event: EventEnvelope[SubjectForgotten], session: Session) -> None:
        session.execute(delete(CardRow).where(CardRow.learner_id == event.event_data.subject_id))
