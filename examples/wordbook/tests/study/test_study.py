"""What learners are shown, from the events of both contexts."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from eventstore import Repository, event_store
from eventstore.projections import handles
from examples.wordbook import progress, vocabulary
from examples.wordbook.progress.events import registry as progress_registry
from examples.wordbook.progress.learner import LEARNERS, Enrol, Review, TakeWord
from examples.wordbook.study import keeping
from examples.wordbook.study.keeping import bring_up
from examples.wordbook.study.projections import Words
from examples.wordbook.study.tables import DueWord, WordRow, due_words
from examples.wordbook.vocabulary.entry import ENTRIES, Entry
from examples.wordbook.vocabulary.events import EntryPublished
from examples.wordbook.vocabulary.events import registry as vocabulary_registry
from examples.wordbook.words import WORDS, publish_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

    from eventstore import EventEnvelope

TODAY = date(2025, 4, 1)


@pytest.fixture
def engine(committed_wordbook: URL) -> Iterator[Engine]:
    """A database with a few entries, and a learner who has taken two."""
    engine = create_engine(committed_wordbook)
    sessions = sessionmaker(engine)
    publish_all(sessions)
    with event_store(sessions, progress_registry, schema=progress.SCHEMA) as store:
        learners = Repository(store, LEARNERS)
        learners.execute("ann", Enrol("ann", "Ann", "ann@example.org"))
        learners.execute("ann", TakeWord("ja-雨", TODAY))
        learners.execute("ann", TakeWord("ja-海", TODAY))
    yield engine
    engine.dispose()


def headwords(engine: Engine, on: date = TODAY) -> list[str]:
    """What is due, as learners are shown it."""
    with Session(engine) as session:
        return [word.headword for word in due_words(session, "ann", on)]


def test_words_and_due_dates_meet(engine: Engine) -> None:
    bring_up(engine)
    with Session(engine) as session:
        (_sea, rain) = due_words(session, "ann", TODAY)
    assert rain == DueWord("ja-雨", "雨", ["rain"], "雨が降っています。", "It is raining.", TODAY)


def test_what_was_reviewed_is_due_later_and_what_was_withdrawn_never(engine: Engine) -> None:
    bring_up(engine)
    sessions = sessionmaker(engine)
    with event_store(sessions, progress_registry, schema=progress.SCHEMA) as store:
        Repository(store, LEARNERS).execute("ann", Review("ja-雨", 5, TODAY))
    with event_store(sessions, vocabulary_registry, schema=vocabulary.SCHEMA) as store:
        Repository(store, ENTRIES).execute("ja-海", Entry.withdraw)
    bring_up(engine)
    assert headwords(engine) == []
    assert headwords(engine, date(2025, 4, 2)) == ["雨"]


def test_a_new_version_is_built_beside_what_is_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_up(engine)
    shown_meanwhile = []

    class LoudWords(Words):
        version = 2

        @handles(EntryPublished)
        def _published(self, event: EventEnvelope[EntryPublished], session: Session) -> None:
            word = session.get_one(WordRow, event.aggregate_id)
            word.headword, word.published = f"{word.headword}!", True
            shown_meanwhile.append(headwords(engine))

    kept = (LoudWords(), vocabulary_registry, vocabulary.SCHEMA)
    monkeypatch.setattr(keeping, "KEPT", (kept,))
    bring_up(engine)

    assert shown_meanwhile == [["海", "雨"]] * len(WORDS)
    assert headwords(engine) == ["海!", "雨!"]


def test_a_learner_who_is_forgotten_has_no_cards(engine: Engine) -> None:
    bring_up(engine)
    with event_store(sessionmaker(engine), progress_registry, schema=progress.SCHEMA) as store:
        store.forget("ann")
    bring_up(engine)
    assert headwords(engine) == []


def test_publishing_again_changes_nothing(engine: Engine) -> None:
    publish_all(sessionmaker(engine))
    with event_store(sessionmaker(engine), schema=vocabulary.SCHEMA) as store:
        assert len(list(store.read_all_forward())) == 3 * len(WORDS)
