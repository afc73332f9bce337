"""What is committed of a full run: values, a page with tables, and plots.

The same values make the same files, byte by byte, so that a commit shows what has changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import contents, report
from benchmarks.contenders import CONTENDERS
from benchmarks.workloads import GROWTH, WORKLOADS, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.report import Growth, Row

AnyRow = TypeVar("AnyRow", report.Row, report.Growth)

_INTRODUCTION: Final = """\
# Results

Written by `make bench`; [what each workload and contender is](../../benchmarks/README.md), and how
to read this, stand beside the code. A cell has events per second (or how long the median call or
the slowest hundredth took), and in brackets the ratio to `raw`, SQL written by hand: the median of
the rounds' ratios. More is better. Differences under 15 to 20 % are noise.

Where the client's CPU time goes, function by function: [before](profiles-before.md) the work on
speed, and [after](profiles-after.md) it.
"""
_GROWTH_NOTE: Final = """\
On an empty store, which has only what is read, and on stores of so many events; in brackets the
ratio to the empty store: the median of the rounds' ratios. 1 is flat.
"""
#: `Workload.metric` of those that are compared, and of those that only growth has.
_METRICS: Final = {each.name: each.metric for each in (*GROWTH, *WORKLOADS.values())}

_OURS: Final = "#1f6feb"
_BY_HAND: Final = "#8b949e"
_PEER: Final = "#d0d7de"
_BAR_INCHES: Final = 0.28
_WIDTH_INCHES: Final = 8.0
_PANELS_IN_A_ROW: Final = 3
_PANEL_INCHES: Final = 1.5
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


def by_workload(rows: Iterable[AnyRow]) -> dict[str, list[AnyRow]]:
    """Return the rows of each workload, in the order in which they were measured."""
    found: dict[str, list[AnyRow]] = {}
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


def _growth(growth: Sequence[report.Growth]) -> Iterator[str]:
    sizes = sizes_of(growth)
    yield from ("", "### Growth", "", _GROWTH_NOTE)
    yield _line("workload", "contender", "rounds", "empty", *(f"{size:,}" for size in sizes))
    yield _line("---", "---", *["---:"] * (2 + len(sizes)))
    for rows in by_workload(growth).values():
        for contender, (empty, *others) in by_contender(rows).items():
            cells = {row.events: f"{_absolute(row)} ({row.ratio:.2f})" for row in others}
            yield _line(
                f"{empty.workload} {empty.title}",
                _mark(contender),
                str(empty.rounds),
                _absolute(empty),
                *(cells.get(size, "not measured") for size in sizes),
            )


def sizes_of(growth: Iterable[report.Growth]) -> list[int]:
    """Return the sizes of the stores that were compared with an empty one."""
    return sorted({row.events for row in growth if row.events > contents.MIN_EVENTS})


def by_contender(growth: Iterable[report.Growth]) -> dict[str, list[report.Growth]]:
    """Return the rows of each contender in one workload, the empty store's first."""
    found: dict[str, list[report.Growth]] = {}
    for row in sorted(growth, key=lambda row: row.events):
        found.setdefault(row.contender, []).append(row)
    return found


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
    """Draw how the speed changes with what is in the store, and return the file.

    Each workload has a panel of its own, and all have the same axes.
    """
    workloads = list(by_workload(growth).values())
    contenders = list(dict.fromkeys(row.contender for row in growth))
    sizes = sizes_of(growth)
    height = math.ceil(len(workloads) / _PANELS_IN_A_ROW)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, 1 + _PANEL_INCHES * height), layout="constrained")
        panels = figure.subplots(height, _PANELS_IN_A_ROW, sharey=True, squeeze=False).flatten()
        for axes, rows in zip(panels, workloads, strict=False):
            _draw_panel(axes, rows, sizes, contenders)
        for axes in panels[len(workloads) :]:
            axes.set_axis_off()
        panels[0].set_ylim(0, max(1.25, *(1.05 * row.ratio for row in growth)))
        figure.suptitle(
            "Growth: speed by the events in the store, 1 is that on an empty one",
            x=0.01,
            ha="left",
            weight="bold",
        )
        lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
        figure.legend(
            [lines[name] for name in contenders],
            contenders,
            loc="outside lower left",
            frameon=False,
            ncols=len(contenders),
        )
        return _save(figure, folder / "growth.svg")


def _draw_panel(
    axes: Axes, growth: Sequence[Growth], sizes: Sequence[int], contenders: Sequence[str]
) -> None:
    for contender, rows in by_contender(growth).items():
        axes.plot(
            [0, *(sizes.index(row.events) + 1 for row in rows[1:])],
            [row.ratio for row in rows],
            marker="os^D"[contenders.index(contender) % 4],
            markersize=4,
            linestyle="-" if is_ours(contender) else "--",
            color=_OURS if is_ours(contender) else _BY_HAND,
            label=contender,
        )
    axes.axhline(1, color=_BY_HAND, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(1 + len(sizes)), ["empty", *(f"{size:,}" for size in sizes)])
    axes.tick_params(labelsize=8)
    axes.set_title(f"{growth[0].workload}: {growth[0].title}", loc="left", fontsize=8)


def _colour(contender: str) -> str:
    if is_ours(contender):
        return _OURS
    return _BY_HAND if contender.partition("-")[0] in {"raw", "pgbench"} else _PEER


def _absolute(row: Row | Growth) -> str:
    match _METRICS[row.workload], row:
        case Metric.LATENCY, _:
            return f"p50 {row.p50_ms:.2f} ms"
        case Metric.TAIL, report.Row(p99_ms=p99_ms):
            return f"p99 {report.optional(p99_ms, '.2f')} ms"
        case _:
            return f"{row.events_per_second:,.0f}/s"


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    return file
