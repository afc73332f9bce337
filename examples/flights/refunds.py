"""A read model of the application's own: an ordinary SQLAlchemy table beside the events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventstore import NO_STREAM, EventEnvelope, EventMetadata, SqlAlchemyEventStore
from examples.flights.events import Fact, registry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class Base(DeclarativeBase):
    """Base of the application's tables; the event store's are none of them."""


class RefundRow(Base):
    """A flight whose passengers get their money back."""

    __tablename__ = "refunds"

    flight_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]


@registry.register("refund-granted")
class RefundGranted(Fact):
    """The passengers of a flight get their money back."""

    flight_id: str
    reason: str


def grant_refund(session: Session, flight_id: str, reason: str) -> None:
    """Record the event and the row in the transaction of ``session``, which its caller commits."""
    granted = EventEnvelope(
        aggregate_type="refund",
        event_data=RefundGranted(flight_id=flight_id, reason=reason),
        # Whoever asks twice gets one refund.
        metadata=EventMetadata(idempotency_key=f"refund of {flight_id}"),
    )
    SqlAlchemyEventStore(session, registry).append_to_stream(
        refund_stream(flight_id), NO_STREAM, [granted]
    )
    session.merge(RefundRow(flight_id=flight_id, reason=reason))


def refund_stream(flight_id: str) -> str:
    """Return the id of the stream with a flight's refund."""
    return f"refund-{flight_id}"
