"""What a full run publishes: the same values make the same files, and ours stand out."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="plots need the dependency group bench")

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks import publish
from benchmarks.contenders import CONTENDERS
from benchmarks.machine import Conditions, Machine
from benchmarks.protocol import Sample
from benchmarks.report import Growth, Options, Report, Skip, summarise
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path


def a_report() -> Report:
    workload = WORKLOADS["W1"]
    samples = {
        name: [Sample(events=events, seconds=1, latencies=[1 / events] * events)]
        for name, events in (("raw", 1000), ("ours", 800), ("message-db", 700))
    }
    return Report(
        machine=Machine(
            date=datetime(2026, 1, 2, tzinfo=UTC),
            revision="0123456789ab",
            cores=2,
            cpu="a processor",
            system="Linux",
            postgresql="18.1",
            settings={"fsync": "on"},
            versions={"ours": {"Python": "3.11.7"}},
            payload_bytes=253,
        ),
        options=Options(rounds=1, seconds=1, feed_events=20_000, bulk_events=1_000),
        conditions={"W1": Conditions(load_average=0.5, syncs_per_second=900)},
        rows=[summarise(workload, CONTENDERS[name], samples) for name in samples],
        growth=[
            Growth(
                workload="W1",
                title=workload.title,
                contender="ours",
                events=events,
                rounds=3,
                events_per_second=800,
                p50_ms=1.2,
                ratio=1,
            )
            for events in (0, 100_000, 1_000_000)
        ],
        skipped=[Skip(workload="S1", contender="message-db", reason="it has no subscriptions")],
    )


def test_the_same_values_make_the_same_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        publish.publish(a_report(), folder)
    names = sorted(file.name for file in first.iterdir())
    assert names == ["README.md", "W1.svg", "growth.svg", "results.json"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_page_tells_figures_machine_and_who_was_left_out(tmp_path: Path) -> None:
    publish.publish(a_report(), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| **ours** | 800/s (0.80) |" in page
    assert "![W1](W1.svg)" in page
    assert "fdatasync/s 900" in page
    assert "- ours: Python 3.11.7" in page
    assert "- message-db in S1: it has no subscriptions" in page
    assert Report.model_validate_json((tmp_path / "results.json").read_text()) == a_report()


def test_plots_name_everybody_and_colour_ours(tmp_path: Path) -> None:
    (tmp_path / "W99.svg").write_text("of a workload that is no more")
    publish.publish(a_report(), tmp_path)
    plot = (tmp_path / "W1.svg").read_text()
    assert all(name in plot for name in ("raw", "ours", "message-db", "0.80"))
    assert plot.count("#1f6feb") == 1
    assert not (tmp_path / "W99.svg").exists()
