"""A stream, the versions that a writer may expect of it, and the rule that judges them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Literal, TypeAlias

from eventstore.errors import ConcurrencyConflict, StreamDeleted, StreamNotFound

#: PostgreSQL's ``bigint``: no version or position is above it.
MAX_VERSION: Final = 2**63 - 1
#: The length of ``stream_id`` and ``aggregate_id``, in characters (Unicode code points).
MAX_ID_LENGTH: Final = 255
#: The length of ``event_type`` and ``aggregate_type``, in characters.
MAX_TYPE_LENGTH: Final = 100
#: The length of a name in PostgreSQL.
MAX_NAME_LENGTH: Final = 63
#: The length of a text that has no length in the tables.
MAX_TEXT_LENGTH: Final = 2**20


class StreamState(Enum):
    """What a writer may expect of a stream without naming its version."""

    ANY = "any"
    STREAM_EXISTS = "stream_exists"

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


#: Append whatever the stream's version is; never a conflict, but a queue at the stream's row.
ANY: Final = StreamState.ANY
#: Append only to a stream that has events.
STREAM_EXISTS: Final = StreamState.STREAM_EXISTS
#: Append only to a stream that has no events yet.
NO_STREAM: Final = 0

#: A version (int >= 0, exact), ``NO_STREAM``, ``STREAM_EXISTS`` or ``ANY``; None means ``ANY``.
ExpectedVersion: TypeAlias = int | Literal[StreamState.ANY, StreamState.STREAM_EXISTS] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamInfo:
    """What the store knows of a stream besides its events."""

    stream_id: str
    version: int  #: the version of its newest event
    created_at: datetime  #: UTC
    updated_at: datetime  #: UTC, of the newest append, deletion or restoration
    deleted_at: datetime | None = None  #: UTC, set while the stream is soft-deleted


def check_stream_id(stream_id: str) -> str:
    """Return ``stream_id`` if it can name a stream, else raise TypeError or ValueError."""
    return check_text("stream_id", stream_id, MAX_ID_LENGTH)


def check_schema(schema: str | None) -> str | None:
    """Return ``schema`` if it can name a schema (None: the search path's)."""
    if schema is not None:
        check_text("schema", schema, MAX_NAME_LENGTH)
    return schema


def check_text(name: str, value: str, max_length: int) -> str:
    """Return ``value`` if PostgreSQL can hold it in ``varchar(max_length)`` and it isn't empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    if len(value) > max_length:
        raise ValueError(f"{name} has {len(value)} characters, at most {max_length} are allowed")
    if "\0" in value:
        raise ValueError(f"{name} {value!r} holds a NUL character, which PostgreSQL can't store")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} {value!r} holds a lone surrogate, which is not valid Unicode")
    return value


def check_expected_version(expected: ExpectedVersion) -> int | StreamState:
    """Return ``expected`` with None as ``ANY``; refuse what no stream can be expected to be at."""
    if expected is None:
        return ANY
    if isinstance(expected, StreamState):
        return expected
    return check_number("expected_version", expected)


def check_aware(name: str, value: datetime) -> None:
    """Raise TypeError or ValueError unless ``value`` is a zone-aware datetime."""
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone; datetime.now(UTC) has one")


def check_number(name: str, value: int) -> int:
    """Return ``value`` if it is an int (not a bool) from 0 to 2^63-1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r} ({type(value).__name__})")
    if not 0 <= value <= MAX_VERSION:
        raise ValueError(f"{name} must be from 0 to 2**63 - 1, not {value}")
    return value


def require_version(
    stream_id: str, expected: int | StreamState, actual: int, deleted_at: datetime | None
) -> None:
    """Raise the error that an append meets on a stream in this state; return if there is none.

    ``actual`` is 0 for a stream that is missing. This is the table "state of the stream" of the
    documentation, for the SQL stores and the in-memory one alike.
    """
    if deleted_at is not None:
        raise StreamDeleted(stream_id, deleted_at)
    if expected is ANY:
        return
    if expected is STREAM_EXISTS:
        if actual == 0:
            raise StreamNotFound(stream_id)
        return
    if expected != actual:
        raise ConcurrencyConflict(expected, actual, stream_id)
