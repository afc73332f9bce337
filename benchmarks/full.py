"""``python -m benchmarks.full``: everybody, in every workload, for an hour or so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from benchmarks.command_line import check_arguments, make_options, make_parser, run
from benchmarks.contenders import CONTENDERS
from benchmarks.filling import MIN_EVENTS
from benchmarks.measure import Plan
from benchmarks.workloads import WORKLOADS


def main() -> int:
    """Measure our store, hand-written SQL and other event stores beside each other."""
    parser = make_parser(
        "benchmarks.full",
        main.__doc__,
        rounds=10,
        seconds=0.5,
        feed_events=500_000,
        bulk_events=100_000,
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar="NAME",
        help=f"these, and the baselines that they need, of {', '.join(CONTENDERS)}",
    )
    parser.add_argument(
        "--growth",
        nargs="*",
        type=int,
        default=[100_000, 1_000_000],
        metavar="EVENTS",
        help="sizes of the stores that growth is measured on, e.g. 100000 1000000 10000000, which"
        " needs 15 GB; none: growth is left out",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write results.json, README.md and plots there (needs matplotlib)",
    )
    arguments = parser.parse_args()
    check_arguments(parser, arguments)
    if any(size < MIN_EVENTS for size in arguments.growth):
        parser.error(f"--growth begins at {MIN_EVENTS} events: R1 and R2 read a part of them")
    if arguments.out and importlib.util.find_spec("matplotlib") is None:
        parser.error("--out needs matplotlib: pip install --group bench")
    plan = Plan(
        contenders=arguments.contenders,
        workloads=arguments.only or list(WORKLOADS),
        options=make_options(arguments),
        growth=sorted(arguments.growth),
    )
    now, status = run(plan, arguments)
    if arguments.out:
        from benchmarks import publish  # noqa: PLC0415 - matplotlib is needed for this alone

        publish.publish(now, arguments.out)
    return status


if __name__ == "__main__":
    sys.exit(main())
