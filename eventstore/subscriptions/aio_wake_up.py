"""Know how far the feed can be read, with tasks: the twin of ``subscriptions/wake_up.py``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from eventstore.errors import EventStoreError
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.read import read_newer_mark
from eventstore.subscriptions.engines import separate_async
from eventstore.subscriptions.wake_up import (
    NOTHING_KNOWN,
    SHORTEST_POLL_SECONDS,
    Polls,
    log_failed_poll,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from eventstore.operations.fence import Mark
    from eventstore.subscriptions.wake_up import Feed


class AsyncFeedWatch:
    """What is known of the feed, kept up to date by a task; workers wait here for news."""

    def __init__(self, engine: AsyncEngine, schema: str | None) -> None:
        self._engine = separate_async(engine)
        self._schema = schema
        self._feed = NOTHING_KNOWN
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def feed(self) -> Feed:
        """How far the feed can be read."""
        return self._feed

    def start(self) -> None:
        """Begin to poll."""
        self._loop = asyncio.get_running_loop()
        listen(self._hear)
        self._task = self._loop.create_task(self._poll())

    async def stop(self) -> None:
        """End; who waits here must have been told before, by :meth:`wake`."""
        unlisten(self._hear)
        self._stopping = True
        self._wanted.set()
        if self._task is not None:
            await self._task
        await self._engine.dispose()

    def hint(self) -> None:
        """There may be something new: let everybody who waits look."""
        self._feed = self._feed._replace(hints=self._feed.hints + 1)
        self.wake()

    def look(self) -> None:
        """Read the mark soon: there may be something that can't be read without it."""
        self._wanted.set()

    def seen(self, position: int) -> None:
        """Note that somebody has read up to a position."""
        self._feed = self._feed.seen(position)

    def wake(self) -> None:
        """Let everybody who waits see whether he is to go on."""
        # One event for each change: whoever waits has the one that was there before.
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(
        self,
        position: int,
        hints: int,
        seconds: float | None,
        interrupted: Callable[[], bool],
    ) -> None:
        """Wait for news, for so long, or until ``interrupted`` after a :meth:`wake`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self._feed.concerns(position, hints) or interrupted()):
                    await self._changed.wait()

    def _hear(self) -> None:
        # A commit may be made in any thread.
        self._loop.call_soon_threadsafe(self.hint)

    async def _poll(self) -> None:
        polls = Polls()
        while not self._stopping:
            try:
                # One session for as long as it lasts: a checkout for each look costs more than it.
                async with AsyncSession(self._engine) as session:
                    await self._poll_by(session, polls)
            except (SQLAlchemyError, EventStoreError, OSError) as error:
                log_failed_poll(error)
                await asyncio.sleep(polls.after_failure())

    async def _poll_by(self, session: AsyncSession, polls: Polls) -> None:
        while not self._stopping:
            began, known = self._loop.time(), self._feed.mark
            mark = await session.run_sync(read_newer_mark, known, schema=self._schema)
            self._publish(known, mark)
            if await self._want(polls.after(known, mark)):
                self._wanted.clear()
                # Not more often, however many ask.
                await asyncio.sleep(began + SHORTEST_POLL_SECONDS - self._loop.time())

    async def _want(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), seconds)
        return self._wanted.is_set()

    def _publish(self, known: Mark, mark: Mark) -> None:
        if mark == known:
            return
        feed = self._feed._replace(mark=mark)
        # A worker may have been further ahead than this look.
        if self._feed.mark != known:
            feed = feed.seen(self._feed.mark.position)
        self._feed = feed
        self.wake()
