"""The kit for tests of projections passes what is right, and fails what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from eventstore import EventEnvelope, SqlAlchemyEventStore
from eventstore.testing.projected import given_events
from tests.fixtures.views import Balance, Balances, Deposited, Entry, Noted, balances

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@pytest.fixture
def session(event_store: SqlAlchemyEventStore) -> Any:
    return event_store.session


def test_rows_follow_from_events(session: Session) -> None:
    (
        given_events(Deposited(amount=5), Noted(), Deposited(amount=7), stream_id="ann")
        .and_events(Deposited(amount=1), stream_id="bob")
        .and_events(Deposited(amount=1), stream_id="ann")
        .project(Balances(), session)
        .then_rows(Balance, {"account": "ann", "amount": 13}, {"account": "bob", "amount": 1})
        .then_rows(
            Entry,
            {"account": "ann", "version": 1, "position": 1},
            {"account": "ann", "version": 3, "position": 3},
            {"account": "bob", "version": 1, "position": 4},
            {"account": "ann", "version": 4, "position": 5},
        )
        .then(lambda view: balances(view) == {"ann": 13, "bob": 1})
    )
    tables = text("SELECT count(*) FROM pg_class WHERE relname = 'balances'")
    assert session.scalar(tables) == 0


def test_no_events_make_no_rows(session: Session) -> None:
    given_events().project(Balances(), session).then_rows(Balance)


def test_what_is_wrong_fails(session: Session) -> None:
    projected = given_events(Deposited(amount=5)).project(Balances(), session)
    wrong: list[list[dict[str, Any]]] = [
        [],
        [{"amount": 4}],
        [{"amount": 5}, {"amount": 5}],
        [{"amount": 5, "account": "other"}],
    ]
    for rows in wrong:
        with pytest.raises(AssertionError):
            projected.then_rows(Balance, *rows)
    with pytest.raises(AssertionError):
        projected.then(lambda _: False)
    with pytest.raises(pytest.fail.Exception):
        projected.then_raises(ValueError)
    projected.then_rows(Balance, {"amount": 5})


def test_an_error_of_a_method_is_told(session: Session) -> None:
    class Strict(Balances):
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            if event.occurred_at.year < 2024:
                raise ValueError(f"too old: version {event.event_version}")
            super()._deposited(event, session)

    early = EventEnvelope(
        aggregate_type="Account",
        event_data=Deposited(amount=1),
        occurred_at=datetime(2020, 1, 1, tzinfo=UTC),
    )
    projected = given_events(Deposited(amount=1), early).project(Strict(), session)
    assert str(projected.then_raises(ValueError, match="too old")) == "too old: version 2"
    with pytest.raises(ValueError, match="too old"):
        projected.then_rows(Balance)
    given_events(Deposited(amount=1)).project(Strict(), session).then_rows(Balance, {"amount": 1})
