"""The benchmark runs: a round of it, in workers of its own, on the tests' server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from benchmarks import databases, report
from benchmarks.controller import Unavailable
from benchmarks.measure import Plan, measure

if TYPE_CHECKING:
    from sqlalchemy import URL


@pytest.fixture(autouse=True)
def _any_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests' own server take part, which throws everything away in any case."""
    monkeypatch.setattr(databases, "DURABILITY", ("synchronous_commit",))


def test_a_round_measures_ours_beside_raw_and_grows_both(server_url: URL) -> None:
    options = report.Options(rounds=1, seconds=0.01, feed_events=20_000, bulk_events=1_000)
    plan = Plan(
        contenders=["ours"],
        workloads=["W1", "S1p", "S2b"],
        options=options,
        growth=[20_100],
    )

    measured = measure(plan, server_url)

    assert all(row.events_per_second > 0 and row.ratio > 0 for row in measured.rows)
    assert {row.key for row in measured.rows} == {
        (workload, contender) for workload in ("W1", "S1p", "S2b") for contender in ("raw", "ours")
    }
    assert measured.skipped == []
    assert {(row.workload, row.events) for row in measured.growth} == {
        *(("W1", 0), ("W1", 20_100), ("W2", 0), ("W2", 20_100)),
        *(("R2", 20_000), ("R2", 20_100), ("R3p", 20_000), ("R3p", 20_100)),
    }
    assert report.Report.model_validate_json(measured.model_dump_json()) == measured


def test_a_database_that_forgets_takes_no_part(database_url: URL) -> None:
    url = databases.conninfo(database_url)
    databases.check_durability(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database_url.database}" SET synchronous_commit = off')
    with pytest.raises(Unavailable, match="not durable: synchronous_commit must be on"):
        databases.check_durability(url)
