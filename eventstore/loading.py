"""What an aggregate is folded from, as it comes in one round trip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventstore.events import AnyEnvelope
    from eventstore.snapshots import AnySnapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedStream:
    """A stream's snapshot and the events after it: all of them, or the first page of a long tail.

    The tail goes on behind the version ``last`` and ends at ``version``: read it by
    ``read_stream(stream_id, ReadOptions(from_version=last + 1, to_version=version))``.
    """

    version: int = 0  #: the stream's version; 0 if it has no events
    last: int = 0  #: the version of the last event on this page; the snapshot's if it has none
    snapshot: AnySnapshot | None = None  #: its data as plain JSON values
    events: list[AnyEnvelope] = field(default_factory=list)
    #: The first and the last version that the given idempotency key has in the stream.
    recorded: tuple[int, int] | None = None
