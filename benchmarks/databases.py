"""The stores that contenders write to and read from, made for a run and dropped after it."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg
from sqlalchemy.exc import DBAPIError

from benchmarks import protocol
from benchmarks.contenders import Backend, Contender
from benchmarks.controller import Unavailable
from eventstore.embedded import EmbeddedPostgres
from eventstore.testing.databases import temporary_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from sqlalchemy import URL

    from benchmarks.controller import WorkerProcess

_STARTING_SECONDS: Final = 10
#: Of the embedded server: some peers open a connection for each of 128 writers.
_SETTINGS: Final = {"max_connections": "300"}
#: What a commit needs to outlive a crash of the machine; "on" is PostgreSQL's default of each.
DURABILITY: Final = ("fsync", "synchronous_commit", "full_page_writes")
#: Filling waits for no disk; measuring does.
_FORGETFUL: Final = """
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {action}', current_database()); END $$
"""


@contextmanager
def postgresql(database_url: URL | None) -> Iterator[URL]:
    """Yield the address of a server: the one that is given, or an embedded one."""
    if database_url is not None:
        yield database_url.set(drivername="postgresql+psycopg")
        return
    with EmbeddedPostgres(settings=_SETTINGS) as embedded:
        yield embedded.url()


def conninfo(url: URL) -> str:
    """Return the address for libpq."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class Databases:
    """The stores of a run, each made when it is first asked for."""

    def __init__(
        self,
        server: URL,
        *,
        worker: Callable[[Contender], WorkerProcess],
        programs: Callable[[Contender], Path],
        made: ExitStack,
    ) -> None:
        self._server = server
        self._worker = worker
        self._programs = programs
        self._made = made
        self._urls: dict[tuple[str, int], str | Unavailable] = {}

    def written(self, contender: Contender, workload: str = "") -> str:
        """Return the address of the store that this contender alone writes, empty at first.

        If a workload is named, it is that workload's alone: no other has written there.

        :raises Unavailable: it can't be made, nor is that tried another time.
        """
        return self._get((f"{contender.name} {workload}", 0), contender)

    def filled(self, contender: Contender, events: int) -> str:
        """Return the address of a store with so many events in this contender's tables.

        :raises Unavailable: it can't be made, nor is that tried another time.
        """
        return self._get((contender.tables, events), contender)

    def _get(self, key: tuple[str, int], contender: Contender) -> str:
        if key not in self._urls:
            try:
                self._urls[key] = self._make(contender, events=key[1])
            except Unavailable as error:
                self._urls[key] = error
            except (psycopg.Error, DBAPIError) as error:
                # One contender is not worth the run of all.
                self._urls[key] = Unavailable(f"its store can't be made: {error}")
        made = self._urls[key]
        if isinstance(made, Unavailable):
            raise made
        return made

    def _make(self, contender: Contender, events: int) -> str:
        if contender.backend is Backend.UMADB:
            url = self._made.enter_context(umadb(self._programs(contender) / "umadb"))
        else:
            url = conninfo(self._made.enter_context(temporary_database(self._server)))
            _execute(url, _FORGETFUL.format(action="SET synchronous_commit = off"))
        worker = self._worker(contender)
        worker.ask(protocol.SetUp(url=url), protocol.Done)
        if events:
            worker.ask(protocol.Fill(url=url, events=events), protocol.Done)
        if contender.backend is Backend.POSTGRESQL:
            _execute(url, _FORGETFUL.format(action="RESET synchronous_commit"))
            check_durability(url)
            # Else autovacuum would do it while we measure.
            _execute(url, "VACUUM (ANALYZE)")
        return url


def check_durability(url: str) -> None:
    """Refuse a database whose commits would be quicker than those of everybody else.

    :raises Unavailable: a new connection commits without waiting for the disk.
    """
    with psycopg.connect(url) as connection:
        values = {name: connection.execute(f"SHOW {name}").fetchone() for name in DURABILITY}
    if off := [name for name, value in values.items() if value != ("on",)]:
        raise Unavailable(f"its commits are not durable: {', '.join(off)} must be on")


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def umadb(program: Path) -> Iterator[str]:
    """Run UmaDB's server with its default settings, on a folder that is deleted afterwards.

    :raises Unavailable: it does not start.
    """
    address = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory(prefix="umadb-") as folder:
        server = subprocess.Popen(
            [program, "--listen", address, "--db-path", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_listening(server, address)
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _wait_until_listening(server: subprocess.Popen[bytes], address: str) -> None:
    host, port = address.split(":")
    end = time.monotonic() + _STARTING_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Unavailable("its server did not start")
