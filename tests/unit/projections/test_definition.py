"""What a projection's class says of itself, and what it refuses to be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from eventstore import EventEnvelope, EventFilter, EventRegistry, SqlAlchemyEventStore
from eventstore.codec import JsonPayloads
from eventstore.projections import Projection, async_subscription_of, handles, subscription_of
from eventstore.projections.definition import check_projection
from eventstore.subscriptions import (
    AsyncSubscriptionRunner,
    SubscriptionRunner,
    replay_parked,
)


class Opened(BaseModel): ...


class Closed(BaseModel): ...


def registered(*classes: type) -> EventRegistry:
    registry = EventRegistry()
    for each in classes:
        registry.register(each.__name__.lower(), each)
    return registry


def event(payload: Any, event_type: str = "") -> EventEnvelope[Any]:
    return EventEnvelope(aggregate_type="A", event_type=event_type, event_data=payload)


REGISTRY = registered(Opened, Closed)


class View(Projection):
    name = "view"

    @handles(Opened)
    def opened(self, event: EventEnvelope[Opened], session: Any) -> None: ...

    @handles(Closed, "expired")
    def ended(self, event: EventEnvelope[Any], session: Any) -> None: ...

    @handles(Closed, replay=False)
    def tell(self, event: EventEnvelope[Closed], session: Any) -> None: ...


def names(view: Projection, handled: EventEnvelope[Any], *, effects: bool = False) -> list[str]:
    return [method.__name__ for method in view.methods_for(handled, effects=effects)]


def test_a_method_is_found_by_the_class_of_the_payload_or_the_name_of_the_type() -> None:
    assert names(View(), event(Opened())) == ["opened"]
    assert names(View(), event({}, "expired")) == ["ended"]
    assert names(View(), event({}, "other")) == []


def test_side_effects_come_last_and_only_where_they_are_wanted() -> None:
    assert names(View(), event(Closed())) == ["ended"]
    assert names(View(), event(Closed()), effects=True) == ["ended", "tell"]


def test_a_subclass_takes_over_and_adds() -> None:
    class Narrow(View):
        filters = EventFilter(stream_prefix="account-")

        @handles(Opened)
        def opened_otherwise(self, event: EventEnvelope[Opened], session: Any) -> None: ...

    assert names(Narrow(), event(Opened())) == ["opened_otherwise"]
    assert names(Narrow(), event(Closed())) == ["ended"]
    assert names(View(), event(Opened())) == ["opened"]


def test_its_filter_names_all_that_it_handles() -> None:
    class Narrow(View):
        filters = EventFilter(stream_prefix="account-", aggregate_types=["Account"])

    chosen = Narrow().filter_for(registered(Opened, Closed))
    assert chosen.event_types == {"opened", "closed", "expired"}
    assert chosen.stream_prefix == "account-"
    assert chosen.aggregate_types == {"Account"}


@pytest.mark.parametrize("codec", [JsonPayloads(), EventRegistry()], ids=["none", "empty"])
def test_a_class_that_no_registry_names_is_refused(codec: Any) -> None:
    with pytest.raises(ValueError, match=r"handles Opened, which no registry"):
        View().filter_for(codec)


def test_a_class_of_events_has_one_method() -> None:
    with pytest.raises(TypeError, match=r"Twice handles Opened twice: one\(\) and other\(\)"):

        class Twice(Projection):
            name = "twice"

            @handles(Opened)
            def one(self, event: EventEnvelope[Opened], session: Any) -> None: ...

            @handles(Opened)
            def other(self, event: EventEnvelope[Opened], session: Any) -> None: ...


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"name": ""}, ValueError, "name"),
        ({"name": "n" * 236}, ValueError, "name"),
        ({"name": 7}, TypeError, "name"),
        ({"version": 0}, ValueError, "version must be at least 1"),
        ({"version": "2"}, TypeError, "version must be an int"),
        ({"partitions": 0}, ValueError, "partitions must be at least 1"),
        ({"filters": {}}, TypeError, "filters must be an EventFilter"),
        ({"filters": EventFilter(event_types=["x"])}, ValueError, "the methods do"),
    ],
)
def test_wrong_attributes_are_refused(
    attributes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        type("Wrong", (View,), attributes)


def test_what_is_not_complete_has_no_instance() -> None:
    class Nameless(Projection):
        @handles("x")
        def x(self, event: EventEnvelope[Any], session: Any) -> None: ...

    class Idle(Projection):
        name = "idle"

    with pytest.raises(TypeError, match="Nameless has no name"):
        Nameless()
    with pytest.raises(TypeError, match="Idle handles nothing"):
        Idle()


@pytest.mark.parametrize("arguments", [(), (7,), (None,)])
def test_handles_takes_classes_or_names(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"handles\(\) takes"):
        handles(*arguments)


@pytest.mark.parametrize("given", [View, object(), None])
def test_only_an_instance_is_a_projection(given: Any) -> None:
    with pytest.raises(TypeError, match=r"instance|must be a Projection"):
        check_projection(given, awaits=True)
    with pytest.raises(TypeError, match=r"instance|must be a Projection"):
        subscription_of(given)


def test_models_must_have_tables() -> None:
    class Tableless(Projection):
        name = "tableless"
        models = (Opened,)

        @handles("x")
        def x(self, event: EventEnvelope[Any], session: Any) -> None: ...

    with pytest.raises(TypeError, match="models must be mapped classes or tables"):
        subscription_of(Tableless())


class Awaited(View):
    @handles("late")
    async def late(self, event: EventEnvelope[Any], session: Any) -> None: ...


def test_a_coroutine_function_needs_somebody_who_awaits_it() -> None:
    assert check_projection(Awaited(), awaits=True)
    with pytest.raises(TypeError, match=r"Awaited.late\(\) is a coroutine function"):
        subscription_of(Awaited(), registered(Opened, Closed))
    with pytest.raises(TypeError, match="needs the async"):
        SqlAlchemyEventStore(Session(), registered(Opened, Closed), projections=[Awaited()])


@pytest.mark.parametrize(
    ("registry", "schema", "reason"),
    [
        (REGISTRY, "other", "made for schema None, not 'other'"),
        (None, None, "made for another registry"),
        (registered(Opened, Closed), None, "made for another registry"),
    ],
)
def test_what_reads_the_events_must_be_of_the_projections_store(
    registry: EventRegistry | None, schema: str | None, reason: str
) -> None:
    """Else the methods would look for other tables, or find none of the events to be theirs."""
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    kept = subscription_of(View(), REGISTRY)
    SubscriptionRunner(engine, [kept], registry=REGISTRY)
    with pytest.raises(ValueError, match=reason):
        SubscriptionRunner(engine, [kept], registry=registry, schema=schema)
    with pytest.raises(ValueError, match=reason):
        replay_parked(engine, kept, registry=registry, schema=schema)
    engine = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    kept = async_subscription_of(View(), REGISTRY)
    with pytest.raises(ValueError, match=reason):
        AsyncSubscriptionRunner(engine, [kept], registry=registry, schema=schema)
