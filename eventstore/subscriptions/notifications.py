"""Wake-ups between processes: one that appends notifies, one that runs subscriptions listens.

Listening needs a server process of one's own, so it is given up behind a pooler; there polling is
all there is, and nothing is lost.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from socket import socketpair
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore.errors import EventStoreError
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.notifications import notification_channel, notify, server_process
from eventstore.streams import check_schema
from eventstore.subscriptions.engines import separate

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

log = logging.getLogger("eventstore.subscriptions")

#: Between two notifications: commits meanwhile share the second one.
COALESCED_SECONDS: Final = 0.003
#: After a connection was lost.
PAUSE_SECONDS: Final = 0.2
_PROCESS: Final = uuid.uuid4().hex


def sender_name() -> str:
    """Return this process's name, by which it knows its own notifications: it needs none."""
    return f"{os.getpid()}:{_PROCESS}"  # a forked process has the same variables


class CommitNotifier:
    """Tells other processes when this one has committed events: one for each process that appends.

    A thread and a connection of its own, made as those of ``engine``; commits that come close
    together share a notification. Appends neither wait for it nor fail with it.
    """

    def __init__(self, engine: Engine, *, schema: str | None = None) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(
                f"engine must be an Engine, not {type(engine).__name__}; for an AsyncEngine there "
                "is AsyncCommitNotifier"
            )
        self._engine = separate(engine)
        self._schema = check_schema(schema)
        self._committed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventstore-notifier", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to notify."""
        listen(self._committed.set)
        self._thread.start()

    def stop(self) -> None:
        """End, after a last notification if one is due."""
        unlisten(self._committed.set)
        self._stopping.set()
        self._committed.set()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with Session(self._engine) as session:
                    self._notify_on(session)
            except (SQLAlchemyError, EventStoreError) as error:
                log_loss("notifier", error)
                self._stopping.wait(PAUSE_SECONDS)

    def _notify_on(self, session: Session) -> None:
        channel = notification_channel(session, schema=self._schema)
        while True:
            self._committed.wait()
            self._committed.clear()
            notify(session, channel, sender_name())
            if self._stopping.wait(COALESCED_SECONDS):
                return


class CommitListener:
    """Calls ``heard`` when another process has committed events, and after each reconnection."""

    def __init__(self, engine: Engine, schema: str | None, heard: Callable[[], None]) -> None:
        self._engine = separate(engine)
        self._schema = schema
        self._heard = heard
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventstore-listener", daemon=True)
        self.connected = False  #: it listens at the moment

    def start(self) -> None:
        """Begin to listen."""
        self._end_here, self._end_there = socketpair()
        self._thread.start()

    def stop(self) -> None:
        """End; once more does no harm."""
        self._stopping.set()
        with suppress(OSError):
            self._end_there.send(b"x")
        self._thread.join()
        self._end_here.close()
        self._end_there.close()
        self._engine.dispose()

    def _run(self) -> None:
        can_listen = True
        while can_listen and not self._stopping.is_set():
            try:
                can_listen = self._listen()
            except Exception as error:  # noqa: BLE001 - the driver's own errors come here too
                log_loss("listener", error)
                self._stopping.wait(PAUSE_SECONDS)
            finally:
                self.connected = False

    def _listen(self) -> bool:
        """Listen until the end, or until the connection is lost; False if that can't be done."""
        with self._engine.connect() as connection:
            with Session(connection) as session:
                channel = notification_channel(session, schema=self._schema)
                server = server_process(session)
            driver: Any = connection.connection.driver_connection
            if not is_listener(driver.info.backend_pid, server):
                return False
            try:
                driver.execute(f'LISTEN "{channel}"')
                self.connected = True
                # What was committed before is read now, what comes later is heard.
                self._heard()
                self._hear(driver)
            finally:
                connection.invalidate()  # it listens, so that nobody else may get it
        return True

    def _hear(self, driver: Any) -> None:
        with DefaultSelector() as selector:
            selector.register(driver.fileno(), EVENT_READ)
            selector.register(self._end_here, EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                senders = {each.payload for each in driver.notifies(timeout=0)}
                if senders - {sender_name()}:
                    self._heard()


def is_listener(told: int, known: int) -> bool:
    """Tell whether one can listen on a connection, by the server's process id.

    A pooler tells its clients a number of its own (PgBouncer, "Cancel keys"); whoever listens
    through it has it told to the process that happened to serve the statement.
    """
    if told != known:
        log.info(
            "there is a pooler before the server: other processes' events come by polling",
            extra={"action": "listener_not_possible"},
        )
    return told == known


def log_loss(what: str, error: Exception) -> None:
    """Say that a connection was lost; another one will be opened."""
    log.warning(
        "the %s has lost its connection, and opens another one: %s",
        what,
        type(error).__qualname__,
        extra={"action": f"{what}_lost"},
    )
