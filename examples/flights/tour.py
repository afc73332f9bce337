"""What the library is for, shown on the flights: each step's description is what it prints.

Every step runs a second time on the same data with the same outcome.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from rich.table import Table

from eventstore import (
    ConcurrencyConflict,
    EventEnvelope,
    EventFilter,
    ReadOptions,
    Snapshot,
    SqlAlchemyEventStore,
    StreamAppend,
    event_store,
)
from examples.flights import board, punctuality
from examples.flights.events import (
    FLIGHT,
    Flight,
    FlightArrived,
    FlightCancelled,
    FlightDiverted,
    registry,
)
from examples.flights.refunds import RefundRow, grant_refund, refund_stream
from examples.flights.timetable import read_carriers

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from sqlalchemy.orm import Session, sessionmaker

    from examples.flights.events import FlightEvent
    from examples.flights.timetable import History, Row


class WrongSumsError(Exception):
    """The events say something else than the file that they were made from."""


class BankIsDownError(Exception):
    """What goes wrong in the middle of a transaction."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What the steps are shown on."""

    session_factory: sessionmaker[Session]
    console: Console
    rows: list[Row]
    history: History

    @property
    def arrival(self) -> EventEnvelope[FlightEvent]:
        """The first arrival of the year, version 3 of its stream."""
        return next(e for e in self.history if isinstance(e.event_data, FlightArrived))

    @property
    def cancelled(self) -> list[str]:
        """The first two flights that were cancelled."""
        cancellations = (e for e in self.history if isinstance(e.event_data, FlightCancelled))
        return [event.aggregate_id for event in islice(cancellations, 2)]


Step: TypeAlias = "Callable[[Guide], None]"


def show(guide: Guide) -> None:
    """Run all steps, each under its own description."""
    for step in STEPS:
        title, _, explanation = inspect.cleandoc(step.__doc__ or "").partition("\n\n")
        guide.console.print(f"\n[bold]{title}[/bold]")
        guide.console.print(" ".join(explanation.split()), style="dim")
        step(guide)


def conflict(guide: Guide) -> None:
    """A conflict, and how it is told.

    Dispatch has loaded a flight at version 2, "departed", and now reports it as diverted. The
    tower was quicker: the flight has arrived. Nothing is written, the error says how far the
    stream is, and the same transaction goes on.
    """
    flight_id = guide.arrival.aggregate_id
    diverted = EventEnvelope(
        aggregate_type=FLIGHT, event_data=FlightDiverted(reached_destination_at=None)
    )
    with event_store(guide.session_factory, registry) as store:
        try:
            store.append_to_stream(flight_id, 2, [diverted])
        except ConcurrencyConflict as error:
            guide.console.print(f"  ConcurrencyConflict: {error}")
            guide.console.print(f"  expected={error.expected} actual={error.actual}")
        newest = next(store.read_stream(flight_id, ReadOptions(backward=True, max_count=1)))
        guide.console.print(f"  loaded again: version {newest.event_version}, {newest.event_type}")


def retry(guide: Guide) -> None:
    """A retry that is recognised.

    The tower's reply was lost, so it sends the arrival again, the same event id at the version
    it knew. That is no conflict: nothing is written, and the first answer comes back.
    """
    arrival = guide.arrival
    with event_store(guide.session_factory, registry) as store:
        result = store.append(StreamAppend(arrival.aggregate_id, 2, [arrival]))
    place = result[arrival.aggregate_id]
    guide.console.print(
        f"  already_appended={result.already_appended} version={place.version} "
        f"position={place.positions[0]}"
    )


def snapshot(guide: Guide) -> None:
    """A snapshot, saved and used.

    What was known of the flight at version 2 is kept. Loading it again starts from there and
    reads only the newer events.
    """
    flight_id = guide.arrival.aggregate_id
    with event_store(guide.session_factory, registry) as store:
        departed = Flight().after_all(
            event.event_data for event in store.read_stream(flight_id, ReadOptions(to_version=2))
        )
        store.save_snapshot(
            Snapshot(aggregate_id=flight_id, aggregate_type=FLIGHT, version=2, data=departed)
        )
    with event_store(guide.session_factory, registry) as store:
        saved = store.get_snapshot(flight_id, FLIGHT, as_type=Flight)
        assert saved is not None
        newer = list(store.read_stream(flight_id, ReadOptions(from_version=saved.version + 1)))
    flight = saved.data.after_all(event.event_data for event in newer)
    guide.console.print(f"  snapshot at version {saved.version}: {saved.data.status}")
    guide.console.print(f"  and {len(newer)} newer event, read now: {flight.status}")


def one_transaction(guide: Guide) -> None:
    """A row and its event, committed together or not at all.

    The passengers of a cancelled flight get their money back: an event, and a row in a table of
    the application, in one transaction. For a second flight the bank fails before the commit.
    """
    granted, refused = guide.cancelled
    with guide.session_factory.begin() as session:
        grant_refund(session, granted, "cancelled")
    with suppress(BankIsDownError), guide.session_factory.begin() as session:
        grant_refund(session, refused, "cancelled")
        raise BankIsDownError
    with guide.session_factory() as session:
        store = SqlAlchemyEventStore(session, registry)
        for outcome, flight_id in (("committed", granted), ("rolled back", refused)):
            events = len(list(store.read_stream(refund_stream(flight_id))))
            rows = 0 if session.get(RefundRow, flight_id) is None else 1
            assert events == rows
            guide.console.print(f"  {outcome:<12} {flight_id}: events {events}, rows {rows}")


def feed(guide: Guide) -> None:
    """The feed, read forward into a table.

    All events of all flights in one order, folded into the punctuality of each carrier, and
    compared with the sums of the file.
    """
    with event_store(guide.session_factory, registry) as store:
        flights_only = EventFilter(aggregate_types=[FLIGHT])
        counted = punctuality.from_feed(store.read_all_forward(filters=flights_only))
    guide.console.print(_as_text(counted))
    check(counted, punctuality.from_rows(guide.rows))
    guide.console.print("  Each number agrees with the file's own.")


def live_board(guide: Guide) -> None:
    """A live board, whose process was killed.

    The same table, kept current by a subscription while the flights came. Its process was killed
    in the midst of its work, and another one went on. Each event has counted exactly once, since
    the board and the place in the feed are committed together.
    """
    with guide.session_factory() as session:
        shown = board.lines(session)
    check(shown, punctuality.from_rows(guide.rows))
    guide.console.print(f"  {len(shown)} carriers: each number agrees again.")


def as_of(guide: Guide) -> None:
    """A stream, read as of an earlier version.

    Nothing is overwritten, so that what was known at any time can be read again.
    """
    flight_id = guide.arrival.aggregate_id
    with event_store(guide.session_factory, registry) as store:
        for version in (1, 2, 3):
            events = list(store.read_stream(flight_id, ReadOptions(to_version=version)))
            flight = Flight().after_all(event.event_data for event in events)
            guide.console.print(
                f"  {flight_id} at version {version}, {events[-1].occurred_at:%d %b %H:%M} UTC: "
                f"{flight.status}"
            )


STEPS: tuple[Step, ...] = (conflict, retry, snapshot, one_transaction, feed, live_board, as_of)


def check(counted: punctuality.Table, expected: punctuality.Table) -> None:
    """Raise WrongSumsError, which names the carriers at fault, unless the two are equal."""
    carriers = sorted(counted.keys() | expected.keys())
    wrong = [
        f"{carrier}: the feed says {counted.get(carrier)}, the file {expected.get(carrier)}"
        for carrier in carriers
        if counted.get(carrier) != expected.get(carrier)
    ]
    if wrong:
        raise WrongSumsError("\n".join(wrong))


def _as_text(counted: punctuality.Table) -> Table:
    names = read_carriers()
    table = Table(box=None, padding=(0, 1))
    table.add_column("carrier", no_wrap=True)
    for heading in ("flights", "cancelled", "diverted", "mean delay", "on time"):
        table.add_column(heading, justify="right")
    for carrier, row in sorted(counted.items(), key=lambda item: -item[1].on_time_share):
        table.add_row(
            names[carrier],
            f"{row.flights:,}",
            f"{row.cancelled}",
            f"{row.diverted}",
            f"{row.mean_delay_minutes:.1f} min",
            f"{row.on_time_share:.1%}",
        )
    return table
