from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from eventstore.snapshots import Snapshot


def snapshot(**fields: Any) -> Snapshot[Any]:
    given: dict[str, Any] = {
        "aggregate_id": "account-7",
        "aggregate_type": "account",
        "version": 5,
        "data": {"balance": 1},
    }
    return Snapshot(**(given | fields))


def test_a_snapshot_is_taken_now_and_frozen() -> None:
    before = datetime.now(UTC)
    taken = snapshot()
    assert before <= taken.created_at <= datetime.now(UTC)
    with pytest.raises(ValidationError):
        taken.version = 6
    with pytest.raises(ValidationError):
        snapshot(state={})


def test_its_time_becomes_utc() -> None:
    in_delhi = datetime(2024, 7, 1, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert snapshot(created_at=in_delhi).created_at.utcoffset() == timedelta(0)
    with pytest.raises(ValidationError, match="timezone"):
        snapshot(created_at=datetime(2024, 7, 1, 5))  # noqa: DTZ001 - the case in question


@pytest.mark.parametrize("version", [-1, True, "5", 1.0, 2**63])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(ValidationError, match="version"):
        snapshot(version=version)


@pytest.mark.parametrize(
    "fields",
    [
        {"aggregate_id": ""},
        {"aggregate_id": "a" * 256},
        {"aggregate_id": "a\0"},
        {"aggregate_type": ""},
        {"aggregate_type": "a" * 101},
        {"aggregate_type": "\ud800"},
    ],
)
def test_names_that_no_column_can_hold_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        snapshot(**fields)


def test_no_message_shows_the_data() -> None:
    with pytest.raises(ValidationError) as caught:
        Snapshot[int](aggregate_id="a", aggregate_type="b", version=1, data="hush")  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)
