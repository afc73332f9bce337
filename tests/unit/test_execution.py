"""Commands are executed without a store: what is requested, and what follows each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventstore import (
    ANY,
    AggregateType,
    AppendedStream,
    AppendResult,
    ConcurrencyConflict,
    EventEnvelope,
    EveryEvents,
    LoadedStream,
    MasterKeyError,
    Retries,
    Snapshot,
    Snapshots,
)
from eventstore.aggregate_types import Envelopes
from eventstore.execution import Append, Executor, ForEach, LoadStream, SaveSnapshot
from eventstore.testing.fakes import FakeClock, SequentialIds
from tests.fixtures.bank import DECIDED, OBJECTS, Account, Deposit, Deposited

if TYPE_CHECKING:
    from eventstore.execution import Steps

DEPOSITED = EventEnvelope[Any](
    aggregate_type="account", event_type="deposited", event_data=Deposited(1), event_version=1
)
#: The events after the first one have become none by upcasting.
DROPPED = LoadedStream(version=3, last=3, events=[DEPOSITED])


def executing(kind: AggregateType[Any, Any], command: Any) -> Steps[Any]:
    envelopes = Envelopes(FakeClock(), SequentialIds())
    executor = Executor[Any, Any](kind, envelopes, Retries(), None)
    return executor.execute("1", command, ANY, lambda _: False, None)


def expected_version(request: object) -> object:
    assert isinstance(request, Append)
    return request.appends[0].expected_version


@pytest.mark.parametrize(
    ("kind", "command"), [(DECIDED, Deposit(1)), (OBJECTS, lambda it: it.deposit(1))]
)
def test_events_that_upcasting_has_dropped_count_all_the_same(
    kind: AggregateType[Any, Any], command: Any
) -> None:
    steps = executing(kind, command)
    assert next(steps) == LoadStream("account-1", None, None)
    assert expected_version(steps.send(DROPPED)) == 3
    with pytest.raises(StopIteration) as end:
        steps.send(AppendResult((AppendedStream("account-1", 4, (9,)),)))
    outcome = end.value.value
    assert (outcome.version, outcome.aggregate.version, outcome.positions) == (4, 4, (9,))


def test_missed_events_that_upcasting_has_dropped_count_too() -> None:
    steps = executing(DECIDED, Deposit(1))
    next(steps)
    steps.send(DROPPED)
    missed = DEPOSITED.model_copy(update={"event_version": 4})
    again = steps.throw(ConcurrencyConflict(3, 5, "account-1", missed=(missed,)))
    assert expected_version(again) == 5


def test_an_object_that_was_rebased_is_that_of_its_own_version() -> None:
    steps = executing(OBJECTS, lambda it: it.deposit(1))
    load = next(steps)
    steps.send(DROPPED)
    # What upcasting has dropped matters to nobody.
    again = steps.throw(ConcurrencyConflict(3, 4, "account-1", missed=()))
    assert expected_version(again) == 4
    assert steps.send(AppendResult((AppendedStream("account-1", 5, (9,)),))) == load
    later = [DEPOSITED.model_copy(update={"event_version": version}) for version in (1, 5, 6)]
    with pytest.raises(StopIteration) as end:
        steps.send(LoadedStream(version=6, last=6, events=later))
    outcome = end.value.value
    assert (outcome.aggregate.version, outcome.aggregate.balance) == (5, 2)


def test_a_snapshot_later_than_the_rebased_command_is_not_used() -> None:
    kind = AggregateType("account", Account, snapshots=Snapshots(EveryEvents(9)))
    steps = executing(kind, lambda it: it.deposit(1))
    next(steps)
    steps.send(LoadedStream(version=0, last=0, events=[]))
    steps.throw(ConcurrencyConflict(0, 1, "account-1", missed=()))
    steps.send(AppendResult((AppendedStream("account-1", 2, (9,)),)))
    later = Snapshot[Any](
        aggregate_id="account-1",
        aggregate_type="account",
        version=3,
        data={"model": 1, "state": {"balance": 7, "name": ""}},
    )
    found = LoadedStream(snapshot=later, version=3, last=3, events=[])
    assert steps.send(found) == LoadStream("account-1", None, None)
    events = [DEPOSITED.model_copy(update={"event_version": version}) for version in (1, 2, 3)]
    with pytest.raises(StopIteration) as end:
        steps.send(LoadedStream(version=3, last=3, events=events))
    assert end.value.value.aggregate == Account(2)


def test_a_stored_event_that_is_several_today_has_one_position() -> None:
    steps = executing(OBJECTS, lambda it: it.deposit(1))
    next(steps)
    visit = steps.send(LoadedStream(version=1, last=1, events=[], recorded=(1, 1)))
    assert isinstance(visit, ForEach)
    for _ in range(2):
        visit.visit(DEPOSITED.model_copy(update={"sequence_number": 7}))
    with pytest.raises(StopIteration) as end:
        steps.send(None)
    outcome = end.value.value
    assert (outcome.positions, len(outcome.events)) == ((7,), 2)


def test_a_master_key_that_is_missing_is_not_passed_over() -> None:
    kind = AggregateType("account", Account, snapshots=Snapshots(EveryEvents(1)))
    steps = executing(kind, lambda it: it.deposit(1))
    next(steps)
    steps.send(LoadedStream(version=0, last=0, events=[]))
    assert isinstance(
        steps.send(AppendResult((AppendedStream("account-1", 1, (9,)),))), SaveSnapshot
    )
    with pytest.raises(MasterKeyError):
        steps.throw(MasterKeyError("it is gone"))


def test_without_what_was_missed_the_stream_is_loaded_again() -> None:
    steps = executing(DECIDED, Deposit(1))
    load = next(steps)
    steps.send(DROPPED)
    assert steps.throw(ConcurrencyConflict(3, 5, "account-1")) == load
