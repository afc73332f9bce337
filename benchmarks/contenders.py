"""Who is measured.

A new contender is a `Store` in a module of its own, which a worker serves, and an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

BASELINE: Final = "raw"


class Mode(StrEnum):
    """How a contender's appends commit. Each mode has a baseline of its own, written by hand."""

    AUTOCOMMIT = "autocommit"  #: each statement by itself
    TRANSACTION = "transaction"  #: BEGIN and COMMIT around it
    ASYNC = "async"  #: each statement by itself, on an asynchronous connection
    OWN = "own"  #: a peer's own way; beside the simplest baseline


class Runtime(StrEnum):
    """What runs a contender's worker."""

    PYTHON = "python"
    NODE = "node"
    PGBENCH = "pgbench"  #: takes its turns itself; the worker only makes the tables


class Backend(StrEnum):
    """Where a contender's events are."""

    POSTGRESQL = "postgresql"
    UMADB = "umadb"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Somebody who takes part."""

    name: str
    #: The worker's module, or its file in `peers/`, and its arguments.
    worker: tuple[str, ...]
    #: Contenders that have the same tables read the same filled store.
    tables: str
    mode: Mode = Mode.OWN
    #: Whose environment of `peers.toml` it needs; None for the project's own.
    peer: str | None = None
    runtime: Runtime = Runtime.PYTHON
    backend: Backend = Backend.POSTGRESQL
    #: The workloads it is made for; empty for all.
    only: frozenset[str] = frozenset()

    @property
    def baseline(self) -> str:
        """The contender beside which this one stands, in the same mode."""
        return BASELINES[self.mode]


BASELINES: Final = {
    Mode.AUTOCOMMIT: BASELINE,
    Mode.TRANSACTION: "raw-transaction",
    Mode.ASYNC: "raw-async",
    Mode.OWN: BASELINE,
}
_COMMITS: Final = frozenset({"W1", "W2", "W8", "W8p", "W32", "W32p", "W128", "C1"})

_EVERYBODY: Final = (
    Contender(
        name="pgbench",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.raw", "autocommit"),
        runtime=Runtime.PGBENCH,
        tables="eventstore",
        only=frozenset({"W1", "W2", "W8", "W32"}),
    ),
    Contender(
        name="raw",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.raw", "autocommit"),
        tables="eventstore",
    ),
    Contender(
        name="raw-transaction",
        mode=Mode.TRANSACTION,
        worker=("benchmarks.raw", "transaction"),
        tables="eventstore",
        only=_COMMITS,
    ),
    Contender(
        name="raw-async",
        mode=Mode.ASYNC,
        worker=("benchmarks.raw", "async"),
        tables="eventstore",
    ),
    Contender(
        name="raw-copy",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.raw", "copy"),
        tables="eventstore",
        only=frozenset({"W4"}),
    ),
    Contender(
        name="raw-bytes",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.raw", "bytes"),
        tables="eventstore",
        only=frozenset({"R1", "R2", "R3"}),
    ),
    Contender(
        name="ours",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "autocommit"),
        tables="eventstore",
    ),
    Contender(
        name="ours-transaction",
        mode=Mode.TRANSACTION,
        worker=("benchmarks.ours", "transaction"),
        tables="eventstore",
        only=_COMMITS,
    ),
    Contender(
        name="ours-held",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "held"),
        tables="eventstore",
        only=frozenset({"W1", "W2", "R2"}),
    ),
    Contender(
        name="ours-bytes",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "bytes"),
        tables="eventstore",
        only=frozenset({"R1", "R2", "R3"}),
    ),
    Contender(
        name="ours-copy",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "copy"),
        tables="eventstore",
        only=frozenset({"R3", "W4"}),
    ),
    Contender(
        name="ours-group",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "group"),
        tables="eventstore",
        only=frozenset({"W8", "W32", "W128"}),
    ),
    Contender(
        name="ours-async",
        mode=Mode.ASYNC,
        worker=("benchmarks.ours", "async"),
        tables="eventstore",
    ),
    Contender(
        name="ours-group-async",
        mode=Mode.ASYNC,
        worker=("benchmarks.ours", "group-async"),
        tables="eventstore",
        only=frozenset({"W8", "W32", "W128"}),
    ),
    Contender(
        name="eventsourcing",
        worker=("benchmarks.peers.pyeventsourcing", "plain"),
        peer="eventsourcing",
        tables="eventsourcing",
    ),
    Contender(
        name="eventsourcing-function",
        worker=("benchmarks.peers.pyeventsourcing", "function"),
        peer="eventsourcing",
        tables="eventsourcing",
        only=_COMMITS | {"W4"},
    ),
    Contender(
        name="eventsourcing-sqlalchemy",
        worker=("benchmarks.peers.pyeventsourcing", "sqlalchemy"),
        peer="eventsourcing-sqlalchemy",
        tables="eventsourcing-sqlalchemy",
    ),
    Contender(
        name="logicblocks",
        worker=("benchmarks.peers.logicblocks_store",),
        peer="logicblocks-event-store",
        tables="logicblocks",
    ),
    Contender(
        name="eventsource-py",
        worker=("benchmarks.peers.eventsource_py",),
        peer="eventsource-py",
        tables="eventsource-py",
    ),
    Contender(
        name="message-db",
        worker=("benchmarks.peers.message_db",),
        peer="message-db",
        tables="message-db",
    ),
    Contender(
        name="umadb",
        worker=("benchmarks.peers.umadb_client",),
        peer="umadb",
        backend=Backend.UMADB,
        tables="umadb",
    ),
    Contender(
        name="emmett",
        worker=("emmett.mjs",),
        peer="emmett",
        runtime=Runtime.NODE,
        tables="emmett",
    ),
)
CONTENDERS: Final = {contender.name: contender for contender in _EVERYBODY}
#: Who needs nothing but this checkout.
QUICK: Final = (
    "raw",
    "raw-transaction",
    "raw-copy",
    "ours",
    "ours-held",
    "ours-transaction",
    "ours-copy",
)


def with_baselines(names: Iterable[str]) -> list[Contender]:
    """Return the contenders of these names, and the baselines that their ratios need."""
    wanted = set(names)
    needed = wanted | {BASELINE} | {CONTENDERS[name].baseline for name in wanted}
    return [contender for contender in _EVERYBODY if contender.name in needed]
