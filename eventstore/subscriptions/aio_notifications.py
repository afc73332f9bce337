"""Wake-ups between processes, with tasks: the twin of ``subscriptions/notifications.py``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from eventstore.errors import EventStoreError
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.notifications import notification_channel, notify, server_process
from eventstore.streams import check_schema
from eventstore.subscriptions.engines import separate_async
from eventstore.subscriptions.notifications import (
    COALESCED_SECONDS,
    PAUSE_SECONDS,
    is_listener,
    log_loss,
    sender_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self


class AsyncCommitNotifier:
    """Tells other processes when this one has committed events: one for each process that appends.

    A task and a connection of its own, made as those of ``engine``; commits that come close
    together share a notification. Appends neither wait for it nor fail with it.
    """

    def __init__(self, engine: AsyncEngine, *, schema: str | None = None) -> None:
        if not isinstance(engine, AsyncEngine):
            raise TypeError(
                f"engine must be an AsyncEngine, not {type(engine).__name__}; for an Engine there "
                "is CommitNotifier"
            )
        self._engine = separate_async(engine)
        self._schema = check_schema(schema)
        self._committed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to notify."""
        self._loop = asyncio.get_running_loop()
        listen(self._hear)
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """End, after a last notification if one is due."""
        unlisten(self._hear)
        self._stopping.set()
        self._committed.set()
        if self._task is not None:
            await self._task
        await self._engine.dispose()

    def _hear(self) -> None:
        # A commit may be made in any thread.
        self._loop.call_soon_threadsafe(self._committed.set)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                async with AsyncSession(self._engine) as session:
                    await self._notify_on(session)
            except (SQLAlchemyError, EventStoreError, OSError) as error:
                log_loss("notifier", error)
                await pause(self._stopping, PAUSE_SECONDS)

    async def _notify_on(self, session: AsyncSession) -> None:
        channel = await session.run_sync(notification_channel, schema=self._schema)
        while True:
            await self._committed.wait()
            self._committed.clear()
            await session.run_sync(notify, channel, sender_name())
            if await pause(self._stopping, COALESCED_SECONDS):
                return


class AsyncCommitListener:
    """Calls ``heard`` when another process has committed events, and after each reconnection."""

    def __init__(self, engine: AsyncEngine, schema: str | None, heard: Callable[[], None]) -> None:
        self._engine = separate_async(engine)
        self._schema = schema
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.connected = False  #: it listens at the moment

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._engine.dispose()

    async def _run(self) -> None:
        can_listen = True
        while can_listen:
            try:
                can_listen = await self._listen()
            except Exception as error:  # noqa: BLE001 - the drivers' own errors come here too
                log_loss("listener", error)
                await asyncio.sleep(PAUSE_SECONDS)
            finally:
                self.connected = False

    async def _listen(self) -> bool:
        """Listen until the connection is lost; False if that can't be done."""
        async with self._engine.connect() as connection:
            async with AsyncSession(connection) as session:
                channel = await session.run_sync(notification_channel, schema=self._schema)
                server = await session.run_sync(server_process)
            driver: Any = (await connection.get_raw_connection()).driver_connection
            is_asyncpg = connection.dialect.driver == "asyncpg"
            told = driver.get_server_pid() if is_asyncpg else driver.info.backend_pid
            if not is_listener(told, server):
                return False
            try:
                hear = self._hear_by_asyncpg if is_asyncpg else self._hear_by_psycopg
                await hear(driver, channel)
            finally:
                await connection.invalidate()  # it listens, so that nobody else may get it
        return True

    def _listens(self) -> None:
        self.connected = True
        # What was committed before is read now, what comes later is heard.
        self._heard()

    def _told(self, sender: str) -> None:
        if sender != sender_name():
            self._heard()

    async def _hear_by_psycopg(self, driver: Any, channel: str) -> None:
        await driver.execute(f'LISTEN "{channel}"')
        self._listens()
        async for each in driver.notifies():
            self._told(each.payload)

    async def _hear_by_asyncpg(self, driver: Any, channel: str) -> None:
        lost = asyncio.Event()
        driver.add_termination_listener(lambda *_: lost.set())
        await driver.add_listener(
            channel, lambda _driver, _pid, _channel, sender: self._told(sender)
        )
        self._listens()
        await lost.wait()
        raise ConnectionError("the connection was closed")


async def pause(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until the end; True if it has come."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
    return stopping.is_set()
