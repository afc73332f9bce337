"""What was measured, as a table, as JSON, and beside an earlier run."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Final

import psycopg
import sqlalchemy
from pydantic import BaseModel, ConfigDict

from benchmarks.events import PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.measure import Sample
    from benchmarks.workloads import Workload

#: A ratio that fell by more than this is told; less is noise.
TOLERANCE: Final = 0.15
# The slowest one of fewer calls is chance.
_MIN_CALLS_FOR_P99: Final = 100
_VERSION_AND_DURABILITY: Final = (
    "SELECT current_setting('server_version'), current_setting('fsync'),"
    " current_setting('synchronous_commit')"
)


class Row(BaseModel):
    """A contender's result in one workload and mode."""

    model_config = ConfigDict(frozen=True)

    workload: str
    title: str
    mode: str
    contender: str
    events_per_second: float
    ratio: float  #: to raw in the same mode
    calls: int
    p50_ms: float
    p99_ms: float | None
    peak_mb: float | None
    grown_mb: float | None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.workload, self.mode, self.contender


class About(BaseModel):
    """Where, when and with what it was measured."""

    model_config = ConfigDict(frozen=True)

    date: datetime
    revision: str
    cores: int
    cpu: str
    load_average: float
    python: str
    sqlalchemy: str
    psycopg: str
    postgresql: str
    fsync: str
    synchronous_commit: str
    payload_bytes: int
    rounds: int
    seconds: float
    feed_events: int


class Report(BaseModel):
    model_config = ConfigDict(frozen=True)

    about: About
    rows: list[Row]


def summarise(
    workload: Workload,
    mode: str,
    contender: str,
    samples: Sequence[Sample],
    baseline: Sequence[Sample],
) -> Row:
    """Return medians. The ratio is that of the rounds' ratios, not of the medians.

    The disk's speed swings between rounds, but both contenders of one round meet the same.
    """
    latencies = sorted(chain.from_iterable(sample.latencies for sample in samples))
    calls = len(latencies)
    peaks = [sample.peak_mb for sample in samples if sample.peak_mb is not None]
    growths = [sample.grown_mb for sample in samples if sample.grown_mb is not None]
    return Row(
        workload=workload.name,
        title=workload.title,
        mode=mode,
        contender=contender,
        events_per_second=median(sample.rate for sample in samples),
        ratio=median(
            sample.rate / base.rate for sample, base in zip(samples, baseline, strict=True)
        ),
        calls=calls,
        p50_ms=median(latencies) * 1000,
        p99_ms=latencies[calls * 99 // 100] * 1000 if calls >= _MIN_CALLS_FOR_P99 else None,
        peak_mb=max(peaks, default=None),
        grown_mb=max(growths, default=None),
    )


def about(conninfo: str, *, rounds: int, seconds: float, feed_events: int) -> About:
    with psycopg.connect(conninfo) as connection:
        server = connection.execute(_VERSION_AND_DURABILITY).fetchone() or ("", "", "")
    postgresql, fsync, synchronous_commit = server
    return About(
        date=datetime.now(UTC).replace(microsecond=0),
        revision=_revision(),
        cores=os.cpu_count() or 0,
        cpu=_cpu(),
        load_average=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        sqlalchemy=sqlalchemy.__version__,
        psycopg=f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        postgresql=postgresql,
        fsync=fsync,
        synchronous_commit=synchronous_commit,
        payload_bytes=len(PAYLOAD.model_dump_json()),
        rounds=rounds,
        seconds=seconds,
        feed_events=feed_events,
    )


def table(report: Report) -> Iterator[str]:
    """Yield the report's lines."""
    yield from wrap(", ".join(f"{name} {value}" for name, value in report.about), 100)
    yield ""
    yield (
        f"{'workload':<24}{'mode':<13}{'contender':<11}{'events/s':>9}{'ratio':>7}"
        f"{'p50 ms':>9}{'p99 ms':>9}  peak MB (growth)"
    )
    for row in report.rows:
        p99 = "" if row.p99_ms is None else f"{row.p99_ms:.2f}"
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f} (+{row.grown_mb:.0f})"
        yield (
            f"{row.workload + ' ' + row.title:<24}{row.mode:<13}{row.contender:<11}"
            f"{row.events_per_second:>9.0f}{row.ratio:>7.2f}{row.p50_ms:>9.2f}{p99:>9}  {peak}"
        ).rstrip()


def what_got_worse(now: Iterable[Row], earlier: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each ratio that fell by more than the tolerance."""
    ratios = {row.key: row.ratio for row in earlier}
    for row in now:
        before = ratios.get(row.key)
        if before is not None and row.ratio < before * (1 - TOLERANCE):
            change = row.ratio / before - 1
            yield f"{' '.join(row.key)}: {before:.2f} -> {row.ratio:.2f} of raw ({change:+.0%})"


def _revision() -> str:
    """Return the commit, with ``-dirty`` if files differ from it; empty outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    root = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    # platform.processor() is empty on most Linux systems.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
