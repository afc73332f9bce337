"""Sixteen writers at once, and never a decision too many."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from eventstore import (
    ANY,
    ClaimRefused,
    Claims,
    Fold,
    Query,
    Retries,
    SqlAlchemyEventStore,
    StreamAppend,
    async_event_store,
    async_execute_decision,
    event_store,
    execute_decision,
)
from tests.fixtures.courses import Refused, define, event, subscribe
from tests.fixtures.stores import async_engine_of, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine
    from sqlalchemy.orm import Session

WRITERS = 16
SEATS = 5
MANY_ATTEMPTS = Retries(attempts=100)


def subscriptions(store: SqlAlchemyEventStore) -> Counter[str]:
    events = store.read_by_query(Query.all())
    return Counter(each.tags[1] for each in events if each.event_type == "student-subscribed")


@pytest.fixture(params=["READ COMMITTED", "AUTOCOMMIT"])
def opened(request: pytest.FixtureRequest, engine: Engine) -> Any:
    """What opens stores, in transactions or without."""
    bound = engine.execution_options(isolation_level=request.param)
    return partial(event_store, sessionmaker(bound))


def test_sixteen_threads_at_two_courses(opened: Any, sessions: sessionmaker[Session]) -> None:
    for course in ("c1", "c2"):
        execute_decision(opened, *define(course, SEATS))

    def enrol(number: int) -> list[str]:
        taken = []
        for course in ("c1", "c2"):
            with suppress(Refused):
                decision = subscribe(f"s{number}", course)
                execute_decision(opened, *decision, retries=MANY_ATTEMPTS)
                taken.append(course)
        return taken

    outcomes = in_threads(*(partial(enrol, number) for number in range(WRITERS)))
    assert all(isinstance(outcome, list) for outcome in outcomes), outcomes
    with sessions() as session:
        counted = subscriptions(SqlAlchemyEventStore(session))
    assert counted == {"course:c1": SEATS, "course:c2": SEATS}


def test_sixteen_tasks_at_one_course(async_url: URL, sessions: sessionmaker[Session]) -> None:
    async def enrol_all() -> list[Any]:
        async with async_engine_of(async_url, pool_size=WRITERS) as engine:
            opened = partial(async_event_store, async_sessionmaker(engine))
            await async_execute_decision(opened, *define("c1", SEATS))
            return await asyncio.gather(
                *(
                    async_execute_decision(
                        opened, *subscribe(f"s{number}", "c1"), retries=MANY_ATTEMPTS
                    )
                    for number in range(WRITERS)
                ),
                return_exceptions=True,
            )

    outcomes = asyncio.run(enrol_all())
    assert Counter(map(type, outcomes))[Refused] == WRITERS - SEATS
    with sessions() as session:
        assert subscriptions(SqlAlchemyEventStore(session)) == {"course:c1": SEATS}


def test_numbers_without_gaps_by_a_query_without_tags(
    opened: Any, sessions: sessionmaker[Session]
) -> None:
    next_number: Fold[int] = Fold(1, {"invoice": lambda _, event: event.event_data["number"] + 1})

    def create(name: int) -> None:
        def decide(number: int) -> StreamAppend:
            return StreamAppend(f"i-{name}", ANY, [event("invoice", tags=[], number=number)])

        execute_decision(opened, next_number, decide, retries=MANY_ATTEMPTS)

    outcomes = in_threads(*(partial(create, name) for name in range(WRITERS)))
    assert outcomes == [None] * WRITERS
    with sessions() as session:
        events = SqlAlchemyEventStore(session).read_by_query(next_number.query)
        assert [each.event_data["number"] for each in events] == list(range(1, WRITERS + 1))


def test_sixteen_threads_at_one_email(opened: Any, sessions: sessionmaker[Session]) -> None:
    emails = Claims("email", key=b"0123456789abcdef")
    claim = emails.on("zoe@example.org")  # no name that an id in hexadecimal may hold

    def take(stream: str) -> str:
        def decide(holder: str | None) -> StreamAppend:
            claim.require_free(holder)
            return StreamAppend(stream, ANY, [event("registered", tags=[claim.taken])])

        execute_decision(opened, claim, decide)
        return stream

    def hand_over(giver: str, taker: str) -> str:
        def decide(holder: str | None) -> StreamAppend:
            claim.require_held_by(giver, holder)
            return StreamAppend(taker, ANY, [event("taken-over", tags=[claim.taken])])

        execute_decision(opened, claim, decide)
        return taker

    def give_up(holder_before: str) -> str:
        def decide(holder: str | None) -> StreamAppend:
            claim.require_held_by(holder_before, holder)
            return StreamAppend(holder_before, ANY, [event("closed", tags=[claim.released])])

        execute_decision(opened, claim, decide)
        return "nobody"

    def winner_of(jobs: list[Callable[[], str]]) -> str:
        outcomes = in_threads(*jobs)
        won = [outcome for outcome in outcomes if not isinstance(outcome, ClaimRefused)]
        assert len(won) == 1, outcomes
        return str(won[0])

    first = winner_of([partial(take, f"user-{number}") for number in range(WRITERS)])
    second = winner_of([partial(hand_over, first, f"user-{number}-b") for number in range(WRITERS)])
    assert winner_of([partial(give_up, second)] * WRITERS) == "nobody"
    third = winner_of([partial(take, f"user-{number}-c") for number in range(WRITERS)])
    with sessions() as session:
        assert claim.state_of(SqlAlchemyEventStore(session).read_by_query(claim.query)) == third
        # The value stands nowhere: neither in the events nor in the index.
        for table in ("events", "event_tags"):
            found = f"SELECT count(*) FROM {table} WHERE {table}::text LIKE '%zoe%'"
            assert session.execute(text(found)).scalar_one() == 0
