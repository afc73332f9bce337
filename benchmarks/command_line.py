"""The options that the quick and the full benchmark have in common."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import make_url

from benchmarks import filling, report
from benchmarks.databases import postgresql
from benchmarks.install import FOLDER
from benchmarks.measure import Plan, measure
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import URL

#: What is committed of the full benchmark.
RESULTS: Final = FOLDER.parent / "docs" / "benchmarks" / "results.json"


def make_parser(
    prog: str,
    description: str | None,
    *,
    rounds: int,
    seconds: float,
    feed_events: int,
    bulk_events: int,
) -> argparse.ArgumentParser:
    """Return a parser with these defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument(
        "--database-url", type=make_url, help="a server whose role may create databases"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=seconds, help="of one turn")
    parser.add_argument("--feed-events", type=int, default=feed_events, help="read by R3")
    parser.add_argument("--bulk-events", type=int, default=bulk_events, help="appended by W4")
    parser.add_argument("--only", nargs="+", metavar="W1", help="these workloads alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        # argparse formats the text once more.
        help=f"which ratios fell by more than {report.TOLERANCE * 100:.0f} %% since that JSON",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare with the results that are committed in docs/benchmarks, and exit with 1 if"
        " anything got worse, two times",
    )
    return parser


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what would fail in the middle of a run, or measure something else."""
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.feed_events < filling.MIN_EVENTS:
        parser.error(
            f"--feed-events must be at least {filling.MIN_EVENTS}: R1 and R2 read a part of them"
        )
    if arguments.bulk_events % filling.BULK or arguments.bulk_events < filling.BULK:
        parser.error(f"--bulk-events must be a multiple of {filling.BULK}")
    if unknown := set(arguments.only or ()).difference(WORKLOADS):
        parser.error(f"--only knows {', '.join(WORKLOADS)}, not {', '.join(sorted(unknown))}")


def make_options(arguments: argparse.Namespace) -> report.Options:
    return report.Options(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        feed_events=arguments.feed_events,
        bulk_events=arguments.bulk_events,
    )


def run(plan: Plan, arguments: argparse.Namespace) -> tuple[report.Report, int]:
    """Measure, print, write and compare as the arguments say; return the exit status too."""
    # Read first: they may be the files that are about to be written.
    earlier = arguments.compare and read(arguments.compare)
    committed = read_committed() if arguments.check else None
    status = 0
    with postgresql(arguments.database_url) as server:
        now = measure(plan, server)
        print("\n".join(report.table(now)))
        if arguments.json:
            arguments.json.write_text(now.model_dump_json(indent=1) + "\n")
        if earlier:
            worse = [str(fall) for fall in report.what_got_worse(now.rows, earlier.rows)]
            tell_falls(f"{arguments.compare} ({earlier.machine.revision})", worse)
        if committed:
            falls = confirm(plan, server, now, committed)
            tell_falls(f"committed ({committed.machine.revision})", map(str, falls))
            status = 1 if falls else 0
    return now, status


def confirm(
    plan: Plan, server: URL, now: report.Report, committed: report.Report
) -> list[report.Fall]:
    """Return what got worse, and is so when it is measured once more."""
    falls = list(report.what_got_worse(now.rows, committed.rows))
    if not falls:
        return []
    again = measure(
        replace(
            plan,
            contenders=sorted({fall.contender for fall in falls}),
            workloads=[name for name in plan.workloads if name in {f.workload for f in falls}],
            growth=(),
        ),
        server,
    )
    keys = {fall.key for fall in falls}
    return [fall for fall in report.what_got_worse(again.rows, committed.rows) if fall.key in keys]


def tell_falls(than: str, falls: Iterable[str]) -> None:
    print(f"\nworse than {than}:", *(list(falls) or ["nothing"]), sep="\n  ")


def read(file: Path) -> report.Report:
    return report.Report.model_validate_json(file.read_text())


def read_committed() -> report.Report:
    """Return the results of the last commit that has some, whatever lies in the working tree."""
    name = RESULTS.relative_to(FOLDER.parent)
    done = subprocess.run(
        ["git", "show", f"HEAD:{name}"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"there is nothing to check against: {name} is not committed")
    return report.Report.model_validate_json(done.stdout)
