"""What was measured: as values, as a table, and beside an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from benchmarks.contenders import BASELINE, PEERS_PART
from benchmarks.machine import Conditions, Machine  # noqa: TC001 - pydantic reads it
from benchmarks.workloads import WORKLOADS, Metric, Sizes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from benchmarks.contenders import Contender
    from benchmarks.protocol import Sample
    from benchmarks.workloads import Workload

#: A ratio that fell by more than this is told; less is noise.
TOLERANCE: Final = 0.15
# The slowest one of fewer calls is chance.
_MIN_CALLS_FOR_P99: Final = 100


class Options(BaseModel):
    """How it was measured."""

    model_config = ConfigDict(frozen=True)

    rounds: int
    seconds: float  #: of one turn
    feed_events: int
    bulk_events: int
    minutes: float | None = None  #: that the run should take; None: whatever the rounds need

    @property
    def sizes(self) -> Sizes:
        return Sizes(feed_events=self.feed_events, bulk_events=self.bulk_events)


class Row(BaseModel):
    """A contender's result in one workload."""

    model_config = ConfigDict(frozen=True)

    workload: str
    title: str
    contender: str
    mode: str
    rounds: int
    events_per_second: float
    ratio: float  #: to raw in the same mode; more is better
    ratio_to_raw: float  #: to raw in autocommit, whatever the contender's mode
    calls: int
    p50_ms: float
    p99_ms: float | None
    p99_ratio: float | None  #: raw's in the same mode over its own; more is better
    conflicts: int  #: that were met and overcome
    peak_mb: float | None
    grown_mb: float | None

    @property
    def key(self) -> tuple[str, str]:
        return self.workload, self.contender


class Growth(BaseModel):
    """A contender's result in one workload on a store of some size."""

    model_config = ConfigDict(frozen=True)

    workload: str
    title: str
    contender: str
    events: int  #: in the store
    rounds: int
    events_per_second: float
    p50_ms: float
    ratio: float  #: of the speed to that on an empty store; 1 is flat

    @property
    def key(self) -> tuple[str, str]:
        return at(self.workload, self.events), self.contender


class Skip(BaseModel):
    """Who did not take part, and why."""

    model_config = ConfigDict(frozen=True)

    workload: str | None  #: None: in any; of growth, `at` a size
    contender: str
    reason: str


class Report(BaseModel):
    model_config = ConfigDict(frozen=True)

    machine: Machine
    options: Options
    conditions: dict[str, Conditions]  #: by workload
    rows: list[Row]
    growth: list[Growth] = []
    skipped: list[Skip] = []


def at(workload: str, events: int) -> str:
    """Return what a workload is called on a store of some size."""
    return f"{workload} at {events:,}"


def summarise(
    workload: Workload,
    contender: Contender,
    samples: Mapping[str, Sequence[Sample]],
) -> Row:
    """Return medians. A ratio is that of the rounds' ratios, not of the medians.

    The disk's speed swings between rounds, but all contenders of one round meet the same.
    """
    own = samples[contender.name]
    # Not every baseline does everything.
    base = samples.get(contender.baseline, samples[BASELINE])
    latencies = all_latencies(own)
    own_p99, base_p99 = p99(latencies), p99(all_latencies(base))
    peaks = [sample.peak_mb for sample in own if sample.peak_mb is not None]
    growths = [sample.grown_mb for sample in own if sample.grown_mb is not None]
    return Row(
        workload=workload.name,
        title=workload.title,
        contender=contender.name,
        mode=contender.mode,
        rounds=len(own),
        events_per_second=median(sample.rate for sample in own),
        ratio=ratio(own, base, workload.metric),
        ratio_to_raw=ratio(own, samples[BASELINE], workload.metric),
        calls=len(latencies),
        p50_ms=median(latencies) * 1000,
        p99_ms=own_p99,
        p99_ratio=base_p99 / own_p99 if own_p99 and base_p99 else None,
        conflicts=sum(sample.conflicts for sample in own),
        peak_mb=max(peaks, default=None) if workload.isolated else None,
        grown_mb=max(growths, default=None) if workload.isolated else None,
    )


def grown(
    workload: Workload,
    contender: Contender,
    events: int,
    samples: Sequence[Sample],
    empty: Sequence[Sample],
) -> Growth:
    """Return medians, and the ratio to the same on an empty store."""
    return Growth(
        workload=workload.name,
        title=workload.title,
        contender=contender.name,
        events=events,
        rounds=len(samples),
        events_per_second=median(sample.rate for sample in samples),
        p50_ms=median(all_latencies(samples)) * 1000,
        ratio=ratio(samples, empty, workload.metric),
    )


def all_latencies(samples: Iterable[Sample]) -> list[float]:
    """Return those of all rounds, sorted."""
    return sorted(chain.from_iterable(sample.latencies for sample in samples))


def ratio(own: Sequence[Sample], baseline: Sequence[Sample], metric: Metric) -> float:
    """Return the median of the rounds' ratios; more is better."""
    return median(_ratio(sample, base, metric) for sample, base in zip(own, baseline, strict=True))


def _ratio(sample: Sample, base: Sample, metric: Metric) -> float:
    match metric:
        case Metric.RATE:
            return sample.rate / base.rate
        case Metric.LATENCY:
            return median(base.latencies) / median(sample.latencies)
        case Metric.TAIL:
            return slowest(sorted(base.latencies)) / slowest(sorted(sample.latencies))


def p99(latencies: Sequence[float]) -> float | None:
    """Return milliseconds, of sorted seconds; None if there are too few."""
    return slowest(latencies) * 1000 if len(latencies) >= _MIN_CALLS_FOR_P99 else None


def slowest(latencies: Sequence[float]) -> float:
    """Return the 99th percentile, of sorted seconds."""
    return latencies[len(latencies) * 99 // 100]


@dataclass(frozen=True, kw_only=True)
class Fall:
    """A ratio that got worse by more than the tolerance."""

    workload: str
    contender: str
    before: float
    now: float

    @property
    def key(self) -> tuple[str, str]:
        return self.workload, self.contender

    def __str__(self) -> str:
        change = self.now / self.before - 1
        return (
            f"{self.workload} {self.contender}: {self.before:.2f} -> {self.now:.2f} ({change:+.0%})"
        )


def what_got_worse(now: Report, earlier: Report) -> Iterator[Fall]:
    """Yield each ratio that fell by more than the tolerance; what only one run has is no fall.

    Those of growth are ratios to the empty store of the same run. Workloads whose sizes differ in
    the two runs are not compared.
    """
    ratios = _ratios(earlier)
    unlike = _of_other_sizes(now.options, earlier.options)
    for (workload, contender), ratio_now in _ratios(now).items():
        before = ratios.get((workload, contender))
        if workload in unlike or before is None:
            continue
        if ratio_now < before * (1 - TOLERANCE):
            yield Fall(workload=workload, contender=contender, before=before, now=ratio_now)


def _of_other_sizes(now: Options, earlier: Options) -> set[str]:
    """Return the workloads that have read or written other numbers of events in the two runs."""
    feeds_differ = now.feed_events != earlier.feed_events
    bulks_differ = now.bulk_events != earlier.bulk_events
    return {
        name
        for name, each in WORKLOADS.items()
        if (each.whole_feed and feeds_differ) or (each.bulk and bulks_differ)
    }


def _ratios(report: Report) -> dict[tuple[str, str], float]:
    rows = {row.key: row.ratio for row in report.rows}
    return rows | {row.key: row.ratio for row in report.growth}


def table(report: Report) -> Iterator[str]:
    """Yield the report's lines, for a terminal."""
    yield from wrap(", ".join(facts(report)), 100)
    if report.rows:
        yield from ("", _LINE.format(*_HEADER))
    for row in report.rows:
        yield _LINE.format(
            f"{row.workload} {row.title}",
            row.contender,
            row.rounds,
            f"{row.events_per_second:.0f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_to_raw:.2f}",
            f"{row.p50_ms:.2f}",
            optional(row.p99_ms, ".2f"),
            optional(row.p99_ratio, ".2f"),
            "" if row.peak_mb is None else f"{row.peak_mb:.0f} (+{row.grown_mb:.0f})",
        ).rstrip()
    if report.growth:
        yield from ("", _GROWTH_LINE.format(*_GROWTH_HEADER))
    for grown in report.growth:
        yield _GROWTH_LINE.format(
            f"{grown.workload} {grown.title}",
            grown.contender,
            grown.rounds,
            f"{grown.events:,}",
            f"{grown.events_per_second:.0f}",
            f"{grown.ratio:.2f}",
            f"{grown.p50_ms:.2f}",
        )
    if report.skipped:
        yield ""
    for skip in report.skipped:
        yield f"skipped: {skip.workload or 'all'} {skip.contender}: {skip.reason}"


_LINE: Final = "{:<25.24}{:<25}{:>6}{:>10}{:>7}{:>8}{:>9}{:>9}{:>7}  {}"
_HEADER: Final = (
    *("workload", "contender", "rounds", "events/s", "ratio", "to raw"),
    *("p50 ms", "p99 ms", "ratio", "peak MB (growth)"),
)
_GROWTH_LINE: Final = "{:<25.24}{:<25}{:>6}{:>12}{:>10}{:>7}{:>9}"
_GROWTH_HEADER: Final = (
    *("growth", "contender", "rounds", "events", "events/s", "ratio", "p50 ms"),
)


def optional(value: float | None, form: str) -> str:
    """Return a figure that is not always there."""
    return "" if value is None else format(value, form)


def facts(report: Report) -> Iterator[str]:
    """Yield what the figures depend on, one at a time."""
    options = report.options
    yield from machine_facts(report.machine, report.conditions.values())
    yield f"turns of {options.seconds} s in up to {options.rounds} rounds"
    if options.minutes is not None:
        yield f"within {options.minutes:g} minutes or so"
    yield f"feed {options.feed_events:,} events, bulk {options.bulk_events:,} events"
    yield f"1/{PEERS_PART} of both for peers"


def machine_facts(machine: Machine, moods: Collection[Conditions]) -> Iterator[str]:
    """Yield what they depend on that is no option of a run."""
    yield f"{machine.date:%Y-%m-%d %H:%M} UTC"
    yield f"revision {machine.revision}"
    yield f"{machine.cores} cores of {machine.cpu}"
    yield machine.system
    if moods:
        loads = [mood.load_average for mood in moods]
        syncs = [mood.syncs_per_second for mood in moods]
        yield f"load {min(loads):.1f} to {max(loads):.1f}"
        yield f"fdatasync/s {min(syncs):.0f} to {max(syncs):.0f}, median {median(syncs):.0f}"
    yield f"PostgreSQL {machine.postgresql}"
    yield from (f"{name} {value}" for name, value in machine.settings.items())
    yield f"payload {machine.payload_bytes} bytes"
