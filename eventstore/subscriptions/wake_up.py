"""Know how far the feed can be read, for all subscriptions of a process: one poll, and hints.

The mark of the fence is read again and again, with a pause that grows to a tenth of a second while
nothing happens; while no number is handed out, the sequence alone is looked at. A hint (a commit in
this process, a notification from another one) sends the workers to look by themselves at once: as
far as numbers follow one another without a gap, events can be read without a look at the fence.
Where there is a gap, the mark is asked for. No hint is ever needed.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore.errors import EventStoreError
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.fence import Mark
from eventstore.operations.read import read_newer_mark
from eventstore.subscriptions.engines import separate
from eventstore.subscriptions.failures import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

log = logging.getLogger("eventstore.subscriptions")

SHORTEST_POLL_SECONDS: Final = 0.004
LONGEST_POLL_SECONDS: Final = 0.1
_GROWTH: Final = 1.5


class Feed(NamedTuple):
    """What is known of the feed, when a worker looks at it."""

    mark: Mark  #: how far it can be read, for sure
    hints: int  #: how many there were of events behind the mark

    def concerns(self, position: int, hints: int) -> bool:
        """Tell whether there may be something to do for who has come so far."""
        # A head before the position: the store was restored to an earlier time.
        return self.mark.position > position or self.mark.head < position or self.hints != hints

    def seen(self, position: int) -> Feed:
        """Return the same, where somebody has read up to a position."""
        if position <= self.mark.position:
            return self
        return self._replace(mark=Mark(position, max(position, self.mark.head)))


NOTHING_KNOWN: Final = Feed(Mark(0, sys.maxsize), 0)


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
    """What is known of the feed, kept up to date by a thread; workers wait here for news."""

    def __init__(self, engine: Engine, schema: str | None) -> None:
        self._engine = separate(engine)
        self._schema = schema
        self._feed = NOTHING_KNOWN
        self._changed = threading.Condition()
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="eventstore-feed", daemon=True)

    @property
    def feed(self) -> Feed:
        """How far the feed can be read."""
        return self._feed

    def start(self) -> None:
        """Begin to poll."""
        listen(self.hint)
        self._thread.start()

    def stop(self) -> None:
        """End; who waits here must have been told before, by :meth:`wake`."""
        unlisten(self.hint)
        self._stopping.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._engine.dispose()

    def hint(self) -> None:
        """There may be something new: let everybody who waits look."""
        with self._changed:
            self._feed = self._feed._replace(hints=self._feed.hints + 1)
            self._changed.notify_all()

    def look(self) -> None:
        """Read the mark soon: there may be something that can't be read without it."""
        self._wanted.set()

    def seen(self, position: int) -> None:
        """Note that somebody has read up to a position."""
        if position > self._feed.mark.position:
            with self._changed:
                self._feed = self._feed.seen(position)

    def wake(self) -> None:
        """Let everybody who waits see whether he is to go on."""
        with self._changed:
            self._changed.notify_all()

    def wait(
        self,
        position: int,
        hints: int,
        seconds: float | None,
        interrupted: Callable[[], bool],
    ) -> None:
        """Wait for news, for so long, or until ``interrupted`` after a :meth:`wake`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._feed.concerns(position, hints) or interrupted(), seconds
            )

    def _poll(self) -> None:
        polls = Polls()
        while not self._stopping.is_set():
            try:
                # One session for as long as it lasts: a checkout for each look costs more than it.
                with Session(self._engine) as session:
                    self._poll_by(session, polls)
            except (SQLAlchemyError, EventStoreError) as error:
                log_failed_poll(error)
                self._stopping.wait(polls.after_failure())

    def _poll_by(self, session: Session, polls: Polls) -> None:
        while not self._stopping.is_set():
            began, known = time.monotonic(), self._feed.mark
            mark = read_newer_mark(session, known, schema=self._schema)
            self._publish(known, mark)
            if self._wanted.wait(polls.after(known, mark)):
                self._wanted.clear()
                # Not more often, however many ask.
                self._stopping.wait(began + SHORTEST_POLL_SECONDS - time.monotonic())

    def _publish(self, known: Mark, mark: Mark) -> None:
        if mark == known:
            return
        with self._changed:
            feed = self._feed._replace(mark=mark)
            # A worker may have been further ahead than this look.
            if self._feed.mark != known:
                feed = feed.seen(self._feed.mark.position)
            self._feed = feed
            self._changed.notify_all()


def log_failed_poll(error: Exception) -> None:
    """Say that the feed can't be read; it will be tried again."""
    log.warning(
        "the feed can't be read at the moment: %s",
        describe(error),
        extra={"action": "feed_poll_failed"},
    )
