"""What a subscription may be; wrong arguments are told before any SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore import EventFilter
from eventstore.subscriptions import BEGINNING, NOW, Position, RetryPolicy, Subscription


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
        ({"batch_size": 0}, ValueError, "page_size"),
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
