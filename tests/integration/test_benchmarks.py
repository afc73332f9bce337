"""The benchmark runs: a round of it, in workers of its own, on the tests' server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.measure import Plan, measure

if TYPE_CHECKING:
    from sqlalchemy import URL


def test_a_round_measures_ours_beside_raw_and_says_who_was_left_out(server_url: URL) -> None:
    options = report.Options(rounds=1, seconds=0.01, feed_events=20_000, bulk_events=1_000)
    plan = Plan(contenders=["ours"], workloads=["W1", "S1"], options=options)

    measured = measure(plan, server_url)

    assert {row.key for row in measured.rows} == {
        ("W1", "raw"),
        ("W1", "ours"),
        ("S1", "raw"),
    }
    assert all(row.events_per_second > 0 and row.ratio > 0 for row in measured.rows)
    skipped = {(skip.workload, skip.contender): skip.reason for skip in measured.skipped}
    assert "subscriptions" in skipped["S1", "ours"]
    assert report.Report.model_validate_json(measured.model_dump_json()) == measured
