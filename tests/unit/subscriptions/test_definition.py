"""What a subscription may be; wrong arguments are told before any SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from eventstore import EventFilter
from eventstore.projections import projection_versions, wait_for_projection
from eventstore.subscriptions import (
    BEGINNING,
    NOW,
    Position,
    RetryPolicy,
    Subscription,
    discard_parked,
    parked_streams,
    replay_parked,
    reset_subscription,
    subscription_status,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def handler(*_: Any) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "error", "name"),
    [
        ({"name": ""}, ValueError, "name"),
        ({"name": "x" * 256}, ValueError, "name"),
        ({"handler": None}, TypeError, "handler"),
        ({"filters": "Deposited"}, TypeError, "filters"),
        ({"start": 7}, TypeError, "start"),
        ({"start": datetime(2024, 1, 1)}, ValueError, "start"),  # noqa: DTZ001
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"retry": 3}, TypeError, "retry"),
        ({"on_failure": "park"}, TypeError, "on_failure"),
        ({"lease_seconds": 0}, ValueError, "lease_seconds"),
        ({"lease_seconds": "1"}, TypeError, "lease_seconds"),
        ({"partitions": 0}, ValueError, "partitions"),
        ({"partitions": True}, TypeError, "partitions"),
        ({"external": 1}, TypeError, "external"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        Subscription(**({"name": "s", "handler": handler} | wrong))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"max_attempts": 0}, ValueError),
        ({"max_attempts": 1.5}, TypeError),
        ({"first_seconds": -1}, ValueError),
        ({"max_seconds": float("nan")}, ValueError),
    ],
)
def test_wrong_retries(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RetryPolicy(**wrong)


def test_where_it_starts() -> None:
    time = datetime.now(UTC)
    starts = {BEGINNING: 0, NOW: None, Position(7): 7, time: time}
    for start, position in starts.items():
        assert Subscription("s", handler, start=start).start_position == position
    with pytest.raises(ValueError, match="number"):
        Position(-1)


def test_a_filter_has_one_fingerprint() -> None:
    def fingerprint(filters: EventFilter | None) -> str:
        return Subscription("s", handler, filters=filters).filter_fingerprint

    assert fingerprint(None) == fingerprint(EventFilter())
    assert fingerprint(EventFilter(event_types=["a", "b"])) == fingerprint(
        EventFilter(event_types=["b", "a"])
    )
    assert fingerprint(EventFilter(event_types=["a"])) != fingerprint(
        EventFilter(aggregate_types=["a"])
    )


@pytest.mark.parametrize(
    ("name", "schema", "error"),
    [
        (Subscription("view", print), None, TypeError),
        ("", None, ValueError),
        ("view", 5, TypeError),
    ],
)
def test_a_name_that_none_can_have_is_refused_before_anything_is_asked(
    name: Any, schema: Any, error: type[Exception]
) -> None:
    """Else a wrong name would read as a subscription that isn't there."""
    engine, session = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"), Session()
    asked: list[Callable[[], object]] = [
        lambda: wait_for(engine, name, 1, 1, schema=schema),
        lambda: wait_for_projection(engine, name, 1, 1, schema=schema),
        lambda: subscription_status(session, name, schema=schema),
        lambda: parked_streams(session, name, schema=schema),
        lambda: discard_parked(session, name, "s", schema=schema),
        lambda: reset_subscription(session, name, schema=schema),
        lambda: projection_versions(session, name, schema=schema),
    ]
    for ask in asked:
        with pytest.raises(error):
            ask()


def test_a_replay_takes_a_subscription_and_not_its_name() -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(TypeError, match="must be a Subscription, not str"):
        replay_parked(engine, "view")  # type: ignore[arg-type]
