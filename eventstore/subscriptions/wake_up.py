"""Know how far the feed can be read, for all subscriptions of a process: one poll, and hints.

The mark of the fence is read again and again, with a pause that grows to a tenth of a second while
nothing happens. A hint (a commit in this process, a notification from another one) ends the
pause; none is ever needed. While a transaction holds the mark below the newest number, the pause
stays short: what becomes readable then comes without another append.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore.errors import EventStoreError
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.fence import Mark
from eventstore.operations.read import read_feed_mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

log = logging.getLogger("eventstore.subscriptions")

SHORTEST_POLL_SECONDS: Final = 0.002
LONGEST_POLL_SECONDS: Final = 0.1
_GROWTH: Final = 1.5
NOTHING_READ: Final = Mark(0, 0)


class Polls:
    """How long to wait before the next look at the mark; told of each look, without a clock."""

    def __init__(self) -> None:
        self._seconds = SHORTEST_POLL_SECONDS

    def after(self, last: Mark, mark: Mark) -> float:
        """Return the pause after ``mark`` was read, and ``last`` before it."""
        moved = mark != last
        self._seconds = (
            SHORTEST_POLL_SECONDS if moved else min(self._seconds * _GROWTH, LONGEST_POLL_SECONDS)
        )
        return self._seconds

    def after_failure(self) -> float:
        """Return the pause after the server did not answer."""
        self._seconds = SHORTEST_POLL_SECONDS
        return LONGEST_POLL_SECONDS


class FeedWatch:
    """The mark as last read by a thread of its own; workers wait here for it to move."""

    def __init__(self, engine: Engine, schema: str | None) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._schema = schema
        self._mark = NOTHING_READ
        self._moved = threading.Condition()
        self._hint = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._poll, name="eventstore-feed", daemon=True)

    @property
    def mark(self) -> Mark:
        """How far the feed can be read."""
        return self._mark

    def start(self) -> None:
        """Begin to poll."""
        listen(self.hint)
        self._thread.start()

    def stop(self) -> None:
        """End, and with it everybody's waiting."""
        unlisten(self.hint)
        self._stopping = True
        self._hint.set()
        if self._thread.ident is not None:
            self._thread.join()

    def hint(self) -> None:
        """Look now: there may be something new."""
        self._hint.set()

    def wake(self) -> None:
        """Let everybody who waits look whether he is to go on."""
        with self._moved:
            self._moved.notify_all()

    def wait_beyond(self, position: int, interrupted: Callable[[], bool]) -> None:
        """Wait until there is more to read, or until ``interrupted`` after a :meth:`wake`."""
        with self._moved:
            self._moved.wait_for(lambda: self._mark.position > position or interrupted())

    def _poll(self) -> None:
        polls = Polls()
        while not self._stopping:
            try:
                # One session for as long as it lasts: a checkout for each look costs more than it.
                with Session(self._engine) as session:
                    while not self._stopping:
                        self._hint.clear()
                        mark = read_feed_mark(session, schema=self._schema)
                        pause = polls.after(self._mark, mark)
                        self._publish(mark)
                        self._hint.wait(pause)
            except (SQLAlchemyError, EventStoreError) as error:
                log.warning(
                    "the feed can't be read at the moment: %s",
                    type(error).__qualname__,
                    extra={"action": "feed_poll_failed"},
                )
                self._hint.wait(polls.after_failure())

    def _publish(self, mark: Mark) -> None:
        moved = mark.position != self._mark.position
        with self._moved:
            self._mark = mark
            if moved:
                self._moved.notify_all()
