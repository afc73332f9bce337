"""Hand events to a projection's methods, in the transaction that they are to be part of.

At its first event a transaction learns where the version stands (is it live, who keeps it) and
holds that as true to its end; then each event goes to the methods that are for it, and what they
leave in the session is flushed while the session finds the tables of this version.
"""

from __future__ import annotations

import hashlib
import json
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple

from eventstore.errors import SubscriptionError
from eventstore.operations.projection_tables import AT_HOME, aside, homes_of, place, tables_of
from eventstore.operations.projections import (
    Hold,
    ProjectionVersion,
    add_version,
    load_live_version,
    load_version,
)
from eventstore.operations.read import read_feed_mark
from eventstore.operations.transactions import connection_of
from eventstore.projections.definition import check_projection, subscription_name
from eventstore.reading import PAGE_SIZE
from eventstore.registry import codec_of
from eventstore.streams import check_schema
from eventstore.subscriptions.creation import create
from eventstore.subscriptions.definition import PARK, MadeFor, OnFailure, RetryPolicy, Subscription

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction

    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.operations.projection_tables import Placement
    from eventstore.projections.definition import Projection
    from eventstore.registry import EventRegistry


def subscription_of(
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
    batch_size: int = PAGE_SIZE,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    on_failure: OnFailure = PARK,
    lease_seconds: float = 30.0,
) -> Subscription:
    """Return the subscription that keeps a projection, for a :class:`SubscriptionRunner`.

    ``registry`` and ``schema`` are those of the store, and a runner refuses others than its own.
    The first version that is ever run is live at once, and begins with the first event; a later one
    is refused until it was rebuilt.

    :raises ValueError: the registry lacks a class that the projection handles.
    """
    check_projection(projection, awaits=False)
    projector = Projector(projection, codec_of(registry), check_schema(schema))
    return Subscription(
        projector.subscription,
        projector.handle,
        filters=projector.filters,
        batch_size=batch_size,
        retry=retry,
        on_failure=on_failure,
        lease_seconds=lease_seconds,
        partitions=projection.partitions,
        prepare=projector.prepare,
        made_for=MadeFor(registry, schema),
    )


def async_subscription_of(
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
    batch_size: int = PAGE_SIZE,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    on_failure: OnFailure = PARK,
    lease_seconds: float = 30.0,
) -> Subscription:
    """Return the same for an :class:`AsyncSubscriptionRunner`.

    Methods that are coroutine functions get the ``AsyncSession``, the others its ``Session``.
    """
    check_projection(projection, awaits=True)
    projector = Projector(projection, codec_of(registry), check_schema(schema))
    return Subscription(
        projector.subscription,
        projector.handle_async,
        filters=projector.filters,
        batch_size=batch_size,
        retry=retry,
        on_failure=on_failure,
        lease_seconds=lease_seconds,
        partitions=projection.partitions,
        prepare=projector.prepare,
        made_for=MadeFor(registry, schema),
    )


class Entered(NamedTuple):
    """What a transaction knows of the version that it writes."""

    transaction: SessionTransaction | None
    connection: Connection
    version: ProjectionVersion | None  #: None if it is only folded
    placement: Placement


class Projector:
    """A projection on a store."""

    def __init__(self, projection: Projection, codec: PayloadCodec, schema: str | None) -> None:
        self.projection = projection
        self.codec = codec
        self.schema = schema
        self.filters = projection.filter_for(codec)
        self.tables = tables_of(projection.models)
        self._key = f"eventstore.projection.{self.subscription}"

    @property
    def subscription(self) -> str:
        """The name of the subscription that keeps this version."""
        return subscription_name(self.projection.name, self.projection.version)

    @property
    def fingerprint(self) -> str:
        """A digest of what the version handles and fills: the events' types, and the tables."""
        given = self.filters
        facts = [
            sorted(given.event_types),
            sorted(given.aggregate_types),
            given.stream_prefix,
            given.correlation_id,
            [each.name for each in self.tables],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def prepare(self, session: Session) -> ProjectionVersion:
        """Return the version that a subscription is about to keep; the first one is made.

        :raises SubscriptionError: it was never built, handles other events than it did, or is kept
            by appends.
        """
        version = self.hold_version(session)
        if version.is_inline:
            raise SubscriptionError(
                self.subscription,
                "each append keeps this projection in its own transaction; don't run it",
            )
        return version

    def handle(self, session: Session, event: AnyEnvelope) -> None:
        """Handle an event of the feed."""
        project(self.projection, event, session, self._entered(session))

    async def handle_async(self, session: AsyncSession, event: AnyEnvelope) -> None:
        """Handle an event of the feed."""
        entered = await session.run_sync(self._entered)
        await project_async(self.projection, event, session, entered)

    def _entered(self, session: Session) -> Entered:
        known: Entered | None = session.info.get(self._key)
        transaction = session.get_transaction()
        if known is None or known.transaction is not transaction:
            known = session.info[self._key] = self._enter(session)
        return known

    def _enter(self, session: Session) -> Entered:
        connection = connection_of(session)
        version = self.prepare(session)
        placement = AT_HOME if version.is_live else self.place_aside(connection, version)
        return Entered(session.get_transaction(), connection, version, placement)

    def hold_version(self, session: Session) -> ProjectionVersion:
        """Return where this version stands, which stays so to the end of the transaction.

        The first version of a projection is made, and is live at once.

        :raises SubscriptionError: it was never built, or handles other events than it did.
        """
        name, number = self.projection.name, self.projection.version
        version = self._load(session) or self._make_first(session) or self._load(session)
        if version is None:
            live = load_live_version(session, name, Hold.NOT, schema=self.schema)
            raise SubscriptionError(
                self.subscription,
                f"version {number} was never built, and version {live and live.version} is live; "
                "build it beside that one, by eventstore.projections.rebuild()",
            )
        return version

    def check(self, version: ProjectionVersion) -> None:
        """Raise SubscriptionError if it handles other events, or fills other tables, than it did.

        What the methods do with the events is not looked at.
        """
        if version.fingerprint != self.fingerprint:
            raise SubscriptionError(
                self.subscription,
                "it handles other events, or fills other tables, than it did under this version; "
                "raise the version of the projection, and rebuild it",
            )

    def place_aside(self, connection: Connection, version: ProjectionVersion) -> Placement:
        """Let the transaction find the tables of this version, which isn't live."""
        schemas = [aside(home, version.name, version.version) for home, _ in version.tables]
        return place(connection, self.tables, schemas)

    def new_version(
        self, session: Session, *, is_live: bool, is_inline: bool = False
    ) -> ProjectionVersion:
        """Return this version as one that begins now."""
        # What is in the store already has had its effects, or never will.
        head = read_feed_mark(session, schema=self.schema).head
        return ProjectionVersion(
            self.projection.name,
            self.projection.version,
            self.fingerprint,
            homes_of(connection_of(session), self.tables),
            is_live=is_live,
            is_inline=is_inline,
            live_from=head if is_live else None,
            live_until=None,
        )

    def create_subscription(self, session: Session, start: int) -> None:
        """Make the rows of the subscription that keeps this version, or may do so one day.

        :raises SubscriptionError: they were made with other partitions.
        """
        name, partitions = self.subscription, self.projection.partitions
        spec = Subscription(name, self.handle, filters=self.filters, partitions=partitions)
        create(session, spec, start, schema=self.schema)

    def _load(self, session: Session) -> ProjectionVersion | None:
        name, number = self.projection.name, self.projection.version
        version = load_version(session, name, number, Hold.SHARED, schema=self.schema)
        if version is not None:
            self.check(version)
        return version

    def _make_first(self, session: Session) -> ProjectionVersion | None:
        """Make this version the live one; None if there is one, or somebody else made it."""
        if load_live_version(session, self.projection.name, Hold.NOT, schema=self.schema):
            return None
        version = self.new_version(session, is_live=True)
        return version if add_version(session, version, schema=self.schema) else None


def project(projection: Projection, event: AnyEnvelope, session: Session, entered: Entered) -> None:
    """Hand an event to the methods that are for it, and flush what they leave in the session."""
    with entered.placement.on(entered.connection):
        for method in projection.methods_for(event, effects=_has_effects(event, entered)):
            method(event, session)
        session.flush()


async def project_async(
    projection: Projection, event: AnyEnvelope, session: AsyncSession, entered: Entered
) -> None:
    """Do the same with methods of either kind."""
    with entered.placement.on(entered.connection):
        for method in projection.methods_for(event, effects=_has_effects(event, entered)):
            if iscoroutinefunction(method):
                await method(event, session)
            else:
                await session.run_sync(_called, method, event)
        await session.flush()


def _called(session: Session, method: Any, event: AnyEnvelope) -> None:
    method(event, session)


def _has_effects(event: AnyEnvelope, entered: Entered) -> bool:
    return entered.version is not None and entered.version.has_effects_at(event.sequence_number)
