"""An event that ends its process holds up its own stream, and no other one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore.subscriptions import Subscription, parked_streams, replay_parked
from tests.fixtures.subscriptions import append
from tests.proof import ledger
from tests.proof.processes import child
from tests.proof.workers import POISON_ATTEMPTS, run_poisoned

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

    from eventstore.subscriptions import Delivery


def deaths(engine: Engine, *, external: bool) -> int:
    """Start processes until one comes to an end, and return how many did not."""
    for count in range(20):
        with child(engine, "poisoned", partial(run_poisoned, external=external)) as process:
            if process.wait() == 0:
                return count
        with engine.begin() as connection:  # what a successor would else wait for
            connection.execute(text("UPDATE subscriptions SET lease_expires_at = 'epoch'"))
    raise AssertionError("it is delivered for ever")


@pytest.mark.parametrize("external", [False, True])
def test_a_poison_event_is_parked_and_comes_in_order_when_it_is_cured(
    ledger_db: Engine, external: bool
) -> None:
    def record(delivery: Delivery) -> None:
        ledger.record_effect(ledger_db, delivery, "cured")

    for stream_id, count in (("good", 2), ("poison", 1), ("good", 2), ("poison", 2), ("other", 1)):
        append(ledger_db, stream_id, count)

    # Once in a batch, which tells on nobody, and then by itself.
    assert deaths(ledger_db, external=external) == 1 + POISON_ATTEMPTS

    with Session(ledger_db) as session:
        (parked,) = parked_streams(session, "work")
    assert (parked.stream_id, parked.event_version) == ("poison", 1)
    assert parked.attempts == POISON_ATTEMPTS
    assert "the process died" in parked.error
    append(ledger_db, "poison", 1)
    append(ledger_db, "good", 1)
    assert deaths(ledger_db, external=external) == 0
    flowed = done(ledger_db)
    assert set(flowed) == {("good", n) for n in range(1, 6)} | {("other", 1)}

    cured = Subscription("work", record if external else ledger.apply, external=external)
    assert replay_parked(ledger_db, cured) == []
    assert done(ledger_db)[len(flowed) :] == [("poison", n) for n in range(1, 5)]
    if not external:
        assert ledger.balances(ledger_db) == ledger.fresh_fold(ledger_db)
    seen: set[UUID] = set()
    for effect in ledger.effects(ledger_db):
        # What may have been delivered before says so.
        assert effect.attempt > 1 or effect.event_id not in seen
        seen.add(effect.event_id)


def done(engine: Engine) -> list[tuple[str, int]]:
    """Return what was applied, or has taken effect, in the order of its happening."""
    return [
        (each.stream_id, each.version)
        for each in (*ledger.applied(engine), *ledger.effects(engine))
    ]
