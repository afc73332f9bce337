"""The benchmark's arithmetic: what its ratios say, and what it calls worse."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks import __main__ as command_line
from benchmarks import contenders, contents, measure, pgbench, protocol, report
from benchmarks.contenders import CONTENDERS, with_baselines
from benchmarks.controller import Unavailable
from benchmarks.install import Python, choose_python, read_peers
from benchmarks.measure import Clock, interleave
from benchmarks.protocol import Sample
from benchmarks.workloads import GROWTH, WORKLOADS, Metric, Sizes

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.databases import Databases
    from benchmarks.lanes import Workers
    from benchmarks.workloads import Workload


def sample(events: int, *, seconds: float = 1.0, latency: float = 0.001) -> Sample:
    return Sample(events=events, seconds=seconds, latencies=[latency] * events)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # The second round was ten times slower for both: it says the same as the others.
    ours = [sample(50), sample(5), sample(80)]
    raw = [sample(100), sample(10), sample(100)]
    assert report.ratio(ours, raw, Metric.RATE) == pytest.approx(0.5)


def test_a_latency_that_is_twice_the_baselines_is_half_as_good() -> None:
    ours, raw = [sample(10, latency=0.002)], [sample(10, latency=0.001)]
    assert report.ratio(ours, raw, Metric.LATENCY) == pytest.approx(0.5)


def test_a_tail_is_that_of_the_slowest_hundredth() -> None:
    steady = Sample(events=200, seconds=1, latencies=[0.002] * 200)
    uneven = Sample(events=200, seconds=1, latencies=[0.001] * 190 + [0.008] * 10)
    assert report.ratio([uneven], [steady], Metric.TAIL) == pytest.approx(0.25)


def test_p99_of_few_calls_is_not_told() -> None:
    assert report.p99([0.001] * 99) is None
    assert report.p99([0.001] * 98 + [0.5] * 2) == pytest.approx(500)


def row(contender: str, ratio: float, workload: str = "W1") -> report.Row:
    raw = [sample(1000)]
    own = [sample(round(1000 * ratio))]
    samples = {"raw": raw, "raw-transaction": raw, contender: own}
    return report.summarise(WORKLOADS[workload], CONTENDERS[contender], samples)


def grown(events: int, ratio: float) -> report.Growth:
    own, empty = [sample(round(1000 * ratio))], [sample(1000)]
    return report.grown(WORKLOADS["W1"], CONTENDERS["ours"], events, own, empty)


def a_report(
    rows: list[report.Row], growth: list[report.Growth], *, feed_events: int = 50_000
) -> report.Report:
    options = report.Options(rounds=3, seconds=1, feed_events=feed_events, bulk_events=1_000)
    # Of what is compared, the machine is no part.
    return report.Report.model_construct(options=options, rows=rows, growth=growth)


def test_a_fall_beyond_the_noise_is_told_and_what_is_new_or_better_is_not() -> None:
    earlier = a_report(
        [row("ours", 0.8), row("ours-transaction", 0.8), row("ours-held", 0.5)],
        [grown(100_000, 1.0), grown(1_000_000, 1.0)],
    )
    now = a_report(
        [
            row("ours", 0.6),
            row("ours-transaction", 0.7),
            row("ours-held", 0.9),
            row("message-db", 0.1),
        ],
        [grown(100_000, 0.9), grown(1_000_000, 0.5)],
    )
    assert list(map(str, report.what_got_worse(now, earlier))) == [
        "W1 ours: 0.80 -> 0.60 (-25%)",
        "W1 at 1,000,000 ours: 1.00 -> 0.50 (-50%)",
    ]


def test_what_was_read_in_other_numbers_is_not_compared() -> None:
    earlier = a_report([row("ours", 1.7, "R3"), row("ours", 0.8)], [], feed_events=500_000)
    now = a_report([row("ours", 1.2, "R3"), row("ours", 0.6)], [], feed_events=50_000)
    assert [fall.workload for fall in report.what_got_worse(now, earlier)] == ["W1"]


def test_who_has_no_baseline_of_its_own_mode_stands_beside_raw() -> None:
    samples = {"raw": [sample(1000)], "ours-async": [sample(500)]}
    result = report.summarise(WORKLOADS["S2"], CONTENDERS["ours-async"], samples)
    assert (result.ratio, result.ratio_to_raw) == (0.5, 0.5)


def test_who_fails_in_a_round_is_out_and_the_others_go_on() -> None:
    calls: list[str] = []

    def steady() -> Sample:
        calls.append("steady")
        return sample(1)

    def fails_later() -> Sample:
        calls.append("fails")
        if calls.count("fails") > 1:
            raise Unavailable("gone")
        return sample(1)

    taken = interleave({"steady": steady, "fails": fails_later}, 3)
    assert calls == ["steady", "fails", "fails", "steady", "steady"]
    assert len(taken.samples["steady"]) == 3
    assert "fails" not in taken.samples
    assert taken.skipped == {"fails": "gone"}


def test_when_the_time_is_over_no_round_begins_but_the_least() -> None:
    turns = {"steady": lambda: sample(1)}
    over = time.monotonic() - 1
    assert len(interleave(turns, 10, least=3, deadline=over).samples["steady"]) == 3
    assert len(interleave(turns, 2, least=3, deadline=over).samples["steady"]) == 2
    assert len(interleave(turns, 10, least=3).samples["steady"]) == 10


def test_time_that_a_task_leaves_over_is_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(measure.time, "monotonic", lambda: now)
    clock = Clock(minutes=1, shares=3)
    assert clock.next_deadline() == pytest.approx(1020)
    now = 1010.0
    assert clock.next_deadline() == pytest.approx(1035)
    now = 2000.0
    assert clock.next_deadline() == pytest.approx(2000)


def test_a_task_may_have_less_than_a_whole_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.time, "monotonic", lambda: 1000.0)
    clock = Clock(minutes=1, shares=1.5)
    assert clock.next_deadline() == pytest.approx(1040)
    # Nothing is used up: what is left is the last one's, and no more than that.
    assert clock.next_deadline(0.5) == pytest.approx(1060)
    assert clock.next_deadline(0.5) == pytest.approx(1060)


class FakeDatabases:
    """Stores by name; one is too large for this disk."""

    def filled(self, contender: Contender, events: int) -> str:
        if events == 1_000_000:
            raise Unavailable("no space left")
        return f"{contender.tables} {events}"

    def written(self, contender: Contender, workload: str) -> str:
        return f"{contender.name} {workload}"


class FakeLane:
    """Appends 100 events a second on an empty store, half as many on others, unless it fails."""

    def __init__(self, contender: Contender, url: str, _: object) -> None:
        self.contender, self.url = contender, url

    def turn(self, workload: Workload, _: protocol.Run) -> Sample:
        empty = self.url == f"{self.contender.name} {workload.name}"
        if empty and self.contender.name == "raw":
            raise Unavailable("its worker died")
        return sample(100 if empty else 50)


def test_growth_tells_what_could_not_be_measured_at_a_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "WorkerLane", FakeLane)
    options = report.Options(rounds=9, seconds=1, feed_events=20_000, bulk_events=1_000)
    plan = measure.Plan(contenders=[], workloads=[], options=options, growth=[50_000, 1_000_000])
    run = measure._Run(plan, cast("Databases", FakeDatabases()), cast("Workers", None))
    everybody = list(CONTENDERS.values())

    growth, skipped = run.grow(WORKLOADS["W32"], everybody, deadline=math.inf)

    ratios = {row.key: (row.ratio, row.rounds) for row in growth}
    assert ratios == {
        (f"W32 at {size}", contender): (ratio, measure.GROWTH_ROUNDS)
        for contender in ("ours", "ours-group-async")
        for size, ratio in (("0", 1), ("50,000", 0.5))
    }
    assert {(skip.contender, skip.workload): skip.reason for skip in skipped} == {
        **{
            (contender, "W32 at 1,000,000"): "no space left"
            for contender in ("raw", "ours", "ours-group-async")
        },
        ("raw", "W32 at 0"): "its worker died",
        ("raw", "W32 at 50,000"): "nothing to compare with: no empty store",
    }


def test_growth_reads_before_it_writes_and_writes_most_at_last() -> None:
    reads = [workload.reads for workload in GROWTH]
    assert reads == sorted(reads, reverse=True)
    assert GROWTH[-1].name == "W4"


def test_peers_do_a_part_of_the_long_workloads_and_the_least_that_makes_sense() -> None:
    whole = Sizes(feed_events=500_000, bulk_events=100_000)
    assert CONTENDERS["ours"].sizes(whole) == whole
    part = Sizes(feed_events=100_000, bulk_events=20_000)
    assert CONTENDERS["emmett"].sizes(whole) == part
    least = Sizes(feed_events=contents.MIN_EVENTS, bulk_events=contents.BULK)
    assert CONTENDERS["emmett"].sizes(Sizes(feed_events=30_000, bulk_events=3_000)) == least


def test_pgbench_reads_and_writes_what_the_others_do_and_leaves_out_the_rest() -> None:
    script, events = pgbench.script_of(protocol.Run(operation="append", events=10))
    assert "generate_series(1, 10)" in script
    assert events == 10
    script, events = pgbench.script_of(protocol.Run(operation="read_short_stream"))
    assert script.startswith("\\set number random(0, 999)\n")
    assert events == contents.SHORT_STREAM_EVENTS
    with pytest.raises(Unavailable, match="no script for decide"):
        pgbench.script_of(protocol.Run(operation="decide"))


@pytest.mark.parametrize(
    "message",
    [
        protocol.Run(operation="append", seconds=0.5),
        Sample(events=1, seconds=0.5, latencies=[0.1]),
        protocol.Skipped(reason="none"),
    ],
)
def test_a_message_comes_through_as_it_was(message: protocol.Request | protocol.Reply) -> None:
    assert protocol.decode(protocol.encode(message)) == message


def test_every_event_has_correlation_and_causation_ids_of_its_own() -> None:
    many = [contents.new_metadata() for _ in range(1_000)]
    for key in ("correlation_id", "causation_id"):
        assert len({metadata[key] for metadata in many}) == 1_000


def test_contenders_are_measured_beside_the_baselines_of_their_modes() -> None:
    names = [contender.name for contender in with_baselines(["ours-transaction"])]
    assert names == ["raw", "raw-transaction", "ours-transaction"]
    for name in contenders.QUICK:
        assert CONTENDERS[name].peer is None


def test_what_contenders_name_is_there() -> None:
    peers = read_peers()
    for contender in CONTENDERS.values():
        assert contender.peer is None or contender.peer in peers
        assert contender.only <= WORKLOADS.keys()


def test_a_peer_that_needs_a_newer_python_than_there_is_is_unavailable() -> None:
    old = Python(Path("python3.11"), (3, 11))
    assert choose_python(read_peers()["eventsourcing"], [old]) is old
    with pytest.raises(Unavailable, match=r"needs Python 3\.13"):
        choose_python(read_peers()["logicblocks-event-store"], [old])


def test_the_help_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("quick", "full"):
        with pytest.raises(SystemExit):
            command_line.make_parser().parse_args([command, "--help"])
        help_text = " ".join(capsys.readouterr().out.split())
        assert "fell by more than 15 % since that JSON" in help_text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("quick --rounds 0", "--rounds must be at least 1"),
        ("quick --feed-events 19999", "--feed-events must be at least 20000"),
        ("quick --bulk-events 1500", "--bulk-events must be a multiple of 1000"),
        ("full --only W1 W9", "not W9"),
        ("full --growth 20000", "--growth begins above 20000 events"),
    ],
)
def test_what_would_fail_in_the_middle_is_refused_at_the_start(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = command_line.make_parser()
    with pytest.raises(SystemExit):
        command_line.check_arguments(parser, parser.parse_args(arguments.split()))
    assert message in capsys.readouterr().err
