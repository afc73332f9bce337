"""``python -m benchmarks.quick``: our store beside hand-written SQL, in under two minutes."""

from __future__ import annotations

import sys

from benchmarks import contenders, workloads
from benchmarks.command_line import check_arguments, make_options, make_parser, run
from benchmarks.measure import Plan


def main() -> int:
    """Measure on an embedded PostgreSQL with default durability, or on a server of yours."""
    parser = make_parser(
        "benchmarks.quick",
        main.__doc__,
        rounds=5,
        seconds=0.3,
        feed_events=50_000,
        bulk_events=10_000,
    )
    arguments = parser.parse_args()
    check_arguments(parser, arguments)
    plan = Plan(
        contenders=contenders.QUICK,
        workloads=arguments.only or workloads.QUICK,
        options=make_options(arguments),
    )
    _, status = run(plan, arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
