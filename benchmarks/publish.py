"""What is committed of a full run: values, a page with tables, and plots.

The same values make the same files, byte by byte, so that a commit shows what has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.contenders import CONTENDERS
from benchmarks.workloads import WORKLOADS, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.report import Growth, Row

_INTRODUCTION: Final = """\
# Results

Written by `make bench`; [what each workload and contender is](../../benchmarks/README.md), and how
to read this, stand beside the code. A cell has events per second (or how long the median call or
the slowest hundredth took), and in brackets the ratio to `raw`, SQL written by hand: the median of
the rounds' ratios. More is better. Differences under 15 to 20 % are noise.

Where the client's CPU time goes, function by function: [before](profiles-before.md) the work on
speed, and [after](profiles-after.md) it.
"""
_GROWTH_NOTE: Final = (
    "The ratio is that of the speed to the speed on an empty store, which has only what is read;"
    " 1 is flat."
)

_OURS: Final = "#1f6feb"
_BY_HAND: Final = "#8b949e"
_PEER: Final = "#d0d7de"
_BAR_INCHES: Final = 0.28
_WIDTH_INCHES: Final = 8.0
# Keys are literals in some releases' types and plain texts in others'.
# Ids in the file are hashes of its contents and this, else of a random number.
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "eventstore",
    "svg.fonttype": "none",  # text stays text: small files, and readers can search them
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def publish(now: report.Report, folder: Path) -> None:
    """Write the report there, and replace what an earlier one has left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(now.model_dump_json(indent=1) + "\n")
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = [draw_workload(rows, folder) for rows in by_workload(now.rows).values()]
    if now.growth:
        drawn.append(draw_growth(now.growth, folder))
    (folder / "README.md").write_text("\n".join(page(now, drawn)) + "\n")


def by_workload(rows: Iterable[report.Row]) -> dict[str, list[report.Row]]:
    """Return the rows of each workload, in the order in which they were measured."""
    found: dict[str, list[report.Row]] = {}
    for row in rows:
        found.setdefault(row.workload, []).append(row)
    return found


def page(now: report.Report, drawn: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of a page in Markdown."""
    yield _INTRODUCTION
    yield from _overview(now)
    yield from ("", "## Workload by workload", "")
    yield from (f"![{path.stem}]({path.name})\n" for path in drawn)
    for rows in by_workload(now.rows).values():
        yield from _workload(rows)
    if now.growth:
        yield from _growth(now.growth)
    yield from ("", "## Measured with", "")
    yield from (f"- {fact}" for fact in report.facts(now))
    yield from (
        f"- {name}: {', '.join(f'{what} {version}' for what, version in versions.items())}"
        for name, versions in now.machine.versions.items()
    )
    if now.skipped:
        yield from ("", "## Left out", "")
        yield from (
            f"- {skip.contender} in {skip.workload or 'all'}: {skip.reason}" for skip in now.skipped
        )


def _overview(now: report.Report) -> Iterator[str]:
    workloads = by_workload(now.rows)
    cells = {row.key: f"{_absolute(row)} ({row.ratio_to_raw:.2f})" for row in now.rows}
    seen = {row.contender for row in now.rows}
    yield _line("", *(f"{rows[0].workload} {rows[0].title}" for rows in workloads.values()))
    yield _line("---", *("---:" for _ in workloads))
    for name in CONTENDERS:
        if name in seen:
            yield _line(_mark(name), *(cells.get((workload, name), "") for workload in workloads))


def _workload(rows: list[report.Row]) -> Iterator[str]:
    yield from ("", f"### {rows[0].workload}: {rows[0].title}", "")
    yield _line(
        *("contender", "rounds", "events/s", "to raw", "to raw in its mode", "p50 ms", "p99 ms"),
        *("p99 to raw's in its mode", "conflicts", "peak MB", "grown MB"),
    )
    yield _line("---", *["---:"] * 10)
    for row in rows:
        yield _line(
            _mark(row.contender),
            str(row.rounds),
            f"{row.events_per_second:,.0f}",
            f"{row.ratio_to_raw:.2f}",
            f"{row.ratio:.2f}",
            f"{row.p50_ms:.2f}",
            report.optional(row.p99_ms, ".2f"),
            report.optional(row.p99_ratio, ".2f"),
            str(row.conflicts or ""),
            report.optional(row.peak_mb, ".0f"),
            report.optional(row.grown_mb, ".0f"),
        )


def _growth(growth: Iterable[report.Growth]) -> Iterator[str]:
    yield from ("", "### Growth", "", _GROWTH_NOTE, "")
    yield _line(
        *("workload", "contender", "events in the store", "rounds", "events/s", "p50 ms", "ratio")
    )
    yield _line("---", "---", *["---:"] * 5)
    for row in growth:
        yield _line(
            f"{row.workload} {row.title}",
            _mark(row.contender),
            f"{row.events:,}",
            str(row.rounds),
            f"{row.events_per_second:,.0f}",
            f"{row.p50_ms:.2f}",
            f"{row.ratio:.2f}",
        )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _mark(contender: str) -> str:
    return f"**{contender}**" if is_ours(contender) else contender


def is_ours(contender: str) -> bool:
    return contender.partition("-")[0] == "ours"


def draw_workload(rows: Sequence[Row], folder: Path) -> Path:
    """Draw the contenders of one workload, the quickest on top, and return the file."""
    ordered = sorted(rows, key=lambda row: row.ratio_to_raw)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, 1 + _BAR_INCHES * len(ordered)))
        axes: Axes = figure.subplots()
        bars = axes.barh(
            [row.contender for row in ordered],
            [row.ratio_to_raw for row in ordered],
            color=[_colour(row.contender) for row in ordered],
        )
        labels = [f"{row.ratio_to_raw:.2f}  ({_absolute(row)})" for row in ordered]
        axes.bar_label(bars, labels, padding=4)
        axes.axvline(1, color=_BY_HAND, linewidth=0.8, linestyle=":")
        axes.set_title(f"{rows[0].workload}: {rows[0].title}", loc="left", weight="bold")
        axes.set_xlabel("ratio to raw, SQL written by hand (more is better)")
        # Room for the longest bar's label.
        axes.set_xlim(0, 1.25 * max(row.ratio_to_raw for row in ordered))
        for label, row in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_fontweight("bold" if is_ours(row.contender) else "normal")
        return _save(figure, folder / f"{rows[0].workload}.svg")


def draw_growth(growth: Sequence[Growth], folder: Path) -> Path:
    """Draw how the speed changes with what is in the store, and return the file."""
    lines: dict[tuple[str, str], list[Growth]] = {}
    for row in growth:
        lines.setdefault((row.workload, row.contender), []).append(row)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, 4))
        axes: Axes = figure.subplots()
        for number, ((workload, contender), rows) in enumerate(lines.items()):
            axes.plot(
                # A logarithm of nothing can't be drawn.
                [max(row.events, 1_000) for row in rows],
                [row.ratio for row in rows],
                marker="osv^D"[number // 2 % 5],
                linestyle="-" if is_ours(contender) else "--",
                color=_OURS if is_ours(contender) else _BY_HAND,
                label=f"{workload} {rows[0].title}, {contender}",
            )
        axes.axhline(1, color=_BY_HAND, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title("Growth", loc="left", weight="bold")
        axes.set_xlabel("events in the store (an empty one stands at 1,000)")
        axes.set_ylabel("events/s, ratio to an empty store")
        axes.legend(fontsize=7, frameon=False, ncols=2)
        return _save(figure, folder / "growth.svg")


def _colour(contender: str) -> str:
    if is_ours(contender):
        return _OURS
    return _BY_HAND if contender.partition("-")[0] in {"raw", "pgbench"} else _PEER


def _absolute(row: Row) -> str:
    match WORKLOADS[row.workload].metric:
        case Metric.RATE:
            return f"{row.events_per_second:,.0f}/s"
        case Metric.LATENCY:
            return f"p50 {row.p50_ms:.2f} ms"
        case Metric.TAIL:
            return f"p99 {report.optional(row.p99_ms, '.2f')} ms"


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    return file
