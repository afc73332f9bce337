"""What happens to an entry. Old events stay as they were written: see :func:`split_meanings`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from eventstore import EventRegistry

registry = EventRegistry()


class Fact(BaseModel):
    """What happened; nobody changes it any more."""

    model_config = ConfigDict(frozen=True)


@registry.register("entry-drafted", version=2)
class EntryDrafted(Fact):
    """An editor has begun an entry."""

    language: str  #: of the headword; an ISO 639-1 code
    headword: str
    meanings: tuple[str, ...]


@registry.upcaster("entry-drafted", from_version=1)
def split_meanings(data: dict[str, Any]) -> dict[str, Any]:
    """Read version 1: all headwords were Japanese, and their meanings one text with semicolons."""
    meanings = [meaning.strip() for meaning in data.pop("meaning").split(";")]
    return data | {"language": "ja", "meanings": meanings}


@registry.register("meanings-revised")
class MeaningsRevised(Fact):
    """The entry says better what the word means."""

    meanings: tuple[str, ...]


@registry.register("example-added")
class ExampleAdded(Fact):
    """A sentence shows the word at work."""

    sentence: str
    translation: str


@registry.register("entry-published")
class EntryPublished(Fact):
    """Learners may take the word from now on."""


@registry.register("entry-withdrawn")
class EntryWithdrawn(Fact):
    """The entry was a mistake, and is shown to nobody any more."""
