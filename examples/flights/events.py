"""The events of a flight, and what is known of the flight after them.

An event's payload says what happened; *when* it happened is ``occurred_at`` of its envelope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from eventstore import EventRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The ``aggregate_type`` of all events of this module.
FLIGHT = "flight"

registry = EventRegistry()


class Fact(BaseModel):
    """What happened; nobody changes it any more."""

    model_config = ConfigDict(frozen=True)


@registry.register("flight-scheduled")
class FlightScheduled(Fact):
    """A flight was put on the timetable."""

    carrier: str
    number: int
    origin: str
    destination: str
    departure: AwareDatetime
    arrival: AwareDatetime
    #: The aircraft; some flights were cancelled before they got one.
    tail_number: str | None


@registry.register("flight-departed")
class FlightDeparted(Fact):
    """It left the gate."""

    delay_minutes: int


@registry.register("flight-arrived")
class FlightArrived(Fact):
    """It reached the gate of its destination."""

    delay_minutes: int
    air_minutes: int


@registry.register("flight-cancelled")
class FlightCancelled(Fact):
    """It never left."""


@registry.register("flight-diverted")
class FlightDiverted(Fact):
    """It left, but did not arrive as planned."""

    #: Some reached their destination all the same, later and by another way.
    reached_destination_at: AwareDatetime | None


FlightEvent = FlightScheduled | FlightDeparted | FlightArrived | FlightCancelled | FlightDiverted


class Flight(BaseModel):
    """What is known of a flight: a left fold of its events."""

    model_config = ConfigDict(frozen=True)

    status: Literal["unknown", "scheduled", "departed", "arrived", "cancelled", "diverted"] = (
        "unknown"
    )
    departure_delay_minutes: int | None = None
    arrival_delay_minutes: int | None = None

    def after(self, event: FlightEvent) -> Flight:
        """Return what is known once ``event`` has happened too."""
        match event:
            case FlightScheduled():
                return Flight(status="scheduled")
            case FlightDeparted(delay_minutes=delay):
                return Flight(status="departed", departure_delay_minutes=delay)
            case FlightArrived(delay_minutes=delay):
                return Flight(
                    status="arrived",
                    departure_delay_minutes=self.departure_delay_minutes,
                    arrival_delay_minutes=delay,
                )
            case FlightCancelled():
                return Flight(status="cancelled")
            case FlightDiverted():
                return Flight(
                    status="diverted", departure_delay_minutes=self.departure_delay_minutes
                )

    def after_all(self, events: Iterable[FlightEvent]) -> Flight:
        """Return what is known once all of ``events`` have happened."""
        flight = self
        for event in events:
            flight = flight.after(event)
        return flight
