"""Parked streams: those that a subscription has taken aside, and how they come back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Delete,
    Select,
    String,
    Text,
    Update,
    Uuid,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from eventstore.models import events_table, parked_table, subscriptions_table
from eventstore.operations.attempts import storable
from eventstore.operations.deliveries import partition_of
from eventstore.operations.statements import parameter, run
from eventstore.operations.timestamps import in_utc, zoned
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from eventstore.operations.deliveries import StoredEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class ParkedStream:
    """A stream that waits beside a subscription, from the event on that could not be handled."""

    subscription: str
    stream_id: str
    position: int  #: of the event that failed; what follows it in the stream waits too
    event_version: int  #: of that event
    event_id: UUID  #: of that event
    error: str  #: the type of the last error and what it said
    traceback: str  #: where it was raised; without any payload
    attempts: int  #: how often the event was tried
    parked_at: datetime  #: UTC
    last_attempt_at: datetime  #: UTC


_FIELDS: Final = tuple(ParkedStream.__dataclass_fields__)


def park_stream(
    session: Session,
    subscription: str,
    event: StoredEvent,
    *,
    error: str,
    traceback: str,
    attempts: int,
    schema: str | None,
) -> None:
    """Take the event's stream aside, or note that one more attempt at it has failed."""
    connection = connection_of(session)
    values = {
        "subscription": subscription,
        "stream_id": event.stream_id,
        "position": event.position,
        "event_version": event.version,
        "event_id": event.event_id,
        # What PostgreSQL can't store must not keep a stream from being parked.
        "error": storable(error),
        "traceback": storable(traceback),
        "attempts": attempts,
    }
    run(connection, _park(), values, schema=schema_of(connection, schema))


def list_parked(
    session: Session,
    subscription: str,
    stream_id: str | None = None,
    *,
    lock: bool = False,
    schema: str | None,
) -> list[ParkedStream]:
    """Return the parked streams of a subscription, the oldest failure first; or only the one."""
    connection = connection_of(session)
    values = {"subscription": subscription, "stream_id": stream_id}
    rows = run(connection, _list(lock=lock), values, schema=schema_of(connection, schema))
    return [
        ParkedStream(
            **{
                **row._mapping,  # noqa: SLF001 - public in spite of its name
                "parked_at": zoned(row.parked_at),
                "last_attempt_at": zoned(row.last_attempt_at),
            }
        )
        for row in rows
    ]


def checkpoint_of_stream(
    session: Session, parked: ParkedStream, *, hold: bool, schema: str | None
) -> int:
    """Return the checkpoint of the stream's partition: up to it, its events were passed over.

    ``hold`` keeps it where it is until the caller commits, and makes the partition's worker read
    anew what it is passing over now: from here on the stream can be let go.
    """
    connection = connection_of(session)
    values = {"subscription": parked.subscription, "stream_id": parked.stream_id}
    statement = _hold() if hold else _checkpoint()
    rows = run(connection, statement, values, schema=schema_of(connection, schema))
    checkpoint: int = rows.scalar_one()
    return checkpoint


def is_parked(session: Session, subscription: str, position: int, *, schema: str | None) -> bool:
    """Tell whether the event at a position waits in a parked stream."""
    values = {"subscription": subscription, "position": position}
    connection = connection_of(session)
    waiting = run(connection, _waits(), values, schema=schema_of(connection, schema))
    return bool(waiting.scalar_one())


def move_parked(
    session: Session, parked: ParkedStream, event: StoredEvent, *, schema: str | None
) -> None:
    """Let the stream wait from a later event on: those before it were handled."""
    values = {
        "subscription": parked.subscription,
        "stream_id": parked.stream_id,
        "position": event.position,
        "event_version": event.version,
        "event_id": event.event_id,
    }
    connection = connection_of(session)
    run(connection, _move(), values, schema=schema_of(connection, schema))


def note_replay(
    session: Session, parked: ParkedStream, error: str, traceback: str, *, schema: str | None
) -> None:
    """Note that one more attempt has failed, at the event from which the stream waits."""
    values = {
        "subscription": parked.subscription,
        "stream_id": parked.stream_id,
        "error": storable(error),
        "traceback": storable(traceback),
    }
    connection = connection_of(session)
    run(connection, _note(), values, schema=schema_of(connection, schema))


def forget_parked(session: Session, parked: ParkedStream, *, schema: str | None) -> None:
    """Let the stream flow again, from the checkpoint that is held on."""
    values = {"subscription": parked.subscription, "stream_id": parked.stream_id}
    connection = connection_of(session)
    run(connection, _forget(), values, schema=schema_of(connection, schema))


@cache
def _park() -> postgresql.Insert:
    parking = postgresql.insert(parked_table).values(
        subscription=parameter("subscription", String),
        stream_id=parameter("stream_id", String),
        position=parameter("position", BigInteger),
        event_version=parameter("event_version", BigInteger),
        event_id=parameter("event_id", Uuid),
        error=parameter("error", Text),
        traceback=parameter("traceback", Text),
        attempts=parameter("attempts", BigInteger),
    )
    again = ("position", "event_version", "event_id", "error", "traceback", "attempts")
    return parking.on_conflict_do_update(
        index_elements=[parked_table.c.subscription, parked_table.c.stream_id],
        set_={
            **{name: parking.excluded[name] for name in again},
            "last_attempt_at": func.clock_timestamp(),
        },
    )


@cache
def _list(*, lock: bool) -> Select[Any]:
    stream_id = parameter("stream_id", String)
    row = parked_table.c
    query = (
        select(*(in_utc(row[name]) if name.endswith("_at") else row[name] for name in _FIELDS))
        .where(
            row.subscription == parameter("subscription", String),
            or_(stream_id.is_(None), row.stream_id == stream_id),
        )
        .order_by(row.position)
    )
    return query.with_for_update() if lock else query


def _is_partition_of_stream() -> ColumnElement[bool]:
    row = subscriptions_table.c
    return and_(
        row.name == parameter("subscription", String),
        row.partition == partition_of(parameter("stream_id", String), row.partitions),
    )


@cache
def _checkpoint() -> Select[Any]:
    return select(subscriptions_table.c.checkpoint).where(_is_partition_of_stream())


@cache
def _hold() -> Update:
    return (
        update(subscriptions_table)
        .where(_is_partition_of_stream())
        .values(releases=subscriptions_table.c.releases + 1)
        .returning(subscriptions_table.c.checkpoint)
    )


def _is_parked() -> ColumnElement[bool]:
    return and_(
        parked_table.c.subscription == parameter("subscription", String),
        parked_table.c.stream_id == parameter("stream_id", String),
    )


@cache
def _waits() -> Select[Any]:
    event, parked = events_table.c, parked_table.c
    waiting = select(parked.stream_id).where(
        parked.subscription == parameter("subscription", String),
        parked.stream_id == event.stream_id,
        parked.position <= event.sequence_number,
        event.sequence_number == parameter("position", BigInteger),
    )
    return select(waiting.exists())


@cache
def _move() -> Update:
    return (
        update(parked_table)
        .where(_is_parked())
        .values(
            position=parameter("position", BigInteger),
            event_version=parameter("event_version", BigInteger),
            event_id=parameter("event_id", Uuid),
            attempts=literal(0),
        )
    )


@cache
def _note() -> Update:
    return (
        update(parked_table)
        .where(_is_parked())
        .values(
            error=parameter("error", Text),
            traceback=parameter("traceback", Text),
            attempts=parked_table.c.attempts + 1,
            last_attempt_at=func.clock_timestamp(),
        )
    )


@cache
def _forget() -> Delete:
    return delete(parked_table).where(_is_parked())
