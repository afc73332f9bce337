"""Parked streams, seen from outside: list them, deliver them again, or give them up.

A stream is replayed one event at a time, each in a transaction of its own with the step that moves
its entry on: whatever fails, what was handled stays handled, and what waits, waits in order. The
last step holds the partition's checkpoint, so that no event falls between the replay and the
live worker; and it never moves that checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from eventstore.errors import SubscriptionError
from eventstore.operations.deliveries import limit_idle, read_parked_events
from eventstore.operations.parking import (
    ParkedStream,
    checkpoint_of_stream,
    forget_parked,
    list_parked,
    move_parked,
    note_replay,
)
from eventstore.registry import codec_of
from eventstore.streams import MAX_ID_LENGTH, check_schema, check_stream_id, check_text
from eventstore.subscriptions.creation import create
from eventstore.subscriptions.definition import Subscription
from eventstore.subscriptions.driving import drive, drive_async
from eventstore.subscriptions.engines import async_sessions_of, sessions_of
from eventstore.subscriptions.failures import Failure, failure_of, is_outage
from eventstore.subscriptions.steps import Ask, Commit, Hand

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

    from eventstore.operations.deliveries import StoredEvent
    from eventstore.registry import EventRegistry
    from eventstore.subscriptions.steps import Step

#: What one transaction of a replay has led to: there is more, it is over, or an event has failed.
Outcome: TypeAlias = "bool | Failure"


def parked_streams(
    session: Session, subscription: str, *, schema: str | None = None
) -> list[ParkedStream]:
    """Return the parked streams of a subscription, the one that failed first before the others."""
    check_text("subscription", subscription, MAX_ID_LENGTH)
    return list_parked(session, subscription, schema=check_schema(schema))


def replay_parked(
    engine: Engine | sessionmaker[Any],
    subscription: Subscription,
    stream_id: str | None = None,
    *,
    registry: EventRegistry | None = None,
    schema: str | None = None,
) -> list[ParkedStream]:
    """Deliver a parked stream again, or all of them, and return those that are still parked.

    ``engine`` is an Engine, or the application's own ``sessionmaker``, as a runner takes it. The
    subscription may run meanwhile. A stream whose every event was handled flows again; one in which
    an event fails stays parked from that event on.

    :raises SubscriptionError: what waits was parked by one with other partitions, version or
        filter; or the handler can't work at all, and says so by that error.
    """
    replay = Replay(subscription, stream_id, registry, schema)
    sessions, _ = sessions_of(engine)
    with sessions() as session:
        waiting = replay.begin(session)
    for parked in waiting:
        outcome: Outcome = True
        while outcome is True:
            with sessions() as session:
                outcome = drive(session, subscription, replay.next_event(parked))
        if isinstance(outcome, Failure):
            with sessions() as session:
                drive(session, subscription, replay.note(parked, outcome))
    with sessions() as session:
        return replay.waiting(session)


async def replay_parked_async(
    engine: AsyncEngine | async_sessionmaker[Any],
    subscription: Subscription,
    stream_id: str | None = None,
    *,
    registry: EventRegistry | None = None,
    schema: str | None = None,
) -> list[ParkedStream]:
    """Do the same as :func:`replay_parked`, awaiting."""
    replay = Replay(subscription, stream_id, registry, schema)
    sessions, _ = async_sessions_of(engine)
    async with sessions() as session:
        waiting = await session.run_sync(replay.begin)
    for parked in waiting:
        outcome: Outcome = True
        while outcome is True:
            async with sessions() as session:
                outcome = await drive_async(session, subscription, replay.next_event(parked))
        if isinstance(outcome, Failure):
            async with sessions() as session:
                await drive_async(session, subscription, replay.note(parked, outcome))
    async with sessions() as session:
        return await session.run_sync(replay.waiting)


def discard_parked(
    session: Session, subscription: str, stream_id: str, *, schema: str | None = None
) -> bool:
    """Give up what waits in a parked stream, and let it flow again; False if it isn't parked.

    Its events up to the checkpoint will never be delivered. The caller commits.
    """
    check_text("subscription", subscription, MAX_ID_LENGTH)
    check_stream_id(stream_id)
    check_schema(schema)
    for parked in list_parked(session, subscription, stream_id, lock=True, schema=schema):
        checkpoint_of_stream(session, parked, hold=True, schema=schema)
        forget_parked(session, parked, schema=schema)
        return True
    return False


class Replay:
    """The steps of a replay, which a thread or a task performs."""

    def __init__(
        self,
        subscription: Subscription,
        stream_id: str | None,
        registry: EventRegistry | None,
        schema: str | None,
    ) -> None:
        if not isinstance(subscription, Subscription):
            raise TypeError(
                f"subscription must be a Subscription, not {type(subscription).__name__}: what is "
                "parked is handed to its handler"
            )
        if stream_id is not None:
            check_stream_id(stream_id)
        self._subscription = subscription
        self._stream_id = stream_id
        self._codec = codec_of(registry)
        self._schema = check_schema(schema)
        subscription.check_store(registry, self._schema)

    def begin(self, session: Session) -> list[ParkedStream]:
        """Return the streams that are to be replayed, if this code may do that.

        What another filter leaves out would be lost, and what another version makes of an event
        doesn't belong to the rest.
        """
        waiting = self.waiting(session)
        if waiting:  # then the subscription's rows are there: this makes none, and compares
            spec = self._subscription
            create(session, spec, spec.start_position, schema=self._schema)
        return waiting

    def waiting(self, session: Session) -> list[ParkedStream]:
        """Return the streams that are parked, of those that were asked for."""
        name = self._subscription.name
        return list_parked(session, name, self._stream_id, schema=self._schema)

    def next_event(self, parked: ParkedStream) -> Generator[Step, Any, Outcome]:
        """Deliver the event from which the stream waits, and move its entry on, or remove it."""
        # A process that is frozen must not keep the rows that it has locked.
        seconds = self._subscription.lease_seconds
        yield Ask(lambda session: limit_idle(session, seconds))
        waiting = yield Ask(lambda session: self._lock(session, parked))
        if waiting is None:
            return False
        until = yield Ask(lambda session: self._checkpoint(session, waiting, hold=False))
        events = yield Ask(lambda session: self._read(session, waiting, waiting.position, until, 2))
        if events and self._subscription.external:
            yield Commit()
        try:
            for stored in events[:1]:
                for event in stored.decoded(self._codec, self._subscription.filters):
                    yield Hand(event, waiting.attempts + 1)
            # Errors of the commit too are the event's: constraints that are checked at the end.
            return (yield from self._move_on(waiting, events))
        except SubscriptionError:
            raise  # it is of the subscription as a whole, and no event's fault
        except Exception as error:
            if not events or is_outage(error):
                raise
            return failure_of(events[0], error, waiting.attempts + 1)

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
