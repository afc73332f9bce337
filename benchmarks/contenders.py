"""Who is measured.

A new contender is a `Store` in a module of its own, which a worker serves, and an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from benchmarks import contents
from benchmarks.workloads import WORKLOADS, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterable

BASELINE: Final = "raw"
#: Of the feed and of the bulk, peers do one part of so many: their events per second do not depend
#: on it, but the time that a run takes does.
PEERS_PART: Final = 5


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
    #: The workloads it is made for.
    only: frozenset[str] = frozenset(WORKLOADS)

    @property
    def baseline(self) -> str:
        """The contender beside which this one stands, in the same mode."""
        return BASELINES[self.mode]

    def sizes(self, whole: Sizes) -> Sizes:
        """Return this contender's part of the work."""
        if self.peer is None:
            return whole
        return Sizes(
            feed_events=max(whole.feed_events // PEERS_PART, contents.MIN_EVENTS),
            bulk_events=max(
                whole.bulk_events // PEERS_PART // contents.BULK * contents.BULK, contents.BULK
            ),
        )


BASELINES: Final = {
    Mode.AUTOCOMMIT: BASELINE,
    Mode.TRANSACTION: "raw-transaction",
    Mode.ASYNC: "raw-async",
    Mode.OWN: BASELINE,
}
_APPENDS: Final = frozenset({"W1", "W2", "W8", "W8p", "W32", "W32p", "W128"})
#: What tells ways to commit apart.
_COMMITS: Final = _APPENDS | {"C1"}
_GROUP_COMMITS: Final = frozenset({"W8", "W32", "W128", "L32"})
#: All but the comparison of group commit with a connection for each writer, at the same load.
_PEERS: Final = frozenset(WORKLOADS) - {"L32"}

_EVERYBODY: Final = (
    Contender(
        name="pgbench",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.raw", "autocommit"),
        runtime=Runtime.PGBENCH,
        tables="eventstore",
        only=frozenset({"W1", "W2", "W8", "W32", "R1", "R2"}),
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
        name="ours-held-unverified",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "held-unverified"),
        tables="eventstore",
        only=frozenset({"W1", "W2"}),
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
        name="ours-copy-unverified",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "copy-unverified"),
        tables="eventstore",
        only=frozenset({"W4"}),
    ),
    Contender(
        name="ours-group",
        mode=Mode.AUTOCOMMIT,
        worker=("benchmarks.ours", "group"),
        tables="eventstore",
        only=_GROUP_COMMITS,
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
        only=_GROUP_COMMITS,
    ),
    Contender(
        name="ours-group-async-unverified",
        mode=Mode.ASYNC,
        worker=("benchmarks.ours", "group-async-unverified"),
        tables="eventstore",
        only=_GROUP_COMMITS,
    ),
    Contender(
        name="eventsourcing",
        worker=("benchmarks.peers.pyeventsourcing", "plain"),
        peer="eventsourcing",
        tables="eventsourcing",
        only=_PEERS,
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
        only=_PEERS,
    ),
    Contender(
        name="logicblocks",
        worker=("benchmarks.peers.logicblocks_store",),
        peer="logicblocks-event-store",
        tables="logicblocks",
        only=_PEERS,
    ),
    Contender(
        name="eventsource-py",
        worker=("benchmarks.peers.eventsource_py",),
        peer="eventsource-py",
        tables="eventsource-py",
        only=_PEERS,
    ),
    Contender(
        name="message-db",
        worker=("benchmarks.peers.message_db",),
        peer="message-db",
        tables="message-db",
        only=_PEERS,
    ),
    Contender(
        name="umadb",
        worker=("benchmarks.peers.umadb_client",),
        peer="umadb",
        backend=Backend.UMADB,
        tables="umadb",
        only=_PEERS,
    ),
    Contender(
        name="emmett",
        worker=("emmett.mjs",),
        peer="emmett",
        runtime=Runtime.NODE,
        tables="emmett",
        only=_PEERS,
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
