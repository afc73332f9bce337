"""The benchmark's arithmetic: what its ratios say, and what it calls worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import command_line, contenders, payload, protocol, report
from benchmarks.contenders import CONTENDERS, with_baselines
from benchmarks.controller import Unavailable
from benchmarks.install import Python, choose_python, read_peers
from benchmarks.protocol import Sample
from benchmarks.rounds import interleave
from benchmarks.workloads import WORKLOADS, Metric


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


def test_p99_of_few_calls_is_not_told() -> None:
    assert report.p99([0.001] * 99) is None
    assert report.p99([0.001] * 98 + [0.5] * 2) == pytest.approx(500)


def row(contender: str, ratio: float) -> report.Row:
    raw = [sample(1000)]
    own = [sample(round(1000 * ratio))]
    samples = {"raw": raw, "raw-transaction": raw, contender: own}
    return report.summarise(WORKLOADS["W1"], CONTENDERS[contender], samples)


def test_a_fall_beyond_the_noise_is_told_and_what_is_new_or_better_is_not() -> None:
    earlier = [row("ours", 0.8), row("ours-transaction", 0.8), row("ours-held", 0.5)]
    now = [
        row("ours", 0.6),
        row("ours-transaction", 0.7),
        row("ours-held", 0.9),
        row("message-db", 0.1),
    ]
    (fall,) = report.what_got_worse(now, earlier)
    assert str(fall) == "W1 ours: 0.80 -> 0.60 of raw (-25%)"


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
    many = [payload.new_metadata() for _ in range(1_000)]
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


def test_the_help_can_be_read() -> None:
    defaults = {"rounds": 1, "seconds": 1.0, "feed_events": 1, "bulk_events": 1}
    help_text = command_line.make_parser("benchmarks.quick", None, **defaults).format_help()
    assert "fell by more than 15 % since that JSON" in " ".join(help_text.split())
