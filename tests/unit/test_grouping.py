"""Which appends share a commit: everything that needs no database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventstore.batches import EncodedBatch, EncodedEvent
from eventstore.errors import ConnectionUnusable, EventStoreError, SchemaOutOfDate
from eventstore.grouping import MAX_GROUP_BYTES, GroupQueue, Submission, chains_of
from eventstore.streams import ANY, STREAM_EXISTS, StreamState, require_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    Group = list[Submission[str]]

LOST = ConnectionUnusable("57P01")


def event(key: str | None = None) -> EncodedEvent:
    return EncodedEvent(
        event_id=uuid4(),
        aggregate_id="a",
        aggregate_type="A",
        event_type="t",
        event_data=b"{}",
        occurred_at=datetime(2024, 2, 29, tzinfo=UTC),
        metadata=b"{}",
        idempotency_key=key,
    )


def submission(
    stream_id: str = "s",
    expected: int | StreamState = ANY,
    events: int | Sequence[EncodedEvent] = 1,
    *,
    size: int = 1,
) -> Submission[str]:
    given = tuple(event() for _ in range(events)) if isinstance(events, int) else tuple(events)
    return Submission(
        batch=EncodedBatch(stream_id=stream_id, expected_version=expected, events=given),
        rows=tuple("x" * size for _ in given),
        waiter="",
    )


def queue_of(*waiting: Submission[str], max_batch: int = 100, writers: int = 1) -> GroupQueue[str]:
    queue: GroupQueue[str] = GroupQueue(max_batch=max_batch, writers=writers)
    for each in waiting:
        queue.add(each)
    return queue


def on_own_streams(count: int, **fields: Any) -> Group:
    return [submission(f"s{number}", **fields) for number in range(count)]


# Chains: what one statement can write.


def chained(*group: Submission[str]) -> list[list[int]]:
    """Return the chains, each submission as its place in the group."""
    return [[group.index(each) for each in chain.submissions] for chain in chains_of(group)]


def test_each_stream_has_a_chain() -> None:
    assert chained(submission("a"), submission("b", 3), submission("a")) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (ANY, ANY, True),
        (ANY, STREAM_EXISTS, True),
        (STREAM_EXISTS, ANY, True),
        (7, ANY, True),
        (7, 9, True),  # two events behind version 7
        (7, 7, False),
        (7, 8, False),
        (7, 0, False),
        (ANY, 2, False),  # who knows
        (STREAM_EXISTS, 2, False),
    ],
)
def test_what_may_follow_an_append_of_two_events(
    first: int | StreamState, second: int | StreamState, fits: bool
) -> None:
    group = submission(expected=first, events=2), submission(expected=second)
    assert chained(*group) == ([[0, 1]] if fits else [[0]])


def test_a_chain_goes_on_behind_what_was_left_out() -> None:
    group = [submission(expected=n) for n in (0, 0, 1, 7, 2)]
    (chain,) = chains_of(group)
    assert chain.submissions == [group[0], group[2], group[4]]
    assert (chain.expected, chain.event_count) == (0, 3)


def test_an_id_stands_once_in_a_statement() -> None:
    known = event()
    assert chained(
        submission("a", events=[event(), known]),
        submission("a", events=[known]),
        submission("b", events=[event(), known]),
        submission("b"),
    ) == [[0], [3]]


def test_a_key_stands_once_in_a_chain() -> None:
    assert chained(
        submission("a", events=[event("k"), event("k")]),
        submission("a", events=[event("l")]),
        submission("a", events=[event("k")]),
        submission("a", events=[event("l")]),
        submission("b", events=[event("k")]),
    ) == [[0, 1], [4]]


EXPECTED = st.one_of(st.sampled_from([ANY, STREAM_EXISTS]), st.integers(0, 6))


@given(st.lists(st.tuples(EXPECTED, st.integers(1, 3)), min_size=1, max_size=6), st.integers(0, 4))
def test_in_a_chain_all_succeed_if_the_first_does(
    appends: list[tuple[int | StreamState, int]], version: int
) -> None:
    (chain,) = chains_of([submission("s", *append) for append in appends])
    first, *others = chain.submissions
    try:
        require_version("s", first.batch.expected_version, version, None)
    except EventStoreError:
        return
    version += len(first.batch.events)
    for each in others:
        require_version("s", each.batch.expected_version, version, None)
        version += len(each.batch.events)


# The queue: who is next.


def test_whoever_came_first_is_taken_first() -> None:
    waiting = on_own_streams(5)
    queue = queue_of(*waiting, max_batch=3)
    assert queue.take() == waiting[:3]
    assert queue.take() == waiting[3:]
    assert queue.take() == []


@pytest.mark.parametrize(("waiting", "taken"), [(1, 1), (2, 1), (5, 3), (32, 16), (300, 100)])
def test_two_writers_share_the_crowd(waiting: int, taken: int) -> None:
    assert len(queue_of(*on_own_streams(waiting), writers=2).take()) == taken


def test_those_who_are_being_written_belong_to_the_crowd() -> None:
    queue = queue_of(*on_own_streams(8), writers=2)
    first, second = queue.take(), queue.take()
    assert (len(first), len(second)) == (4, 4)
    queue.settle(first, dict.fromkeys(first, 1))
    # They come again, one after the other, and are not taken one by one.
    for again in on_own_streams(4):
        queue.add(submission(f"again {again.batch.stream_id}"))
    assert len(queue.take()) == 4


def test_a_stream_has_one_writer_at_a_time() -> None:
    waiting = [submission(stream_id) for stream_id in "abaca"]
    queue = queue_of(*waiting, max_batch=2)
    first = queue.take()
    assert first == waiting[:2]
    second = queue.take()
    assert second == [waiting[3]]
    assert queue.take() == []
    queue.settle(first, dict.fromkeys(first, 1))
    assert queue.take() == [waiting[2], waiting[4]]


def test_everybody_is_told_the_own_outcome() -> None:
    waiting = on_own_streams(3)
    queue = queue_of(*waiting)
    group = queue.take()
    outcomes: dict[Submission[str], int | Exception] = {
        waiting[0]: 7,
        waiting[1]: ValueError("no"),
        waiting[2]: 9,
    }
    assert queue.settle(group, outcomes) == list(outcomes.items())
    assert group == []
    assert queue.take() == []


def test_who_has_no_outcome_is_the_next_to_be_taken() -> None:
    waiting = on_own_streams(4)
    queue = queue_of(*waiting)
    group = queue.take()
    late = submission("late")
    queue.add(late)
    assert queue.settle(group, {waiting[1]: 1}) == [(waiting[1], 1)]
    assert queue.take() == [waiting[0], waiting[2], waiting[3], late]


def test_a_group_is_not_larger_than_a_statement_should_be() -> None:
    half = MAX_GROUP_BYTES // 2
    waiting = [*on_own_streams(2, size=half), submission("small")]
    waiting += [submission("huge", size=3 * half), submission("more", size=half)]
    queue = queue_of(*waiting)
    assert queue.take() == waiting[:2]
    assert queue.take() == [waiting[2]]
    assert queue.take() == [waiting[3]]  # by itself, since it must be written
    assert queue.take() == [waiting[4]]


def test_who_waits_can_be_withdrawn() -> None:
    first, second, third = waiting = on_own_streams(3)
    queue = queue_of(*waiting, max_batch=1)
    group = queue.take()
    queue.withdraw(second)
    queue.withdraw(first)  # too late
    queue.withdraw(second)  # not twice
    assert queue.settle(group, {first: 1}) == [(first, 1)]
    assert queue.take() == [third]
    assert len(queue) == 0


def test_a_closed_queue_takes_nothing_more_and_gives_what_it_has() -> None:
    accepted = submission()
    queue = queue_of(accepted)
    queue.close()
    with pytest.raises(RuntimeError, match="closed"):
        queue.add(submission())
    assert queue.take() == [accepted]


def test_what_a_lost_connection_left_unknown_is_sent_once_more() -> None:
    waiting = on_own_streams(2)
    queue = queue_of(*waiting)
    assert queue.fail(queue.take(), LOST) == []
    new = submission("new")
    queue.add(new)
    group = queue.take()
    assert group == [*waiting, new]
    told = queue.fail(group, ConnectionUnusable("08006"))
    # With what has happened to their events, each an error of its own.
    assert [each for each, _ in told] == waiting
    for _, outcome in told:
        assert isinstance(outcome, ConnectionUnusable)
        assert outcome is not LOST
        assert (outcome.sqlstate, outcome.__cause__) == ("57P01", LOST)
    assert queue.take() == [new]


def test_that_no_connection_can_be_had_does_not_hide_that_one_was_lost() -> None:
    sent, new = on_own_streams(2)
    queue = queue_of(sent)
    queue.fail(queue.take(), LOST)
    queue.add(new)
    refused = OSError("connection refused")
    (_, unknown), (_, never_sent) = queue.fail(queue.take(), refused)
    assert isinstance(unknown, ConnectionUnusable)
    assert never_sent is refused


def test_another_error_is_told_at_once() -> None:
    waiting = on_own_streams(2)
    queue = queue_of(*waiting)
    error = SchemaOutOfDate(None, "es0001")
    assert queue.fail(queue.take(), error) == [(each, error) for each in waiting]


def test_all_are_abandoned_when_the_writers_are_gone() -> None:
    waiting = on_own_streams(3)
    queue = queue_of(*waiting, max_batch=1)
    assert queue.abandon(queue.take()) == waiting
    assert queue.take() == []


class Writers(RuleBasedStateMachine):
    """Any order of events: each submission ends once, and is in one place until then."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: GroupQueue[str] = GroupQueue(max_batch=3, writers=2)
        self.open: list[Submission[str]] = []
        self.groups: list[Group] = []

    @rule(stream_id=st.sampled_from("abc"))
    def append(self, stream_id: str) -> None:
        new = submission(stream_id)
        self.queue.add(new)
        self.open.append(new)

    @precondition(lambda self: len(self.groups) < 2)
    @rule()
    def take(self) -> None:
        waiting = len(self.queue)
        if group := self.queue.take():
            self.groups.append(group)
            assert len(group) <= 3
        elif waiting:
            assert self.groups, "somebody waits, and nobody is written"

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        group = self.groups.pop(data.draw(st.integers(0, len(self.groups) - 1)))
        told = data.draw(st.lists(st.sampled_from(group), min_size=1, unique_by=id))
        assert {each for each, _ in self.queue.settle(group, dict.fromkeys(told, 1))} == set(told)
        self._end(told)

    @precondition(lambda self: self.groups)
    @rule(error=st.sampled_from([LOST, ValueError("no")]))
    def fail(self, error: Exception) -> None:
        told = [each for each, _ in self.queue.fail(self.groups.pop(), error)]
        assert set(told) <= set(self.open)
        self._end(told)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        cancelled = data.draw(st.sampled_from(self.open))
        self.queue.withdraw(cancelled)
        if not any(cancelled in group for group in self.groups):
            self.open.remove(cancelled)

    def _end(self, told: Sequence[Submission[str]]) -> None:
        self.open = [each for each in self.open if each not in told]

    @invariant()
    def nobody_is_lost(self) -> None:
        writing = [each for group in self.groups for each in group]
        assert len(self.queue) + len(writing) == len(self.open)
        assert set(writing) <= set(self.open)

    @invariant()
    def no_stream_is_in_two_groups(self) -> None:
        streams = [{each.batch.stream_id for each in group} for group in self.groups]
        assert sum(map(len, streams)) == len(set().union(*streams))

    def teardown(self) -> None:
        """Whoever still waits can be written."""
        for group in self.groups:
            self.queue.settle(group, dict.fromkeys(group, 1))
        while group := self.queue.take():
            self.queue.settle(group, dict.fromkeys(group, 1))
        assert len(self.queue) == 0


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=50, stateful_step_count=30)
