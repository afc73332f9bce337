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
    LoadedStream,
    Retries,
)
from eventstore.aggregate_types import Envelopes
from eventstore.execution import Append, Executor, LoadStream
from eventstore.testing.fakes import FakeClock, SequentialIds
from tests.fixtures.bank import DECIDED, OBJECTS, Deposit, Deposited

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


def test_without_what_was_missed_the_stream_is_loaded_again() -> None:
    steps = executing(DECIDED, Deposit(1))
    load = next(steps)
    steps.send(DROPPED)
    assert steps.throw(ConcurrencyConflict(3, 5, "account-1")) == load
