"""Servers and holders that run, and how to wait for them: never for a time, but for a condition."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.embedded import EmbeddedPostgres

SECONDS = 30


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def processes_of(folder: Path) -> list[str]:
    """The postmaster and the watchdog of a data folder, as far as they live."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "stat=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    programs = ("bin/postgres", "_watchdog.py")
    return [
        line
        for line in listing
        if str(folder) in line and any(p in line for p in programs) and not line.startswith("Z")
    ]


def pid_of(folder: Path, program: str) -> int:
    found = subprocess.run(
        ["pgrep", "-f", f"{program}.*{folder}"], capture_output=True, text=True, check=True
    )
    return int(found.stdout.split()[0])


def postmaster_pid(folder: Path) -> int:
    return int((folder / "pgdata" / "postmaster.pid").read_text().splitlines()[0])


def query(server: EmbeddedPostgres, statement: str) -> object:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


class Holder:
    """The program `holder.py`, running."""

    def __init__(self, folder: Path) -> None:
        program = Path(__file__).with_name("holder.py")
        self.process = subprocess.Popen(
            [sys.executable, program, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def expect(self, word: str) -> None:
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        assert readable, f"no '{word}' in time"
        assert self.process.stdout.readline() == f"{word}\n"

    def tell_to_stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def close(self) -> None:
        with self.process:  # closes the pipes: it reads the end of its input, and leaves
            pass
