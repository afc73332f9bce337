"""``python -m examples.flights``: load the flights, and show what the library is for.

Without ``--database-url`` an embedded PostgreSQL keeps the data in ``.data/`` of the checkout
(``data_dir`` says where, for root).
A second run finds them there and goes on: it appends what is missing, be it nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import sessionmaker

from eventstore import EventFilter, event_store
from eventstore.embedded import EmbeddedPostgres, EmbeddedPostgresError
from examples.flights import ROOT, data_dir, refunds, timetable, tour
from examples.flights.board import LiveBoard
from examples.flights.events import FLIGHT, registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from uuid import UUID

    from rich.progress import Task
    from sqlalchemy import URL
    from sqlalchemy.orm import Session

    from eventstore import EventEnvelope
    from examples.flights.events import FlightEvent
    from examples.flights.timetable import History


def main() -> None:
    """Run the demo on the database that the command line names, or on an embedded server."""
    arguments = parse_arguments()
    console = Console(highlight=False)
    try:
        with database(arguments) as url:
            run(url, arguments.days, console)
    except (EmbeddedPostgresError, ModuleNotFoundError, tour.WrongSumsError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    console.print(farewell(arguments), soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    """Return ``days`` and ``database_url`` from the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=main.__doc__)
    parser.add_argument(
        "--days",
        type=int,
        choices=range(1, timetable.DAYS + 1),
        default=timetable.DAYS,
        help="of January 2013; each number of days has a data folder of its own",
    )
    parser.add_argument("--database-url", type=make_url, help="a database for this demo alone")
    return parser.parse_args()


@contextmanager
def database(arguments: argparse.Namespace) -> Iterator[URL]:
    """Give the URL of the database, and hold its server if that is the embedded one."""
    if arguments.database_url is not None:
        yield arguments.database_url.set(drivername="postgresql+psycopg")
        return
    with EmbeddedPostgres(data_dir(arguments.days)) as server:
        yield server.url()


def run(url: URL, days: int, console: Console) -> None:
    """Make the tables, load the flights, and show the tour."""
    migrate(url)
    engine = create_engine(url)
    refunds.Base.metadata.create_all(engine)
    session_factory = sessionmaker(engine)

    rows = timetable.read_rows(days)
    history = timetable.in_order(rows, timetable.read_time_zones())
    console.print(f"{len(rows):,} flights with {len(history):,} events, January 1 to {days}, 2013.")
    with LiveBoard(engine, kill_at=len(history) // 2) as live:
        load(history, session_factory, console)
        live.catch_up()
    if live.killed_at is not None:
        console.print(
            "Meanwhile a process kept the live punctuality board. It was killed at position "
            f"{live.killed_at:,}; another one went on from there."
        )
    tour.show(
        tour.Guide(session_factory=session_factory, console=console, rows=rows, history=history)
    )
    engine.dispose()


def migrate(url: URL) -> None:
    """Do what you would do by hand: ``alembic upgrade head`` in the root of the checkout."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env=os.environ | {"EVENTSTORE_DATABASE_URL": url.render_as_string(hide_password=False)},
        check=True,
    )


def load(history: History, session_factory: sessionmaker[Session], console: Console) -> None:
    """Append the events that are missing, one by one as they happened.

    What happened in one hour is one transaction.
    """
    recorded = ids_of_recorded_flights(session_factory)
    missing = [event for event in history if event.event_id not in recorded]
    if len(missing) < len(history):
        console.print(f"{len(history) - len(missing):,} of them are there from an earlier run.")
    if not missing:
        return
    versions = Counter(event.aggregate_id for event in history if event.event_id in recorded)
    started = time.perf_counter()
    with Progress(
        TextColumn("loading"), BarColumn(), MofNCompleteColumn(), Speed(), console=console
    ) as progress:
        task = progress.add_task("", total=len(missing))
        for _, events in groupby(missing, key=hour_of):
            with event_store(session_factory, registry) as store:
                for event in events:
                    flight_id = event.aggregate_id
                    versions[flight_id] = store.append_to_stream(
                        flight_id, versions[flight_id], [event]
                    )
                    progress.advance(task)
    seconds = time.perf_counter() - started
    console.print(f"{seconds:.1f} s, {len(missing) / seconds:,.0f} events/s, one append each.")


def ids_of_recorded_flights(session_factory: sessionmaker[Session]) -> set[UUID]:
    """Return the ids of the flights' events that the store has."""
    with event_store(session_factory, registry) as store:
        flights_only = EventFilter(aggregate_types=[FLIGHT])
        return {event.event_id for event in store.read_all_forward(filters=flights_only)}


def hour_of(event: EventEnvelope[FlightEvent]) -> datetime:
    """Return the hour in which the event happened."""
    return event.occurred_at.replace(minute=0)


class Speed(ProgressColumn):
    """Events per second, as measured lately."""

    def render(self, task: Task) -> Text:
        """Return the speed of ``task``."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} events/s")


def farewell(arguments: argparse.Namespace) -> str:
    """Say where the data are, and what to try next."""
    if arguments.database_url is not None:
        return f"\nThe data are in {arguments.database_url!r}."
    python = os.path.relpath(sys.executable)
    days = "" if arguments.days == timetable.DAYS else f" --days {arguments.days}"
    return f"""
The data are in {data_dir(arguments.days)}; delete the folder to begin anew. Try next:

  # once more: the events are there, and nothing changes
  {python} -m examples.flights{days}
  # PostgreSQL's shell on the data: \\d events, or TABLE streams LIMIT 5;
  {python} -m examples.flights.psql{days}
  # an event of your own; docs/tutorial.md goes on from there
  {python} -m examples.quickstart"""


if __name__ == "__main__":
    main()
