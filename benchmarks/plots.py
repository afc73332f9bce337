"""Plots: bars of a contender's ratio to raw, ours highlighted, and lines of growth.

The same values make the same files, byte by byte, so that a commit shows what has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.report import Growth, Row

_OURS: Final = "#1f6feb"
_BY_HAND: Final = "#8b949e"
_PEER: Final = "#d0d7de"
_BAR_INCHES: Final = 0.28
_WIDTH_INCHES: Final = 8.0
# Ids in the file are hashes of its contents and this, else of a random number.
_STYLE: Final = {
    "svg.hashsalt": "eventstore",
    "svg.fonttype": "none",  # text stays text: small files, and readers can search them
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


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
        labels = [f"{row.ratio_to_raw:.2f}  {_absolute(row)}" for row in ordered]
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
                [row.events for row in rows],
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
        axes.set_xlabel("events in the store")
        axes.set_ylabel("events/s, ratio to the smallest store")
        axes.legend(fontsize=7, frameon=False, ncols=2)
        return _save(figure, folder / "growth.svg")


def _colour(contender: str) -> str:
    if is_ours(contender):
        return _OURS
    return _BY_HAND if contender.partition("-")[0] in {"raw", "pgbench"} else _PEER


def _absolute(row: Row) -> str:
    if row.workload == "S1":
        return f"(p50 {row.p50_ms:.2f} ms)"
    return f"({row.events_per_second:,.0f}/s)"


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    return file
