"""A snapshot: an aggregate's state at a version, kept so that fewer events need be read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from eventstore.streams import (
    MAX_ID_LENGTH,
    MAX_TYPE_LENGTH,
    MAX_VERSION,
    check_aware,
    check_number,
    check_text,
)

S = TypeVar("S")


class Snapshot(BaseModel, Generic[S]):
    """The state of an aggregate after the event with this version. Frozen.

    The newest one of an aggregate is kept: saving an older one changes nothing. ``aggregate_id``
    is the id of the stream whose events the state was folded from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    aggregate_id: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00]*$")
    ]
    aggregate_type: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_TYPE_LENGTH, pattern=r"^[^\x00]*$")
    ]
    #: The version of the last event that the state includes.
    version: Annotated[int, Field(strict=True, ge=0, le=MAX_VERSION)]
    #: Not shown in logs: it may hold personal data.
    data: S = Field(repr=False)
    created_at: Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))] = Field(
        default_factory=lambda: datetime.now(UTC)
    )


AnySnapshot = Snapshot[Any]


def check_snapshot(snapshot: AnySnapshot) -> AnySnapshot:
    """Return ``snapshot`` if it is one, also after ``model_copy(update=...)``.

    Raises TypeError or ValueError otherwise.
    """
    if not isinstance(snapshot, Snapshot):
        raise TypeError(f"snapshot must be a Snapshot, not {type(snapshot).__name__}")
    check_text("aggregate_id", snapshot.aggregate_id, MAX_ID_LENGTH)
    check_text("aggregate_type", snapshot.aggregate_type, MAX_TYPE_LENGTH)
    check_number("version", snapshot.version)
    check_aware("created_at", snapshot.created_at)
    return snapshot
