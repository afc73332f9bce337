"""The event by which everybody is told that a subject was forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict

from eventstore.events import EventEnvelope, EventMetadata
from eventstore.streams import MAX_ID_LENGTH, check_text

if TYPE_CHECKING:
    from eventstore.events import AnyEnvelope

#: The stream that holds these events.
ERASURES_STREAM: Final = "personal-data-erasures"
#: Their type.
SUBJECT_FORGOTTEN: Final = "subject-forgotten"

_AGGREGATE_TYPE: Final = "subject"
_NAMESPACE: Final = UUID("8f0c6f4e-4f43-5f0e-9a0b-6a7f3f5f8d11")


class SubjectForgotten(BaseModel):
    """The key of a subject was destroyed: from here on its personal data reads as erased.

    A projection that keeps personal data of its own removes that of this subject.
    """

    model_config = ConfigDict(frozen=True)

    subject_id: str


def check_subject_id(subject_id: str) -> str:
    """Return ``subject_id`` if it can be one; TypeError or ValueError otherwise."""
    return check_text("subject_id", subject_id, MAX_ID_LENGTH)


def erasure_of(subject_id: str, metadata: EventMetadata | None) -> AnyEnvelope:
    """Return the event, its payload as JSON; its id is always the same one for a subject.

    So the store recognises it as appended already when a subject is forgotten again.
    """
    return EventEnvelope(
        event_id=uuid5(_NAMESPACE, subject_id),
        aggregate_id=subject_id,
        aggregate_type=_AGGREGATE_TYPE,
        event_type=SUBJECT_FORGOTTEN,
        event_data={"subject_id": subject_id},
        metadata=EventMetadata() if metadata is None else metadata,
    )
