"""A rebuild while events are appended, views are read, and processes die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from eventstore import EventEnvelope, SqlAlchemyEventStore
from eventstore.projections import (
    begin_rebuild,
    handles,
    live,
    make_inline,
    rebuild,
    subscription_of,
    switch_version,
)
from eventstore.subscriptions import SubscriptionRunner
from tests.fixtures.stores import DEADLINE_SECONDS, in_threads
from tests.fixtures.views import (
    Balance,
    Balances,
    Deposited,
    Entry,
    Sent,
    balances,
    committed_balances,
    deposit,
    registry,
    run,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine


class First(Balances):
    """Leaves a trace of each side effect, and of who had it."""

    partitions = 2

    @handles(Deposited, replay=False)
    def _tell(self, event: EventEnvelope[Deposited], session: Session) -> None:
        session.add(Sent(position=event.sequence_number, by=self.version))


class Second(First):
    version = 2
    factor = 2
    partitions = 3


def folded(engine: Engine, projection: Balances) -> dict[str, int]:
    with (
        Session(engine) as session,
        live(projection, SqlAlchemyEventStore(session, registry)) as view,
    ):
        return balances(view)


def test_a_switch_and_back_under_traffic(bank: Engine) -> None:
    """Readers never see a mixture; side effects happen once for each event, by one version."""
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201
    with Session(bank) as session, session.begin():
        begin_rebuild(session, First(), registry)  # live before the first event
    over = threading.Event()
    reads: list[tuple[int, int]] = []

    def write(number: int) -> None:
        chance = random.Random(seed + number)
        while not over.is_set():
            position = deposit(bank, f"account-{chance.randrange(8)}", 1)
            # No faster than it is seen: what piles up only takes time.
            while not over.wait(0.001) and reads and position > reads[-1][1] + 40:
                pass

    def read() -> None:
        # Of one deposit each, the sum over the accounts tells which version it is.
        added = select(func.coalesce(func.sum(Balance.amount), 0)).scalar_subquery()
        counted = select(func.count()).select_from(Entry).scalar_subquery()
        with Session(bank) as session:
            while not over.is_set():
                row = session.execute(select(added.label("added"), counted.label("counted"))).one()
                reads.append((int(row.added), row.counted))
                session.commit()

    def change() -> None:
        try:
            with (
                SubscriptionRunner(bank, [subscription_of(First(), registry)], registry=registry),
                Session(bank) as session,
            ):
                _until(lambda: len(reads) > 20 and reads[-1][1] > 5)
                rebuild(bank, Second(), registry, batch_size=7)
                with SubscriptionRunner(
                    bank, [subscription_of(Second(), registry)], registry=registry
                ) as runner:
                    for version in (1, 2):
                        seen = len(reads)
                        _until(lambda seen=seen: len(reads) > seen + 20)
                        switch_version(session, "balances", version)
                        session.commit()
                    over.set()
                    runner.run_until_current()
        finally:
            over.set()

    assert in_threads(change, read, lambda: write(1), lambda: write(2)) == [None] * 4
    run(bank, First())
    run(bank, Second())
    assert all(added in (counted, 2 * counted) for added, counted in reads)
    assert {added // counted for added, counted in reads if counted} == {1, 2}
    assert committed_balances(bank) == folded(bank, Second())
    with Session(bank) as session:
        switch_version(session, "balances", 1)
        session.commit()
        assert balances(session) == folded(bank, First())
        sent = session.execute(select(Sent.position, Sent.by)).all()
        positions = session.scalars(select(Entry.position)).all()
    assert sorted(position for position, _ in sent) == sorted(positions)
    assert {by for _, by in sent} == {1, 2}


def _until(condition: object) -> None:
    assert callable(condition)
    pause = threading.Event()
    for _ in range(DEADLINE_SECONDS * 100):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to that")


def test_appends_take_over_under_traffic(bank: Engine) -> None:
    over = threading.Event()

    class Inline(Balances): ...

    def write(account: str) -> None:
        while not over.is_set():
            deposit(bank, account, 1, projections=[Inline()])

    def change() -> None:
        try:
            runner = SubscriptionRunner(
                bank, [subscription_of(Inline(), registry)], registry=registry
            )
            with runner:
                _until(lambda: committed_balances(bank).get("a", 0) > 10)
            with Session(bank) as session, session.begin():
                make_inline(session, Inline(), registry)
            was = committed_balances(bank)["a"]
            _until(lambda: committed_balances(bank)["a"] > was)
        finally:
            over.set()

    deposit(bank, "before", 1)
    run(bank, Inline())
    assert in_threads(change, lambda: write("a"), lambda: write("b")) == [None] * 3
    assert committed_balances(bank) == folded(bank, Inline())


REBUILDING = """
import sys
from sqlalchemy import create_engine
from eventstore.projections import handles, rebuild
from tests.fixtures.views import Deposited, DoubledBalances, registry

class Telling(DoubledBalances):
    @handles(Deposited)
    def _deposited(self, event, session):
        print(event.sequence_number, flush=True)
        super()._deposited(event, session)

rebuild(create_engine(sys.argv[1]), Telling(), registry, batch_size=3, lease_seconds=1)
"""


def test_a_rebuild_that_was_killed_goes_on(bank: Engine) -> None:
    class Doubled(Balances):
        version = 2
        factor = 2

    for number in range(30):
        deposit(bank, f"account-{number % 4}", 1)
    run(bank, Balances())
    arguments = [sys.executable, "-c", REBUILDING, bank.url.render_as_string(hide_password=False)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=os.environ, cwd=Path.cwd()
    ) as process:
        assert process.stdout
        for _ in range(11):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert committed_balances(bank) == folded(bank, Balances())
    with Session(bank) as session, session.begin():
        assert not begin_rebuild(session, Doubled(), registry)
    rebuild(bank, Doubled(), registry)
    assert committed_balances(bank) == folded(bank, Doubled())
