"""The vocabulary over HTTP: one endpoint for each command, and the entry as it is now."""

# Without "from __future__ import annotations": FastAPI reads the annotations as it runs.
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, TypeAlias
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from eventstore import NO_STREAM, AsyncRepository, StreamNotFound, async_event_store
from examples.wordbook.vocabulary import SCHEMA
from examples.wordbook.vocabulary.entry import ENTRIES, Entry, entry_id_of
from examples.wordbook.vocabulary.events import ExampleAdded, registry
from examples.wordbook.web.preconditions import IdempotencyKey, SeenVersion, etag_of
from examples.wordbook.web.sessions import Sessions

#: PostgreSQL's text has no NUL.
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00]*$"),
]
Meanings = Annotated[tuple[Text, ...], Field(min_length=1, max_length=20)]
EntryId = Annotated[str, Path(max_length=203, pattern=r"^[a-z]{2}-[^\s/]+$")]


class Draft(BaseModel):
    """A new entry."""

    language: Annotated[str, StringConstraints(pattern="^[a-z]{2}$")]
    headword: Annotated[Text, StringConstraints(max_length=100, pattern=r"\w")]
    meanings: Meanings


class Revision(BaseModel):
    """What the word means, said better."""

    meanings: Meanings


class Example(BaseModel):
    """A sentence with the word."""

    model_config = ConfigDict(from_attributes=True)

    sentence: Text
    translation: Text


class EntryView(BaseModel):
    """An entry as editors see it."""

    model_config = ConfigDict(from_attributes=True)

    aggregate_id: str = Field(serialization_alias="entry_id")
    language: str
    headword: str
    meanings: tuple[str, ...]
    examples: tuple[Example, ...]
    published: bool


Entries: TypeAlias = AsyncRepository[Callable[[Entry], object], Entry]


def entries_of(sessions: Sessions) -> Entries:
    """Return the entries; each call is a transaction of its own."""
    return AsyncRepository(lambda: async_event_store(sessions, registry, schema=SCHEMA), ENTRIES)


InEntries = Annotated[Entries, Depends(entries_of)]


@dataclass
class Edit:
    """The change of an entry that a request asks for, on the version that its sender has seen."""

    entry_id: EntryId
    seen: SeenVersion
    entries: InEntries
    response: Response
    key: IdempotencyKey = None

    async def make(
        self, command: Callable[[Entry], object], commutes: Collection[type] = ()
    ) -> EntryView:
        """Execute the command, and show the entry after it."""
        outcome = await self.entries.execute(
            self.entry_id,
            command,
            expected_version=self.seen,
            commutes=commutes,
            idempotency_key=self.key,
        )
        return view(outcome.aggregate, self.response)


InEdit = Annotated[Edit, Depends()]

router = APIRouter(prefix="/entries", tags=["vocabulary"])


@router.post("", status_code=201)
async def draft(
    body: Draft, entries: InEntries, response: Response, key: IdempotencyKey = None
) -> EntryView:
    """Begin an entry, the only one for its headword."""
    entry_id = entry_id_of(body.language, body.headword)
    outcome = await entries.execute(
        entry_id,
        lambda entry: entry.draft(body.language, body.headword, body.meanings),
        expected_version=NO_STREAM,
        idempotency_key=key,
    )
    response.headers["Location"] = f"/entries/{quote(entry_id)}"
    return view(outcome.aggregate, response)


@router.get("/{entry_id}")
async def show(entry_id: EntryId, entries: InEntries, response: Response) -> EntryView:
    """Show the entry as its events say."""
    return view(await existing(entries, entry_id), response)


@router.put("/{entry_id}/meanings")
async def revise(body: Revision, edit: InEdit) -> EntryView:
    """Say better what the word means; an example that was added meanwhile does not matter."""
    return await edit.make(lambda entry: entry.revise(body.meanings), commutes=[ExampleAdded])


@router.post("/{entry_id}/examples")
async def add_example(body: Example, edit: InEdit) -> EntryView:
    """Add a sentence with the word."""
    return await edit.make(lambda entry: entry.add_example(body.sentence, body.translation))


@router.put("/{entry_id}/publication")
async def publish(edit: InEdit) -> EntryView:
    """Show the entry to learners."""
    return await edit.make(Entry.publish)


@router.delete("/{entry_id}", status_code=204)
async def withdraw(entry_id: EntryId, seen: SeenVersion, sessions: Sessions) -> None:
    """Take the entry back: the event for those who read on, and the end of the stream, as one."""
    async with async_event_store(sessions, registry, schema=SCHEMA) as store:
        entries = AsyncRepository(store, ENTRIES)
        await entries.execute(entry_id, Entry.withdraw, expected_version=seen)
        await store.delete_stream(ENTRIES.stream_of(entry_id))


async def existing(entries: Entries, entry_id: str) -> Entry:
    """Return the entry; StreamNotFound if nobody has begun it."""
    entry = await entries.load(entry_id)
    if entry.version == 0:
        raise StreamNotFound(ENTRIES.stream_of(entry_id))
    return entry


def view(entry: Entry, response: Response) -> EntryView:
    """Return what is shown of an entry, and give the reply its ETag."""
    response.headers["ETag"] = etag_of(entry.version)
    return EntryView.model_validate(entry)
