"""A live view: the punctuality of each carrier, kept current by a subscription while flights come.

Handler and checkpoint share one transaction, so that a process which dies in the midst of its work
leaves nothing half done: the next one goes on from the checkpoint, and counts no event twice. The
demo kills one to show it.

``python -m examples.flights.board`` is such a process; it ends when its input does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, select
from sqlalchemy.orm import Mapped, Session, composite, mapped_column

from eventstore import EventFilter
from eventstore.subscriptions import (
    Subscription,
    SubscriptionRunner,
    subscription_status,
    wait_for,
)
from examples.flights import ROOT
from examples.flights.events import FLIGHT, FlightScheduled, registry
from examples.flights.punctuality import Punctuality
from examples.flights.refunds import Base

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Engine

    from eventstore import EventEnvelope
    from examples.flights.punctuality import Table

NAME: Final = "punctuality-board"
#: More than it takes on a slow machine.
PATIENCE_SECONDS: Final = 120


class FlightRow(Base):
    """Whose flight it is: only its first event says so."""

    __tablename__ = "board_flights"

    flight_id: Mapped[str] = mapped_column(primary_key=True)
    carrier: Mapped[str]


class CarrierRow(Base):
    """A line of the board."""

    __tablename__ = "board_carriers"

    carrier: Mapped[str] = mapped_column(primary_key=True)
    counted: Mapped[Punctuality] = composite(
        mapped_column("flights"),
        mapped_column("cancelled"),
        mapped_column("diverted"),
        mapped_column("arrived"),
        mapped_column("on_time"),
        mapped_column("delay_minutes"),
    )


def show(session: Session, event: EventEnvelope[Any]) -> None:
    """Count an event on the line of its carrier."""
    if isinstance(event.event_data, FlightScheduled):
        carrier = event.event_data.carrier
        session.add(FlightRow(flight_id=event.stream_id, carrier=carrier))
    else:
        carrier = session.get_one(FlightRow, event.stream_id).carrier
    row = session.get(CarrierRow, carrier)
    if row is None:
        row = CarrierRow(carrier=carrier, counted=Punctuality())
        session.add(row)
    # SQLAlchemy notices another value, not a change within one.
    counted = replace(row.counted)
    counted.count(event.event_data)
    row.counted = counted


SUBSCRIPTION: Final = Subscription(
    NAME,
    show,
    filters=EventFilter(aggregate_types=[FLIGHT]),
    batch_size=200,
    # So soon another process takes over from one that was killed.
    lease_seconds=2.0,
)


def lines(session: Session) -> Table:
    """Return what the board says."""
    return {row.carrier: row.counted for row in session.scalars(select(CarrierRow))}


class LiveBoard:
    """The process that keeps the board, as seen by the one that appends the flights.

    It is killed once it has come as far as ``kill_at``, and another one takes its place.
    """

    def __init__(self, engine: Engine, kill_at: int) -> None:
        self.killed_at: int | None = None  #: its checkpoint then; None if that was beyond before
        self._engine = engine
        self._kill_at = kill_at
        self._assassin = Thread(target=self._kill, daemon=True)

    def __enter__(self) -> Self:
        self._is_doomed = self._position() < self._kill_at
        self._start()
        if self._is_doomed:
            self._assassin.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()  # its input ends, and so does it

    def catch_up(self) -> None:
        """Wait until the board shows everything that can be read now."""
        if self._is_doomed:
            self._assassin.join()
        with Session(self._engine) as session:
            (status,) = subscription_status(session, NAME)
        if not wait_for(self._engine, NAME, status.readable, PATIENCE_SECONDS):
            raise TimeoutError(f"the board is still at {status.position} of {status.readable}")

    def _kill(self) -> None:
        wait_for(self._engine, NAME, self._kill_at, PATIENCE_SECONDS)
        self._process.kill()
        self._process.communicate()
        self.killed_at = self._position()
        self._start()

    def _position(self) -> int:
        with Session(self._engine) as session:
            return max((at.position for at in subscription_status(session, NAME)), default=0)

    def _start(self) -> None:
        # Not by its command line: everybody can read that, and the URL may hold a password.
        url = self._engine.url.render_as_string(hide_password=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.flights.board"],
            cwd=ROOT,
            env=os.environ | {"EVENTSTORE_DATABASE_URL": url},
            stdin=subprocess.PIPE,
        )


def main() -> None:
    """Keep the board current until the input ends."""
    engine = create_engine(os.environ["EVENTSTORE_DATABASE_URL"])
    with SubscriptionRunner(engine, [SUBSCRIPTION], registry=registry):
        sys.stdin.read()


if __name__ == "__main__":
    main()
