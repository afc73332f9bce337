"""End the server's process behind a connection at a chosen step, wherever the step is made."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Engine, NullPool, create_engine, event, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

#: The execution options of engines that are watched; a runner gives them to those it makes.
WATCHED = {"is_watched": True}

_COMMIT = "COMMIT"
_ANYTHING = "SELECT 'anything'"


class Cut(NamedTuple):
    """A moment: before or after a statement; or before a commit is sent, or its reply comes."""

    step: str
    is_after: bool

    def __str__(self) -> str:
        return f"{'after' if self.is_after else 'before'} {' '.join(self.step.split())[:200]}"


class Cutter:
    """Knows the steps of all watched connections, and cuts one of them once."""

    def __init__(self, url: URL) -> None:
        self.steps: set[str] = set()
        self.done = threading.Event()
        #: Not while a function is called: its caller is told, and can call it again.
        self.is_watching = True
        self._armed: list[Cut] = []
        self._lock = threading.Lock()
        self._killer = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    @contextmanager
    def watching(self) -> Iterator[Cutter]:
        """Listen to every engine, for a runner makes some of its own."""
        hooks: dict[str, Any] = {
            "before_cursor_execute": self._before,
            "after_cursor_execute": self._after,
            "begin": self._begin,
            "commit": self._commit,
        }
        for name, hook in hooks.items():
            event.listen(Engine, name, hook)
        try:
            yield self
        finally:
            for name, hook in hooks.items():
                event.remove(Engine, name, hook)

    def arm(self, *cuts: Cut) -> None:
        """Cut the next connections that come to these moments, one after another."""
        self.done.clear()
        self._armed = list(cuts)

    def _before(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        connection.info.setdefault("statements", {})[statement] = None
        self._reach(connection, Cut(statement, is_after=False))

    def _after(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        self._reach(connection, Cut(statement, is_after=True))

    def _begin(self, connection: Connection) -> None:
        connection.info["statements"] = {}

    def _commit(self, connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            return
        # One that commits a handler's writes is another step than one that commits a mark.
        writes = (each for each in connection.info["statements"] if not each.startswith("SELECT"))
        step = " ".join(["COMMIT of", *sorted(each[:100] for each in writes)])
        self._reach(connection, Cut(step, is_after=False))
        if self._is_due(connection, Cut(step, is_after=True)):
            # It is committed, and whoever asked for it gets an error in place of the reply.
            connection.exec_driver_sql(_COMMIT)
            self._cut(connection)
            connection.exec_driver_sql(_ANYTHING)

    def _reach(self, connection: Connection, cut: Cut) -> None:
        if self._is_due(connection, cut):
            self._cut(connection)

    def _is_due(self, connection: Connection, cut: Cut) -> bool:
        if cut.step in (_COMMIT, _ANYTHING):
            return False  # our own
        is_call = threading.current_thread() is threading.main_thread() or not self.is_watching
        if is_call or not connection.get_execution_options().get("is_watched"):
            return False
        with self._lock:
            self.steps.add(cut.step)
            is_due = self._armed[:1] == [cut]
            if is_due:
                del self._armed[0]
            return is_due

    def _cut(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        is_asyncpg = hasattr(driver, "get_server_pid")
        pid = driver.get_server_pid() if is_asyncpg else driver.info.backend_pid
        with self._killer.connect() as killer:
            # Returns once the process has ended.
            assert killer.scalar(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": pid})
        if not self._armed:
            self.done.set()
