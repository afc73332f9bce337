"""What is appended and read: an event in its envelope, and the envelope's metadata."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from uuid_utils.compat import uuid7

from eventstore.boundaries import check_tags
from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

# PostgreSQL's text has no NUL; pydantic itself refuses lone surrogates.
_NO_NUL: Final = r"^[^\x00]*$"
_Id = Annotated[str, StringConstraints(max_length=MAX_ID_LENGTH, pattern=_NO_NUL)]
_Type = Annotated[str, StringConstraints(max_length=MAX_TYPE_LENGTH, pattern=_NO_NUL)]


def _uuid_as_text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


def _as_tags(value: Any) -> tuple[str, ...]:
    try:
        return check_tags(value)
    except TypeError as error:
        raise ValueError(str(error)) from None  # pydantic makes its own error of this one


def _now() -> datetime:
    return datetime.now(UTC)


_Reference = Annotated[str | None, BeforeValidator(_uuid_as_text)]
_Key = Annotated[_Id, Field(min_length=1)]


class EventMetadata(BaseModel):
    """Where an event comes from. Further keys are kept; their values are JSON."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    #: The conversation: the same for everything that one request has set off.
    correlation_id: _Reference = None
    #: The id of the command or event that directly led to this event.
    causation_id: _Reference = None
    #: Who did it.
    user_id: str | None = None
    #: Which service recorded it.
    source_service: str | None = None
    #: The request's own key: a second append to the stream under it returns the first one's result.
    idempotency_key: _Key | None = None
    #: Which version of its type the payload beside it has; None is version 1. The store fills it
    #: in from the registry.
    schema_version: Annotated[int, Field(strict=True, ge=1)] | None = None

    if TYPE_CHECKING:
        # What is accepted is wider than what is kept: a type checker should know.
        def __init__(
            self,
            *,
            correlation_id: UUID | str | None = None,
            causation_id: UUID | str | None = None,
            user_id: str | None = None,
            source_service: str | None = None,
            idempotency_key: str | None = None,
            **further: Any,
        ) -> None: ...


class EventEnvelope(BaseModel, Generic[T]):
    """An event: its payload (``event_data``) and what is known about it. Frozen.

    To append one, give ``aggregate_type``, ``event_data`` and, unless a registry knows the
    payload's type, ``event_type``. The store assigns ``stream_id``, ``event_version`` and
    ``sequence_number``, whatever stands there before, and takes the stream's id for an
    ``aggregate_id`` that is empty.

    Raises pydantic's ``ValidationError``, a :class:`ValueError`, for a value that can't be stored;
    its message does not show the payload.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: A UUIDv7 (RFC 9562) by default, so that new ids lie together in the index. Text is accepted.
    event_id: UUID = Field(default_factory=uuid7)
    #: The stream that holds the event; empty until it is recorded.
    stream_id: str = ""
    #: The aggregate that the event is about; the stream's id by default.
    aggregate_id: _Id = ""
    aggregate_type: Annotated[_Type, Field(min_length=1)]
    #: The stable name of the payload's type; a registry fills it in from the payload's class.
    event_type: _Type = ""
    event_data: T
    #: The event's place in its stream, from 1; 0 until it is recorded.
    event_version: int = 0
    #: The event's *position*: its place in the whole store, rising, with holes; 0 until recorded.
    sequence_number: int = 0
    #: When it happened, zone-aware; kept as UTC with microseconds.
    occurred_at: Annotated[AwareDatetime, AfterValidator(_in_utc)] = Field(default_factory=_now)
    metadata: EventMetadata = Field(default_factory=EventMetadata)
    #: What the event concerns, besides its stream: ``"course:c1"``. A :class:`Query` picks by them.
    tags: Annotated[tuple[str, ...], BeforeValidator(_as_tags)] = ()

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            event_data: T,
            aggregate_type: str,
            event_type: str = "",
            event_id: UUID | str = ...,
            stream_id: str = "",
            aggregate_id: str = "",
            event_version: int = 0,
            sequence_number: int = 0,
            occurred_at: datetime = ...,
            metadata: EventMetadata = ...,
            tags: Iterable[str] = ...,
        ) -> None: ...


#: An envelope whose payload's type is not known to the type checker.
AnyEnvelope = EventEnvelope[Any]
