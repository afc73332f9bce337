"""Change what is known of a projection's versions, while nobody is at work on its tables.

That changes only under an exclusive hold of the versions' rows (see
:mod:`eventstore.operations.projections`): then no subscription and no append is at work on the
tables, and all that they did is committed. To hold them is to keep everybody waiting; so what may
take long is waited for before, and what is done behind the hold is given up and tried again where
somebody else is in the way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from eventstore.errors import SubscriptionError, TransactionConflict
from eventstore.operations.conflicts import sqlstate_of
from eventstore.operations.parking import list_parked
from eventstore.operations.projections import set_inline
from eventstore.operations.read import read_feed_mark
from eventstore.operations.takeovers import take_over
from eventstore.operations.transactions import transaction_of
from eventstore.operations.waiting import pause, short_lock_waits
from eventstore.projections.definition import subscription_name
from eventstore.subscriptions.definition import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from eventstore.operations.projections import ProjectionVersion

#: A lock that isn't had in this time would keep too many waiting behind it (PostgreSQL manual,
#: 20.11, ``lock_timeout``: who waits for an exclusive lock stands in everybody's way).
LOCK_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.01
#: PostgreSQL manual, appendix A: lock_not_available, deadlock_detected.
_IN_THE_WAY: Final = frozenset({"55P03", "40P01"})


class NotYet(Exception):
    """Somebody is in the way; ``args`` say who."""


def retried(session: Session, change: Callable[[], None], timeout_seconds: float) -> None:
    """Make a change behind a savepoint, and again where somebody is in the way."""
    deadline = time.monotonic() + check_seconds("timeout_seconds", timeout_seconds)
    transaction_of(session)
    while True:
        try:
            with session.begin_nested(), short_lock_waits(session, LOCK_SECONDS):
                change()
        except (NotYet, DBAPIError, TransactionConflict) as error:
            if not isinstance(error, NotYet) and _sqlstate(error) not in _IN_THE_WAY:
                raise
            if time.monotonic() >= deadline:
                reason = error if isinstance(error, NotYet) else "its rows or tables are in use"
                raise TimeoutError(
                    f"nothing was changed in {timeout_seconds} seconds: {reason}"
                ) from None
            pause(session, PAUSE_SECONDS)
        else:
            return


def _sqlstate(error: DBAPIError | TransactionConflict) -> str | None:
    return error.sqlstate if isinstance(error, TransactionConflict) else sqlstate_of(error)


def refuse_parked(session: Session, version: ProjectionVersion, schema: str | None) -> None:
    """Raise SubscriptionError if streams wait beside the version's subscription."""
    subscription = subscription_name(version.name, version.version)
    parked = list_parked(session, subscription, schema=schema)
    if parked:
        raise SubscriptionError(
            subscription,
            f"{len(parked)} of its streams are parked, so that its tables lack events; replay or "
            "discard them first",
        )


def settled_head(session: Session, schema: str | None) -> int:
    """Return the newest position, at a moment at which nobody is appending.

    While the version that appends keep is held, its tables show all that is up to there, and
    nothing else: what was committed behind an open transaction can't be read by a subscription yet.
    """
    mark = read_feed_mark(session, schema=schema)
    if mark.position < mark.head:
        raise NotYet("other transactions are appending")
    return mark.head


def change_keeper(
    session: Session,
    version: ProjectionVersion,
    position: int,
    *,
    is_inline: bool,
    schema: str | None,
) -> None:
    """Give a version, which shows what is up to a position, to the appends or to a subscription."""
    subscription = subscription_name(version.name, version.version)
    if not take_over(session, subscription, position, schema=schema):
        raise SubscriptionError(
            subscription, "its checkpoints were reset; call make_asynchronous(), which makes them"
        )
    set_inline(session, version.name, version.version, is_inline=is_inline, schema=schema)
