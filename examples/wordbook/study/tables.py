"""The tables: ordinary SQLAlchemy models, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date  # noqa: TC003 - SQLAlchemy reads it
from typing import TYPE_CHECKING

from sqlalchemy import ARRAY, Index, MetaData, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.wordbook.study import SCHEMA

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class Base(DeclarativeBase):
    """Base of the tables of this schema."""

    metadata = MetaData(schema=SCHEMA)


class WordRow(Base):
    """A word of the vocabulary, as learners see it."""

    __tablename__ = "words"

    entry_id: Mapped[str] = mapped_column(primary_key=True)
    language: Mapped[str]
    headword: Mapped[str]
    meanings: Mapped[list[str]] = mapped_column(ARRAY(Text))
    sentence: Mapped[str | None]  #: the newest example
    translation: Mapped[str | None]
    published: Mapped[bool] = mapped_column(default=False)


class CardRow(Base):
    """A word that a learner has taken."""

    __tablename__ = "cards"

    learner_id: Mapped[str] = mapped_column(primary_key=True)
    # No foreign key: the two contexts are read at their own speeds.
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    due_on: Mapped[date]

    __table_args__ = (Index("ix_cards_learner_id_due_on", "learner_id", "due_on"),)


@dataclass(frozen=True)
class DueWord:
    """A word that a learner is to review."""

    entry_id: str
    headword: str
    meanings: list[str]
    sentence: str | None
    translation: str | None
    due_on: date


def due_words(session: Session, learner_id: str, on: date) -> list[DueWord]:
    """Return what a learner is to review by this day, the longest overdue first."""
    query = (
        select(
            WordRow.entry_id,
            WordRow.headword,
            WordRow.meanings,
            WordRow.sentence,
            WordRow.translation,
            CardRow.due_on,
        )
        .join(CardRow, CardRow.entry_id == WordRow.entry_id)
        .where(CardRow.learner_id == learner_id, CardRow.due_on <= on, WordRow.published)
        .order_by(CardRow.due_on, WordRow.entry_id)
    )
    return [DueWord(*row) for row in session.execute(query)]
