"""More writers than connections: they borrow, for those whose library has no pool."""

from __future__ import annotations

import asyncio
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from benchmarks.worker import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Of any contender to PostgreSQL: what a server with the default limit of 100 carries well.
MAX_CONNECTIONS: Final = 32


class _Borrower(Client):
    """Appends through whichever client is idle."""

    def __init__(self, idle: SimpleQueue[Client]) -> None:
        self._idle = idle

    async def append(self, stream_id: str, version: int, count: int) -> None:
        client = self._idle.get()
        try:
            await client.append(stream_id, version, count)
        finally:
            self._idle.put(client)


class _AsyncBorrower(Client):
    """As `_Borrower`, for tasks."""

    def __init__(self, idle: asyncio.Queue[Client]) -> None:
        self._idle = idle

    async def append(self, stream_id: str, version: int, count: int) -> None:
        client = await self._idle.get()
        try:
            await client.append(stream_id, version, count)
        finally:
            self._idle.put_nowait(client)


def share(clients: Sequence[Client], writers: int) -> Sequence[Client]:
    """Return a client for each writer: a thread that blocks while all are in use."""
    if len(clients) >= writers:
        return clients
    idle: SimpleQueue[Client] = SimpleQueue()
    for client in clients:
        idle.put(client)
    return [_Borrower(idle)] * writers


def share_async(clients: Sequence[Client], writers: int) -> Sequence[Client]:
    """Return a client for each writer: a task that waits while all are in use."""
    if len(clients) >= writers:
        return clients
    idle: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        idle.put_nowait(client)
    return [_AsyncBorrower(idle)] * writers
