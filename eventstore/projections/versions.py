"""The versions of a projection: begin one beside the live one, make it the live one, drop it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from eventstore.errors import SubscriptionError
from eventstore.operations.checkpoints import has_scanned, load_checkpoints, reset_subscription
from eventstore.operations.privileges import copy_privileges
from eventstore.operations.projection_tables import (
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
    set_live,
)
from eventstore.operations.read import read_feed_mark
from eventstore.operations.transactions import connection_of, transaction_of
from eventstore.operations.waiting import pause
from eventstore.projections.definition import check_projection, subscription_name
from eventstore.projections.holding import (
    LOCK_SECONDS,
    PAUSE_SECONDS,
    NotYet,
    change_keeper,
    refuse_parked,
    retried,
    settled_head,
)
from eventstore.projections.projector import Projector
from eventstore.registry import codec_of
from eventstore.streams import MAX_ID_LENGTH, check_number, check_schema, check_text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.projections.definition import Projection
    from eventstore.registry import EventRegistry


def projection_versions(
    session: Session, name: str | None = None, *, schema: str | None = None
) -> list[ProjectionVersion]:
    """Return the versions of a projection that there are, or of all projections."""
    if name is not None:
        check_text("name", name, MAX_ID_LENGTH)
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
    connection = transaction_of(session)
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
    to it in the same way. If appends kept it, a subscription does from then on, and none may be
    open at that moment. The caller commits; until then, readers of the tables wait.

    :raises SubscriptionError: there is no such version, or streams of it are parked.
    :raises TimeoutError: the version has not come so far, or the tables were in use all the time;
        nothing was changed.
    """
    check_text("name", name, MAX_ID_LENGTH)
    check_number("version", version)
    check_schema(schema)

    def switch() -> None:
        live, target = _pair(session, name, version, schema)
        if target.is_live:
            return
        # As long as it may take, nobody is held up.
        position = _position_of(session, live, schema, is_held=False)
        if not _has_come_to(session, target, position, schema):
            raise NotYet(f"version {version} is still behind version {live.version}")
        # From here on the live version stands still, and the other one comes to where it stands.
        _hold(session, live, schema)
        position = _position_of(session, live, schema, is_held=True)
        held_until = time.monotonic() + LOCK_SECONDS
        while not _has_come_to(session, target, position, schema):
            if time.monotonic() >= held_until:
                raise NotYet(f"version {version} has not come to position {position}")
            pause(session, PAUSE_SECONDS)
        _hold(session, target, schema)
        refuse_parked(session, target, schema)
        _change_places(session, live, target, schema)
        if live.is_inline:
            change_keeper(session, live, position, is_inline=False, schema=schema)

    retried(session, switch, timeout_seconds)


def discard_version(
    session: Session, name: str, version: int, *, schema: str | None = None
) -> bool:
    """Drop the tables of a version that isn't live, and all that is known of it.

    False if there is no such version. The caller commits.

    :raises SubscriptionError: it is the live one, or somebody runs it.
    """
    check_text("name", name, MAX_ID_LENGTH)
    check_number("version", version)
    connection = transaction_of(session)
    known = load_version(session, name, version, Hold.EXCLUSIVE, schema=check_schema(schema))
    if known is None:
        return False
    subscription = subscription_name(name, version)
    if known.is_live:
        raise SubscriptionError(subscription, "it is the live version; switch to another one first")
    drop_aside(connection, known)
    reset_subscription(session, subscription, schema=schema)
    forget_version(session, name, version, schema=schema)
    return True


def _position_of(
    session: Session, version: ProjectionVersion, schema: str | None, *, is_held: bool
) -> int:
    """Return up to where the tables of a version show what happened.

    Those that appends keep may show more, as long as the version isn't held.
    """
    if version.is_inline:
        if is_held:
            return settled_head(session, schema)
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
    return read_feed_mark(session, schema=schema).position >= position and has_scanned(
        session, subscription, position, is_readable=True, schema=schema
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
        raise NotYet("somebody else is changing the versions")


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
