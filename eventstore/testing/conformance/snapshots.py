"""Snapshots: the newest is kept, and only one that fits its stream is given back."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.errors import SerializationError
from eventstore.snapshots import Snapshot
from eventstore.streams import NO_STREAM
from eventstore.testing.conformance.accounts import (
    AccountFrozen,
    AccountOpened,
    MoneyDeposited,
    new_stream,
    noted,
)

if TYPE_CHECKING:
    from eventstore.protocols import EventStore


def _snapshot(stream: str, version: int, data: Any = None) -> Snapshot[Any]:
    state = {"version": version} if data is None else data
    return Snapshot(aggregate_id=stream, aggregate_type="account", version=version, data=state)


def _stream_of(store: EventStore, count: int) -> str:
    stream = new_stream()
    store.append_to_stream(stream, NO_STREAM, [noted() for _ in range(count)])
    return stream


class Snapshots:
    """What is kept, what is given back, and as what."""

    def test_a_snapshot_comes_back(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        snapshot = Snapshot(
            aggregate_id=stream,
            aggregate_type="account",
            version=2,
            data={"balance": 5, "labels": ["a"], "owner": None},
            created_at=datetime(2024, 2, 29, 12, 30, 15, 123456, UTC),
        )
        store.save_snapshot(snapshot)
        assert store.get_snapshot(stream, "account") == snapshot

    def test_there_may_be_none(self, store: EventStore) -> None:
        stream = _stream_of(store, 1)
        assert store.get_snapshot(stream, "account") is None
        store.save_snapshot(_snapshot(stream, 1))
        assert store.get_snapshot(stream, "user") is None
        assert store.get_snapshot(new_stream(), "account") is None

    def test_the_type_is_part_of_the_name(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        for aggregate_type, version in (("account", 1), ("audit", 2)):
            store.save_snapshot(
                Snapshot(
                    aggregate_id=stream, aggregate_type=aggregate_type, version=version, data={}
                )
            )
        kept = [store.get_snapshot(stream, of) for of in ("account", "audit")]
        assert [snapshot and snapshot.version for snapshot in kept] == [1, 2]

    def test_an_older_one_changes_nothing(self, store: EventStore) -> None:
        stream = _stream_of(store, 5)
        for version, state, kept in (
            (3, "first", "first"),
            (2, "older", "first"),
            (5, "newer", "newer"),
            (4, "older", "newer"),
            (5, "equal", "equal"),
            (0, "oldest", "equal"),
        ):
            store.save_snapshot(_snapshot(stream, version, {"state": state}))
            found = store.get_snapshot(stream, "account")
            assert found is not None
            assert found.data == {"state": kept}

    def test_one_ahead_of_its_stream_makes_room(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        store.save_snapshot(_snapshot(stream, 7, {"state": "of events that are no more"}))
        store.save_snapshot(_snapshot(stream, 2, {"state": "of the events that are"}))
        found = store.get_snapshot(stream, "account")
        assert found is not None
        assert (found.version, found.data) == (2, {"state": "of the events that are"})

    def test_one_ahead_of_its_stream_is_not_used(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        store.save_snapshot(_snapshot(stream, 3))
        assert store.get_snapshot(stream, "account") is None
        store.append_to_stream(stream, 2, [noted()])
        assert store.get_snapshot(stream, "account") is not None

    def test_an_aggregate_without_a_stream_of_its_name(self, store: EventStore) -> None:
        aggregate = new_stream()
        store.save_snapshot(_snapshot(aggregate, 100))
        found = store.get_snapshot(aggregate, "account")
        assert found is not None
        assert found.version == 100

    def test_none_of_a_deleted_stream(self, store: EventStore) -> None:
        stream = _stream_of(store, 2)
        store.save_snapshot(_snapshot(stream, 2))
        store.delete_stream(stream)
        assert store.get_snapshot(stream, "account") is None
        store.restore_stream(stream)
        assert store.get_snapshot(stream, "account") is not None

    @pytest.mark.parametrize(
        "state",
        [
            AccountOpened(owner="ann", limit=Decimal("10.50"), opened_on=date(2024, 2, 29)),
            MoneyDeposited(7, labels=("a", "b")),
            {"balance": 1},
            [1, "two", None],
            "text",
            7,
        ],
    )
    def test_typed_states(self, store: EventStore, state: object) -> None:
        stream = _stream_of(store, 1)
        store.save_snapshot(_snapshot(stream, 1, state))
        found = store.get_snapshot(stream, "account", type(state))
        assert found is not None
        assert found.data == state
        assert type(found.data) is type(state)

    def test_a_typed_state_as_plain_json(self, store: EventStore) -> None:
        stream = _stream_of(store, 1)
        state = AccountOpened(owner="ann", limit=Decimal("10.50"), opened_on=date(2024, 2, 29))
        store.save_snapshot(_snapshot(stream, 1, state))
        found = store.get_snapshot(stream, "account")
        assert found is not None
        assert found.data == {"owner": "ann", "limit": "10.50", "opened_on": "2024-02-29"}

    def test_a_state_of_another_type(self, store: EventStore) -> None:
        stream = _stream_of(store, 1)
        store.save_snapshot(_snapshot(stream, 1, {"balance": "secret"}))
        with pytest.raises(SerializationError) as caught:
            store.get_snapshot(stream, "account", AccountFrozen)
        assert (caught.value.event_type, caught.value.path) == ("account", "$.reason")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("state", "path"),
        [
            ({"a": float("nan")}, "$.a"),
            ({"a": [1, {"b": "\0"}]}, "$.a[1].b"),
            ({"a": (1, 2)}, "$.a"),
            ({"a": {1}}, "$.a"),
        ],
    )
    def test_a_state_that_cannot_be_read_back(
        self, store: EventStore, state: dict[str, object], path: str
    ) -> None:
        stream = _stream_of(store, 1)
        with pytest.raises(SerializationError) as caught:
            store.save_snapshot(_snapshot(stream, 1, state))
        assert (caught.value.event_type, caught.value.path) == ("account", path)
        assert store.get_snapshot(stream, "account") is None
