"""The account the server runs under: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.embedded._errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

if sys.platform != "win32":
    import pwd

# "postgres" is the account that PostgreSQL packages make; "nobody" exists on every system.
_FALLBACKS = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """Who owns the data and runs the server.

    Without root this is always the caller, and nothing is switched or given away.
    """

    name: str
    uid: int
    gid: int

    @classmethod
    def for_folder(cls, folder: Path) -> Account:
        """The caller; or, for root, the folder's owner, else `postgres`, else `nobody`.

        Raises:
            EmbeddedPostgresError: There is no account other than root to use.
        """
        uid = os.geteuid()
        if uid == 0 and folder.exists():
            uid = folder.stat().st_uid
        for key in (uid,) if uid else _FALLBACKS:
            try:
                entry = pwd.getpwnam(key) if isinstance(key, str) else pwd.getpwuid(key)
            except KeyError:
                continue
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        if uid:
            # initdb looks its own account up, and fails without an entry.
            raise EmbeddedPostgresError(
                f"User id {uid}, who would run the server, has no name on this system. "
                f"Add it to /etc/passwd, or give {folder} to a user who has one."
            )
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' "
            "to run it as. Create one of them, or run this as another user."
        )

    @property
    def is_other(self) -> bool:
        """Whether it is another account than the caller's: only root can switch."""
        return os.geteuid() == 0

    def own(self, folder: Path) -> None:
        """Make the folder the account's own, and closed to everybody else.

        Not for one inside of a folder that the account owns already: it could put a link to
        some other folder in its place just before root gives that away.
        """
        folder.chmod(0o700)
        if self.is_other:
            os.chown(folder, self.uid, self.gid)

    def make_folder(self, folder: Path) -> None:
        """Make a folder that is closed to others, where the account may write.

        Raises:
            EmbeddedPostgresError: The account may not write there after all.
        """
        mkdir = self.run(["/bin/mkdir", "-m", "700", "--", folder])
        if mkdir.returncode != 0:
            raise EmbeddedPostgresError(f"User '{self.name}' cannot make {folder}: {mkdir.stdout}")

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path = Path("/"),
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the command as the account, in a session of its own, out of reach of Ctrl-C.

        Raises:
            PermissionError: The account may not execute the program.
        """
        return subprocess.run(  # noqa: S603 - our own programs, no shell text from outside
            command,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def check_reach(self, folder: Path) -> None:
        """Check that the account may enter the folder.

        Trying it is exact where mode bits are not (access lists, mount options).

        Raises:
            EmbeddedPostgresError: It may not; the message names the folder that stops it.
        """
        if not self.is_other or self._can_enter(folder):
            return
        barrier = next(f for f in (*reversed(folder.parents), folder) if not self._can_enter(f))
        raise EmbeddedPostgresError(
            f"The server runs as user '{self.name}' (PostgreSQL refuses root), who may not enter "
            f"{barrier}. Use a data_dir outside of it, for example below /var/lib, or allow it "
            f"with: chmod o+x {barrier}"
        )

    def _can_enter(self, folder: Path) -> bool:
        # Not `cwd`, into which subprocess changes before it switches the account.
        return self.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder]).returncode == 0
