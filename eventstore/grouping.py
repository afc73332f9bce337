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
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from eventstore.batches import EncodedBatch

W = TypeVar("W")

#: The stream's new version, or what the caller's call raises.
Outcome: TypeAlias = int | Exception
Settled: TypeAlias = "list[tuple[Submission[W], Outcome]]"

#: A larger group is sent in parts, so that its first appends don't wait for all of it to be read.
MAX_GROUP_BYTES: Final = 8 * 2**20
#: Up to so many, appends that share a commit gain more than those that are encoded meanwhile.
_WORTH_A_COMMIT: Final = 16


@dataclass(eq=False, slots=True, kw_only=True)
class Submission(Generic[W]):
    """One append on its way: encoded by its caller, who waits for the outcome."""

    batch: EncodedBatch
    rows: tuple[str, ...]  #: its events as the group's statement takes them
    waiter: W  #: whom to tell
    lost: ConnectionUnusable | None = None  #: the end of the connection on which it was first sent
    size: int = field(init=False)  #: characters
    ids: frozenset[UUID] = field(init=False)  #: of its events
    keys: frozenset[str] = field(init=False)  #: the idempotency keys of its events

    def __post_init__(self) -> None:
        events = self.batch.events
        self.size = sum(map(len, self.rows))
        self.ids = frozenset([event.event_id for event in events])
        self.keys = frozenset(
            [event.idempotency_key for event in events if event.idempotency_key is not None]
        )


class GroupQueue(Generic[W]):
    """The submissions that nobody has settled yet. The caller keeps threads apart."""

    def __init__(self, max_batch: int) -> None:
        """Take at most ``max_batch`` appends into a group."""
        self._max_batch = max_batch
        self._waiting: deque[Submission[W]] = deque()
        self._writing: list[Submission[W]] = []
        self._crowd = 0
        self.is_closed = False

    @property
    def is_idle(self) -> bool:
        """Tell whether nobody waits for anything."""
        return not self._waiting and not self._writing

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

    def take(self) -> Sequence[Submission[W]]:
        """Return the next group, empty if nobody waits; its outcomes are told before the next one.

        A large crowd is halved: while one half is written, the callers of the other come back and
        encode their next events. Taken as a whole it would go on in lockstep, the database and
        the callers waiting for one another in turn.
        """
        crowd = max(self._crowd, len(self._waiting))
        limit = min(self._max_batch, max(_WORTH_A_COMMIT, (crowd + 1) // 2))
        room = MAX_GROUP_BYTES
        while self._waiting and len(self._writing) < limit:
            room -= self._waiting[0].size
            if room < 0 and self._writing:
                break
            self._writing.append(self._waiting.popleft())
        return self._writing

    def settle(self, outcomes: Mapping[Submission[W], Outcome]) -> Settled[W]:
        """Return whom to tell what; those of the group without an outcome wait for the next one."""
        self._crowd = len(self._waiting) + len(self._writing)
        group, self._writing = self._writing, []
        self._waiting.extendleft(each for each in reversed(group) if each not in outcomes)
        return [(each, outcomes[each]) for each in group if each in outcomes]

    def fail(self, error: Exception) -> Settled[W]:
        """Return whom to tell that the group could not be written, or that nothing can be.

        If the connection was lost, nobody knows whether the group was committed. It is sent once
        more: the events that were, are recognised by their ids. Without a group, there is no
        connection to be had, and all who wait are told.
        """
        if not self._writing:
            failed = list(self._waiting)
            self._waiting.clear()
            return [(each, _own(each.lost or error)) for each in failed]
        outcomes: dict[Submission[W], Outcome] = {}
        for each in self._writing:
            if isinstance(error, ConnectionUnusable) and each.lost is None:
                each.lost = error
            else:
                outcomes[each] = _own(error)
        return self.settle(outcomes)

    def abandon(self) -> list[Submission[W]]:
        """Return and forget all submissions: nobody is there any more to write them."""
        abandoned = [*self._writing, *self._waiting]
        self._writing.clear()
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
    ids: set[UUID] = set()
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
