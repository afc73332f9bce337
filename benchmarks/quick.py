"""``python -m benchmarks.quick``: our store beside hand-written SQL, in under two minutes."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
from sqlalchemy import make_url

from benchmarks import report
from benchmarks.contenders import Contender, Mode, conninfo, ours, raw
from benchmarks.measure import Sample, run_for, run_isolated
from benchmarks.workloads import MIN_FEED, WORKLOADS, Workload, fill
from eventstore.embedded import EmbeddedPostgres
from eventstore.testing.databases import migrated_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL

BASELINE: Final = "raw"
CONTENDERS: Final[dict[str, Contender]] = {BASELINE: raw, "ours": ours}
#: Until statements are prepared, pools are filled and code is warm.
WARM_UP_SECONDS: Final = 0.1
#: A pass over the feed is long, and steadier than the short turns of the others.
MAX_ISOLATED_ROUNDS: Final = 3


def main() -> None:
    """Measure on an embedded PostgreSQL with default durability, or on a server of yours."""
    arguments = parse_arguments()
    # Read first: it may be the file that is about to be written.
    earlier = arguments.compare and report.Report.model_validate_json(arguments.compare.read_text())
    with server(arguments.database_url) as url:
        now = run(url, arguments)
    print("\n".join(report.table(now)))
    if arguments.json:
        arguments.json.write_text(now.model_dump_json(indent=1) + "\n")
    if earlier:
        worse = list(report.what_got_worse(now.rows, earlier.rows))
        print(f"\nworse than {arguments.compare} ({earlier.about.revision}):", *worse, sep="\n  ")
        if not worse:
            print("  nothing")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description=main.__doc__)
    parser.add_argument(
        "--database-url", type=make_url, help="a server whose role may create databases"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=0.4, help="of one turn")
    parser.add_argument("--feed-events", type=int, default=100_000, help="read by R3")
    parser.add_argument("--only", nargs="+", metavar="W1", help="these workloads alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help=f"print which ratios fell by more than {report.TOLERANCE:.0%} since that JSON",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.feed_events < MIN_FEED:
        parser.error(f"--feed-events must be at least {MIN_FEED}: R1 and R2 read a part of them")
    names = [workload.name for workload in WORKLOADS]
    if unknown := set(arguments.only or ()).difference(names):
        parser.error(f"--only knows {', '.join(names)}, not {', '.join(sorted(unknown))}")
    return arguments


@contextmanager
def server(database_url: URL | None) -> Iterator[URL]:
    if database_url is not None:
        yield database_url.set(drivername="postgresql+psycopg")
        return
    with EmbeddedPostgres() as embedded:
        yield embedded.url()


def run(server_url: URL, arguments: argparse.Namespace) -> report.Report:
    about = report.about(
        conninfo(server_url),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        feed_events=arguments.feed_events,
    )
    chosen = [
        workload for workload in WORKLOADS if not arguments.only or workload.name in arguments.only
    ]
    rows = []
    # Apart, so that reads find the same, whatever was written before.
    with migrated_database(server_url) as written, migrated_database(server_url) as filled:
        if any(workload.reads for workload in chosen):
            with psycopg.connect(conninfo(filled), autocommit=True) as connection:
                fill(connection, arguments.feed_events)
        for workload in chosen:
            print(workload.name, end=" ", flush=True, file=sys.stderr)
            url = filled if workload.reads else written
            for mode in workload.modes:
                samples = measure(workload, mode, url, arguments)
                rows += [
                    report.summarise(workload, mode, name, samples[name], samples[BASELINE])
                    for name in CONTENDERS
                ]
    print(file=sys.stderr)
    return report.Report(about=about, rows=rows)


def measure(
    workload: Workload, mode: Mode, url: URL, arguments: argparse.Namespace
) -> dict[str, list[Sample]]:
    """Let the contenders take turns: what the machine does meanwhile meets them all."""
    operation = workload.operation
    rounds = arguments.rounds
    turns: dict[str, Callable[[], Sample]] = {}
    with ExitStack() as stack:
        if workload.isolated:
            rounds = min(rounds, MAX_ISOLATED_ROUNDS)
            for name, contender in CONTENDERS.items():
                turns[name] = partial(run_isolated, operation, contender, url)
        else:
            for name, contender in CONTENDERS.items():
                clients = stack.enter_context(contender(url, mode, workload.threads))
                run_for(WARM_UP_SECONDS, operation, clients)
                turns[name] = partial(run_for, arguments.seconds, operation, clients)
        taken = [{name: turn() for name, turn in turns.items()} for _ in range(rounds)]
    return {name: [samples[name] for samples in taken] for name in turns}


if __name__ == "__main__":
    main()
