"""The twin of :mod:`eventstore.store` for asyncio, over an :class:`AsyncSession`.

It holds no decisions: every operation is the same function, run across SQLAlchemy's greenlet
bridge. A test keeps signatures and descriptions of the twins equal.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from eventstore import operations
from eventstore.appending import StreamAppend
from eventstore.boundaries import check_query, check_token
from eventstore.projections.inline import InlineProjections
from eventstore.reading import (
    PAGE_SIZE,
    EventFilter,
    FeedCursor,
    ReadOptions,
    StreamCursor,
    check_feed_read,
)
from eventstore.recorded import Decoder
from eventstore.registry import codec_of
from eventstore.streams import check_schema, check_stream_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session

    from eventstore.appending import AppendResult, Requirement
    from eventstore.boundaries import Query, QueryResult, QueryToken
    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope, EventEnvelope, EventMetadata
    from eventstore.loading import LoadedStream
    from eventstore.projections.definition import Projection
    from eventstore.registry import EventRegistry
    from eventstore.snapshots import AnySnapshot, Snapshot
    from eventstore.streams import ExpectedVersion, StreamInfo

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncSqlAlchemyEventStore:
    """Events in PostgreSQL, read and written on ``session``, in its transaction.

    The store joins the transaction that the session is in, or begins one as any statement of the
    session would. It never commits, rolls back or closes: events and the caller's own rows become
    visible together. After a typed error the transaction can go on, save for those in which
    PostgreSQL has ended it: see "Transactions" in ``docs/reference/operations.md``.

    ``registry`` gives payloads their types; without one, payloads are JSON-compatible dicts.
    ``schema`` names the schema of the tables; without one they are found on the search path, or
    by the ``schema_translate_map`` of the engine. ``projections`` are kept in the same
    transaction: each append calls their methods, and fails with them.
    """

    def __init__(
        self,
        session: AsyncSession,
        registry: EventRegistry | None = None,
        *,
        schema: str | None = None,
        projections: Sequence[Projection] = (),
    ) -> None:
        if not hasattr(session, "run_sync"):
            raise TypeError(
                f"session must be an AsyncSession, not {type(session).__name__}; for a Session "
                "there is SqlAlchemyEventStore"
            )
        self.session = session
        self._codec = codec_of(registry)
        self._schema = check_schema(schema)
        self._inline = InlineProjections(projections, self._codec, self._schema, awaits=True)

    @property
    def codec(self) -> PayloadCodec:
        """What payloads are written and read with: the registry, or plain JSON objects."""
        return self._codec

    async def append_to_stream(
        self,
        stream_id: str,
        expected_version: ExpectedVersion,
        events: Sequence[AnyEnvelope],
        *,
        fetch_missed: bool = False,
    ) -> int:
        """Append ``events`` to a stream and return its new version.

        ``expected_version`` is the version at which the caller has decided: a number,
        ``NO_STREAM``, ``STREAM_EXISTS``, or ``ANY``. The same events again, by their ids or their
        idempotency key, are recognised whatever is expected: nothing is written, and the version
        that they got the first time is returned. An empty list only checks the expectation.

        ``fetch_missed`` makes a conflict bring the events that the caller has not seen, in its
        attribute ``missed``: it can decide again without loading the stream.

        :raises ConcurrencyConflict: the stream is at another version.
        :raises StreamNotFound: the stream has no events and should have.
        :raises StreamDeleted: the stream is soft-deleted.
        :raises DuplicateEvent: an id was used before for something else, or only a part of the
            batch was appended before.
        :raises IdempotencyMismatch: the key was used on this stream for something else.
        :raises SerializationError: an event can't be stored, or not be read back as it was.
        :raises TransactionConflict: PostgreSQL gave the transaction up; run it again.
        :raises TypeError, ValueError: wrong arguments; nothing was sent.
        """
        if self._inline:
            append = StreamAppend(stream_id, expected_version, events)
            return (await self.append(append, fetch_missed=fetch_missed)).streams[0].version
        return await self._run(
            operations.append_to_stream,
            stream_id,
            expected_version,
            events,
            codec=self._codec,
            schema=self._schema,
            fetch_missed=fetch_missed,
        )

    async def append(
        self,
        *appends: StreamAppend,
        require: Requirement | Sequence[Requirement] = (),
        fetch_missed: bool = False,
    ) -> AppendResult:
        """Append to several streams, all or nothing, and return the places of their events.

        ``require`` names streams that the decision has only read, and the versions at which they
        must still be; they are locked until the transaction ends, like those that are written.
        All streams are locked in the order of their ids, so that such calls never deadlock with
        one another. A requirement can also be :func:`no_new`: no event has come that matches the
        query on which the decision rests. Errors are those of :meth:`append_to_stream`;
        ``fetch_missed`` is for an append to one stream, as there.

        :raises AppendConditionFailed: an event has come that a condition forbids.
        :raises FeedUnavailable: there is a condition, and the transaction's isolation is above
            READ COMMITTED.
        """

        def operation(session: Session) -> AppendResult:
            return operations.append(
                session,
                appends,
                require,
                codec=self._codec,
                schema=self._schema,
                fetch_missed=fetch_missed,
            )

        async with self._turn():
            return await self._inline.append_async(self.session, operation)

    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: type[T]
    ) -> AsyncIterator[EventEnvelope[T]]: ...
    @overload
    def read_stream(
        self, stream_id: str, options: ReadOptions = ..., *, as_type: None = None
    ) -> AsyncIterator[AnyEnvelope]: ...
    def read_stream(
        self, stream_id: str, options: ReadOptions = ReadOptions(), *, as_type: Any = None
    ) -> AsyncIterator[AnyEnvelope]:
        """Iterate over a stream's events, a page in memory at a time; a missing stream is empty.

        ``as_type`` decodes every payload as this type, whatever the registry says; ``bytes`` gives
        its JSON as it is.

        :raises StreamDeleted: the stream is soft-deleted and ``options`` don't include such.
        :raises SerializationError: a payload does not validate as its type.
        """
        check_stream_id(stream_id)
        decoder = Decoder(as_type, self._codec)
        return self._read_pages(stream_id, StreamCursor(options), decoder)

    async def _read_pages(
        self, stream_id: str, cursor: StreamCursor, decoder: Decoder
    ) -> AsyncIterator[AnyEnvelope]:
        while cursor.limit:
            page = await self._run(
                operations.read_stream_page, stream_id, cursor, decoder, schema=self._schema
            )
            cursor.passed(page)
            for event in page.events:
                yield event

    async def load_stream(
        self,
        stream_id: str,
        snapshot_type: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> LoadedStream:
        """Return what an aggregate is folded from: its snapshot, and the events after it.

        One round trip. ``snapshot_type`` is the aggregate type whose snapshot is wanted; one that
        is ahead of the stream is passed over, as is any if None. The events are the first page of
        what follows it: a longer tail is read on by :meth:`read_stream`, see
        :class:`~eventstore.LoadedStream`. ``idempotency_key`` asks which of the stream's events
        carry it: whether this command was handled before.

        :raises StreamDeleted: the stream is soft-deleted.
        :raises SerializationError: a payload does not validate as its type.
        """
        return await self._run(
            operations.load_stream,
            stream_id,
            snapshot_type,
            idempotency_key,
            codec=self._codec,
            schema=self._schema,
        )

    @overload
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: type[T],
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[EventEnvelope[T]]: ...
    @overload
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[AnyEnvelope]: ...
    def read_all_forward(
        self,
        from_position: int = 0,
        max_count: int | None = None,
        *,
        filters: EventFilter | None = None,
        as_type: Any = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[AnyEnvelope]:
        """Iterate over the events of all streams behind ``from_position``, in feed order.

        The feed is read up to the fence as it stands when the iteration begins: an event that is
        not delivered now will always have a position above every one that is, so that a reader
        may keep the last position as its checkpoint and never miss one. Events of deleted streams
        are part of it. ``as_type`` is that of :meth:`read_stream`.

        :raises FeedUnavailable: the transaction's isolation is above READ COMMITTED, or the
            server is a standby.
        """
        check_feed_read(from_position, max_count, filters, page_size)
        decoder = Decoder(as_type, self._codec)
        return self._read_feed(from_position, max_count, filters, page_size, decoder)

    async def _read_feed(
        self,
        from_position: int,
        max_count: int | None,
        filters: EventFilter | None,
        page_size: int,
        decoder: Decoder,
    ) -> AsyncIterator[AnyEnvelope]:
        until = await self._run(operations.read_feed_position, schema=self._schema)
        cursor = FeedCursor(
            position=from_position, until=until, max_count=max_count, page_size=page_size
        )
        while cursor.limit:
            page = await self._run(
                operations.read_feed_page, cursor, filters, decoder, schema=self._schema
            )
            cursor.passed(page)
            for event in page.events:
                yield event

    async def read_by_query(
        self, query: Query, *, after: QueryToken | None = None, as_type: Any = None
    ) -> QueryResult:
        """Return the events that match ``query``, in the order of their positions, and a token.

        Events of deleted streams are among them. The token stands for what this read has seen:
        ``append(..., require=no_new(query, after=result.token))`` appends a decision that rests
        on it, if nothing that matches has come since, even below the highest position that was
        seen. With ``after``, the token of an earlier read, only what that has not seen is returned.
        ``as_type`` is that of :meth:`read_stream`. All events are in memory at once.

        :raises FeedUnavailable: the transaction's isolation is above READ COMMITTED, or the
            server is a standby.
        :raises SerializationError: a payload does not validate as its type.
        :raises ValueError: the token is that of another query.
        """
        decoder = Decoder(as_type, self._codec)
        return await self._run(
            operations.read_by_query,
            check_query(query),
            check_token(query, after),
            decoder,
            schema=self._schema,
        )

    async def get_stream_info(self, stream_id: str) -> StreamInfo | None:
        """Return the stream's version and times, None if it never had an event."""
        return await self._run(operations.get_stream_info, stream_id, schema=self._schema)

    async def delete_stream(self, stream_id: str, expected_version: ExpectedVersion = None) -> None:
        """Close a stream: reads and appends meet :class:`StreamDeleted`. Nothing is removed.

        :raises StreamNotFound: there is no such stream.
        :raises StreamDeleted: it is deleted already.
        :raises ConcurrencyConflict: it is at another version than expected.
        """
        await self._run(operations.delete_stream, stream_id, expected_version, schema=self._schema)

    async def restore_stream(self, stream_id: str) -> None:
        """Open a deleted stream again; its versions go on. An open one is left as it is.

        :raises StreamNotFound: there is no such stream.
        """
        await self._run(operations.restore_stream, stream_id, schema=self._schema)

    async def save_snapshot(self, snapshot: AnySnapshot) -> None:
        """Keep ``snapshot`` for its aggregate, unless a newer one is there.

        :raises SerializationError: its data can't be stored, or not be read back as it was.
        """
        await self._run(operations.save_snapshot, snapshot, codec=self._codec, schema=self._schema)

    @overload
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: type[T]
    ) -> Snapshot[T] | None: ...
    @overload
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: None = None
    ) -> AnySnapshot | None: ...
    async def get_snapshot(
        self, aggregate_id: str, aggregate_type: str, as_type: Any = None
    ) -> AnySnapshot | None:
        """Return the aggregate's snapshot, its data as ``as_type`` (or as plain JSON values).

        None if there is none that can be relied on: one that is ahead of the stream with the
        aggregate's id is not returned, nor that of a deleted stream.

        :raises SerializationError: the data does not validate as ``as_type``.
        """
        return await self._run(
            operations.get_snapshot,
            aggregate_id,
            aggregate_type,
            as_type,
            codec=self._codec,
            schema=self._schema,
        )

    async def forget(self, subject_id: str, *, metadata: EventMetadata | None = None) -> bool:
        """Destroy the key of a subject, so that its personal data is erased wherever it is stored.

        Return whether it was forgotten now, and not before. A
        :class:`~eventstore.personal.SubjectForgotten` event with ``metadata`` is recorded in the
        same transaction: everybody is told by the feed. Nothing personal can be stored for the
        subject any more, see ``docs/how-to/personal-data.md``.
        """

        def operation(session: Session) -> AppendResult:
            return operations.forget(
                session, subject_id, metadata, codec=self._codec, schema=self._schema
            )

        async with self._turn():
            result = await self._inline.append_async(self.session, operation)
        return not result.already_appended

    async def _run(
        self,
        operation: Callable[Concatenate[Session, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run ``operation`` on the session, after those that other tasks have begun on it.

        A session is one conversation with the server; tasks that share one take turns.
        """
        async with self._turn():
            return await self.session.run_sync(operation, *args, **kwargs)

    def _turn(self) -> asyncio.Lock:
        turn: asyncio.Lock = self.session.info.setdefault("eventstore.turn", asyncio.Lock())
        return turn


@asynccontextmanager
async def async_event_store(
    session_factory: async_sessionmaker[AsyncSession],
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
    projections: Sequence[Projection] = (),
) -> AsyncIterator[AsyncSqlAlchemyEventStore]:
    """Open a store with a transaction of its own: committed at the end, rolled back on an error.

    For those who have no session in hand; its session is ``store.session``.

    :raises TransactionConflict: PostgreSQL gave the transaction up at its commit.
    :raises ConnectionUnusable: the connection was lost at the commit, which may have happened.
    """
    async with session_factory.begin() as session:
        yield AsyncSqlAlchemyEventStore(session, registry, schema=schema, projections=projections)
        await session.run_sync(operations.commit)
