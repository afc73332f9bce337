"""Make another version of a projection the live one, or give it to somebody else to keep.

What the rows say changes only under an exclusive hold of them (see
:mod:`eventstore.operations.projections`): then no subscription and no append is at work on the
tables, and all that they did is committed. To hold them is to keep everybody waiting, so that the
waiting for what may take long is done before, and everything behind the hold is given up and tried
again where somebody else is in the way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from eventstore.errors import SubscriptionError, TransactionConflict
from eventstore.operations.checkpoints import create_subscription, load_checkpoints
from eventstore.operations.conflicts import sqlstate_of
from eventstore.operations.deliveries import Slice, read_slice
from eventstore.operations.parking import list_parked
from eventstore.operations.privileges import copy_privileges
from eventstore.operations.projection_tables import (
    AT_HOME,
    aside,
    create_tables,
    drop_aside,
    move_aside,
    move_home,
    refuse_dependents,
)
from eventstore.operations.projections import (
    Hold,
    ProjectionVersion,
    add_version,
    forget_version,
    list_versions,
    load_live_version,
    load_version,
    set_inline,
    set_live,
)
from eventstore.operations.read import read_feed_mark
from eventstore.operations.takeovers import forget_subscription, has_handled, take_over
from eventstore.operations.transactions import connection_of
from eventstore.operations.waiting import pause, short_lock_waits
from eventstore.projections.definition import check_projection, subscription_name
from eventstore.projections.projector import Entered, Projector, project
from eventstore.reading import PAGE_SIZE
from eventstore.registry import codec_of
from eventstore.streams import check_number, check_schema, check_text
from eventstore.subscriptions.definition import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from eventstore.projections.definition import Projection
    from eventstore.registry import EventRegistry

#: A lock that isn't had in this time would keep too many waiting behind it (PostgreSQL manual,
#: 20.11, ``lock_timeout``: who waits for an exclusive lock stands in everybody's way).
_LOCK_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.01
#: PostgreSQL manual, appendix A: lock_not_available, deadlock_detected.
_IN_THE_WAY: Final = frozenset({"55P03", "40P01"})
#: A handler of this process may take so long for a page.
_IDLE_SECONDS: Final = 3600.0


class _NotYet(Exception):
    """Somebody is in the way; ``args`` say who."""


def projection_versions(
    session: Session, name: str | None = None, *, schema: str | None = None
) -> list[ProjectionVersion]:
    """Return the versions of a projection that there are, or of all projections."""
    return list_versions(session, name, schema=check_schema(schema))


def begin_rebuild(
    session: Session,
    projection: Projection,
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
) -> bool:
    """Make the tables of a new version, beside the live ones; False if they were made before.

    From then on a runner may keep the version. Where no version is live yet, this one is, and
    its tables are yours to make. It takes the right to create schemas in the database. The
    caller commits.

    :raises SubscriptionError: the version was begun by code that handles other events.
    """
    check_projection(projection, awaits=True)
    projector = Projector(projection, codec_of(registry), check_schema(schema))
    known = load_version(session, projection.name, projection.version, Hold.NOT, schema=schema)
    if known is not None:
        projector.check(known)
        return False
    if load_live_version(session, projection.name, Hold.NOT, schema=schema) is None:
        projector.hold_version(session)
        return False
    version = projector.new_version(session, is_live=False)
    # The row comes first: whoever does the same meanwhile waits for it, and finds the tables.
    if not add_version(session, version, schema=schema):
        return False
    schemas = [aside(home, version.name, version.version) for home, _ in version.tables]
    connection = connection_of(session)
    create_tables(connection, projector.tables, schemas)
    for home, beside in zip(version.tables, schemas, strict=True):
        copy_privileges(connection, home, beside)
    return True


def switch_version(
    session: Session,
    name: str,
    version: int,
    *,
    timeout_seconds: float = 30.0,
    schema: str | None = None,
) -> None:
    """Make a version the live one: its tables change places with those that are live, at once.

    It waits until the version has handled all that the live one has, and no longer than the
    timeout. The version that was live is kept aside, for as long as somebody runs it: switch back
    to it in the same way. The caller commits; until then, readers of the tables wait.

    :raises SubscriptionError: there is no such version, or streams of it are parked.
    :raises TimeoutError: the version has not come so far, or the tables were in use all the time;
        nothing was changed.
    """
    check_text("name", name, 255)
    check_number("version", version)
    check_schema(schema)

    def switch() -> None:
        live, target = _pair(session, name, version, schema)
        if target.is_live:
            return
        # As long as it may take, nobody is held up.
        if not _has_come_to(session, target, _position_of(session, live, schema), schema):
            raise _NotYet(f"version {version} is still behind version {live.version}")
        # From here on the live version stands still, and the other one comes to where it stands.
        _hold(session, live, schema)
        position = _position_of(session, live, schema)
        held_until = time.monotonic() + _LOCK_SECONDS
        while not _has_come_to(session, target, position, schema):
            if time.monotonic() >= held_until:
                raise _NotYet(f"version {version} has not come to position {position}")
            pause(session, _PAUSE_SECONDS)
        _hold(session, target, schema)
        _refuse_parked(session, target, schema)
        _change_places(session, live, target, schema)

    _retried(session, switch, timeout_seconds)


def discard_version(
    session: Session, name: str, version: int, *, schema: str | None = None
) -> bool:
    """Drop the tables of a version that isn't live, and all that is known of it.

    False if there is no such version. The caller commits.

    :raises SubscriptionError: it is the live one.
    """
    known = load_version(session, name, version, Hold.EXCLUSIVE, schema=check_schema(schema))
    if known is None:
        return False
    subscription = subscription_name(name, version)
    if known.is_live:
        raise SubscriptionError(subscription, "it is the live version; switch to another one first")
    drop_aside(connection_of(session), known)
    forget_subscription(session, subscription, schema=schema)
    forget_version(session, name, version, schema=schema)
    return True


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
            _refuse_parked(session, live, schema)
            head = _settled_head(session, schema)
            _drain(session, projector, live, head)
            take_over(session, projector.subscription, head, schema=schema)
            set_inline(session, live.name, live.version, is_inline=True, schema=schema)

    _retried(session, make, timeout_seconds)


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
            head = _settled_head(session, schema)
            create_subscription(
                session, projector.subscription, projection.partitions, head, schema=schema
            )
            take_over(session, projector.subscription, head, schema=schema)
            set_inline(session, live.name, live.version, is_inline=False, schema=schema)

    _retried(session, make, timeout_seconds)


def _retried(session: Session, change: Callable[[], None], timeout_seconds: float) -> None:
    """Make a change behind a savepoint, and again where somebody is in the way."""
    deadline = time.monotonic() + check_seconds("timeout_seconds", timeout_seconds)
    while True:
        try:
            with session.begin_nested(), short_lock_waits(session, _LOCK_SECONDS):
                change()
        except (_NotYet, DBAPIError, TransactionConflict) as error:
            if not isinstance(error, _NotYet) and _sqlstate(error) not in _IN_THE_WAY:
                raise
            if time.monotonic() >= deadline:
                reason = error if isinstance(error, _NotYet) else "its rows or tables are in use"
                raise TimeoutError(
                    f"nothing was changed in {timeout_seconds} seconds: {reason}"
                ) from None
            pause(session, _PAUSE_SECONDS)
        else:
            return


def _sqlstate(error: DBAPIError | TransactionConflict) -> str | None:
    return error.sqlstate if isinstance(error, TransactionConflict) else sqlstate_of(error)


def _position_of(session: Session, version: ProjectionVersion, schema: str | None) -> int:
    """Return up to where the tables of a version show what happened."""
    if version.is_inline:
        return read_feed_mark(session, schema=schema).position
    subscription = subscription_name(version.name, version.version)
    checkpoints = load_checkpoints(session, subscription, schema=schema)
    return max((at.position for at in checkpoints), default=0)


def _has_come_to(
    session: Session, version: ProjectionVersion, position: int, schema: str | None
) -> bool:
    """Tell whether a version has handled what is up to a position.

    And up to the one where it ceased to be live: side effects of what lies before are still its.
    """
    position = max(position, version.live_until or 0)
    subscription = subscription_name(version.name, version.version)
    return read_feed_mark(session, schema=schema).position >= position and has_handled(
        session, subscription, position, schema=schema
    )


def _pair(
    session: Session, name: str, version: int, schema: str | None
) -> tuple[ProjectionVersion, ProjectionVersion]:
    """Return the live version, and the one that is wanted."""
    live = load_live_version(session, name, Hold.NOT, schema=schema)
    target = load_version(session, name, version, Hold.NOT, schema=schema)
    if live is None or target is None:
        raise SubscriptionError(
            subscription_name(name, version), "there is no such version; see begin_rebuild()"
        )
    return live, target


def _hold(session: Session, version: ProjectionVersion, schema: str | None) -> None:
    """Hold a version against everybody who writes its tables, if it is still what it was."""
    name, number = version.name, version.version
    if load_version(session, name, number, Hold.EXCLUSIVE, schema=schema) != version:
        raise _NotYet("somebody else is changing the versions")


def _change_places(
    session: Session, live: ProjectionVersion, target: ProjectionVersion, schema: str | None
) -> None:
    connection = connection_of(session)
    refuse_dependents(connection, live)
    at = read_feed_mark(session, schema=schema).head
    move_aside(connection, live)
    move_home(connection, target)
    for version, is_live in ((live, False), (target, True)):
        set_live(session, version.name, version.version, is_live=is_live, at=at, schema=schema)


def _refuse_parked(session: Session, version: ProjectionVersion, schema: str | None) -> None:
    subscription = subscription_name(version.name, version.version)
    parked = list_parked(session, subscription, schema=schema)
    if parked:
        raise SubscriptionError(
            subscription,
            f"{len(parked)} of its streams are parked, so that its tables lack events; replay or "
            "discard them first",
        )


def _held_live(session: Session, projector: Projector) -> ProjectionVersion:
    """Return the projector's version, held against everybody; it must be the live one."""
    name, number, schema = projector.projection.name, projector.projection.version, projector.schema
    projector.hold_version(session)
    held = load_version(session, name, number, Hold.EXCLUSIVE, schema=schema)
    if held is None or not held.is_live:
        raise SubscriptionError(projector.subscription, "it is not the live version; switch first")
    return held


def _settled_head(session: Session, schema: str | None) -> int:
    """Return the newest position, at a moment at which nobody is appending."""
    mark = read_feed_mark(session, schema=schema)
    if mark.position < mark.head:
        raise _NotYet("other transactions are appending")
    return mark.head


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
