"""Fold a projection when it is read: into temporary tables that are gone with the block.

The methods of a projection speak SQL, by a session. To fold them into anything but tables would
take a stand-in for the session that does half of what a session does; so the tables are there, with
their defaults, keys and constraints, for as long as they are looked at. They are made behind a
savepoint that is rolled back, and nobody else ever sees them.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy.orm import Session, scoped_session

from eventstore.operations.projection_tables import TEMPORARY, create_tables, place, tables_of
from eventstore.operations.transactions import connection_of, transaction_of
from eventstore.projections.definition import check_projection
from eventstore.projections.projector import Entered, project, project_async
from eventstore.streams import check_aware, check_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

    from sqlalchemy import NestedTransaction
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncTransaction

    from eventstore.aio import AsyncSqlAlchemyEventStore
    from eventstore.events import AnyEnvelope
    from eventstore.projections.definition import Projection
    from eventstore.store import SqlAlchemyEventStore

#: Up to where a projection is folded: a position of the feed, or a time.
AsOf: TypeAlias = "int | datetime | None"


@contextmanager
def live(
    projection: Projection,
    store: SqlAlchemyEventStore,
    *,
    stream_id: str | None = None,
    as_of: AsOf = None,
) -> Iterator[Session]:
    """Fold a projection of the store's events, and give a session that sees its tables so.

    ``stream_id`` takes the events of one stream only. ``as_of`` leaves out those behind a position
    or, given a time, those that happened later (by ``occurred_at``).

    The session given is one of its own, on the connection of the store's session; what is done by
    it is undone at the end of the block. Meanwhile the store's own session finds the temporary
    tables too. Foreign keys to other tables than the projection's are not enforced. Its cost is
    that of making the tables and handling every event: milliseconds for a stream.

    :raises ValueError: the session is in AUTOCOMMIT, so that there is nothing to roll back.
    """
    until = _Until(as_of)
    events: Iterator[AnyEnvelope] = _events_of(projection, store, stream_id)
    with fold(projection, until.of(events), store.session) as view:
        yield view


@asynccontextmanager
async def live_async(
    projection: Projection,
    store: AsyncSqlAlchemyEventStore,
    *,
    stream_id: str | None = None,
    as_of: AsOf = None,
) -> AsyncIterator[AsyncSession]:
    """Do the same as :func:`live` on an async store."""
    until = _Until(as_of)
    events: AsyncIterator[AnyEnvelope] = _events_of(projection, store, stream_id)
    async with fold_async(projection, until.of_async(events), store.session) as view:
        yield view


@contextmanager
def fold(
    projection: Projection,
    events: Iterable[AnyEnvelope],
    session: Session | scoped_session[Session],
) -> Iterator[Session]:
    """Fold a projection of these events, wherever they are from; the rest is as in :func:`live`."""
    check_projection(projection, awaits=False)
    connection = transaction_of(session() if isinstance(session, scoped_session) else session)
    with (
        _undone(connection.begin_nested()),
        Session(connection, join_transaction_mode="create_savepoint") as view,
    ):
        entered = _begin(view, projection)
        for event in events:
            project(projection, event, view, entered)
        with entered.placement.on(connection):
            yield view


@asynccontextmanager
async def fold_async(
    projection: Projection, events: AsyncIterable[AnyEnvelope], session: AsyncSession
) -> AsyncIterator[AsyncSession]:
    """Do the same as :func:`fold` on an async session."""
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415 - an extra

    check_projection(projection, awaits=True)
    await session.run_sync(transaction_of)
    connection = await session.connection()
    async with (
        _undone_async(await connection.begin_nested()),
        AsyncSession(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        ) as view,
    ):
        entered = await view.run_sync(_begin, projection)
        async for event in events:
            await project_async(projection, event, view, entered)
        with entered.placement.on(entered.connection):
            yield view


@contextmanager
def _undone(savepoint: NestedTransaction) -> Iterator[None]:
    """Roll back to the savepoint at the end, whatever was committed behind it."""
    try:
        yield
    finally:
        savepoint.rollback()


@asynccontextmanager
async def _undone_async(savepoint: AsyncTransaction) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await savepoint.rollback()


def _begin(view: Session, projection: Projection) -> Entered:
    """Make the projection's tables as temporary ones, which the session finds."""
    connection = connection_of(view)
    tables = tables_of(projection.models)
    schemas = [TEMPORARY] * len(tables)
    create_tables(connection, tables, schemas)
    return Entered(None, connection, None, place(connection, tables, schemas))


def _events_of(projection: Projection, store: Any, stream_id: str | None) -> Any:
    if stream_id is not None:
        return store.read_stream(stream_id)
    return store.read_all_forward(filters=projection.filter_for(store.codec))


class _Until:
    def __init__(self, as_of: AsOf) -> None:
        self._time = as_of if isinstance(as_of, datetime) else None
        self._position = None if isinstance(as_of, datetime) else as_of
        if self._time is not None:
            check_aware("as_of", self._time)
        if self._position is not None:
            check_number("as_of", self._position)

    def of(self, events: Iterable[AnyEnvelope]) -> Iterator[AnyEnvelope]:
        """Return those of the events that are wanted."""
        for event in events:
            if self._is_behind(event):
                return
            if self._includes(event):
                yield event

    async def of_async(self, events: AsyncIterable[AnyEnvelope]) -> AsyncIterator[AnyEnvelope]:
        """Do the same with events that are awaited."""
        async for event in events:
            if self._is_behind(event):
                return
            if self._includes(event):
                yield event

    def _is_behind(self, event: AnyEnvelope) -> bool:
        """Tell whether neither this event nor a later one is wanted."""
        return self._position is not None and event.sequence_number > self._position

    def _includes(self, event: AnyEnvelope) -> bool:
        """Tell whether the event had happened by the time; later positions may be earlier times."""
        return self._time is None or event.occurred_at <= self._time
