from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime
from uuid import UUID

import pytest

import eventstore
from eventstore import errors
from eventstore.errors import (
    AppendConditionFailed,
    ClaimRefused,
    ConcurrencyConflict,
    ConnectionUnusable,
    DuplicateEvent,
    EventStoreError,
    FeedUnavailable,
    IdempotencyMismatch,
    MasterKeyError,
    SchemaOutOfDate,
    SerializationError,
    StreamDeleted,
    StreamNotFound,
    SubjectErased,
    SubscriptionError,
    TransactionConflict,
    UnknownEventType,
    UpcastingError,
)
from eventstore.streams import STREAM_EXISTS

#: One of each, its facts, and the words of its message that say what to do or what is wrong.
EXAMPLES: list[tuple[EventStoreError, dict[str, object], list[str]]] = [
    (
        ConcurrencyConflict(5, 7, "s-1"),
        {"expected": 5, "actual": 7, "stream_id": "s-1", "missed": None},
        ["'s-1'", "at version 7", "5 was expected", "load it again"],
    ),
    (
        ConcurrencyConflict(STREAM_EXISTS, 0),
        {"expected": STREAM_EXISTS, "actual": 0, "stream_id": "", "missed": None},
        ["STREAM_EXISTS"],
    ),
    (AppendConditionFailed(7), {"position": 7}, ["position 7", "decide again"]),
    (
        ClaimRefused("email", "user-7"),
        {"scope": "email", "holder": "user-7"},
        ["'email'", "'user-7'", "take another"],
    ),
    (ClaimRefused("email", None), {"scope": "email", "holder": None}, ["'email'", "nobody"]),
    (StreamNotFound("s-1"), {"stream_id": "s-1"}, ["'s-1'", "NO_STREAM or ANY"]),
    (
        StreamDeleted("s-1", datetime(2024, 2, 29, tzinfo=UTC)),
        {"stream_id": "s-1", "deleted_at": datetime(2024, 2, 29, tzinfo=UTC)},
        ["'s-1'", "2024-02-29T00:00:00+00:00", "restore_stream()", "include_deleted=True"],
    ),
    (
        DuplicateEvent(UUID(int=5)),
        {"event_id": UUID(int=5)},
        [str(UUID(int=5)), "give a new event a new id"],
    ),
    (
        IdempotencyMismatch("request-1", "s-1"),
        {"idempotency_key": "request-1", "stream_id": "s-1"},
        ["'request-1'", "'s-1'", "use a new key"],
    ),
    (
        SerializationError("order-placed", "$.lines[2].price", "is no number"),
        {"event_type": "order-placed", "path": "$.lines[2].price", "reason": "is no number"},
        ["'order-placed'", "$.lines[2].price is no number"],
    ),
    (
        UnknownEventType("order-placed"),
        {"event_type": "order-placed", "path": "$", "reason": "has no registered type"},
        ["'order-placed'", "EventRegistry.register()"],
    ),
    (
        UpcastingError("order-placed", "$.lines", "is missing", 1, 3),
        {
            "event_type": "order-placed",
            "path": "$.lines",
            "reason": "is missing",
            "from_version": 1,
            "to_version": 3,
        },
        ["'order-placed'", "$.lines is missing", "from version 1 to 3"],
    ),
    (
        TransactionConflict("40001"),
        {"sqlstate": "40001"},
        ["40001", "roll back and run the whole transaction again"],
    ),
    (ConnectionUnusable("25006"), {"sqlstate": "25006"}, ["25006", "on a new connection"]),
    (FeedUnavailable("read elsewhere"), {"reason": "read elsewhere"}, ["read elsewhere"]),
    (
        SubscriptionError("totals", "start it again"),
        {"subscription": "totals", "reason": "start it again"},
        ["'totals'", "start it again"],
    ),
    (
        MasterKeyError("it is missing"),
        {"reason": "it is missing"},
        ["it is missing", "give the current key first"],
    ),
    (SubjectErased("learner-1"), {"subject_id": "learner-1"}, ["'learner-1'", "a new subject id"]),
    (
        SchemaOutOfDate(None, "es0004"),
        {"current": None, "head": "es0004"},
        ["unknown or none", "es0004", "alembic upgrade head"],
    ),
    (SchemaOutOfDate("es0001", "es0004"), {"current": "es0001", "head": "es0004"}, ["es0001"]),
]

each_example = pytest.mark.parametrize(
    ("error", "facts", "words"), EXAMPLES, ids=[type(error).__name__ for error, *_ in EXAMPLES]
)


@each_example
def test_the_attributes_are_facts(
    error: EventStoreError, facts: dict[str, object], words: list[str]
) -> None:
    assert vars(error) == facts


@each_example
def test_the_message_names_the_facts_and_the_cure(
    error: EventStoreError, facts: dict[str, object], words: list[str]
) -> None:
    for word in words:
        assert word in str(error)


@each_example
def test_an_error_crosses_processes_whole(
    error: EventStoreError, facts: dict[str, object], words: list[str]
) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert vars(twin) == facts
        assert str(twin) == str(error)
        assert twin.args == error.args


def test_only_what_a_new_transaction_cures_is_retryable() -> None:
    retryable = {type(error) for error, *_ in EXAMPLES if error.retryable}
    assert retryable == {TransactionConflict, ConnectionUnusable}


def test_every_error_has_an_example_a_place_in_the_tree_and_a_public_name() -> None:
    tree = {
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, EventStoreError)
    }
    assert tree - {EventStoreError} == {type(error) for error, *_ in EXAMPLES}
    for error in tree:
        assert error.__name__ in str(errors.__doc__)
        assert getattr(eventstore, error.__name__) is error
        assert error.__doc__


def test_a_serialization_error_may_be_caught_as_one() -> None:
    assert issubclass(UnknownEventType, SerializationError)
    assert issubclass(UpcastingError, SerializationError)
