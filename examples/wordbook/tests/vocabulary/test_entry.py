"""Entries, in values: no store, no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventstore.testing.scenarios import given
from examples.wordbook.refusal import Refusal
from examples.wordbook.vocabulary.entry import Entry, entry_id_of
from examples.wordbook.vocabulary.events import (
    EntryDrafted,
    EntryPublished,
    EntryWithdrawn,
    ExampleAdded,
    MeaningsRevised,
    registry,
)

if TYPE_CHECKING:
    from eventstore.testing.golden import GoldenEvents

DRAFTED = EntryDrafted(language="ja", headword="雨", meanings=("rain",))
EXAMPLE = ExampleAdded(sentence="雨が降る。", translation="It rains.")


def test_a_draft() -> None:
    given(Entry).when(lambda it: it.draft("ja", "雨", ("rain",))).then(DRAFTED)


def test_a_headword_has_one_entry() -> None:
    given(Entry, DRAFTED).when(lambda it: it.draft("ja", "雨", ())).then_raises(Refusal)


def test_meanings_are_revised_where_they_differ() -> None:
    revised = given(Entry, DRAFTED).when(
        lambda it: it.revise(("rain",)), lambda it: it.revise(("rain", "rainy weather"))
    )
    revised.then(MeaningsRevised(meanings=("rain", "rainy weather")))


def test_an_entry_is_published_once_and_with_an_example() -> None:
    given(Entry, DRAFTED).when(Entry.publish).then_raises(Refusal, match="example")
    published = given(Entry, DRAFTED, EXAMPLE).when(Entry.publish, Entry.publish)
    published.then(EntryPublished()).then_state(lambda it: it.published)


def test_a_withdrawn_entry_is_not_published() -> None:
    withdrawn = given(Entry, DRAFTED, EXAMPLE, EntryPublished()).when(Entry.withdraw)
    withdrawn.then(EntryWithdrawn()).then_state(lambda it: not it.published)


def test_headwords_that_look_alike_are_the_same() -> None:
    assert entry_id_of("en", "Ice  cream") == entry_id_of("en", "ice cream") == "en-ice-cream"
    assert entry_id_of("ja", "ｱﾒ") == entry_id_of("ja", "アメ") == "ja-アメ"
    with pytest.raises(Refusal, match="too long"):
        entry_id_of("ar", "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 20)


def test_every_event_ever_written_can_be_read(golden_events: GoldenEvents) -> None:
    golden_events.check(
        registry,
        samples=[
            DRAFTED,
            EXAMPLE,
            MeaningsRevised(meanings=("rain",)),
            EntryPublished(),
            EntryWithdrawn(),
        ],
    )


def test_a_draft_of_the_first_version(golden_events: GoldenEvents) -> None:
    assert golden_events.read(registry, "entry-drafted", 1) == [
        EntryDrafted(language="ja", headword="海", meanings=("sea", "ocean"))
    ]
