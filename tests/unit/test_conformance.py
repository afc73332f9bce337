from __future__ import annotations

import inspect
from collections import Counter

import pytest

from eventstore.testing.conformance import AsyncEventStoreConformance, EventStoreConformance

suites = pytest.mark.parametrize("suite", [EventStoreConformance, AsyncEventStoreConformance])


@suites
def test_no_part_of_the_suite_hides_a_test_of_another(suite: type) -> None:
    names = Counter(
        name for part in inspect.getmro(suite) for name in vars(part) if name.startswith("test_")
    )
    assert [name for name, count in names.items() if count > 1] == []


@suites
def test_a_subclass_must_say_how_a_store_is_opened(suite: type) -> None:
    with pytest.raises(NotImplementedError, match="open_store"):
        inspect.unwrap(suite.open_store)(suite())  # type: ignore[attr-defined]
