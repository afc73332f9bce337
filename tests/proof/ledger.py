"""What handlers make of the events, and what they ought to make of them.

One handler checks by itself that each event is the next one of its stream and was never applied
before. An event that comes twice, or comes where another one was left out, so fails whenever it is
tried, and ends up parked, where the tests look for it. Another one takes note of whatever comes:
nothing but the subscription itself keeps an event from coming twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID  # noqa: TC003 - SQLAlchemy asks for it

from sqlalchemy import BigInteger, Identity, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventstore.subscriptions import Delivery, parked_streams

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from eventstore.events import AnyEnvelope

#: The version and the sum of each stream.
Balances: TypeAlias = dict[str, tuple[int, int]]


class Base(DeclarativeBase): ...


class Balance(Base):
    __tablename__ = "balances"

    stream_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    total: Mapped[int] = mapped_column(BigInteger)


class Applied(Base):
    """Written in the handler's transaction: the same event can't be there twice."""

    __tablename__ = "applied"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, Identity())
    stream_id: Mapped[str]
    version: Mapped[int]


class Note(Base):
    """What a handler has got, in the order of its coming; nothing keeps it from coming twice."""

    __tablename__ = "notes_taken"

    number: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    event_id: Mapped[UUID]
    stream_id: Mapped[str]
    version: Mapped[int]


class Effect(Base):
    """What has happened outside, in the order of its happening; it may happen again."""

    __tablename__ = "effects"

    number: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    event_id: Mapped[UUID]
    stream_id: Mapped[str]
    version: Mapped[int]
    attempt: Mapped[int]
    worker: Mapped[str]


class OutOfOrderError(Exception): ...


def apply(session: Session, event: AnyEnvelope) -> None:
    """Add an event to the view."""
    session.execute(
        insert(Applied).values(
            event_id=event.event_id, stream_id=event.stream_id, version=event.event_version
        )
    )
    amount = event.event_data["n"]
    if event.event_version == 1:
        session.execute(insert(Balance).values(stream_id=event.stream_id, version=1, total=amount))
        return
    moved = session.execute(
        update(Balance)
        .where(
            Balance.stream_id == event.stream_id,
            Balance.version == event.event_version - 1,
        )
        .values(version=event.event_version, total=Balance.total + amount)
        .execution_options(synchronize_session=False)
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise OutOfOrderError(f"version {event.event_version} of {event.stream_id} is not the next")


def take_note(session: Session, event: AnyEnvelope) -> None:
    """Keep that the event has come, whatever came before it."""
    session.execute(
        insert(Note).values(
            event_id=event.event_id, stream_id=event.stream_id, version=event.event_version
        )
    )


def record_effect(engine: Engine, delivery: Delivery, worker: str) -> None:
    """Do something outside of the subscription's transaction."""
    event = delivery.event
    with engine.begin() as connection:
        connection.execute(
            insert(Effect).values(
                event_id=event.event_id,
                stream_id=event.stream_id,
                version=event.event_version,
                attempt=delivery.attempt,
                worker=worker,
            )
        )


def balances(engine: Engine) -> Balances:
    """Return what the view holds."""
    rows = select(Balance.stream_id, Balance.version, Balance.total)
    with engine.connect() as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(rows)}


def fresh_fold(engine: Engine) -> Balances:
    """Return what the view is to hold, from the table of events, and not by the feed."""
    rows = text(
        "SELECT stream_id, count(*), sum((event_data ->> 'n')::int) FROM events GROUP BY stream_id"
    )
    with engine.connect() as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(rows)}


def applied(engine: Engine) -> list[Any]:
    """Return the events that the view was made of, in the order of their coming."""
    with engine.connect() as connection:
        return list(connection.execute(select(Applied.__table__).order_by(Applied.number)))


def notes(engine: Engine) -> list[Any]:
    """Return what a handler has got, in the order of its coming."""
    with engine.connect() as connection:
        return list(connection.execute(select(Note.__table__).order_by(Note.number)))


def versions_by_stream(rows: list[Any]) -> dict[str, list[int]]:
    """Return the versions that have come of each stream, in their order."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row.stream_id, []).append(row.version)
    return found


def recorded(engine: Engine) -> list[UUID]:
    """Return the ids of all events, by position."""
    with engine.connect() as connection:
        return list(
            connection.scalars(text("SELECT event_id FROM events ORDER BY sequence_number"))
        )


def effects(engine: Engine) -> list[Any]:
    """Return what has happened outside, in its order."""
    with engine.connect() as connection:
        return list(connection.execute(select(Effect.__table__).order_by(Effect.number)))


def parked(engine: Engine, subscription: str) -> list[tuple[str, int, str]]:
    """Return the parked streams: each with the version that failed, and the error."""
    with Session(engine) as session:
        return [
            (parked.stream_id, parked.event_version, parked.error)
            for parked in parked_streams(session, subscription)
        ]
