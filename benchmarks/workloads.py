"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from benchmarks.protocol import Run


class Metric(StrEnum):
    """What a ratio compares; more is better in any case."""

    RATE = "rate"  #: events per second
    LATENCY = "latency"  #: the median call, the baseline's over the contender's


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An operation, and how many do it at the same time."""

    name: str
    title: str
    operation: str  #: one of `operations.OPERATIONS`, or "deliver"
    events: int = 1  #: in one call
    writers: int = 1
    processes: int = 1  #: that share out the writers
    #: What each writer does in a turn. None: as many calls as the turn's time allows.
    calls: int | None = None
    #: Done on a store that is filled; else on one that has what the contender wrote itself.
    reads: bool = False
    #: One call in a new process, so that the peak of memory is that of the call alone.
    isolated: bool = False
    #: Its `events` are all that the store is filled with,
    whole_feed: bool = False
    #: or as many as a bulk has, whatever stands there.
    bulk: bool = False
    metric: Metric = Metric.RATE

    @property
    def long(self) -> bool:
        """Whether a turn takes seconds, and is steadier than the short ones of the others."""
        return self.whole_feed or self.bulk

    def run(self, seconds: float, feed_events: int, bulk_events: int) -> Run:
        """Return what a worker is asked to do in one turn."""
        events = self.events
        if self.whole_feed:
            events = feed_events
        elif self.bulk:
            events = bulk_events
        return Run(
            operation=self.operation,
            events=events,
            calls=self.calls or 1,
            seconds=0 if self.calls else seconds,
        )


def warm_up(run: Run, seconds: float) -> Run:
    """Return a shorter run, after which statements are prepared, pools filled, and code warm."""
    short = {"read_long_stream": "read_short_stream"}
    return replace(
        run,
        operation=short.get(run.operation, run.operation),
        events=min(run.events, 1_000),
        calls=1,
        seconds=seconds if run.seconds else 0,
    )


_ALL: Final = (
    Workload(name="W1", title="1 event", operation="append"),
    Workload(name="W2", title="10 events", operation="append", events=10),
    Workload(name="W8", title="1 event, 8 writers", operation="append", writers=8),
    Workload(
        name="W8p",
        title="1 event, 8 writers in 4 processes",
        operation="append",
        writers=8,
        processes=4,
    ),
    Workload(name="W32", title="1 event, 32 writers", operation="append", writers=32),
    Workload(
        name="W32p",
        title="1 event, 32 writers in 4 processes",
        operation="append",
        writers=32,
        processes=4,
    ),
    Workload(name="W128", title="1 event, 128 writers", operation="append", writers=128),
    Workload(name="W4", title="bulk", operation="bulk", calls=1, bulk=True),
    Workload(name="C1", title="16 contending", operation="decide", writers=16, calls=10),
    Workload(name="R1", title="stream of 10,000", operation="read_long_stream", reads=True),
    Workload(name="R2", title="streams of 10", operation="read_short_stream", reads=True),
    Workload(
        name="R3",
        title="feed",
        operation="read_feed",
        calls=1,
        reads=True,
        whole_feed=True,
        isolated=True,
    ),
    Workload(
        name="S1",
        title="commit to handler",
        operation="deliver",
        calls=60,
        metric=Metric.LATENCY,
    ),
    Workload(name="S2", title="projection", operation="project", events=1_000, calls=1, reads=True),
)
WORKLOADS: Final = {workload.name: workload for workload in _ALL}
QUICK: Final = ("W1", "W2", "W8", "W4", "R1", "R2", "R3")
#: Those whose cost must not grow with what the store has already.
GROWTH: Final = ("W1", "W2", "R1", "R2")
