"""What was measured: as values, as a table, and beside an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from benchmarks.contenders import BASELINE
from benchmarks.machine import Conditions, Machine  # noqa: TC001 - pydantic reads it
from benchmarks.workloads import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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


class Row(BaseModel):
    """A contender's result in one workload."""

    model_config = ConfigDict(frozen=True)

    workload: str
    title: str
    contender: str
    mode: str
    events_per_second: float
    ratio: float  #: to raw in the same mode; more is better
    ratio_to_raw: float  #: to raw in autocommit, whatever the contender's mode
    calls: int
    p50_ms: float
    p99_ms: float | None
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
    events_per_second: float
    p50_ms: float
    ratio: float  #: to the same on the smallest store; 1 is flat


class Skip(BaseModel):
    """Who did not take part, and why."""

    model_config = ConfigDict(frozen=True)

    workload: str | None  #: None: in any
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


def summarise(
    workload: Workload,
    contender: Contender,
    samples: Mapping[str, Sequence[Sample]],
) -> Row:
    """Return medians. A ratio is that of the rounds' ratios, not of the medians.

    The disk's speed swings between rounds, but all contenders of one round meet the same.
    """
    own = samples[contender.name]
    latencies = sorted(chain.from_iterable(sample.latencies for sample in own))
    peaks = [sample.peak_mb for sample in own if sample.peak_mb is not None]
    growths = [sample.grown_mb for sample in own if sample.grown_mb is not None]
    return Row(
        workload=workload.name,
        title=workload.title,
        contender=contender.name,
        mode=contender.mode,
        events_per_second=median(sample.rate for sample in own),
        ratio=ratio(own, samples[contender.baseline], workload.metric),
        ratio_to_raw=ratio(own, samples[BASELINE], workload.metric),
        calls=len(latencies),
        p50_ms=median(latencies) * 1000,
        p99_ms=p99(latencies),
        conflicts=sum(sample.conflicts for sample in own),
        peak_mb=max(peaks, default=None) if workload.isolated else None,
        grown_mb=max(growths, default=None) if workload.isolated else None,
    )


def grown(
    workload: Workload,
    contender: Contender,
    events: int,
    samples: Sequence[Sample],
    smallest: Sequence[Sample],
) -> Growth:
    """Return medians, and the ratio to the same on the smallest store."""
    return Growth(
        workload=workload.name,
        title=workload.title,
        contender=contender.name,
        events=events,
        events_per_second=median(sample.rate for sample in samples),
        p50_ms=median(chain.from_iterable(sample.latencies for sample in samples)) * 1000,
        ratio=ratio(samples, smallest, workload.metric),
    )


def ratio(own: Sequence[Sample], baseline: Sequence[Sample], metric: Metric) -> float:
    """Return the median of the rounds' ratios; more is better."""
    return median(_ratio(sample, base, metric) for sample, base in zip(own, baseline, strict=True))


def _ratio(sample: Sample, base: Sample, metric: Metric) -> float:
    if metric is Metric.LATENCY:
        return median(base.latencies) / median(sample.latencies)
    return sample.rate / base.rate


def p99(latencies: Sequence[float]) -> float | None:
    """Return milliseconds, of sorted seconds; None if there are too few."""
    calls = len(latencies)
    return latencies[calls * 99 // 100] * 1000 if calls >= _MIN_CALLS_FOR_P99 else None


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
            f"{self.workload} {self.contender}: {self.before:.2f} -> {self.now:.2f} of raw"
            f" ({change:+.0%})"
        )


def what_got_worse(now: Iterable[Row], earlier: Iterable[Row]) -> Iterator[Fall]:
    """Yield each ratio that fell by more than the tolerance; what only one run has is no fall."""
    ratios = {row.key: row.ratio for row in earlier}
    for row in now:
        before = ratios.get(row.key)
        if before is not None and row.ratio < before * (1 - TOLERANCE):
            yield Fall(workload=row.workload, contender=row.contender, before=before, now=row.ratio)


def table(report: Report) -> Iterator[str]:
    """Yield the report's lines, for a terminal."""
    yield from wrap(", ".join(facts(report)), 100)
    yield ""
    yield (
        f"{'workload':<25}{'contender':<25}{'events/s':>9}{'ratio':>7}{'to raw':>8}"
        f"{'p50 ms':>9}{'p99 ms':>9}  peak MB (growth)"
    )
    for row in report.rows:
        p99_ms = "" if row.p99_ms is None else f"{row.p99_ms:.2f}"
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f} (+{row.grown_mb:.0f})"
        yield (
            f"{row.workload + ' ' + row.title:<25.24}{row.contender:<25}"
            f"{row.events_per_second:>9.0f}{row.ratio:>7.2f}{row.ratio_to_raw:>8.2f}"
            f"{row.p50_ms:>9.2f}{p99_ms:>9}  {peak}"
        ).rstrip()
    if report.growth:
        yield ""
        yield (
            f"{'growth':<25}{'contender':<25}{'events':>10}{'events/s':>10}{'p50 ms':>9}"
            f"{'ratio':>7}"
        )
    for grown in report.growth:
        yield (
            f"{grown.workload + ' ' + grown.title:<25.24}{grown.contender:<25}{grown.events:>10}"
            f"{grown.events_per_second:>10.0f}{grown.p50_ms:>9.2f}{grown.ratio:>7.2f}"
        )
    if report.skipped:
        yield ""
    for skip in report.skipped:
        yield f"skipped: {skip.workload or 'all'} {skip.contender}: {skip.reason}"


def facts(report: Report) -> Iterator[str]:
    """Yield what the figures depend on, one at a time."""
    machine, options = report.machine, report.options
    syncs = [mood.syncs_per_second for mood in report.conditions.values()]
    loads = [mood.load_average for mood in report.conditions.values()]
    yield f"{machine.date:%Y-%m-%d %H:%M} UTC"
    yield f"revision {machine.revision}"
    yield f"{machine.cores} cores of {machine.cpu}"
    yield machine.system
    yield f"load {min(loads):.1f} to {max(loads):.1f}"
    yield f"fdatasync/s {min(syncs):.0f} to {max(syncs):.0f}, median {median(syncs):.0f}"
    yield f"PostgreSQL {machine.postgresql}"
    yield from (f"{name} {value}" for name, value in machine.settings.items())
    yield f"payload {machine.payload_bytes} bytes"
    yield f"{options.rounds} rounds of {options.seconds} s"
    yield f"feed {options.feed_events} events"
    yield f"bulk {options.bulk_events} events"
