"""What the controller and its workers say to each other: one line of JSON, and one in reply.

A worker is a process that drives one contender. It reads requests from its standard input until
that is closed, and answers each, in order, on its standard output: with what the request's
docstring promises, with `Skipped` or with `Failed`. A message is the object of its fields, and its
class's name in the field `kind`:

    > {"kind": "Open", "url": "postgresql://localhost/bench", "writers": 8}
    < {"kind": "Done"}
    > {"kind": "Run", "operation": "append", "events": 1, "calls": 1, "seconds": 0.5}
    < {"kind": "Sample", "events": 812, "seconds": 0.5004, "latencies": [0.0012, 0.0011], ...}

Workers run in environments of their own, and one is written in JavaScript (`peers/emmett.mjs`):
this module needs the standard library alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias


class ProtocolError(Exception):
    """A line is no message of this protocol."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Describe:
    """Tell what you run on: `Description`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetUp:
    """Make the tables in an empty database: `Done`."""

    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fill:
    """Write what the reads expect (`contents.fill`): `Done`."""

    url: str
    events: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """Connect this many writers, for the runs to come: `Done`."""

    url: str
    writers: int
    announces: bool = False  #: their appends wake subscriptions in other processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Let every writer do the operation, over and over: `Sample`."""

    operation: str
    events: int = 1  #: in one call
    calls: int = 1  #: each writer makes at least so many,
    seconds: float = 0  #: and goes on for so long,
    per_second: float = 0  #: beginning so many, whatever they take; 0: one after the other
    stream_id: str = ""  #: what is appended to; empty: a new stream in each call
    stored: int = 0  #: events that the store has, for those who read anywhere in it
    batch: int = 1  #: events that a projection commits at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """Disconnect what `Open` has connected: `Done`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """It is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Versions by name: those of the language, of the library and of its driver."""

    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one run, a contender's turn in one round, has taken."""

    events: int
    seconds: float
    latencies: list[float] = field(repr=False)  #: seconds, of each call
    conflicts: int = 0  #: that were met and overcome
    #: `time.perf_counter` when the last call had returned: one clock for all processes (that of
    #: Linux is CLOCK_MONOTONIC).
    ended: float = 0
    peak_mb: float | None = None  #: of the whole process
    grown_mb: float | None = None  #: what the run has added to it

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """The contender has no such thing."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The contender has it, and it did not work."""

    reason: str


Request: TypeAlias = Describe | SetUp | Fill | Open | Run | Close
Reply: TypeAlias = Done | Description | Sample | Skipped | Failed

_KINDS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        *(Describe, SetUp, Fill, Open, Run, Close),
        *(Done, Description, Sample, Skipped, Failed),
    )
}


def encode(message: Request | Reply) -> str:
    """Return the message as a line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}) + "\n"


def decode(line: str) -> Any:
    """Return the message that a line holds.

    :raises ProtocolError: it holds none. The line is not in the message: it may be anything.
    """
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"not a message: {type(error).__name__}") from error
