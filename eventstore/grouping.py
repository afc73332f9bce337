"""Which appends share a commit: a queue and two rules, without a thread, a clock or a database.

*Group commit* (Gray and Reuter, "Transaction Processing", 1993): what arrives while one group is
written forms the next one, so that the more writers wait, the fewer commits each event costs. The
writers in :mod:`eventstore.group_commit` only move submissions between this queue and the database.

A submission is ``waiting``, then in the group that is ``writing``, then settled with an outcome of
its own. Every caller stands for one submission, and is heard of again when that is settled.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from eventstore.errors import ConnectionUnusable
from eventstore.streams import StreamState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventstore.batches import EncodedBatch

W = TypeVar("W")

#: The stream's new version, or what the caller's call raises.
Outcome: TypeAlias = int | Exception
Settled: TypeAlias = "list[tuple[Submission[W], Outcome]]"

#: A larger group is sent in parts, so that its first appends don't wait for all of it to be read.
MAX_GROUP_BYTES: Final = 8 * 2**20


@dataclass(eq=False, slots=True, kw_only=True)
class Submission(Generic[W]):
    """One append on its way: encoded by its caller, who waits for the outcome."""

    batch: EncodedBatch
    rows: tuple[str, ...]  #: its events as the group's statement takes them
    waiter: W  #: whom to tell
    fetch_missed: bool = False  #: a conflict is to bring the events that the caller has missed
    lost: ConnectionUnusable | None = None  #: the end of the connection on which it was first sent
    size: int = field(init=False)  #: characters
    ids: frozenset[int] = field(init=False)  #: of its events, as numbers: those are hashed quickly
    keys: frozenset[str] = field(init=False)  #: the idempotency keys of its events

    def __post_init__(self) -> None:
        # Hashed by the caller, who has the time.
        events = self.batch.events
        self.size = sum(map(len, self.rows))
        self.ids = frozenset([event.event_id.int for event in events])
        keys = [event.idempotency_key for event in events]
        self.keys = frozenset([key for key in keys if key is not None])


class GroupQueue(Generic[W]):
    """The submissions that have no outcome yet. Whoever uses it from threads locks it."""

    def __init__(self, *, max_batch: int, writers: int) -> None:
        """Form groups of at most ``max_batch`` appends, for so many writers at once."""
        self._max_batch = max_batch
        self._writers = writers
        self._waiting: deque[Submission[W]] = deque()
        self._writing = 0
        self._streams: set[str] = set()  # that are being written
        self._crowd = 0
        self.is_closed = False

    def __len__(self) -> int:
        """Return how many submissions wait to be taken."""
        return len(self._waiting)

    def add(self, submission: Submission[W]) -> None:
        """Let ``submission`` wait for a group; RuntimeError once the queue is closed."""
        if self.is_closed:
            raise RuntimeError("this writer is closed; nothing more can be appended by it")
        self._waiting.append(submission)

    def withdraw(self, submission: Submission[W]) -> None:
        """Forget ``submission`` if it still waits; what is being written can't be called back."""
        if submission in self._waiting:
            self._waiting.remove(submission)

    def close(self) -> None:
        """Take nothing more; what waits will still be written."""
        self.is_closed = True

    def take(self) -> list[Submission[W]]:
        """Return the next group, to be settled or failed; empty if there is none now.

        The crowd of those who append at the same time is shared among the writers: while one
        part is written, the callers of another come back and encode their next events. A stream
        that is being written is left out, since a second writer would only wait for its row.
        """
        crowd = max(self._crowd, len(self._waiting) + self._writing)
        limit = min(self._max_batch, -(-crowd // self._writers))
        group: list[Submission[W]] = []
        passed_over: list[Submission[W]] = []
        room = MAX_GROUP_BYTES
        while self._waiting and len(group) < limit:
            submission = self._waiting.popleft()
            room -= submission.size
            if submission.batch.stream_id in self._streams:
                passed_over.append(submission)
            elif group and room < 0:
                passed_over.append(submission)
                break
            else:
                group.append(submission)
        self._waiting.extendleft(reversed(passed_over))
        self._writing += len(group)
        self._streams.update([each.batch.stream_id for each in group])
        return group

    def settle(
        self, group: list[Submission[W]], outcomes: Mapping[Submission[W], Outcome]
    ) -> Settled[W]:
        """Empty ``group``, and return whom to tell what; who has no outcome is taken next."""
        self._crowd = len(self._waiting) + self._writing
        self._writing -= len(group)
        self._streams.difference_update([each.batch.stream_id for each in group])
        self._waiting.extendleft(each for each in reversed(group) if each not in outcomes)
        settled = [(each, outcomes[each]) for each in group if each in outcomes]
        group.clear()
        return settled

    def fail(self, group: list[Submission[W]], error: Exception) -> Settled[W]:
        """Return whom to tell that ``group`` could not be written.

        If the connection was lost, nobody knows whether it was committed. Then it is sent once
        more: events that were committed are recognised by their ids.
        """
        outcomes: dict[Submission[W], Outcome] = {}
        for each in group:
            if isinstance(error, ConnectionUnusable) and each.lost is None:
                each.lost = error
            else:
                outcomes[each] = _own(each.lost or error)
        return self.settle(group, outcomes)

    def abandon(self, group: list[Submission[W]]) -> list[Submission[W]]:
        """Return and forget ``group`` and all who wait: nobody is there any more to write them."""
        self.settle(group, {})
        abandoned = list(self._waiting)
        self._waiting.clear()
        return abandoned


class Chain(Generic[W]):
    """Appends to one stream of which all succeed if the first one does.

    If that one finds the stream as it expects, so do the others, each behind the one before: they
    accept any version, or expect just the one that those before them make.
    """

    __slots__ = ("_ends_at", "_keys", "event_count", "expected", "stream_id", "submissions")

    def __init__(self, first: Submission[W]) -> None:
        """Begin with ``first``, whose expectation becomes that of the chain."""
        expected = first.batch.expected_version
        self.stream_id = first.batch.stream_id
        self.expected = expected
        self.submissions = [first]
        self.event_count = len(first.rows)
        self._ends_at = None if isinstance(expected, StreamState) else expected + self.event_count
        self._keys = first.keys

    def extend(self, submission: Submission[W]) -> bool:
        """Let ``submission`` be the next one, if it must succeed behind the others."""
        expected = submission.batch.expected_version
        if not isinstance(expected, StreamState) and expected != self._ends_at:
            return False
        if not self._keys.isdisjoint(submission.keys):
            return False  # perhaps the repeat of the one before
        count = len(submission.rows)
        self.submissions.append(submission)
        self.event_count += count
        self._keys |= submission.keys
        if self._ends_at is not None:
            self._ends_at += count
        return True


def chains_of(group: Iterable[Submission[W]]) -> list[Chain[W]]:
    """Return the chains that one statement can write: one for each stream, and no id twice.

    Appends are left out that must be judged when those before them have an outcome: they expect
    another version than their stream will have, or share an id or a key with one of them.
    """
    chains: dict[str, Chain[W]] = {}
    ids: set[int] = set()
    for submission in group:
        if not ids.isdisjoint(submission.ids):
            continue
        stream_id = submission.batch.stream_id
        chain = chains.get(stream_id)
        if chain is None:
            chains[stream_id] = Chain(submission)
        elif not chain.extend(submission):
            continue
        ids |= submission.ids
    return list(chains.values())


def _own(error: Exception) -> Exception:
    """Return an error that one caller alone raises: a traceback is the story of one raise."""
    if not isinstance(error, ConnectionUnusable):
        return error
    own = copy(error)
    own.__cause__ = error
    return own
