from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from eventstore import (
    ANY,
    NO_STREAM,
    AppendConditionFailed,
    AppendResult,
    AsyncInMemoryEventStore,
    ConcurrencyConflict,
    Fold,
    InMemoryEventStore,
    Query,
    QueryItem,
    Retries,
    StreamAppend,
    async_execute_decision,
    combine,
    execute_decision,
)
from tests.fixtures.courses import event

COUNT = Fold(0, {"counted": lambda count, _: count + 1}, tags=["counter:1"])


def counted(stream: str = "s") -> StreamAppend:
    return StreamAppend(stream, ANY, [event("counted", tags=["counter:1"])])


def test_a_fold_passes_by_what_its_query_does_not_mean() -> None:
    events = [
        event("counted", tags=["counter:1", "other"]),
        event("counted", tags=["counter:2"]),
        event("other", tags=["counter:1"]),
    ]
    assert COUNT.state_of(events) == 1
    assert COUNT.query == Query(QueryItem(types=["counted"], tags=["counter:1"]))
    with pytest.raises(ValueError, match="handlers is empty"):
        Fold(0, {})


def test_a_handler_that_changes_the_state_changes_its_own_copy() -> None:
    def add(seen: list[str], event: Any) -> list[str]:
        seen.append(event.event_type)
        return seen

    fold: Fold[list[str]] = Fold([], {"counted": add})
    assert fold.state_of([event("counted", tags=[])]) == ["counted"]
    assert fold.state_of([]) == []


def test_models_are_combined_to_one_state_and_one_query() -> None:
    @dataclass
    class State:
        first: int
        second: bool
        third: bool

    second = Fold(False, {"closed": lambda *_: True}, tags=["counter:1"])
    third = Fold(False, {"closed": lambda *_: True}, tags=["b", "a"])
    model = combine(State, first=COUNT, second=second, third=third)
    assert model.query == Query(
        QueryItem(types=["counted", "closed"], tags=["counter:1"]),
        QueryItem(types=["closed"], tags=["b", "a"]),
    )
    events = (
        each for each in [event("counted", tags=["counter:1"]), event("closed", tags=["a", "b"])]
    )
    assert model.state_of(events) == State(first=1, second=False, third=True)
    with pytest.raises(TypeError, match="needs a model"):
        combine(State)


class Overtaken(InMemoryEventStore):
    """Somebody else is quicker, as often as is said."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def append(self, *appends: StreamAppend, **options: Any) -> AppendResult:
        if self.times:
            self.times -= 1
            super().append(counted("elsewhere"))
        return super().append(*appends, **options)


@pytest.mark.parametrize("times", [0, 1, 4])
def test_it_is_decided_again_on_the_new_state(times: int) -> None:
    states = []

    def decide(count: int) -> StreamAppend:
        states.append(count)
        return counted()

    result = execute_decision(Overtaken(times), COUNT, decide, retries=Retries(attempts=5))
    assert states == list(range(times + 1))
    assert result["s"].version == 1


def test_attempts_are_bounded() -> None:
    with pytest.raises(AppendConditionFailed):
        execute_decision(Overtaken(5), COUNT, lambda _: counted(), retries=Retries(attempts=5))


def test_a_stream_that_another_decision_has_begun() -> None:
    """Both begin it: the other one's event matches too, but its version is what is met first."""
    store, versions = InMemoryEventStore(), []

    def decide(count: int) -> list[StreamAppend]:
        versions.append(count)
        if not count:
            store.append(counted())
            return [StreamAppend("s", NO_STREAM, [event("counted", tags=["counter:1"])])]
        return []

    assert execute_decision(store, COUNT, decide) == AppendResult(())
    assert versions == [0, 1]
    with pytest.raises(ConcurrencyConflict):
        execute_decision(store, COUNT, lambda _: StreamAppend("s", 7, [event("x", tags=[])]))


def test_what_a_decision_may_be() -> None:
    store = InMemoryEventStore()
    assert execute_decision(store, COUNT, lambda _: iter([counted()]))["s"].version == 1
    with pytest.raises(TypeError, match=r"decide\(\) must return .*; not NoneType"):
        execute_decision(store, COUNT, lambda _: None)  # type: ignore[arg-type, return-value]


def test_what_the_domain_raises_ends_it() -> None:
    def decide(_: int) -> StreamAppend:
        raise KeyError

    with pytest.raises(KeyError):
        execute_decision(InMemoryEventStore(), COUNT, decide)


def test_the_async_twin() -> None:
    async def decide_twice() -> int:
        store = AsyncInMemoryEventStore()
        await async_execute_decision(store, COUNT, lambda _: counted())
        await async_execute_decision(store, COUNT, lambda count: [counted()] if count == 1 else [])
        return len(await store.read_by_query(COUNT.query))

    assert asyncio.run(decide_twice()) == 2
