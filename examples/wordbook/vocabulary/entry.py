"""An entry as an aggregate: an object whose methods are the commands."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from eventstore import Aggregate, AggregateType, applies
from examples.wordbook.refusal import Refusal
from examples.wordbook.vocabulary.events import (
    EntryDrafted,
    EntryPublished,
    EntryWithdrawn,
    ExampleAdded,
    MeaningsRevised,
)


@dataclass
class Entry(Aggregate):
    """A headword with what it means, and sentences that show it."""

    language: str = ""
    headword: str = ""
    meanings: tuple[str, ...] = ()
    examples: tuple[ExampleAdded, ...] = ()
    published: bool = False

    def draft(self, language: str, headword: str, meanings: tuple[str, ...]) -> None:
        """Begin the entry."""
        if self.headword:
            raise Refusal("there is an entry for this headword")
        self.record(EntryDrafted(language=language, headword=headword, meanings=meanings))

    def revise(self, meanings: tuple[str, ...]) -> None:
        """Say better what the word means."""
        if meanings != self.meanings:
            self.record(MeaningsRevised(meanings=meanings))

    def add_example(self, sentence: str, translation: str) -> None:
        """Add a sentence with the word."""
        self.record(ExampleAdded(sentence=sentence, translation=translation))

    def publish(self) -> None:
        """Show the entry to learners."""
        if not self.examples:
            raise Refusal("an entry is published with at least one example")
        if not self.published:
            self.record(EntryPublished())

    def withdraw(self) -> None:
        """Take the entry back for good."""
        self.record(EntryWithdrawn())

    @applies(EntryDrafted)
    def _drafted(self, event: EntryDrafted) -> None:
        self.language = event.language
        self.headword = event.headword
        self.meanings = event.meanings

    @applies(MeaningsRevised)
    def _revised(self, event: MeaningsRevised) -> None:
        self.meanings = event.meanings

    @applies(ExampleAdded)
    def _example_added(self, event: ExampleAdded) -> None:
        self.examples += (event,)

    @applies(EntryPublished)
    def _published(self, _: EntryPublished) -> None:
        self.published = True

    @applies(EntryWithdrawn)
    def _withdrawn(self, _: EntryWithdrawn) -> None:
        self.published = False


ENTRIES: Final = AggregateType("entry", Entry)

_MAX_LENGTH: Final = 200


def entry_id_of(language: str, headword: str) -> str:
    """Return the id of the headword's entry.

    It is made of what must be unique, so that a stream's own rule, "no events yet", lets a
    headword have one entry in its language. Refusal for a headword that is too long for that.
    """
    word = unicodedata.normalize("NFKC", headword).casefold()
    if len(word) > _MAX_LENGTH:
        raise Refusal("the headword is too long")
    return f"{language}-{re.sub(r'[ /]+', '-', word)}"
