"""Wake-ups between processes: one that appends notifies, one that runs subscriptions listens.

Both need a session of their own, so neither works through a pooler in transaction mode; there
polling is all there is, and nothing is lost.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eventstore.errors import EventStoreError
from eventstore.operations.commits import listen, unlisten
from eventstore.operations.notifications import notification_channel, notify
from eventstore.streams import check_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Engine

log = logging.getLogger("eventstore.subscriptions")

#: Between two notifications: commits meanwhile share the second one.
_COALESCED_SECONDS: Final = 0.003
#: After a connection was lost.
_PAUSE_SECONDS: Final = 0.2
#: How long a listener waits before it looks whether it is to end.
_LISTEN_SECONDS: Final = 0.5


class CommitNotifier:
    """Tells other processes when this one has committed events: one for each process that appends.

    A thread and a connection of its own, on ``engine``; commits that come close together share a
    notification. Appends neither wait for it nor fail with it.
    """

    def __init__(self, engine: Engine, *, schema: str | None = None) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
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

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with Session(self._engine) as session:
                    self._notify_on(session)
            except (SQLAlchemyError, EventStoreError) as error:
                _log_loss("notifier", error)
                self._stopping.wait(_PAUSE_SECONDS)

    def _notify_on(self, session: Session) -> None:
        channel = notification_channel(session, schema=self._schema)
        while True:
            self._committed.wait()
            self._committed.clear()
            if self._stopping.is_set():
                notify(session, channel)
                return
            notify(session, channel)
            self._stopping.wait(_COALESCED_SECONDS)


class CommitListener:
    """Calls ``heard`` when another process has committed events, and after each reconnection."""

    def __init__(self, engine: Engine, schema: str | None, heard: Callable[[], None]) -> None:
        self._engine = engine
        self._schema = schema
        self._heard = heard
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventstore-listener", daemon=True)
        self.connected = False  #: it listens at the moment

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - the driver's own errors come here too
                _log_loss("listener", error)
                self._stopping.wait(_PAUSE_SECONDS)
            finally:
                self.connected = False

    def _listen(self) -> None:
        with Session(self._engine) as session:
            channel = notification_channel(session, schema=self._schema)
        pooled = self._engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()  # it listens, so that nobody else may get it
        try:
            driver.rollback()
            driver.autocommit = True
            driver.execute(f'LISTEN "{channel}"')
            self.connected = True
            # What was committed before is read now, what comes later is heard.
            self._heard()
            while not self._stopping.is_set():
                for _ in driver.notifies(timeout=_LISTEN_SECONDS, stop_after=1):
                    self._heard()
        finally:
            pooled.close()


def _log_loss(what: str, error: Exception) -> None:
    log.warning(
        "the %s has lost its connection, and opens another one: %s",
        what,
        type(error).__qualname__,
        extra={"action": f"{what}_lost"},
    )
