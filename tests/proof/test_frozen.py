"""An owner that is frozen for longer than its lease does nothing more behind it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from eventstore.subscriptions import Subscription, SubscriptionRunner, wait_for
from tests.fixtures.subscriptions import append, checkpoint
from tests.proof import ledger
from tests.proof.processes import child
from tests.proof.workers import run_halting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from eventstore.subscriptions import Delivery

DEADLINE_SECONDS = 60


def await_expiry(engine: Engine) -> None:
    """Return once no lease holds any more, by the clock that judges them."""
    expired = text("SELECT bool_and(lease_expires_at < clock_timestamp()) FROM subscriptions")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(expired):
            connection.execute(text("SELECT pg_sleep(0.01)"))


@pytest.mark.parametrize("external", [False, True])
def test_a_frozen_owner_does_nothing_behind_its_lease(ledger_db: Engine, external: bool) -> None:
    def record(delivery: Delivery) -> None:
        ledger.record_effect(ledger_db, delivery, "new")

    successor = Subscription("work", record if external else ledger.apply, external=external)
    append(ledger_db, "a", 3)
    with child(ledger_db, "old", partial(run_halting, external=external)) as old:
        assert old.pipe.recv() == 1  # it is about to leave its handler
        old.freeze()
        await_expiry(ledger_db)
        with SubscriptionRunner(ledger_db, [successor]) as runner:
            runner.run_until_current()
            old.pipe.send("go on")  # at once, when it wakes
            old.thaw()
            append(ledger_db, "a", 1)
            runner.run_until_current()
        assert checkpoint(ledger_db, "work") == 4
        append(ledger_db, "a", 1)
        # Alone again, it goes on with the new event: it has come to no other one in between.
        assert old.pipe.recv() == 5
        assert wait_for(ledger_db, "work", 5, DEADLINE_SECONDS)
    assert ledger.parked(ledger_db, "work") == []
    if external:
        done = [(effect.version, effect.worker) for effect in ledger.effects(ledger_db)]
        # What it had done before is done again, since nobody could know, and nothing else.
        assert done == [
            (1, "old"),
            (1, "new"),
            (2, "new"),
            (3, "new"),
            (4, "new"),
            (5, "old"),
        ]
    else:
        assert ledger.balances(ledger_db) == ledger.fresh_fold(ledger_db)
        assert len(ledger.applied(ledger_db)) == 5
