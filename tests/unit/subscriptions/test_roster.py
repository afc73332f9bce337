"""Shares of partitions, the pace of polls, and what a hint means."""

from __future__ import annotations

import pytest

from eventstore.operations.fence import Mark
from eventstore.operations.leases import Crew
from eventstore.subscriptions.roster import share_of
from eventstore.subscriptions.wake_up import (
    LONGEST_POLL_SECONDS,
    NOTHING_KNOWN,
    SHORTEST_POLL_SECONDS,
    Feed,
    Polls,
)


@pytest.mark.parametrize("partitions", range(1, 12))
@pytest.mark.parametrize("workers", range(1, 12))
def test_shares_are_even_and_add_up(partitions: int, workers: int) -> None:
    shares = [share_of(partitions, Crew(workers, rank)) for rank in range(workers)]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


def test_polls_slow_down_while_nothing_happens() -> None:
    polls = Polls()
    mark = Mark(1, 1)
    assert polls.after(Mark(0, 0), mark) == SHORTEST_POLL_SECONDS
    pauses = [polls.after(mark, mark) for _ in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_POLL_SECONDS
    assert polls.after(mark, Mark(1, 2)) == SHORTEST_POLL_SECONDS


def test_what_concerns_who_waits() -> None:
    feed = Feed(Mark(5, 7), hints=2)
    assert not feed.concerns(5, 2)
    assert feed.concerns(4, 2)  # there is more to read
    assert feed.concerns(5, 1)  # there was a commit
    assert feed.concerns(8, 2)  # the store was restored to an earlier time
    assert not NOTHING_KNOWN.concerns(10**9, 0)


def test_what_a_worker_has_seen_can_be_read() -> None:
    feed = Feed(Mark(5, 7), hints=2)
    assert feed.seen(4) == feed
    assert feed.seen(6) == Feed(Mark(6, 7), 2)
    assert feed.seen(9) == Feed(Mark(9, 9), 2)
