"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from benchmarks import contents
from benchmarks.protocol import Run


class Metric(StrEnum):
    """What a ratio compares; more is better in any case."""

    RATE = "rate"  #: events per second
    LATENCY = "latency"  #: the median call, the baseline's over the contender's
    TAIL = "tail"  #: the slowest hundredth of the calls, the baseline's over the contender's


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much a contender reads and writes in the workloads whose turns are long."""

    feed_events: int
    bulk_events: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An operation, and how many do it at the same time."""

    name: str
    title: str
    operation: str  #: one of `operations.OPERATIONS`, or what a worker knows besides
    events: int = 1  #: in one call
    writers: int = 1
    processes: int = 1  #: that share out the writers
    #: What each writer does in a turn. None: as many calls as the turn's time allows.
    calls: int | None = None
    #: How often each writer begins a call. None: when the one before has ended.
    per_second: float | None = None
    batch: int = 1  #: events that a projection commits at once
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
    def warms_up(self) -> bool:
        """Whether a shorter run comes before each turn. A subscription begins anew in any case."""
        return not self.isolated and self.operation not in {"deliver", "deliver_across", "project"}

    @property
    def long(self) -> bool:
        """Whether a turn takes seconds, and is steadier than the short ones of the others."""
        return self.whole_feed or self.bulk

    def run(self, seconds: float, sizes: Sizes, stored: int) -> Run:
        """Return what a worker is asked to do in one turn on a store of so many events."""
        events = self.events
        if self.whole_feed:
            events = sizes.feed_events
        elif self.bulk:
            events = sizes.bulk_events
        return Run(
            operation=self.operation,
            events=events,
            calls=self.calls or 1,
            seconds=0 if self.calls else seconds,
            per_second=self.per_second or 0,
            stored=stored,
            batch=self.batch,
        )


#: psycopg prepares a statement at its fifth execution on a connection, and PostgreSQL plans each of
#: the next five anew, before it keeps a plan. Of few calls, those would be the slowest hundredth.
_CALLS_TO_A_PLAN: Final = 12


def warm_up(run: Run, seconds: float) -> Run:
    """Return a shorter run, after which statements are prepared, pools filled, and code warm."""
    short = {"read_long_stream": "read_short_stream"}
    return replace(
        run,
        operation=short.get(run.operation, run.operation),
        events=min(run.events, contents.BULK),
        calls=_CALLS_TO_A_PLAN if run.per_second else 1,
        seconds=seconds if run.seconds else 0,
        per_second=0,
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
    # 640 a second in all: a load that who takes part can carry, unless the disk is slow.
    Workload(
        name="L32",
        title="1 event, 32 writers, 640/s",
        operation="append",
        writers=32,
        calls=30,
        per_second=20,
        metric=Metric.TAIL,
    ),
    Workload(name="W4", title="bulk", operation="bulk", calls=1, bulk=True),
    Workload(name="C1", title="16 contending", operation="decide", writers=16),
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
        calls=50,
        metric=Metric.LATENCY,
    ),
    Workload(
        name="S1p",
        title="commit to handler in another process",
        operation="deliver_across",
        calls=50,
        metric=Metric.LATENCY,
    ),
    Workload(
        name="S2",
        title="projection, 1 event a commit",
        operation="project",
        events=1_000,
        calls=1,
        reads=True,
    ),
    Workload(
        name="S2b",
        title="projection, 500 events a commit",
        operation="project",
        events=2_000,
        calls=1,
        batch=500,
        reads=True,
    ),
)
WORKLOADS: Final = {workload.name: workload for workload in _ALL}
QUICK: Final = ("W1", "W2", "W8", "W4", "R1", "R2", "R3")
_PART: Final = 10_000
#: Those whose cost must not grow with what the store has already; where a call takes as long as
#: it has events, with fewer. Who reads comes before those who add to what is read, and last comes
#: who adds most: a store of 100,000 is to be one.
GROWTH: Final = (
    WORKLOADS["R1"],
    WORKLOADS["R2"],
    Workload(
        name="R3",
        title=f"{_PART:,} of the feed",
        operation="read_feed_anywhere",
        events=_PART,
        reads=True,
    ),
    Workload(
        name="R3p",
        title="page of the feed",
        operation="read_feed_anywhere",
        events=500,
        reads=True,
    ),
    replace(WORKLOADS["S2"], events=200),
    WORKLOADS["S2b"],
    WORKLOADS["S1"],
    WORKLOADS["C1"],
    WORKLOADS["W1"],
    WORKLOADS["W2"],
    WORKLOADS["W8"],
    WORKLOADS["W32"],
    replace(WORKLOADS["W4"], title=f"bulk of {_PART:,}", events=_PART, bulk=False),
)
