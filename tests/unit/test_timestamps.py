"""What is read as UTC without a zone gets that zone, and loses nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from eventstore.operations.timestamps import zoned


@pytest.mark.parametrize(
    "naive",
    [datetime.min, datetime(2024, 2, 29, 1, 2, 3, 456789), datetime.max],  # noqa: DTZ001, DTZ901
)
def test_a_timestamp_keeps_every_digit(naive: datetime) -> None:
    assert zoned(naive) == naive.replace(tzinfo=UTC)
    assert zoned(naive).tzinfo is UTC


def test_there_may_be_no_timestamp() -> None:
    assert zoned(None) is None
