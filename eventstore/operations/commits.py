"""Tell readers in this process that events may have been committed: a hint, for quick wake-ups.

An append asks :func:`announce`, which costs one look at an empty tuple where nobody listens. Who is
told must look for itself: a hint may come for a transaction that has committed nothing, or come
late, or not at all.
"""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Final

from sqlalchemy import event
from sqlalchemy.orm import Session

from eventstore.operations.transactions import is_autocommit

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

log = logging.getLogger("eventstore.subscriptions")

_listeners: tuple[Callable[[], None], ...] = ()
_changing: Final = Lock()
#: Set in a session that has appended, and has not committed it yet.
_APPENDED: Final = "eventstore.appended"


def listen(listener: Callable[[], None]) -> None:
    """Call ``listener`` after each commit that may have events in it; it must not wait."""
    global _listeners  # noqa: PLW0603 - replaced as a whole: who tells at the moment has the old one
    with _changing:
        _listeners = (*_listeners, listener)


def unlisten(listener: Callable[[], None]) -> None:
    """Call it no more."""
    global _listeners  # noqa: PLW0603
    with _changing:
        _listeners = tuple(each for each in _listeners if each != listener)


def announce(session: Session, connection: Connection) -> None:
    """Say that this session has appended: once its outermost transaction commits, readers wake."""
    if not _listeners:
        return
    if is_autocommit(connection):
        announce_committed()
    else:
        session.info[_APPENDED] = True


def announce_committed() -> None:
    """Say that events have been committed. What a listener raises is nothing to who committed."""
    for listener in _listeners:
        try:
            listener()
        except Exception as error:  # noqa: BLE001 - the events are committed, whatever it is
            log.error(  # noqa: TRY400 - a traceback may show a payload
                "a listener for commits has failed: %s",
                type(error).__qualname__,
                extra={"action": "commit_listener_failed"},
            )


# Here and for good: to add it while another thread commits would change what that one iterates
# over, and fail its commit.
@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    # It is called at the end of savepoints too. A session that was rolled back keeps its mark,
    # at the cost of one needless look.
    if _listeners and _APPENDED in session.info and not session.in_nested_transaction():
        del session.info[_APPENDED]
        announce_committed()
