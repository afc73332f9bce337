from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore.errors import ConcurrencyConflict, EventStoreError, StreamDeleted, StreamNotFound
from eventstore.streams import (
    ANY,
    MAX_ID_LENGTH,
    MAX_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    StreamState,
    check_expected_version,
    check_number,
    check_stream_id,
    check_text,
    require_version,
)

DELETED_AT = datetime(2024, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize("stream_id", ["a", " ", "\n", "é" * 255, "\U0001f600" * 255, "a/b#c?%2F"])
def test_what_names_a_stream(stream_id: str) -> None:
    assert check_stream_id(stream_id) == stream_id


@pytest.mark.parametrize(
    ("stream_id", "error", "message"),
    [
        (None, TypeError, "stream_id must be a str, not NoneType"),
        (b"a", TypeError, "not bytes"),
        ("", ValueError, "must not be empty"),
        ("a" * 256, ValueError, "256 characters, at most 255"),
        ("\U0001f600" * 256, ValueError, "256 characters"),
        ("a\0", ValueError, "NUL"),
        ("a\ud800", ValueError, "surrogate"),
        ("\udfff", ValueError, "surrogate"),
    ],
)
def test_what_names_no_stream(stream_id: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_stream_id(stream_id)


def test_a_text_is_called_by_its_name() -> None:
    with pytest.raises(ValueError, match="aggregate_type has 4 characters, at most 3"):
        check_text("aggregate_type", "long", 3)
    assert MAX_ID_LENGTH == 255


@pytest.mark.parametrize("number", [0, 1, MAX_VERSION])
def test_numbers(number: int) -> None:
    assert check_number("n", number) == number
    assert check_expected_version(number) == number


@pytest.mark.parametrize("number", [-1, 2**63, -(2**63)])
def test_numbers_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=r"expected_version must be from 0 to 2\*\*63 - 1"):
        check_expected_version(number)


@pytest.mark.parametrize("value", [True, False, "0", 1.0, 1.5, b"0", object(), [1]])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match="expected_version must be an int"):
        check_expected_version(value)


def test_states() -> None:
    assert check_expected_version(None) is ANY
    assert check_expected_version(ANY) is ANY
    assert check_expected_version(STREAM_EXISTS) is STREAM_EXISTS
    assert (str(ANY), repr(STREAM_EXISTS)) == ("ANY", "STREAM_EXISTS")
    # Singletons survive a process boundary, since they are compared by identity.
    assert pickle.loads(pickle.dumps(ANY)) is ANY


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [
        (NO_STREAM, 0, None),
        (1, 0, ConcurrencyConflict(1, 0, "s")),
        (MAX_VERSION, 0, ConcurrencyConflict(MAX_VERSION, 0, "s")),
        (STREAM_EXISTS, 0, StreamNotFound("s")),
        (ANY, 0, None),
        (NO_STREAM, 3, ConcurrencyConflict(0, 3, "s")),
        (2, 3, ConcurrencyConflict(2, 3, "s")),
        (3, 3, None),
        (4, 3, ConcurrencyConflict(4, 3, "s")),
        (STREAM_EXISTS, 3, None),
        (ANY, 3, None),
    ],
)
def test_the_table_of_expected_versions(
    expected: int | StreamState, actual: int, error: EventStoreError | None
) -> None:
    if error is None:
        require_version("s", expected, actual, None)
    else:
        with pytest.raises(type(error)) as caught:
            require_version("s", expected, actual, None)
        assert vars(caught.value) == vars(error)


@pytest.mark.parametrize("expected", [NO_STREAM, 3, 4, STREAM_EXISTS, ANY])
def test_a_deleted_stream_refuses_all(expected: int | StreamState) -> None:
    with pytest.raises(StreamDeleted) as caught:
        require_version("s", expected, 3, DELETED_AT)
    assert (caught.value.stream_id, caught.value.deleted_at) == ("s", DELETED_AT)
