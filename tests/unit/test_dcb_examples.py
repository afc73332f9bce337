"""The examples of https://dcb.events/examples, decided on a store in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventstore import (
    ANY,
    AppendConditionFailed,
    AppendResult,
    Claims,
    EventEnvelope,
    Fold,
    InMemoryEventStore,
    Query,
    QueryItem,
    StreamAppend,
    combine,
    execute_decision,
    no_new,
)
from tests.fixtures import courses
from tests.fixtures.courses import Refused, change_capacity, define, event, subscribe


@pytest.fixture
def store() -> InMemoryEventStore:
    return InMemoryEventStore()


class TestCourseSubscriptions:
    def test_a_course_is_defined_once(self, store: InMemoryEventStore) -> None:
        execute_decision(store, *define("c1", 10))
        with pytest.raises(Refused, match="exists"):
            execute_decision(store, *define("c1", 10))
        execute_decision(store, *define("c2", 10))

    def test_a_capacity_must_change(self, store: InMemoryEventStore) -> None:
        execute_decision(store, *define("c1", 12))
        with pytest.raises(Refused, match="that is its capacity"):
            execute_decision(store, *change_capacity("c1", 12))
        execute_decision(store, *change_capacity("c1", 15))

    def test_a_missing_course(self, store: InMemoryEventStore) -> None:
        with pytest.raises(Refused, match="no such course"):
            execute_decision(store, *subscribe("s1", "c0"))

    def test_a_full_course(self, store: InMemoryEventStore) -> None:
        execute_decision(store, *define("c1", 3))
        for student in ("s1", "s2", "s3"):
            execute_decision(store, *subscribe(student, "c1"))
        with pytest.raises(Refused, match="full"):
            execute_decision(store, *subscribe("s4", "c1"))
        execute_decision(store, *change_capacity("c1", 4))
        execute_decision(store, *subscribe("s4", "c1"))

    def test_twice_to_the_same_course(self, store: InMemoryEventStore) -> None:
        execute_decision(store, *define("c1", 10))
        execute_decision(store, *subscribe("s1", "c1"))
        with pytest.raises(Refused, match="subscribed already"):
            execute_decision(store, *subscribe("s1", "c1"))

    def test_too_many_courses(self, store: InMemoryEventStore) -> None:
        for number in range(courses.MAX_COURSES_OF_A_STUDENT + 1):
            execute_decision(store, *define(f"c{number}", 10))
        for number in range(courses.MAX_COURSES_OF_A_STUDENT):
            execute_decision(store, *subscribe("s1", f"c{number}"))
        with pytest.raises(Refused, match="too many"):
            execute_decision(store, *subscribe("s1", "c10"))
        execute_decision(store, *subscribe("s2", "c10"))


class TestUniqueUsername:
    """Claimed, given up, and free again after a time: with an event's own time."""

    usernames = Claims("username")
    now = datetime(2026, 1, 31, tzinfo=UTC)

    def register(self, store: InMemoryEventStore, name: str, account: str) -> AppendResult:
        claim = self.usernames.on(name)

        def decide(holder: str | None) -> StreamAppend:
            claim.require_free(holder)
            registered = event("account-registered", tags=[claim.taken], name=name)
            return StreamAppend(account, ANY, [registered])

        return execute_decision(store, claim, decide)

    def test_a_name_that_was_given_up_can_be_taken(self, store: InMemoryEventStore) -> None:
        claim = self.usernames.on("u1")
        self.register(store, "u1", "account-1")
        closed = event("account-closed", tags=[claim.released])
        store.append_to_stream("account-1", ANY, [closed])
        self.register(store, "u1", "account-2")

    def test_a_name_that_is_kept_back_for_days(self, store: InMemoryEventStore) -> None:
        claim = self.usernames.on("u1")
        closed = event("account-closed", tags=[claim.released]).model_copy(
            update={"occurred_at": self.now - timedelta(days=3)}
        )
        store.append_to_stream("account-1", ANY, [event("registered", tags=[claim.taken]), closed])

        def is_kept_back(days: int) -> Fold[bool]:
            earliest = self.now - timedelta(days=days)
            return Fold(
                False,
                {"account-closed": lambda _, closed: closed.occurred_at > earliest},
                tags=[claim.released],
            )

        events = store.read_by_query(claim.query).events
        assert is_kept_back(5).state_of(events)
        assert not is_kept_back(2).state_of(events)


class TestInvoiceNumber:
    """A sequence without gaps: every invoice matters, so the query has no tag."""

    def create(self, store: InMemoryEventStore) -> int:
        next_number: Fold[int] = Fold(
            1, {"invoice-created": lambda _, event: event.event_data["number"] + 1}
        )
        given: list[int] = []

        def decide(number: int) -> StreamAppend:
            given[:] = [number]
            created = event("invoice-created", tags=[f"invoice:{number}"], number=number)
            return StreamAppend(f"invoice-{number}", ANY, [created])

        execute_decision(store, next_number, decide)
        return given[0]

    def test_numbers_without_gaps(self, store: InMemoryEventStore) -> None:
        assert [self.create(store) for _ in range(3)] == [1, 2, 3]


class TestOptInToken:
    """A one-time password is confirmed once, and not too late."""

    @staticmethod
    def confirm(store: InMemoryEventStore, otp: str, *, minutes_later: int) -> AppendResult:
        @dataclass
        class SignUp:
            at: datetime | None
            is_used: bool

        model = combine(
            SignUp,
            at=Fold(
                None, {"sign-up-initiated": lambda _, event: event.occurred_at}, tags=[f"otp:{otp}"]
            ),
            is_used=Fold(False, {"sign-up-confirmed": lambda *_: True}, tags=[f"otp:{otp}"]),
        )

        def decide(sign_up: SignUp) -> StreamAppend:
            if sign_up.at is None:
                raise Refused("no pending sign-up")
            if sign_up.is_used:
                raise Refused("the password was used")
            if minutes_later > 60:
                raise Refused("the password has expired")
            confirmed = event("sign-up-confirmed", tags=[f"otp:{otp}"])
            return StreamAppend(f"sign-up-{otp}", ANY, [confirmed])

        return execute_decision(store, model, decide)

    def test_once_and_in_time(self, store: InMemoryEventStore) -> None:
        with pytest.raises(Refused, match="no pending"):
            self.confirm(store, "444444", minutes_later=0)
        initiated = event("sign-up-initiated", tags=["otp:444444", "email:a@example.org"])
        store.append_to_stream("sign-up-444444", ANY, [initiated])
        with pytest.raises(Refused, match="expired"):
            self.confirm(store, "444444", minutes_later=61)
        self.confirm(store, "444444", minutes_later=59)
        with pytest.raises(Refused, match="used"):
            self.confirm(store, "444444", minutes_later=59)


class TestDynamicProductPrice:
    """A product is sold at the price that was displayed, if that is not too old."""

    @staticmethod
    def prices_of(product: str, now: datetime) -> Fold[frozenset[int]]:
        """The prices that are valid now: the newest, and those it has replaced minutes ago."""

        def changed(valid: frozenset[int], event: EventEnvelope[Any]) -> frozenset[int]:
            is_recent = event.occurred_at > now - timedelta(minutes=10)
            return (valid if is_recent else frozenset()) | {event.event_data["price"]}

        return Fold(
            frozenset(),
            {"product-defined": changed, "price-changed": changed},
            tags=[f"product:{product}"],
        )

    def order(self, store: InMemoryEventStore, now: datetime, **displayed: int) -> AppendResult:
        model = combine(dict, **{each: self.prices_of(each, now) for each in displayed})

        def decide(valid: dict[str, frozenset[int]]) -> StreamAppend:
            for product, price in displayed.items():
                if price not in valid[product]:
                    raise Refused(f"the price of {product} is not valid")
            tags = [f"product:{product}" for product in displayed]
            return StreamAppend("order-1", ANY, [event("products-ordered", tags=tags)])

        return execute_decision(store, model, decide)

    def test_prices_that_were_displayed(self, store: InMemoryEventStore) -> None:
        now = datetime(2026, 1, 31, 12, tzinfo=UTC)

        def priced(product: str, event_type: str, price: int, minutes_ago: int) -> None:
            priced = event(event_type, tags=[f"product:{product}"], price=price)
            at = now - timedelta(minutes=minutes_ago)
            store.append_to_stream(product, ANY, [priced.model_copy(update={"occurred_at": at})])

        priced("p1", "product-defined", 123, 60)
        with pytest.raises(Refused, match="p1"):
            self.order(store, now, p1=100)
        self.order(store, now, p1=123)
        priced("p1", "price-changed", 134, 9)
        self.order(store, now, p1=123)
        self.order(store, now, p1=134)
        with pytest.raises(Refused, match="p1"):
            self.order(store, now + timedelta(minutes=2), p1=123)
        priced("p2", "product-defined", 5, 60)
        self.order(store, now, p1=134, p2=5)
        with pytest.raises(Refused, match="p2"):
            self.order(store, now, p1=134, p2=6)


class TestPreventRecordDuplication:
    """A token that the client has made up is accepted once."""

    def test_the_token_is_used_once(self, store: InMemoryEventStore) -> None:
        once = no_new(Query(QueryItem(types=["order-placed"], tags=["idempotency:11111"])))
        for number in (1, 2):
            placed = event("order-placed", tags=[f"order:{number}", "idempotency:11111"])
            append = StreamAppend(f"order-{number}", ANY, [placed])
            if number == 1:
                store.append(append, require=once)
            else:
                with pytest.raises(AppendConditionFailed):
                    store.append(append, require=once)
