"""Whatever happens at whichever steps: events take effect once and in order, or are given up."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.codec import JsonPayloads
from eventstore.errors import ConnectionUnusable
from eventstore.subscriptions import PARK, SKIP, STOP, OnFailure, RetryPolicy, Subscription
from eventstore.subscriptions.catch_up import Acquire, Deliver, Pause, Release, Report, Reported
from eventstore.subscriptions.failures import describe
from eventstore.subscriptions.worker import Worker
from tests.unit.subscriptions.simulation import MISHAPS, Event, Simulation, simulated

if TYPE_CHECKING:
    from collections.abc import Iterable

EVENTS = [Event(2 * n, f"s{n % 3}") for n in range(1, 6)]  # with holes
POLICIES = [PARK, SKIP]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "eventstore.subscriptions")


def subscription(policy: OnFailure = PARK, **options: Any) -> Subscription:
    options = {"batch_size": 3, "retry": RetryPolicy(max_attempts=3), **options}
    return Subscription("view", print, on_failure=policy, **options)


def expected(simulation: Simulation) -> list[int]:
    """What the view holds if everything has gone by the rules."""
    gone = simulation.bad | simulation.deadly
    first = {each.stream_id: each.position for each in reversed(EVENTS) if each.position in gone}
    return [
        each.position
        for each in EVENTS
        if each.position not in gone
        and (
            simulation.subscription.on_failure is SKIP
            or each.position < first.get(each.stream_id, 99)
        )
    ]


def check(simulation: Simulation) -> None:
    state, told = simulation.state, f"{simulation.mishaps}, view {simulation.state.view}"
    assert state.owner is None or len(simulation.mishaps) > 1, told
    assert not simulation.of_feed(state, state.checkpoint), told
    assert not simulation.is_late, told
    if simulation.subscription.external:
        view = state.view
        assert sorted(set(view)) == expected(simulation), told
        check_attempts_told(simulation)
    else:
        assert state.view == expected(simulation), told
    for position, attempts, error in state.parked.values():
        assert position in simulation.bad | simulation.deadly, told
        if not any("crash" in each for each in simulation.mishaps.values()):
            # A lost connection is no attempt; who takes over learns the error by one more.
            assert attempts == 3 + ("taken over" in simulation.mishaps.values() and attempts > 3)
            assert error == "ValueError: no", told


def check_attempts_told(simulation: Simulation) -> None:
    known: set[int] = set()
    for position, attempt in simulation.handed:
        assert attempt > 1 or position not in known, f"{position}, {simulation.mishaps}"
        known.add(position)


def all_steps(simulation: Simulation) -> Iterable[int]:
    return range(1, simulation.steps + 1)


@pytest.mark.parametrize(("external", "by_hints"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("bad", [frozenset[int](), frozenset({4, 8})])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_whatever_happens_at_any_step(
    monkeypatch: pytest.MonkeyPatch,
    policy: OnFailure,
    bad: frozenset[int],
    batch_size: int,
    *,
    external: bool,
    by_hints: bool,
) -> None:
    def run(mishaps: dict[int, str]) -> Simulation:
        spec = subscription(policy, external=external, batch_size=batch_size)
        made = Simulation(spec, EVENTS, bad=bad, mishaps=mishaps, by_hints=by_hints)
        return simulated(monkeypatch, made)

    undisturbed = run({})
    check(undisturbed)
    for step, mishap in itertools.product(all_steps(undisturbed), MISHAPS):
        check(run({step: mishap}))


@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_happens_at_any_two_steps(
    monkeypatch: pytest.MonkeyPatch, policy: OnFailure
) -> None:
    def run(mishaps: dict[int, str]) -> Simulation:
        made = Simulation(subscription(policy), EVENTS, bad=frozenset({4}), mishaps=mishaps)
        return simulated(monkeypatch, made)

    steps = list(all_steps(run({})))
    for first, second in itertools.combinations(steps, 2):
        # Each pair of kinds comes at some pair of steps, and one at each.
        kinds = list(itertools.product(MISHAPS, MISHAPS))[(7 * first + second) % 25]
        check(run(dict(zip((first, second), kinds, strict=True))))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("deadly", [2, 6, 10])
def test_an_event_that_ends_its_process_is_given_up(
    monkeypatch: pytest.MonkeyPatch, deadly: int, *, external: bool
) -> None:
    spec = subscription(external=external)
    simulation = simulated(monkeypatch, Simulation(spec, EVENTS, deadly=frozenset({deadly})))
    ((position, attempts, error),) = simulation.state.parked.values()
    assert (position, attempts) == (deadly, 3)
    assert "the process died" in error
    # Once in a batch, and then by itself.
    assert simulation.processes == 5
    if not external:
        assert simulation.state.view == expected(simulation)


def test_what_has_taken_effect_outside_does_not_come_again_after_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = subscription(external=True)
    simulation = simulated(monkeypatch, Simulation(spec, EVENTS, outages={6: 5}))
    assert simulation.state.view == [2, 4, 6, 8, 10]
    assert simulation.state.parked == {}


@pytest.mark.parametrize("mishap", ["lost before", "lost after"])
def test_an_orderly_end_forgets_no_effect_outside(
    monkeypatch: pytest.MonkeyPatch, mishap: str
) -> None:
    """Whatever step was interrupted last: the save of the checkpoint, above all."""

    def run(mishaps: dict[int, str]) -> Simulation:
        spec = subscription(external=True)
        made = Simulation(spec, EVENTS, bad=frozenset({8}), mishaps=mishaps)
        if mishaps:
            made.stop_at = Pause(0.05)
        return simulated(monkeypatch, made)

    simulations = [run({step: mishap}) for step in all_steps(run({}))]
    assert {2} < {simulation.processes for simulation in simulations}
    for simulation in simulations:
        check_attempts_told(simulation)


def test_a_halt_forgets_no_effect_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = subscription(STOP, external=True)
    simulation = simulated(monkeypatch, Simulation(spec, EVENTS, bad=frozenset({6})))
    assert simulation.state.error == ("ValueError: no", 6)
    simulation.state.error, simulation.bad = None, frozenset()
    simulation.run()
    check(simulation)
    # In a batch, three times by itself, and once more when it is run again.
    assert [attempt for position, attempt in simulation.handed if position == 6] == [1, 2, 3, 4, 2]


@pytest.mark.parametrize("external", [False, True])
def test_what_interrupts_again_and_again_is_reported(
    monkeypatch: pytest.MonkeyPatch, *, external: bool
) -> None:
    def run(outages: int) -> Simulation:
        spec = subscription(external=external)
        return simulated(monkeypatch, Simulation(spec, EVENTS, outages={6: outages}))

    assert run(2).reports == []
    simulation = run(5)
    errors, seconds = zip(*simulation.reports, strict=True)
    assert set(errors) == {describe(ConnectionUnusable("57P01"))}
    # From the first one on; the waits are 0.05 seconds at first, and grow. Inside, events before it
    # are steps ahead once they come by themselves, and two more interruptions are not many.
    assert list(seconds) == pytest.approx([0.35, 0.75, 1.55] if external else [0.35])
    # No attempt was counted.
    assert simulation.state.parked == {}
    check(simulation)


def test_an_interruption_that_is_over_is_no_more_reported_though_no_event_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = simulated(monkeypatch, Simulation(subscription(), EVENTS))
    worker = Worker(subscription(), 0, "w", JsonPayloads(), None, clock=lambda: 0.0)
    for command in (Acquire(), Deliver(3, marked=False)):
        simulation.perform(worker, command)
    worker.interrupted(ConnectionUnusable("57P01"))
    assert simulation.perform(worker, Report()) == Reported()
    saves = simulation.state.saves
    for _ in range(2):
        simulation.perform(worker, Deliver(3, marked=False))
        assert simulation.state.saves == saves + 1


@pytest.mark.parametrize("external", [False, True])
def test_an_event_that_crashes_the_server_process_is_given_up(
    monkeypatch: pytest.MonkeyPatch, *, external: bool
) -> None:
    spec = subscription(external=external)
    simulation = simulated(monkeypatch, Simulation(spec, EVENTS, crashing=frozenset({6})))
    ((position, attempts, _error),) = simulation.state.parked.values()
    assert (position, attempts) == (6, 3)
    assert sorted(set(simulation.state.view)) == [2, 4, 8, 10]
    # Three times in a batch, or twice at its head, five times in vain, and three that count.
    assert sum(each == 6 for each, _ in simulation.handed) == 3 + 5 + 3


def test_attempts_are_counted_over_an_orderly_end(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(subscription(), EVENTS, bad=frozenset({6}))
    simulation.stop_at = Pause(0.2)  # after the second attempt
    simulated(monkeypatch, simulation)
    assert simulation.processes == 2
    assert simulation.state.parked == {"s0": (6, 3, "ValueError: no")}
    # In a batch, and three times by itself.
    assert [attempt for position, attempt in simulation.handed if position == 6] == [1, 2, 3, 4]


def test_stop_leaves_a_note_and_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(mishaps: dict[int, str]) -> Simulation:
        made = Simulation(subscription(STOP), EVENTS, bad=frozenset({6}), mishaps=mishaps)
        return simulated(monkeypatch, made)

    undisturbed = run({})
    lost = [{n: mishap} for n in all_steps(undisturbed) for mishap in MISHAPS[:2]]
    for mishaps in [{}, *lost]:
        simulation = run(mishaps)
        assert simulation.state.error == ("ValueError: no", 6), mishaps
        assert simulation.state.checkpoint == 4, mishaps
        assert simulation.state.owner is None, mishaps


def test_nothing_is_written_while_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(subscription(), [*EVENTS, Event(99, "foreign")])
    simulation.state.parked["foreign"] = 1, 1, ""
    simulated(monkeypatch, simulation)
    # Two batches, and what was scanned in vain when the lease was given back.
    assert simulation.state.saves == 3 - 1


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("outages", [0, 3])  # from the third on, events come one by one
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_that_is_let_go_at_any_step_comes_in_order(
    monkeypatch: pytest.MonkeyPatch, outages: int, batch_size: int, *, external: bool
) -> None:
    """Some of its events were scanned in vain, and the checkpoint still lies before them."""
    monkeypatch.setattr("eventstore.subscriptions.worker.SCAN_POSITIONS", 3)
    streams = {1: "other", 2: "a", 5: "a", 8: "a", 9: "other", 11: "a"}
    events = [Event(position, stream_id) for position, stream_id in streams.items()]

    def run(mishaps: dict[int, str]) -> Simulation:
        spec = subscription(external=external, batch_size=batch_size)
        made = Simulation(spec, events, mishaps=mishaps, outages={9: outages})
        made.state.parked["a"] = 2, 3, "ValueError: no"
        return simulated(monkeypatch, made)

    for step in all_steps(run({})):
        simulation = run({step: "replayed"})
        if simulation.state.parked:
            continue  # its transaction had to wait for the worker's
        first_comings = dict.fromkeys(position for position, _ in simulation.handed)
        of_stream = [position for position in first_comings if streams[position] == "a"]
        assert of_stream == [2, 5, 8, 11], (step, simulation.handed)
        if not external:
            assert sorted(simulation.state.view) == list(streams), step


class Watched(Simulation):
    """Notes down what is read."""

    def run(self) -> Simulation:
        self.reads: list[tuple[int, int | None]] = []
        return super().run()

    def read_slice(self, *args: Any, after: int, until: int | None, **kwargs: Any) -> list[Any]:
        self.reads.append((after, until))
        return super().read_slice(*args, after=after, until=until, **kwargs)


def test_one_page_serves_several_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Watched(subscription(batch_size=1), EVENTS)
    simulated(monkeypatch, simulation)
    assert simulation.reads == [(0, 10)]
    assert simulation.state.saves == len(EVENTS)


@pytest.mark.parametrize("personal", [False, True])
def test_no_more_than_a_batch_is_read_where_more_must_not_be_kept(
    monkeypatch: pytest.MonkeyPatch, *, personal: bool
) -> None:
    """The effects of what was let go meanwhile, and the keys of persons who are forgotten."""
    if personal:
        monkeypatch.setattr(JsonPayloads, "personal", frozenset({"named"}))
    simulation = Watched(subscription(batch_size=1, external=not personal), EVENTS)
    simulated(monkeypatch, simulation)
    assert len(simulation.reads) == len(EVENTS)
    check(simulation)


def test_a_page_is_soon_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was let go meanwhile is not in it."""

    class Slow(Watched):
        def save_checkpoint(self, *args: Any, **kwargs: Any) -> bool:
            self.now += 0.6
            return super().save_checkpoint(*args, **kwargs)

    simulation = Slow(subscription(batch_size=1), EVENTS)
    simulated(monkeypatch, simulation)
    assert simulation.reads == [(0, 10), (4, 10), (8, 10)]
    check(simulation)


def test_what_was_read_under_an_earlier_lease_is_read_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream may have been let go in between, whose events that page has left out."""
    simulation = Simulation(subscription(batch_size=1), EVENTS)
    simulation.state.parked["s1"] = 2, 3, "ValueError: no"
    simulated(monkeypatch, simulation)
    simulation.state.checkpoint, simulation.state.view = 0, []
    worker = Worker(subscription(), 0, "w", JsonPayloads(), None, clock=lambda: 0.0)
    for command in (Acquire(), Deliver(1, marked=False), Release()):
        simulation.perform(worker, command)
    simulation.state.parked.clear()
    for command in (Acquire(), *[Deliver(1, marked=False)] * 3):
        simulation.perform(worker, command)
    assert simulation.state.view == [4, 6, 8, 10]


@pytest.mark.parametrize("external", [False, True])
def test_a_process_that_was_frozen_hands_over_nothing_more(
    monkeypatch: pytest.MonkeyPatch, *, external: bool
) -> None:
    def run(mishaps: dict[int, str]) -> Simulation:
        spec = subscription(external=external)
        return simulated(monkeypatch, Simulation(spec, EVENTS, mishaps=mishaps))

    for step in all_steps(run({})):
        check(run({step: "frozen"}))


def test_a_scan_that_finds_nothing_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.subscriptions.worker.SCAN_POSITIONS", 3)
    simulation = Watched(subscription(), [*EVENTS, Event(20, "s0")])
    simulated(monkeypatch, simulation)
    assert all(until is not None and until - after <= 3 for after, until in simulation.reads)
    assert simulation.state.view == [2, 4, 6, 8, 10, 20]
