"""``python -m benchmarks.wake_ups``: how soon a handler hears of a commit, and what that costs.

From the moment at which ``commit()`` has returned until the handler is called, in the same process
and in another one; the CPU time of a process whose subscriptions have nothing to do; and what
16 writers append per second with and without wake-ups, turn by turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session

from benchmarks.databases import postgresql
from eventstore import ANY, EventEnvelope, SqlAlchemyEventStore
from eventstore.subscriptions import CommitNotifier, Subscription, SubscriptionRunner
from eventstore.testing.databases import migrated_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAUSE_SECONDS: Final = 0.005
_WRITERS: Final = 16


def main() -> int:
    """Measure, on an embedded PostgreSQL or on a server of yours, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url", type=make_url)
    parser.add_argument("--events", type=int, default=500, help="timed one by one")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn of the writers")
    parser.add_argument("--rounds", type=int, default=7, help="turns of the writers")
    parser.add_argument("--role", choices=["listen", "idle"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        return ROLES[arguments.role](arguments.database_url)
    with postgresql(arguments.database_url) as server:
        for measure in (same_process, other_process):
            with migrated_database(server) as url:
                seconds = sorted(measure(url, arguments.events))
                print(measure.__name__.replace("_", " "), percentiles(seconds))
        with migrated_database(server) as url:
            print(f"idle: {idle(url):.2f} % of a core")
        for name, wake_ups in (("notifier", notifier), ("notifier and runner", both)):
            with migrated_database(server) as url:
                ratio = compare(url, wake_ups, arguments.rounds, arguments.seconds)
            print(f"{_WRITERS} writers with {name}: {ratio}")
    return 0


def percentiles(seconds: list[float]) -> str:
    """Return the percentiles that matter, in milliseconds."""
    return ", ".join(
        f"p{percent} {seconds[len(seconds) * percent // 100] * 1000:.2f} ms"
        for percent in (50, 90, 99)
    )


def append(session: Session, stream_id: str) -> None:
    """Append an event; the caller commits."""
    event: EventEnvelope[Any] = EventEnvelope(
        aggregate_type="Account", event_type="Deposited", event_data={"amount": 5}
    )
    SqlAlchemyEventStore(session).append_to_stream(stream_id, ANY, [event])


def same_process(url: URL, events: int) -> Iterator[float]:
    """Yield the time for each event where writer and runner are in this process."""
    engine = create_engine(url)
    arrived = threading.Event()
    times = [0.0]

    def handler(_session: Session, _event: object) -> None:
        times[0] = time.monotonic()
        arrived.set()

    with SubscriptionRunner(engine, [Subscription("timed", handler)]):
        for _ in range(events):
            committed = commit_one(engine)
            arrived.wait()
            arrived.clear()
            yield max(0.0, times[0] - committed)
            time.sleep(_PAUSE_SECONDS)
    engine.dispose()


def other_process(url: URL, events: int) -> Iterator[float]:
    """Yield the time for each event where the runner is in a process of its own."""
    engine = create_engine(url)
    with child("listen", url) as listener, CommitNotifier(engine):
        assert listener.stdout is not None
        for _ in range(events):
            committed = commit_one(engine)
            yield max(0.0, float(listener.stdout.readline()) - committed)
            time.sleep(_PAUSE_SECONDS)
    engine.dispose()


def commit_one(engine: Engine) -> float:
    """Append and commit an event, and return the time at which that was done."""
    with Session(engine) as session:
        append(session, "timed")
        session.commit()
        return time.monotonic()


def listen(url: URL) -> int:
    """Be the other process: print the time at which each event has arrived."""

    def handler(_session: Session, _event: object) -> None:
        now = time.monotonic()  # one clock for all processes of a machine
        print(now, flush=True)

    with SubscriptionRunner(create_engine(url), [Subscription("timed", handler)]) as runner:
        runner.run_until_current()
        time.sleep(0.5)  # until it listens
        print("ready", flush=True)
        sys.stdin.read()
    return 0


def idle(url: URL) -> float:
    """Return the CPU time that a runner takes which has nothing to do, in percent."""
    with child("idle", url) as process:
        assert process.stdout is not None
        return float(process.stdout.readline())


def do_nothing(url: URL) -> int:
    """Be the process that has nothing to do."""
    with SubscriptionRunner(create_engine(url), [Subscription("timed", print)]):
        time.sleep(1)
        print("ready", flush=True)
        began, used = time.monotonic(), time.process_time()
        time.sleep(10)
        print((time.process_time() - used) / (time.monotonic() - began) * 100, flush=True)
        sys.stdin.read()
    return 0


ROLES: Final = {"listen": listen, "idle": do_nothing}


@contextmanager
def child(role: str, url: URL) -> Iterator[subprocess.Popen[str]]:
    """Run this module in another process, from when it is ready until its input is closed."""
    address = url.render_as_string(hide_password=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.wake_ups", "--role", role, "--database-url", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "ready":
        pass
    try:
        yield process
    finally:
        process.communicate()


@contextmanager
def notifier(url: URL) -> Iterator[None]:
    """Tell whoever listens: nobody does."""
    engine = create_engine(url)
    with CommitNotifier(engine):
        yield
    engine.dispose()


@contextmanager
def both(url: URL) -> Iterator[None]:
    """Tell a runner in another process, which handles each event."""
    with child("listen", url) as listener, notifier(url):
        assert listener.stdout is not None
        threading.Thread(target=listener.stdout.read, daemon=True).start()
        yield


def compare(url: URL, wake_ups: Callable[[URL], Any], rounds: int, seconds: float) -> str:
    """Return how many events per second are appended with wake-ups, as a part of those without."""
    engine = create_engine(url, pool_size=_WRITERS)
    ratios = []
    for _ in range(rounds):
        without = rate(engine, seconds)
        with wake_ups(url):
            ratios.append(rate(engine, seconds) / without)
    engine.dispose()
    low, high = min(ratios), max(ratios)
    return f"{statistics.median(ratios):.3f} of the rate without ({low:.3f} to {high:.3f})"


def rate(engine: Engine, seconds: float) -> float:
    """Return how many events the writers append per second, each in a transaction and stream."""
    counts = [0] * _WRITERS
    end = time.monotonic() + seconds

    def write(number: int) -> None:
        while time.monotonic() < end:
            with Session(engine) as session, session.begin():
                append(session, f"writer-{number}")
            counts[number] += 1

    with ExitStack() as threads:
        for number in range(_WRITERS):
            thread = threading.Thread(target=write, args=(number,))
            thread.start()
            threads.callback(thread.join)
    return sum(counts) / seconds


if __name__ == "__main__":
    sys.exit(main())
