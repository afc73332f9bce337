"""The benchmark runs: a round of it, in workers of its own, on the tests' server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy.orm import Session

from benchmarks import contention, contents, databases, report
from benchmarks import measure as measuring
from benchmarks.controller import Unavailable
from benchmarks.measure import ALSO_GROWING, Plan, measure
from benchmarks.ours import new_events
from benchmarks.tables import InvoiceIssued, registry
from benchmarks.workloads import GROWTH
from eventstore import (
    NO_STREAM,
    AggregateType,
    ConcurrencyConflict,
    Decider,
    SqlAlchemyEventStore,
    StreamAppend,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


@pytest.fixture(autouse=True)
def _any_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests' own server take part, which throws everything away in any case."""
    monkeypatch.setattr(databases, "DURABILITY", ("synchronous_commit",))


#: As little as can be measured.
OPTIONS = report.Options(rounds=1, seconds=0.01, feed_events=20_000, bulk_events=1_000)


def test_a_round_measures_ours_beside_raw(server_url: URL) -> None:
    plan = Plan(contenders=["ours"], workloads=["W1", "S1p", "S2b"], options=OPTIONS)

    measured = measure(plan, server_url)

    assert all(row.events_per_second > 0 and row.ratio > 0 for row in measured.rows)
    assert {row.key for row in measured.rows} == {
        (workload, contender) for workload in ("W1", "S1p", "S2b") for contender in ("raw", "ours")
    }
    assert measured.skipped == []
    assert report.Report.model_validate_json(measured.model_dump_json()) == measured


def test_growth_is_measured_of_reads_writes_and_subscriptions_and_of_those_made_for_them(
    server_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [
        replace(workload, events=min(workload.events, contents.BULK))
        for workload in GROWTH
        if workload.name in {"R3", "S1", "W32", "W4"}
    ]
    monkeypatch.setattr(measuring, "GROWTH", chosen)
    contenders = ["ours", *ALSO_GROWING.values()]
    plan = Plan(contenders=contenders, workloads=[], options=OPTIONS, growth=[20_100])

    measured = measure(plan, server_url)

    assert measured.skipped == []
    assert {(row.workload, row.contender, row.events) for row in measured.growth} == {
        (workload.name, contender, size)
        for workload in chosen
        for contender in ("raw", "ours", ALSO_GROWING.get(workload.name, "ours"))
        for size in (contents.MIN_EVENTS if workload.reads else 0, 20_100)
    }
    assert all(row.events_per_second > 0 and row.ratio > 0 for row in measured.growth)


def test_each_way_after_a_conflict_executes_everything(
    committed_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "WRITERS", 3)
    samples = contention.measure(committed_database, rounds=1, calls=1)

    assert list(samples) == list(contention.WAYS)
    assert all(sample.events == len(sample.latencies) == 3 for (sample,) in samples.values())
    assert len(list(contention.table(samples))) == 1 + len(contention.WAYS)


@pytest.mark.parametrize(
    ("way", "states"),
    [
        (contention.Reload, [0, 1]),
        (contention.ReloadAnew, [0, 1]),
        (contention.Missed, [0, 1]),
        (contention.Commuting, [0]),
    ],
)
def test_a_way_overcomes_a_conflict_and_tells_it(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    way: type[contention.Missed],
    states: list[int],
) -> None:
    decided: list[int] = []

    def decide(command: InvoiceIssued, state: int) -> list[InvoiceIssued]:
        if not decided:
            with Session(engine) as rival, rival.begin():
                store = SqlAlchemyEventStore(rival, registry)
                store.append_to_stream("contended", NO_STREAM, new_events(1))
        decided.append(state)
        return [command]

    decider = Decider(initial=0, decide=decide, evolve=lambda state, _: state + 1)
    invoices = AggregateType(contents.AGGREGATE_TYPE, decider, stream_id=str)
    monkeypatch.setattr(contention, "INVOICES", invoices)
    monkeypatch.setattr(contention, "WRITERS", 1)
    monkeypatch.setattr(contents, "new_stream_id", lambda: "contended")

    assert contention.take_turn(way(engine), calls=1).conflicts == 1
    assert decided == states


@pytest.mark.parametrize(("way", "brings"), [(contention.Reload, False), (contention.Missed, True)])
def test_only_who_reloads_is_not_told_what_was_missed(
    engine: Engine, way: type[contention.Missed], *, brings: bool
) -> None:
    stream_id = contents.new_stream_id()
    with way(engine).store() as store:
        store.append(StreamAppend(stream_id, NO_STREAM, new_events(2)))
        with pytest.raises(ConcurrencyConflict) as conflict:
            store.append(StreamAppend(stream_id, 1, new_events(1)), fetch_missed=True)
    assert (conflict.value.missed is not None) is brings


def test_a_database_that_forgets_takes_no_part(database_url: URL) -> None:
    url = databases.conninfo(database_url)
    databases.check_durability(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database_url.database}" SET synchronous_commit = off')
    with pytest.raises(Unavailable, match="not durable: synchronous_commit must be on"):
        databases.check_durability(url)
