"""An atomic append to several streams: what goes in, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from eventstore.boundaries import NoNew

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventstore.events import AnyEnvelope
    from eventstore.streams import ExpectedVersion


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """Events for one stream, and the version at which the writer expects it."""

    stream_id: str
    expected_version: ExpectedVersion
    events: Sequence[AnyEnvelope]


@dataclass(frozen=True, slots=True)
class StreamAt:
    """A stream that a decision has only read, and the version at which it must still be."""

    stream_id: str
    expected_version: ExpectedVersion


#: What must hold for an append: a stream is at a version, or no event of a query is new.
Requirement: TypeAlias = StreamAt | NoNew


def check_requirements(
    require: Requirement | Sequence[Requirement],
) -> tuple[list[StreamAt], list[NoNew]]:
    """Return the requirements of each kind; TypeError for anything else."""
    given = [require] if isinstance(require, StreamAt | NoNew) else list(require)
    for each in given:
        if not isinstance(each, StreamAt | NoNew):
            raise TypeError(
                f"StreamAt or no_new() was expected in require, not {type(each).__name__}"
            )
    streams = [each for each in given if isinstance(each, StreamAt)]
    return streams, [each for each in given if isinstance(each, NoNew)]


@dataclass(frozen=True, slots=True)
class AppendedStream:
    """Where the events of one stream went."""

    stream_id: str
    version: int  #: the version of the last event of this append
    positions: tuple[int, ...]  #: the place of each event in the whole store, in their order


@dataclass(frozen=True, slots=True)
class AppendResult:
    """The outcome of an append, the streams in the order in which they were given."""

    streams: tuple[AppendedStream, ...]
    #: The same events were appended before: nothing was written now, these are the first places.
    already_appended: bool = False

    def __iter__(self) -> Iterator[AppendedStream]:
        return iter(self.streams)

    def __contains__(self, stream_id: object) -> bool:
        return any(stream.stream_id == stream_id for stream in self.streams)

    def __getitem__(self, stream_id: str) -> AppendedStream:
        """Return the outcome for one stream; KeyError if it was not part of the append."""
        for stream in self.streams:
            if stream.stream_id == stream_id:
                return stream
        raise KeyError(stream_id)
