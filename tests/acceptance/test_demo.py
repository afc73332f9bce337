"""The demo: the flights' file is read rightly, and the program does what it says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import sessionmaker

from eventstore import NO_STREAM, event_store
from examples.flights import punctuality, timetable, tour
from examples.flights.events import (
    Flight,
    FlightArrived,
    FlightCancelled,
    FlightDeparted,
    FlightDiverted,
    FlightEvent,
    FlightScheduled,
    registry,
)

if TYPE_CHECKING:
    from sqlalchemy import URL

    from examples.flights.timetable import History, Row

try:
    timetable.data_folder()
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

ROOT = Path(__file__).parents[2]
NEW_YORK = timezone(timedelta(hours=-5))
CHICAGO = timezone(timedelta(hours=-6))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return timetable.read_rows()


@pytest.fixture(scope="module")
def history(rows: list[Row]) -> History:
    return timetable.in_order(rows, timetable.read_time_zones())


@pytest.fixture
def row() -> Row:
    """The flight UA1545 of the first of January, which arrived 11 minutes late."""
    return {
        "year": "2013",
        "month": "1",
        "day": "1",
        "dep_time": "517",
        "sched_dep_time": "515",
        "dep_delay": "2",
        "arr_time": "830",
        "sched_arr_time": "819",
        "arr_delay": "11",
        "carrier": "UA",
        "flight": "1545",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "air_time": "227",
        "minute": "15",
        "time_hour": "2013-01-01T10:00:00Z",
    }


def clock(time: datetime, zone: timezone) -> int:
    """What a clock in the zone shows, as the file writes it."""
    local = time.astimezone(zone)
    return local.hour * 100 + local.minute


# All figures here were counted with awk, apart from the code under test.
def test_the_first_week_is_read_whole(rows: list[Row]) -> None:
    assert len(rows) == 6_099
    assert Counter(row["day"] for row in rows) == {
        "1": 842,
        "2": 943,
        "3": 914,
        "4": 915,
        "5": 720,
        "6": 832,
        "7": 933,
    }
    assert len(timetable.read_rows(days=1)) == 842


def test_each_flight_has_a_stream_and_each_event_an_id(history: History) -> None:
    assert Counter(type(event.event_data) for event in history) == {
        FlightScheduled: 6_099,
        FlightDeparted: 6_064,
        FlightArrived: 6_043,
        FlightCancelled: 35,
        FlightDiverted: 21,
    }
    assert len({event.aggregate_id for event in history}) == 6_099
    assert len({event.event_id for event in history}) == len(history)


def test_ids_are_the_same_in_each_run(rows: list[Row], history: History) -> None:
    again = timetable.in_order(rows, timetable.read_time_zones())

    assert [event.event_id for event in again] == [event.event_id for event in history]


def test_events_are_in_the_order_of_their_happening(history: History) -> None:
    assert all(one.occurred_at <= next_one.occurred_at for one, next_one in pairwise(history))

    flights: dict[str, list[type]] = {}
    for event in history:
        flights.setdefault(event.aggregate_id, []).append(type(event.event_data))
    assert {tuple(events) for events in flights.values()} == {
        (FlightScheduled, FlightDeparted, FlightArrived),
        (FlightScheduled, FlightDeparted, FlightDiverted),
        (FlightScheduled, FlightCancelled),
    }


def test_times_agree_with_the_clocks_at_both_airports(rows: list[Row]) -> None:
    zones = timetable.read_time_zones()
    for row in rows:
        zone = zones[row["dest"]]
        for event in timetable.flight_events(row, zone):
            match event.event_data:
                case FlightScheduled(departure=departure, arrival=arrival):
                    assert clock(departure, NEW_YORK) == int(row["sched_dep_time"]) % 2400
                    assert clock(arrival, zone) == int(row["sched_arr_time"]) % 2400
                case FlightDeparted():
                    departed_at = event.occurred_at
                    assert clock(departed_at, NEW_YORK) == int(row["dep_time"]) % 2400
                case FlightArrived(air_minutes=in_the_air):
                    assert clock(event.occurred_at, zone) == int(row["arr_time"]) % 2400
                    # What the zones and the days of arrival are right by.
                    taxiing = event.occurred_at - departed_at - timedelta(minutes=in_the_air)
                    assert timedelta(0) < taxiing <= timedelta(minutes=120)
                case FlightDiverted(reached_destination_at=datetime() as reached_at):
                    assert clock(reached_at, zone) == int(row["arr_time"]) % 2400


def test_an_arrival(row: Row) -> None:
    scheduled, departed, arrived = timetable.flight_events(row, CHICAGO)

    assert scheduled.aggregate_id == "flight-2013-01-01-UA1545"
    assert scheduled.event_data == FlightScheduled(
        carrier="UA",
        number=1545,
        origin="EWR",
        destination="IAH",
        departure=datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
        arrival=datetime(2013, 1, 1, 14, 19, tzinfo=UTC),
        tail_number="N14228",
    )
    assert departed.event_data == FlightDeparted(delay_minutes=2)
    assert departed.occurred_at == datetime(2013, 1, 1, 10, 17, tzinfo=UTC)
    assert arrived.event_data == FlightArrived(delay_minutes=11, air_minutes=227)
    assert arrived.occurred_at == datetime(2013, 1, 1, 14, 30, tzinfo=UTC)


def test_a_departure_after_midnight_is_on_the_next_day(row: Row) -> None:
    row |= {
        "time_hour": "2013-01-02T04:00:00Z",
        "minute": "59",
        "sched_dep_time": "2359",
        "dep_delay": "1",
        "dep_time": "2400",
        "sched_arr_time": "300",
        "arr_delay": "-10",
        "arr_time": "250",
    }
    _, departed, arrived = timetable.flight_events(row, CHICAGO)

    assert departed.occurred_at.astimezone(NEW_YORK) == datetime(2013, 1, 2, tzinfo=NEW_YORK)
    assert arrived.occurred_at == datetime(2013, 1, 2, 2, 50, tzinfo=CHICAGO)


def test_a_flight_that_never_left_was_cancelled(row: Row) -> None:
    row |= dict.fromkeys(
        ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"), timetable.NA
    )
    scheduled, cancelled = timetable.flight_events(row, CHICAGO)

    assert isinstance(scheduled.event_data, FlightScheduled)
    assert scheduled.event_data.tail_number is None
    assert cancelled.event_data == FlightCancelled()


@pytest.mark.parametrize(
    ("arr_time", "reached_at"),
    [("1215", datetime(2013, 1, 1, 12, 15, tzinfo=CHICAGO)), ("NA", None)],
)
def test_a_flight_without_a_delay_was_diverted(
    row: Row, arr_time: str, reached_at: datetime | None
) -> None:
    row |= {"arr_time": arr_time, "arr_delay": "NA", "air_time": "NA"}
    scheduled, _, diverted = timetable.flight_events(row, CHICAGO)

    assert isinstance(scheduled.event_data, FlightScheduled)
    assert diverted.event_data == FlightDiverted(reached_destination_at=reached_at)
    assert diverted.occurred_at == (reached_at or scheduled.event_data.arrival)


def test_2400_is_midnight() -> None:
    evening = datetime(2013, 1, 1, 22, 0, tzinfo=UTC)

    assert timetable.next_on_clock("2400", evening, UTC) == datetime(2013, 1, 2, tzinfo=UTC)


def test_a_flight_is_what_its_events_say() -> None:
    events: list[FlightEvent] = [
        FlightDeparted(delay_minutes=2),
        FlightArrived(delay_minutes=11, air_minutes=227),
    ]

    assert Flight().after_all(events) == Flight(
        status="arrived", departure_delay_minutes=2, arrival_delay_minutes=11
    )


def test_the_sums_of_the_file(rows: list[Row]) -> None:
    table = punctuality.from_rows(rows)

    assert len(table) == 15
    assert table["UA"] == punctuality.Punctuality(
        flights=1_067, cancelled=3, diverted=2, arrived=1_062, on_time=862, delay_minutes=440
    )
    assert table["UA"].mean_delay_minutes == 440 / 1_062
    assert sum(carrier.delay_minutes for carrier in table.values()) == 23_514


def test_other_sums_are_told_by_carrier() -> None:
    counted = {"UA": punctuality.Punctuality(flights=2), "AA": punctuality.Punctuality(flights=1)}
    expected = counted | {"UA": replace(counted["UA"], cancelled=1)}

    tour.check(counted, dict(counted))
    with pytest.raises(tour.WrongSumsError, match=r"^UA: .*cancelled=0.*, the file .*cancelled=1"):
        tour.check(counted, expected)


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.flights", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_runs_and_runs_again_and_fails_when_the_sums_differ(
    database_url: URL, row: Row
) -> None:
    """One test: the third run finds the flights of the first, which take most of its time."""
    arguments = ("--days", "1", "--database-url", database_url.render_as_string(False))
    first = demo(*arguments)
    second = demo(*arguments)

    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert "842 flights with 2,522 events" in first.stdout
    assert "ConcurrencyConflict: stream 'flight-2013-01-01-B61806' is at version 3" in first.stdout
    assert "already_appended=True version=3" in first.stdout
    assert "events 1, rows 1" in first.stdout
    assert "events 0, rows 0" in first.stdout
    assert "Each number agrees" in first.stdout
    assert "It was killed at position" in " ".join(first.stdout.split())
    assert "It was killed" not in " ".join(second.stdout.split())
    assert "14 carriers: each number agrees again" in first.stdout
    assert "earlier run" not in first.stdout
    assert "2,522 of them are there from an earlier run" in second.stdout
    assert second.stdout.partition("A conflict")[2] == first.stdout.partition("A conflict")[2]
    # A log gets no bar for each step, and no terminal's control characters.
    assert first.stdout.count("loading") == 1
    assert "\x1b" not in first.stdout

    engine = create_engine(database_url, poolclass=NullPool)
    scheduled, *_ = timetable.flight_events(row | {"flight": "1"}, CHICAGO)
    with event_store(sessionmaker(engine), registry) as store:
        store.append_to_stream("a flight that is not in the file", NO_STREAM, [scheduled])
    third = demo(*arguments)

    assert third.returncode == 1
    assert "WrongSumsError: UA: the feed says Punctuality(flights=166, " in third.stderr
