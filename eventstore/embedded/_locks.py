"""`flock` locks: held by open files, so the kernel lets go of them when a process dies."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Self

from eventstore.embedded._errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

if sys.platform != "win32":
    import fcntl


class FileLock:
    """An open lock file.

    The lock belongs to the open file, not to the process. A child process that inherits the
    descriptor shares the lock, which lasts until `release` or until the last copy is closed.
    `close` therefore only closes *this* copy: that is how a lock is handed over to a child.

    A lock is never converted from shared to exclusive or back: flock(2) drops the old lock
    before it takes the new one, so that another process may come in between.
    """

    def __init__(self, path: Path) -> None:
        # Reading is enough for flock(2). The folder may belong to a less privileged account,
        # which must not be able to make root follow a symbolic link elsewhere.
        self._fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._fd

    @property
    def is_removed(self) -> bool:
        """Whether the file was deleted after it was opened: then its lock protects nothing."""
        return os.fstat(self._fd).st_nlink == 0

    def try_shared(self) -> bool:
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        """Give the lock up, also in every process that shares this open file."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._fd)

    def _try(self, mode: int) -> bool:
        try:
            fcntl.flock(self._fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_locked(path: Path) -> bool:
    """Whether somebody holds the file's exclusive lock. A file that is not there is not locked."""
    if not path.exists():
        return False
    with FileLock(path) as lock:
        return not lock.try_shared()


def wait_for(condition: Callable[[], bool], deadline: float, what: str) -> None:
    """Ask until the condition holds; a blocking `flock` could not be given up in time.

    Raises:
        EmbeddedPostgresError: It does not hold at the deadline, a value of `time.monotonic`.
    """
    while not condition():
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"Gave up waiting while {what}.")
        time.sleep(0.01)
