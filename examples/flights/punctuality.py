"""How punctual each carrier was: once from the feed of events, once from the rows of the file.

The two ways share nothing but :class:`Punctuality`, so that the sums prove the events.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from examples.flights.events import (
    FlightArrived,
    FlightCancelled,
    FlightDiverted,
    FlightScheduled,
)
from examples.flights.timetable import NA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstore import EventEnvelope
    from examples.flights.events import FlightEvent
    from examples.flights.timetable import Row

#: The usual definition: an arrival is on time if it is less than 15 minutes late.
ON_TIME_MINUTES: Final = 15


@dataclass
class Punctuality:
    """What is counted of a carrier: whole numbers, so that two counts are equal or not."""

    flights: int = 0
    cancelled: int = 0
    diverted: int = 0
    arrived: int = 0
    on_time: int = 0
    delay_minutes: int = 0

    def count(self, event: FlightEvent) -> None:
        """Count what has happened to a flight of the carrier."""
        match event:
            case FlightScheduled():
                self.flights += 1
            case FlightCancelled():
                self.cancelled += 1
            case FlightDiverted():
                self.diverted += 1
            case FlightArrived(delay_minutes=delay):
                self.count_arrival(delay)

    def count_arrival(self, delay_minutes: int) -> None:
        """Count a flight that arrived so late, or so early if negative."""
        self.arrived += 1
        self.on_time += delay_minutes < ON_TIME_MINUTES
        self.delay_minutes += delay_minutes

    @property
    def mean_delay_minutes(self) -> float:
        """The mean over the flights that arrived; early ones count as negative."""
        return self.delay_minutes / self.arrived if self.arrived else 0.0

    @property
    def on_time_share(self) -> float:
        """The part of the arrivals that was on time, from 0 to 1."""
        return self.on_time / self.arrived if self.arrived else 0.0


#: By the carrier's code.
Table: TypeAlias = dict[str, Punctuality]


def from_feed(feed: Iterable[EventEnvelope[Any]]) -> Table:
    """Fold the events of all flights, in feed order, into the table."""
    table: Table = defaultdict(Punctuality)
    # Only its first event names a flight's carrier. In the feed that event comes first, too.
    carriers: dict[str, str] = {}
    for event in feed:
        if isinstance(event.event_data, FlightScheduled):
            carriers[event.stream_id] = event.event_data.carrier
        table[carriers[event.stream_id]].count(event.event_data)
    return dict(table)


def from_rows(rows: Iterable[Row]) -> Table:
    """Count the rows of the file into the table."""
    table: Table = defaultdict(Punctuality)
    for row in rows:
        carrier = table[row["carrier"]]
        carrier.flights += 1
        carrier.cancelled += row["dep_time"] == NA
        carrier.diverted += row["dep_time"] != NA and row["arr_delay"] == NA
        if row["arr_delay"] != NA:
            carrier.count_arrival(int(row["arr_delay"]))
    return dict(table)
