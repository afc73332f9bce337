"""Keep projections in the transaction of the append: the view is as new as the events, always.

Before an append draws numbers, it holds the live version of each projection (see
:mod:`eventstore.operations.projections`): who takes a projection over, or gives it to a
subscription, waits for the transactions that keep it, and finds every event of theirs.

Append and methods share a savepoint, so that a method that fails takes the append back with it,
whatever the caller does with the error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import scoped_session

from eventstore.appending import AppendResult
from eventstore.errors import AppendConditionFailed, ConcurrencyConflict, SubscriptionError
from eventstore.operations.projection_tables import AT_HOME
from eventstore.operations.projections import Hold, add_version, forget_version, load_live_version
from eventstore.operations.read import read_feed_mark, read_feed_page, read_recorded
from eventstore.operations.transactions import transaction_of
from eventstore.projections.definition import check_projection
from eventstore.projections.projector import Entered, Projector, project, project_async
from eventstore.reading import FeedCursor
from eventstore.recorded import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.operations.projections import ProjectionVersion
    from eventstore.projections.definition import Projection

    Held: TypeAlias = list[tuple[Projector, Entered]]
    Append: TypeAlias = Callable[[Session], AppendResult]
    _Refusal: TypeAlias = ConcurrencyConflict | AppendConditionFailed


class InlineProjections:
    """The projections that a store keeps."""

    def __init__(
        self,
        projections: Sequence[Projection],
        codec: PayloadCodec,
        schema: str | None,
        *,
        awaits: bool,
    ) -> None:
        self._projectors = [
            Projector(check_projection(each, awaits=awaits), codec, schema) for each in projections
        ]
        self._codec = codec
        self._schema = schema
        names = [each.projection.name for each in self._projectors]
        if len({*names}) < len(names):
            raise ValueError(f"a projection is named twice: {', '.join(sorted(names))}")

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._projectors)

    def append(self, session: Session | scoped_session[Session], operation: Append) -> AppendResult:
        """Append, and hand what was recorded to the projections."""
        own = session() if isinstance(session, scoped_session) else session
        if not self._projectors:
            return operation(own)
        held = self._hold(own)
        with own.begin_nested():
            result = _unless_refused(operation, own)
            for projector, entered in held:
                for event in self._recorded(own, result, projector):
                    project(projector.projection, event, own, entered)
        return _or_raise(result)

    async def append_async(self, session: AsyncSession, operation: Append) -> AppendResult:
        """Do the same on an async session."""
        if not self._projectors:
            return await session.run_sync(operation)
        held = await session.run_sync(self._hold)
        async with session.begin_nested():
            result = await session.run_sync(lambda own: _unless_refused(operation, own))
            for projector, entered in held:
                for event in await session.run_sync(self._recorded, result, projector):
                    await project_async(projector.projection, event, session, entered)
        return _or_raise(result)

    def _recorded(
        self, session: Session, result: AppendResult | _Refusal, projector: Projector
    ) -> list[AnyEnvelope]:
        """Return what was recorded now, as every reader will see it."""
        if not isinstance(result, AppendResult) or result.already_appended:
            return []
        positions = [position for stream in result for position in stream.positions]
        return read_recorded(
            session, positions, projector.filters, self._codec, schema=self._schema
        )

    def _hold(self, session: Session) -> Held:
        connection = transaction_of(session)
        held = []
        for projector in self._projectors:
            version = self._held_version(session, projector)
            if version is not None:
                held.append((projector, Entered(None, connection, version, AT_HOME)))
        return held

    def _held_version(self, session: Session, projector: Projector) -> ProjectionVersion | None:
        """Return the version that the append is to keep; None if a subscription keeps it."""
        name = projector.projection.name
        live = load_live_version(session, name, Hold.SHARED, schema=self._schema)
        if live is None:
            self._make_first(session, projector)  # nothing, if another one has just become live
            live = load_live_version(session, name, Hold.SHARED, schema=self._schema)
        if live is None:
            raise SubscriptionError(
                projector.subscription, "somebody else is changing it; try again"
            )
        if not live.is_inline:
            return None
        if live.version != projector.projection.version:
            raise SubscriptionError(
                projector.subscription,
                f"version {live.version} is live, and kept by each append; append by code that "
                "has this version",
            )
        projector.check(live)
        return live

    def _make_first(self, session: Session, projector: Projector) -> None:
        """Make the version the live one, unless somebody was quicker, or it has missed something.

        The row comes first: whoever else makes it is waited for, and what he appends isn't missed.
        """
        version = projector.new_version(session, is_live=True, is_inline=True)
        if not add_version(session, version, schema=self._schema):
            return
        if self._has_missed(session, projector):
            forget_version(session, version.name, version.version, schema=self._schema)
            raise SubscriptionError(
                projector.subscription,
                "there are events that it hasn't seen; keep it by a subscription until it is "
                "current, then call eventstore.projections.make_inline()",
            )
        # Nobody runs it; it says where to go on when another version becomes the live one.
        projector.create_subscription(session, 0)

    def _has_missed(self, session: Session, projector: Projector) -> bool:
        mark = read_feed_mark(session, schema=self._schema)
        cursor = FeedCursor(position=0, until=mark.position, max_count=1, page_size=1)
        decoder = Decoder(bytes, self._codec)
        page = read_feed_page(session, cursor, projector.filters, decoder, schema=self._schema)
        return bool(page.scanned) or mark.position < mark.head


def _unless_refused(operation: Append, session: Session) -> AppendResult | _Refusal:
    """Append, or return the error of an append that was refused: it has written nothing.

    Raised behind the savepoint, it leaves the locks that were taken in it: who decides again in the
    same transaction can't be overtaken a second time.
    """
    try:
        return operation(session)
    except (ConcurrencyConflict, AppendConditionFailed) as refusal:
        return refusal


def _or_raise(result: AppendResult | _Refusal) -> AppendResult:
    if isinstance(result, AppendResult):
        return result
    raise result
