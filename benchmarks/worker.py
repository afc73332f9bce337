"""A worker: drives one contender for the controller, which speaks `protocol.py` to it.

A contender is a `Store`, which opens as many `Client`s as there are writers. Their methods are
coroutines in any case, so that operations and measuring are written once. Those of a blocking
library never wait in the event loop's sense: each writer is a thread, which runs its coroutine
to the end in one step. Those of an asynchronous library are tasks in one event loop.

Workers run in the contenders' environments: this module needs the standard library alone.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import traceback
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, nullcontext
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Final, TextIO

from benchmarks import contents, operations, protocol
from benchmarks.controller import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

#: Of any contender to PostgreSQL: what a server with the default limit of 100 carries well.
MAX_CONNECTIONS: Final = 32


class Unsupported(Exception):
    """The contender has no such thing, or it is not driven here; the message says which."""


class Client:
    """A contender as one writer sees it: its methods hold what is timed.

    Those that are left out are skipped, with the reason that stands here. A library that has such a
    thing and another that hasn't are told alike; a contender that knows better says so itself.
    """

    async def append(self, stream_id: str, version: int, count: int) -> None:
        """Append ``count`` events to the stream, which is at ``version``, and commit them.

        :raises Exception: the store's `conflict`: the stream is at another version.
        """
        raise Unsupported("its appends are not driven here")

    async def bulk(self, count: int) -> None:
        """Append so many events, in the quickest way there is, to new streams of 1,000 each."""
        for _ in range(count // contents.BULK):
            await self.append(contents.new_stream_id(), 0, contents.BULK)

    async def execute(self, stream_id: str) -> None:
        """Load the stream, decide, and append one event at the version that was loaded.

        :raises Exception: the store's `conflict`: others were quicker; it is called again.
        """
        await self.append(stream_id, await self.read_stream(stream_id), 1)

    async def read_stream(self, stream_id: str) -> int:
        """Hold all events of the stream at once, decoded, and return how many they are."""
        raise Unsupported("its reads of streams are not driven here")

    async def read_feed(self, count: int) -> int:
        """Pass the first ``count`` events of all streams, in order; return how many they were."""
        raise Unsupported("it has no feed of all streams, or it is not driven here")

    async def read_feed_after(self, position: int, count: int) -> int:
        """As `read_feed`, begun after a position."""
        raise Unsupported("reads from anywhere in its feed are not driven here")

    def announcing(self) -> AbstractAsyncContextManager[object]:
        """Let this client's appends wake subscriptions in other processes; by default, they do."""
        return nullcontext()

    def subscribe(self, handle: Callable[[str], None]) -> AbstractAsyncContextManager[object]:
        """Call ``handle`` with the stream of each event that is appended from now on."""
        raise Unsupported("it has no subscriptions, or they are not driven here")

    def project(self, count: int, batch: int) -> AbstractAsyncContextManager[int]:
        """Bring ``count`` events of the feed into a new view; the block begins with their number.

        The view counts a customer's events, in a table. ``batch`` events at a time change it, in
        one transaction with the position behind them. What is left of it goes with the block.
        """
        raise Unsupported(
            "it has no projections in one transaction with their checkpoint, or they are not driven"
            " here"
        )


class Store(ABC):
    """A contender: a library, and the tables that it wants."""

    #: Whether a client's methods block their thread; else they are awaited.
    blocking: ClassVar[bool] = True
    #: What `Client.append` raises when the stream is at another version.
    conflict: ClassVar[type[Exception]]
    #: The distributions whose versions are told.
    distributions: ClassVar[Sequence[str]] = ()

    @abstractmethod
    async def set_up(self, url: str) -> None:
        """Make the tables in an empty database."""

    @abstractmethod
    def open(self, url: str, writers: int) -> AbstractAsyncContextManager[Sequence[Client]]:
        """Connect a client for each writer; one that many may use can stand there many times."""

    async def fill(self, url: str, events: int) -> None:
        """Write what the reads expect."""
        async with self.open(url, 1) as clients:
            await contents.fill(clients[0], events)


class Worker:
    """Answers requests, one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened = AsyncExitStack()
        self._clients: Sequence[Client] = ()
        self._url = ""

    async def answer(self, request: protocol.Request) -> protocol.Reply:
        try:
            return await self._answer(request)
        except (Unsupported, ImportError) as error:
            return protocol.Skipped(reason=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a library raises is told
            traceback.print_exc()
            first_line = str(error).partition("\n")[0]
            return protocol.Failed(reason=f"{type(error).__name__}: {first_line}"[:300])

    async def _answer(self, request: protocol.Request) -> protocol.Reply:
        match request:
            case protocol.Describe():
                versions = {name: version(name) for name in self._store.distributions}
                return protocol.Description(
                    versions={"Python": platform.python_version(), **versions}
                )
            case protocol.SetUp():
                await self._store.set_up(request.url)
            case protocol.Fill():
                await self._store.fill(request.url, request.events)
            case protocol.Open():
                self._url = request.url
                opening = self._store.open(request.url, request.writers)
                self._clients = await self._opened.enter_async_context(opening)
                if request.announces:
                    await self._opened.enter_async_context(self._clients[0].announcing())
            case protocol.Run():
                return await self._run(request)
            case protocol.Close():
                self._clients = ()
                await self._opened.aclose()
        return protocol.Done()

    async def _run(self, request: protocol.Run) -> protocol.Reply:
        match request.operation:
            case "deliver":
                return await self._deliver(request, self._append_here)
            case "deliver_across":
                with _twin() as process:
                    opening = protocol.Open(url=self._url, writers=1, announces=True)
                    process.ask(opening, protocol.Done)
                    return await self._deliver(request, AppendThere(process))
            case "project":
                return await operations.project(self._clients[0], request)
            case _:
                return await operations.run(self._store, self._clients, request)

    async def _deliver(self, request: protocol.Run, append: operations.Append) -> protocol.Sample:
        return await operations.deliver(
            self._clients[0], request, append, blocking=self._store.blocking
        )

    async def _append_here(self, stream_id: str) -> float:
        await self._clients[0].append(stream_id, 0, 1)
        return perf_counter()


class AppendThere:
    """An append in another process, whose clock is ours."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process

    async def __call__(self, stream_id: str) -> float:
        request = protocol.Run(operation="append", stream_id=stream_id)
        # In a thread: subscriptions may be tasks of our event loop.
        sample = await asyncio.to_thread(self._process.ask, request, protocol.Sample)
        return sample.ended


def _twin() -> WorkerProcess:
    """Start a worker of the same contender."""
    root = Path(__file__).parents[1]
    return WorkerProcess([sys.executable, *sys.orig_argv[1:]], folder=root)


def serve(store: Store) -> None:
    """Answer the controller until it closes our standard input."""
    worker, replies = Worker(store), _take_stdout()
    with asyncio.Runner() as loop:
        for line in sys.stdin:
            replies.write(protocol.encode(loop.run(worker.answer(protocol.decode(line)))))
            replies.flush()
        loop.run(worker.answer(protocol.Close()))


def _take_stdout() -> TextIO:
    """Keep standard output for replies: what a library prints goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return replies


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
    """Return a client for each writer, for those whose library has no pool.

    Of more writers than clients, each borrows one: a thread that blocks while all are in use.
    """
    if len(clients) >= writers:
        return clients
    idle: SimpleQueue[Client] = SimpleQueue()
    for client in clients:
        idle.put(client)
    return [_Borrower(idle)] * writers


def share_async(clients: Sequence[Client], writers: int) -> Sequence[Client]:
    """As `share`: a task that waits while all are in use."""
    if len(clients) >= writers:
        return clients
    idle: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        idle.put_nowait(client)
    return [_AsyncBorrower(idle)] * writers
