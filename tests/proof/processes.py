"""Operating-system processes, to be killed, frozen and cut off.

They are forked from a server that has everything imported (multiprocessing's ``forkserver``), so
that a process is at work a moment after it is started: many can be killed in a short time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import create_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from sqlalchemy import Engine

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["psycopg", "tests.proof.processes", "tests.proof.workers"])


#: What a process does, on an engine of its own and with an end of the pipe; it can be pickled.
Work: TypeAlias = "Callable[[Engine, Connection], None]"


class Child:
    """A process at work, whose connections to the server bear its name."""

    def __init__(self, engine: Engine, name: str, work: Work) -> None:
        self.name = name
        self.pipe, theirs = _FORKING.Pipe()
        url = engine.url.render_as_string(hide_password=False)
        self._process = _FORKING.Process(target=_run, args=(url, name, theirs, work), daemon=True)
        self._process.start()
        theirs.close()

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Tell it to end, by closing the pipe, and wait for it."""
        self.pipe.close()
        self._process.join()

    def wait(self) -> int:
        """Wait until it has ended, and return how."""
        self._process.join()
        self.pipe.close()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def _signal(self, number: int) -> None:
        assert self._process.pid is not None
        assert self._process.is_alive(), f"{self.name} has ended: {self._process.exitcode}"
        os.kill(self._process.pid, number)


@contextmanager
def child(engine: Engine, name: str, work: Work) -> Iterator[Child]:
    """A process that is killed at the end, if it has not ended by itself."""
    started = Child(engine, name, work)
    try:
        yield started
    finally:
        started.kill()


def _run(url: str, name: str, pipe: Connection, work: Work) -> None:
    work(create_engine(url, pool_size=20, connect_args={"application_name": name}), pipe)
