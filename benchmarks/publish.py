"""What is committed of a full run: values, a page with tables, and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks import plots, report
from benchmarks.contenders import CONTENDERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_INTRODUCTION: Final = """\
# Results

Written by `make bench`; [what each workload and contender is](../../benchmarks/README.md), and how
to read this, stand beside the code. A cell has events per second, and in brackets the ratio to
`raw`, SQL written by hand: the median of the rounds' ratios. More is better. Differences under
15 to 20 % are noise.
"""


def publish(now: report.Report, folder: Path) -> None:
    """Write the report there, and replace what an earlier one has left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(now.model_dump_json(indent=1) + "\n")
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = [plots.draw_workload(rows, folder) for rows in by_workload(now.rows).values()]
    if now.growth:
        drawn.append(plots.draw_growth(now.growth, folder))
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
    cells = {row.key: f"{row.events_per_second:,.0f} ({row.ratio_to_raw:.2f})" for row in now.rows}
    seen = {row.contender for row in now.rows}
    yield _line("", *(f"{rows[0].workload} {rows[0].title}" for rows in workloads.values()))
    yield _line("---", *("---:" for _ in workloads))
    for name in CONTENDERS:
        if name in seen:
            yield _line(_mark(name), *(cells.get((workload, name), "") for workload in workloads))


def _workload(rows: list[report.Row]) -> Iterator[str]:
    yield from ("", f"### {rows[0].workload}: {rows[0].title}", "")
    yield _line(
        *("contender", "events/s", "to raw", "to raw in its mode", "p50 ms", "p99 ms"),
        *("conflicts", "peak MB", "grown MB"),
    )
    yield _line("---", *["---:"] * 8)
    for row in rows:
        yield _line(
            _mark(row.contender),
            f"{row.events_per_second:,.0f}",
            f"{row.ratio_to_raw:.2f}",
            f"{row.ratio:.2f}",
            f"{row.p50_ms:.2f}",
            "" if row.p99_ms is None else f"{row.p99_ms:.2f}",
            str(row.conflicts or ""),
            "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
            "" if row.grown_mb is None else f"{row.grown_mb:.0f}",
        )


def _growth(growth: Iterable[report.Growth]) -> Iterator[str]:
    yield from ("", "### Growth", "", "The ratio is to the smallest store; 1 is flat.", "")
    yield _line("workload", "contender", "events in the store", "events/s", "p50 ms", "ratio")
    yield _line("---", "---", *["---:"] * 4)
    for row in growth:
        yield _line(
            f"{row.workload} {row.title}",
            _mark(row.contender),
            f"{row.events:,}",
            f"{row.events_per_second:,.0f}",
            f"{row.p50_ms:.2f}",
            f"{row.ratio:.2f}",
        )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _mark(contender: str) -> str:
    return f"**{contender}**" if plots.is_ours(contender) else contender
