"""Runners of a race run only when they are told to, and never leave anything behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventstore import AsyncInMemoryEventStore, AsyncRepository, InMemoryEventStore
from eventstore.testing.races import Race, pausing
from tests.fixtures.bank import DECIDED, Deposit, registry
from tests.fixtures.events import new_event

if TYPE_CHECKING:
    from collections.abc import Callable

Point = Any


def test_a_schedule_is_kept() -> None:
    happened: list[str] = []

    def job(name: str) -> Callable[[Point], str]:
        def run(point: Point) -> str:
            for step in ("a", "b"):
                point(step)
                happened.append(name + step)
            return name

        return run

    with Race() as race:
        first, second = race.enter(job("1")), race.enter(job("2"))
        assert happened == []
        second.run_to("b")
        first.run_to("b")
        assert second.finish() == "2"
        assert first.finish() == first.finish() == "1"
    assert happened == ["2a", "1a", "2b", "1b"]


def test_what_a_job_raises_is_raised() -> None:
    def job(point: Point) -> None:
        point("a")
        raise KeyError("b")

    with Race() as race:
        runner = race.enter(job)
        runner.run_to("a")
        with pytest.raises(KeyError):
            runner.finish()
        with pytest.raises(KeyError):
            race.enter(job).run_to("never")


def test_a_point_that_is_never_reached() -> None:
    with Race() as race:
        runner = race.enter(lambda point: point("a"))
        with pytest.raises(AssertionError, match=r"'b' was never reached, only \['a'\]"):
            runner.run_to("b")


def test_who_has_not_finished_is_abandoned() -> None:
    left: list[str] = []

    def job(point: Point) -> None:
        try:
            point("a")
            left.append("went on")
        finally:
            left.append("unwound")

    with Race() as race:
        race.enter(job).run_to("a")
        race.enter(job)
    assert left == ["unwound"]


def test_a_pausing_store_stops_before_each_operation() -> None:
    store = InMemoryEventStore()

    def job(point: Point) -> int:
        return pausing(store, point).append_to_stream("s", 0, [new_event()])

    with Race() as race:
        runner = race.enter(job)
        runner.run_to("append_to_stream")
        assert store.get_stream_info("s") is None
        assert runner.finish() == 1


def test_an_async_store_pauses_too() -> None:
    store = AsyncInMemoryEventStore(registry)

    async def deposit(point: Point) -> int:
        return (
            await AsyncRepository(pausing(store, point), DECIDED).execute("1", Deposit(1))
        ).version

    with Race() as race:
        first, second = (race.enter(lambda point: asyncio.run(deposit(point))) for _ in range(2))
        first.run_to("append")
        second.run_to("append")
        assert (first.finish(), second.finish()) == (1, 2)
