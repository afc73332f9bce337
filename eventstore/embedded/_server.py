"""`EmbeddedPostgres`: one holder's view of a private server."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import sqlalchemy
from psycopg.conninfo import make_conninfo

from eventstore.embedded._cluster import SUPERUSER, Cluster
from eventstore.embedded._errors import EmbeddedPostgresError
from eventstore.embedded._watchdog import PORT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# Long enough for the recovery after a crash, and for the last checkpoint of a shutdown.
_PATIENCE_SECONDS = 120.0

# What makes the server private, and reachable at the address that we tell.
_FIXED_SETTINGS = frozenset(
    {"data_directory", "hba_file", "listen_addresses", "port", "unix_socket_directories"}
)


class EmbeddedPostgres:
    """A private PostgreSQL server, shared by all who name the same data folder.

    The first holder starts the server, later ones use it as it is, and it stops when the last
    one leaves, even if that one is killed. Holders may be objects, threads or processes; one
    object is not for several threads. A forked child shares its parent's hold on the server
    and cannot give it up.

    It listens on a unix socket in a folder that only its owner (and root) can enter, and has
    no password. Superuser is `postgres`, encoding UTF8, sort order by code point (`C.UTF-8`).

        with EmbeddedPostgres("./data") as server:
            engine = sqlalchemy.create_engine(server.url())
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Name a server; `start` starts it.

        Args:
            data_dir: A folder that is new, empty, or was used so before. None: a temporary
                one, deleted when the last holder leaves.
            settings: Values as in `postgresql.conf`, for the holder who starts the server.
                One who finds it running does not change it.

        Raises:
            EmbeddedPostgresError: On Windows, which has no `flock`.
            ValueError: A setting would open the server to others or move it elsewhere.
        """
        if sys.platform == "win32":
            raise EmbeddedPostgresError(
                "The embedded server is not supported on Windows. Use a PostgreSQL server that "
                "runs by itself, or the Windows Subsystem for Linux."
            )
        self._settings = dict(settings or {})
        if fixed := _FIXED_SETTINGS.intersection(map(str.lower, self._settings)):
            raise ValueError(f"The embedded server decides on {', '.join(sorted(fixed))} itself.")
        self._requested = None if data_dir is None else Path(data_dir).absolute()
        self._cluster: Cluster | None = None
        self._holding_process = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def data_dir(self) -> Path:
        """The folder with everything of the server: data, log, socket and locks.

        Raises:
            EmbeddedPostgresError: The folder is temporary and `start` has not made it yet.
        """
        return self._requested or self._started().folder

    @property
    def bin_dir(self) -> Path:
        """The folder of PostgreSQL's programs: `psql`, `pg_dump`, `pg_restore`, ...

        Raises:
            EmbeddedPostgresError: The server is not started.
        """
        return self._started().bin_dir

    def conninfo(self, dbname: str = "postgres") -> str:
        """The address for libpq: `psycopg.connect` takes it, `psql` and `pg_dump` as well.

        Raises:
            EmbeddedPostgresError: The server is not started.
        """
        host = os.fspath(self._started().socket_dir)
        return make_conninfo(host=host, port=PORT, user=SUPERUSER, dbname=dbname)

    def url(
        self, dbname: str = "postgres", *, drivername: str = "postgresql+psycopg"
    ) -> sqlalchemy.URL:
        """The address for SQLAlchemy, with psycopg or asyncpg.

        Raises:
            EmbeddedPostgresError: The server is not started.
        """
        return sqlalchemy.URL.create(
            drivername,
            username=SUPERUSER,
            database=dbname,
            # Host and port go together: a port apart would need a host before it.
            query={"host": os.fspath(self._started().socket_dir), "port": str(PORT)},
        )

    def start(self) -> Self:
        """Hold the server: start it, or join in if it runs.

        Called again, it starts a server that has crashed in the meantime. If it fails, nothing
        is held.

        Raises:
            EmbeddedPostgresError: The server cannot run here; the message says why.
            EmbeddedPostgresMissingError: The binaries are not installed.
        """
        if self._holding_process != os.getpid():
            self.stop()  # a forked child forgets its parent's hold, and gets one of its own
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._try_start(deadline):
            pass  # the folder was temporary, and removed while we waited for it
        return self

    def _try_start(self, deadline: float) -> bool:
        cluster, self._cluster = self._cluster or self._open(), None
        with contextlib.ExitStack() as unless_held:
            unless_held.callback(cluster.close)
            with cluster.changing(deadline):
                if not cluster.hold(deadline):
                    return False
                # The watchdog comes first: should we be killed now, it clears up after us.
                cluster.ensure_watchdog()
                cluster.ensure_server(self._settings, deadline)
            unless_held.pop_all()
        self._cluster, self._holding_process = cluster, os.getpid()
        return True

    def _open(self) -> Cluster:
        return Cluster.temporary() if self._requested is None else Cluster(self._requested)

    def stop(self) -> None:
        """Leave the server. The last holder returns only when the server is down.

        Does nothing if the server is not held, or is held by the parent of a forked process.

        Raises:
            EmbeddedPostgresError: The server does not stop in time. It is left all the same,
                and stops as soon as it can.
        """
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with contextlib.closing(cluster):
            if self._holding_process == os.getpid():
                with cluster.changing(deadline):
                    cluster.leave(deadline)

    def _started(self) -> Cluster:
        if self._cluster is None:
            raise EmbeddedPostgresError("The server is not started: call start(), or use 'with'.")
        return self._cluster
