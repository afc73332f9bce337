"""Who keeps the live version of a projection: each append, or a subscription."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventstore.errors import SubscriptionError
from eventstore.operations.checkpoints import load_checkpoints
from eventstore.operations.deliveries import Slice, read_slice
from eventstore.operations.projection_tables import AT_HOME
from eventstore.operations.projections import Hold, ProjectionVersion, load_version
from eventstore.operations.transactions import connection_of
from eventstore.projections.definition import check_projection
from eventstore.projections.holding import change_keeper, refuse_parked, retried, settled_head
from eventstore.projections.projector import (
    Entered,
    Projector,
    project,
)
from eventstore.reading import PAGE_SIZE
from eventstore.registry import codec_of
from eventstore.streams import check_schema

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.projections.definition import Projection
    from eventstore.registry import EventRegistry

#: A method of this process may take so long for a page.
_IDLE_SECONDS: Final = 3600.0


def make_inline(
    session: Session,
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    timeout_seconds: float = 30.0,
    schema: str | None = None,
) -> None:
    """Let appends keep the live version from now on, and no subscription any more.

    What the subscription has not handled yet is handled now, in this transaction. Appends of
    stores that have the projection wait meanwhile; every store that appends what it handles must
    have it from then on. The caller commits.

    :raises SubscriptionError: the version is not the live one, or streams of it are parked.
    :raises TimeoutError: other transactions were appending all the time; nothing was changed.
    """
    check_projection(projection, awaits=False)
    projector = Projector(projection, codec_of(registry), check_schema(schema))

    def make() -> None:
        live = _held_live(session, projector)
        if not live.is_inline:
            refuse_parked(session, live, schema)
            head = settled_head(session, schema)
            _drain(session, projector, live, head)
            projector.create_subscription(session, head)
            change_keeper(session, live, head, is_inline=True, schema=schema)

    retried(session, make, timeout_seconds)


def make_asynchronous(
    session: Session,
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    timeout_seconds: float = 30.0,
    schema: str | None = None,
) -> None:
    """Let a subscription keep the live version from now on, and appends no more.

    The way back from :func:`make_inline`; errors are the same. The caller commits.
    """
    check_projection(projection, awaits=True)
    projector = Projector(projection, codec_of(registry), check_schema(schema))

    def make() -> None:
        live = _held_live(session, projector)
        if live.is_inline:
            head = settled_head(session, schema)
            projector.create_subscription(session, head)
            change_keeper(session, live, head, is_inline=False, schema=schema)

    retried(session, make, timeout_seconds)


def _held_live(session: Session, projector: Projector) -> ProjectionVersion:
    """Return the projector's version, held against everybody; it must be the live one."""
    name, number, schema = projector.projection.name, projector.projection.version, projector.schema
    projector.hold_version(session)
    held = load_version(session, name, number, Hold.EXCLUSIVE, schema=schema)
    if held is None or not held.is_live:
        raise SubscriptionError(projector.subscription, "it is not the live version; switch first")
    return held


def _drain(session: Session, projector: Projector, version: ProjectionVersion, until: int) -> None:
    """Handle here what the subscription has not handled yet."""
    schema, partitions = projector.schema, projector.projection.partitions
    entered = Entered(None, connection_of(session), version, AT_HOME)
    checkpoints = load_checkpoints(session, projector.subscription, schema=schema)
    positions = {at.partition: at.position for at in checkpoints}
    for partition in range(partitions):
        part = Slice(projector.subscription, partition, partitions, projector.filters)
        after = positions.get(partition, 0)
        while events := read_slice(
            session,
            part,
            projector.codec,
            after=after,
            until=until,
            limit=PAGE_SIZE,
            idle_seconds=_IDLE_SECONDS,
            schema=schema,
        ):
            for stored in events:
                for event in stored.decoded(projector.codec, projector.filters):
                    project(projector.projection, event, session, entered)
            after = events[-1].position
