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
from benchmarks.report import Growth, Options, Report, Skip, at, summarise
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
            *(grown("W1", "raw", events) for events in (0, 100_000, 1_000_000)),
            *(grown("W1", "ours", events) for events in (0, 1_000_000)),
            *(grown("S1", "ours", events) for events in (0, 100_000)),
            *(grown("R2", "ours", events) for events in (20_000, 100_000)),
        ],
        skipped=[
            Skip(workload="S1", contender="message-db", reason="it has no subscriptions"),
            Skip(workload=at("W1", 100_000), contender="ours", reason="its disk was full"),
        ],
    )


def grown(workload: str, contender: str, events: int) -> Growth:
    return Growth(
        workload=workload,
        title=WORKLOADS[workload].title,
        contender=contender,
        events=events,
        rounds=3,
        events_per_second=800,
        p50_ms=1.2,
        ratio=0.9 if events > 20_000 else 1,
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


def test_growth_stands_beside_the_empty_store_and_says_what_could_not_be_measured(
    tmp_path: Path,
) -> None:
    publish.publish(a_report(), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| workload | contender | rounds | empty | 100,000 | 1,000,000 |" in page
    assert "| W1 1 event | raw | 3 | 800/s | 800/s (0.90) | 800/s (0.90) |" in page
    assert "| W1 1 event | **ours** | 3 | 800/s | not measured | 800/s (0.90) |" in page
    assert "| **ours** | 3 | p50 1.20 ms | p50 1.20 ms (0.90) | not measured |" in page
    assert "- ours in W1 at 100,000: its disk was full" in page


def test_growth_has_a_panel_for_each_workload(tmp_path: Path) -> None:
    publish.publish(a_report(), tmp_path)
    plot = (tmp_path / "growth.svg").read_text()
    for text in ("W1: 1 event", "S1: commit to handler", "R2: streams of 10"):
        assert plot.count(f">{text}<") == 1
    # Named once, however many panels they are in.
    assert [plot.count(f">{name}<") for name in ("raw", "ours")] == [1, 1]
    assert plot.count(">1,000,000<") == 3


def test_plots_name_everybody_and_colour_ours(tmp_path: Path) -> None:
    (tmp_path / "W99.svg").write_text("of a workload that is no more")
    publish.publish(a_report(), tmp_path)
    plot = (tmp_path / "W1.svg").read_text()
    assert all(name in plot for name in ("raw", "ours", "message-db", "0.80"))
    assert plot.count("#1f6feb") == 1
    assert not (tmp_path / "W99.svg").exists()
