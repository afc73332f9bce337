"""The watchdog: a small process that stops the server when its last holder has gone.

Runs as a script, `python -I -S _watchdog.py FOLDER HOLDERS SERVER WATCHDOG [UID GID]`, where
the three locks are inherited file descriptors. It is the only one that ever stops a server,
so that there is one way to do it, whether the last holder leaves politely or is killed. The
package's docstring describes the protocol.

Only the standard library is used, and nothing is imported after the start: once the process
has given up root, it may no longer be able to read Python's own files. For the same reason it
imports nothing of the package, and the names that both need are defined here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PGDATA = "pgdata"
PID_FILE = "postmaster.pid"
LOG = "server.log"
SOCKET_FOLDER = "socket"
TEMPORARY = "temporary"
PORT = 5432
SOCKET_NAME = f".s.PGSQL.{PORT}"


def socket_folder(folder: Path) -> Path:
    """The folder of the server's socket: below the data folder, or where its link points to."""
    link = folder / SOCKET_FOLDER
    # Not resolve(): the address must keep its short form.
    return link.readlink() if link.is_symlink() else link


def connect(address: Path) -> None:
    """Connect to a server's socket, and leave again.

    Success proves that the postmaster lives: only it has the socket open for listening, and
    the kernel closes that when it dies. A process id proves nothing, since it may belong to a
    zombie, or to some later process.

    Raises:
        OSError: Nobody listens.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(address))


def stop_server(folder: Path, server: int) -> None:
    """Stop the server, and return when none of its processes is left.

    A server that is only just starting is waited for until it listens. One whose postmaster
    was killed cannot be signalled, but its processes notice and leave by themselves.
    """
    while _is_locked(server):
        with contextlib.suppress(OSError):  # nobody listens yet, or no longer: look again
            connect(socket_folder(folder) / SOCKET_NAME)
            # The postmaster lives, and nobody else writes this file while it does.
            pid = int((folder / PGDATA / PID_FILE).read_text().splitlines()[0])
            os.kill(pid, signal.SIGINT)  # PostgreSQL's "fast shutdown"
            fcntl.flock(server, fcntl.LOCK_SH)
            return
        time.sleep(0.02)


def watch(folder: Path, holders: int, server: int, watchdog: int) -> None:
    """Wait until nobody holds the server, then stop it and clear up."""
    fcntl.flock(holders, fcntl.LOCK_EX)
    stop_server(folder, server)
    sockets = socket_folder(folder)
    if sockets.parent != folder:
        shutil.rmtree(sockets, ignore_errors=True)
        (folder / SOCKET_FOLDER).unlink()
    if (folder / TEMPORARY).exists():
        # Renamed first, so that a newcomer finds the folder whole or not at all.
        shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.removed")))
    # In this order: a newcomer waits for `holders`, and must then find that the place of the
    # watchdog is free. `holders` is given back by the end of this process, so that a leaver
    # who waits for it finds us gone, too.
    os.close(watchdog)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def main(folder: str, holders: str, server: str, watchdog: str, *account: str) -> None:
    if account:
        uid, gid = map(int, account)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.chdir("/")
    # Opened as the server's account, not as root: the folder belongs to that account.
    log = os.open(Path(folder, LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    watch(Path(folder), int(holders), int(server), int(watchdog))


if __name__ == "__main__":
    main(*sys.argv[1:])
