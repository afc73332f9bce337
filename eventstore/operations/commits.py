"""Tell readers in this process that events may have been committed: a hint, for quick wake-ups.

An append asks :func:`announce`, which costs one look at an empty set where nobody listens. Who is
told must look for itself: a hint may come for a transaction that has committed nothing, or come
late, or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import event
from sqlalchemy.orm import Session

from eventstore.operations.transactions import is_autocommit

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

_listeners: Final[set[Callable[[], None]]] = set()
#: Set in a session that has appended, and has not committed it yet.
_APPENDED: Final = "eventstore.appended"


def listen(listener: Callable[[], None]) -> None:
    """Call ``listener`` after each commit that may have events in it; it must not raise or wait."""
    if not _listeners:
        event.listen(Session, "after_commit", _after_commit)
    _listeners.add(listener)


def unlisten(listener: Callable[[], None]) -> None:
    """Call it no more."""
    _listeners.discard(listener)
    if not _listeners and event.contains(Session, "after_commit", _after_commit):
        event.remove(Session, "after_commit", _after_commit)


def announce(session: Session, connection: Connection) -> None:
    """Say that this session has appended: once its outermost transaction commits, readers wake."""
    if not _listeners:
        return
    if is_autocommit(connection):
        _tell()
    else:
        session.info[_APPENDED] = True


def _after_commit(session: Session) -> None:
    # It is called at the end of savepoints too. A session that was rolled back keeps its mark,
    # at the cost of one needless look.
    if _APPENDED in session.info and not session.in_nested_transaction():
        del session.info[_APPENDED]
        _tell()


def _tell() -> None:
    for listener in tuple(_listeners):
        listener()
