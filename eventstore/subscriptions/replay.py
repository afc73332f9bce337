"""Parked streams, seen from outside: list them, deliver them again, or give them up.

A stream is replayed one event at a time, each in a transaction of its own with the step that moves
its entry on: whatever fails, what was handled stays handled, and what waits, waits in order. The
last step holds the partition's checkpoint, so that no event falls between the replay and the
live worker; and it never moves that checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy.orm import Session

from eventstore.operations.deliveries import read_parked_events
from eventstore.operations.parking import (
    ParkedStream,
    checkpoint_of_stream,
    forget_parked,
    list_parked,
    move_parked,
    note_replay,
)
from eventstore.registry import codec_of
from eventstore.streams import check_schema, check_stream_id
from eventstore.subscriptions.driving import drive
from eventstore.subscriptions.worker import Ask, Commit, Failure, Hand, failure_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Engine

    from eventstore.codec import PayloadCodec
    from eventstore.operations.deliveries import StoredEvent
    from eventstore.registry import EventRegistry
    from eventstore.subscriptions.definition import Subscription
    from eventstore.subscriptions.worker import Step

#: What one transaction of a replay has led to: there is more, it is over, or an event has failed.
Outcome: TypeAlias = "bool | Failure"


def parked_streams(
    session: Session, subscription: str, *, schema: str | None = None
) -> list[ParkedStream]:
    """Return the parked streams of a subscription, the one that failed first before the others."""
    return list_parked(session, subscription, schema=check_schema(schema))


def replay_parked(
    engine: Engine,
    subscription: Subscription,
    stream_id: str | None = None,
    *,
    registry: EventRegistry | None = None,
    schema: str | None = None,
) -> list[ParkedStream]:
    """Deliver a parked stream again, or all of them, and return those that are still parked.

    The subscription may run meanwhile. A stream whose every event was handled flows again; one
    in which an event fails stays parked from that event on.
    """
    if stream_id is not None:
        check_stream_id(stream_id)
    replay = Replay(subscription, codec_of(registry), check_schema(schema))
    engine = engine.execution_options(isolation_level="READ COMMITTED")
    with Session(engine) as session:
        waiting = list_parked(session, subscription.name, stream_id, schema=schema)
    for parked in waiting:
        outcome: Outcome = True
        while outcome is True:
            with Session(engine) as session:
                outcome = drive(session, subscription, replay.next_event(parked))
        if isinstance(outcome, Failure):
            with Session(engine) as session:
                drive(session, subscription, replay.note(parked, outcome))
    with Session(engine) as session:
        return list_parked(session, subscription.name, stream_id, schema=schema)


def discard_parked(
    session: Session, subscription: str, stream_id: str, *, schema: str | None = None
) -> bool:
    """Give up what waits in a parked stream, and let it flow again; False if it isn't parked.

    Its events up to the checkpoint will never be delivered. The caller commits.
    """
    check_stream_id(stream_id)
    for parked in list_parked(session, subscription, stream_id, lock=True, schema=schema):
        checkpoint_of_stream(session, parked, hold=True, schema=schema)
        forget_parked(session, parked, schema=schema)
        return True
    return False


class Replay:
    """The steps of a replay, which a thread or a task performs."""

    def __init__(self, subscription: Subscription, codec: PayloadCodec, schema: str | None) -> None:
        self._subscription = subscription
        self._codec = codec
        self._schema = schema

    def next_event(self, parked: ParkedStream) -> Generator[Step, Any, Outcome]:
        """Deliver the event from which the stream waits, and move its entry on, or remove it."""
        waiting = yield Ask(lambda session: self._lock(session, parked))
        if waiting is None:
            return False
        until = yield Ask(lambda session: self._checkpoint(session, waiting, hold=False))
        events = yield Ask(lambda session: self._read(session, waiting, waiting.position, until, 2))
        if events and self._subscription.external:
            yield Commit()
        for stored in events[:1]:
            try:
                for event in stored.decoded(self._codec, self._subscription.filters):
                    yield Hand(event, waiting.attempts + 1)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is its failure
                return failure_of(stored, error, waiting.attempts + 1)
        return (yield from self._move_on(waiting, events))

    def _move_on(
        self, waiting: ParkedStream, events: list[StoredEvent]
    ) -> Generator[Step, Any, Outcome]:
        locked = yield Ask(lambda session: self._lock(session, waiting))
        if locked is None or locked.position != waiting.position:
            return False  # somebody else has replayed or discarded it
        rest = events[1:]
        if not rest:
            until = yield Ask(lambda session: self._checkpoint(session, waiting, hold=True))
            after = events[0].position + 1 if events else waiting.position
            rest = yield Ask(lambda session: self._read(session, waiting, after, until, 1))
        if rest:
            yield Ask(lambda session: move_parked(session, waiting, rest[0], schema=self._schema))
        else:
            yield Ask(lambda session: forget_parked(session, waiting, schema=self._schema))
        yield Commit()
        return bool(rest)

    def note(self, parked: ParkedStream, failure: Failure) -> Generator[Step, Any, None]:
        """Note that the event has failed once more."""
        yield Ask(
            lambda session: note_replay(
                session, parked, failure.error, failure.traceback, schema=self._schema
            )
        )
        yield Commit()

    def _lock(self, session: Session, parked: ParkedStream) -> ParkedStream | None:
        found = list_parked(
            session, parked.subscription, parked.stream_id, lock=True, schema=self._schema
        )
        return found[0] if found else None

    def _checkpoint(self, session: Session, parked: ParkedStream, *, hold: bool) -> int:
        return checkpoint_of_stream(session, parked, hold=hold, schema=self._schema)

    def _read(
        self, session: Session, parked: ParkedStream, first: int, until: int, limit: int
    ) -> list[StoredEvent]:
        return read_parked_events(
            session,
            parked.stream_id,
            self._subscription.filters,
            self._codec,
            after=first - 1,
            until=until,
            limit=limit,
            schema=self._schema,
        )
