"""The benchmark's command line: `python -m benchmarks quick` and `python -m benchmarks full`."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import make_url

from benchmarks import contents, report
from benchmarks.contenders import CONTENDERS, QUICK
from benchmarks.controller import Unavailable
from benchmarks.databases import postgresql
from benchmarks.install import FOLDER
from benchmarks.measure import Plan, measure
from benchmarks.workloads import QUICK as QUICK_WORKLOADS
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import URL

#: What is committed of the full benchmark.
RESULTS: Final = FOLDER.parent / "docs" / "benchmarks" / "results.json"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure on an embedded PostgreSQL with default durability, or on a server of"
        " yours.",
    )
    commands = parser.add_subparsers(required=True, metavar="quick|full")
    quick = commands.add_parser(
        "quick", help="our store beside hand-written SQL, in under two minutes"
    )
    add_options(quick, rounds=5, seconds=0.3, feed_events=50_000, bulk_events=10_000)
    quick.set_defaults(
        contenders=list(QUICK), workloads=QUICK_WORKLOADS, growth=[], minutes=None, out=None
    )
    full = commands.add_parser("full", help="everybody in every workload, and growth")
    add_options(full, rounds=10, seconds=0.5, feed_events=500_000, bulk_events=100_000)
    full.set_defaults(workloads=tuple(WORKLOADS))
    full.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"these, and the baselines that they need, of {', '.join(CONTENDERS)}",
    )
    full.add_argument(
        "--growth",
        nargs="*",
        type=int,
        default=[100_000, 1_000_000],
        metavar="EVENTS",
        help="sizes of the stores that are compared with an empty one, e.g. 100000 1000000"
        " 10000000, which needs 15 GB and half an hour; none: growth is left out",
    )
    full.add_argument(
        "--minutes",
        type=float,
        default=25,
        help="begin no round after its workload's share of these, unless there were too few",
    )
    full.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write results.json, README.md and plots there (needs matplotlib)",
    )
    return parser


def add_options(
    parser: argparse.ArgumentParser,
    *,
    rounds: int,
    seconds: float,
    feed_events: int,
    bulk_events: int,
) -> None:
    """Add what both commands have, with these defaults."""
    parser.add_argument(
        "--database-url", type=make_url, help="a server whose role may create databases"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=seconds, help="of one turn")
    parser.add_argument("--feed-events", type=int, default=feed_events, help="read by R3")
    parser.add_argument("--bulk-events", type=int, default=bulk_events, help="appended by W4")
    parser.add_argument("--only", nargs="*", metavar="W1", help="these workloads alone")
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


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuse what would fail in the middle of a run, or measure something else."""
    least = contents.MIN_EVENTS
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.feed_events < least:
        parser.error(f"--feed-events must be at least {least}: R1 and R2 read a part of them")
    if arguments.bulk_events % contents.BULK or arguments.bulk_events < contents.BULK:
        parser.error(f"--bulk-events must be a multiple of {contents.BULK}")
    if unknown := set(arguments.only or ()).difference(WORKLOADS):
        parser.error(f"--only knows {', '.join(WORKLOADS)}, not {', '.join(sorted(unknown))}")
    if any(size <= least for size in arguments.growth):
        parser.error(f"--growth begins above {least} events: that is an empty store's, for reads")
    if arguments.out and importlib.util.find_spec("matplotlib") is None:
        parser.error("--out needs matplotlib: pip install --group bench")


def make_plan(arguments: argparse.Namespace) -> Plan:
    return Plan(
        contenders=arguments.contenders,
        workloads=arguments.workloads if arguments.only is None else arguments.only,
        options=report.Options(
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            feed_events=arguments.feed_events,
            bulk_events=arguments.bulk_events,
            minutes=arguments.minutes,
        ),
        growth=sorted(arguments.growth),
    )


def main() -> int:
    """Measure, print, write and compare as the arguments say; return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args()
    check_arguments(parser, arguments)
    plan = make_plan(arguments)
    # Read first: they may be the files that are about to be written.
    earlier = arguments.compare and read(arguments.compare)
    committed = read_committed()
    if arguments.check and committed is None:
        parser.error("there is nothing to check against: docs/benchmarks has no committed results")
    with postgresql(arguments.database_url) as server:
        try:
            now = measure(plan, server)
        except Unavailable as error:
            sys.exit(str(error))
        print("\n".join(report.table(now)))
        if arguments.json:
            arguments.json.write_text(now.model_dump_json(indent=1) + "\n")
        if arguments.out:
            from benchmarks import publish  # noqa: PLC0415 - matplotlib is needed for this alone

            publish.publish(now, arguments.out)
        if earlier:
            tell_falls(arguments.compare, earlier, report.what_got_worse(now, earlier))
        if committed is None:
            return 0
        falls = list(report.what_got_worse(now, committed))
        if arguments.check and falls:
            falls = confirm(plan, server, falls, committed)
        tell_falls("the committed results", committed, falls)
    return 1 if arguments.check and falls else 0


def confirm(
    plan: Plan, server: URL, falls: Sequence[report.Fall], committed: report.Report
) -> list[report.Fall]:
    """Return what is worse still when it is measured once more."""
    again = measure(
        replace(
            plan,
            contenders=sorted({fall.contender for fall in falls}),
            workloads=[name for name in plan.workloads if name in {f.workload for f in falls}],
        ),
        server,
    )
    keys = {fall.key for fall in falls}
    return [fall for fall in report.what_got_worse(again, committed) if fall.key in keys]


def tell_falls(than: object, earlier: report.Report, falls: Iterable[report.Fall]) -> None:
    lines = list(map(str, falls)) or ["nothing"]
    print(f"\nworse than {than} ({earlier.machine.revision}):", *lines, sep="\n  ")


def read(file: Path) -> report.Report:
    return report.Report.model_validate_json(file.read_text())


def read_committed() -> report.Report | None:
    """Return the results of the last commit that has some, whatever lies in the working tree."""
    name = RESULTS.relative_to(FOLDER.parent)
    done = subprocess.run(
        ["git", "show", f"HEAD:{name}"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode else report.Report.model_validate_json(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
