"""Types that change while their events stay: one store before and after a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from eventstore.appending import StreamAppend
from eventstore.boundaries import Query, QueryItem, no_new
from eventstore.codec import UnknownPayload
from eventstore.errors import (
    AppendConditionFailed,
    SerializationError,
    UnknownEventType,
    UpcastingError,
)
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.reading import EventFilter, ReadOptions
from eventstore.registry import EventRegistry
from eventstore.streams import ANY, NO_STREAM
from eventstore.testing.conformance.accounts import new_stream, noted
from eventstore.upcasting import Upcast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventstore.events import AnyEnvelope
    from eventstore.protocols import EventStore


class Transferred(BaseModel):
    """Today's form, its third: at first in ``cents``, of one currency, under another name."""

    amount: int
    currency: str
    reference: str = ""


class Opened(BaseModel):
    """One half of what was one event before."""

    owner: str


class LimitSet(BaseModel):
    """The other half."""

    limit: int


def first_deployment() -> EventRegistry:
    """Return the types as they were at first."""
    known = EventRegistry()
    for name in ("MoneyTransferred", "opened-with-limit", "looked-at", "noted"):
        known.register(name, dict)
    return known


def _todays(**options: Any) -> EventRegistry:
    today = EventRegistry(**options)
    today.register("transferred", Transferred, version=3, aliases=["MoneyTransferred"])
    today.register("opened", Opened)
    today.register("limit-set", LimitSet)
    today.register("noted", dict)
    today.retire("opened-with-limit")
    today.retire("looked-at")

    @today.upcaster("transferred", from_version=1)
    def name_the_amount(data: dict[str, Any]) -> dict[str, Any]:
        return {"amount": data["cents"]}

    @today.upcaster("transferred", from_version=2)
    def add_currency(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"currency": "EUR"}

    @today.upcaster("opened-with-limit", from_version=1, into={"opened": 1, "limit-set": 1})
    def split(data: dict[str, Any]) -> Iterator[Upcast]:
        yield Upcast("opened", {"owner": data["owner"]})
        yield Upcast("limit-set", {"limit": data["limit"]})

    @today.upcaster("looked-at", from_version=1, into={})
    def drop(_: dict[str, Any]) -> tuple[Upcast, ...]:
        return ()

    return today


def _deploy(registry: EventRegistry, today: EventRegistry) -> None:
    """Make ``registry`` know what ``today`` knows, under a store that stays open."""
    vars(registry).update(vars(today))


def _old(event_type: str, **data: Any) -> AnyEnvelope:
    return noted(event_type=event_type, event_data=data)


def _payloads(events: Iterable[AnyEnvelope]) -> list[Any]:
    return [event.event_data for event in events]


class EvolvingTypes:
    """A store whose registry has upcasters, aliases and retired types."""

    def test_an_old_event_is_read_in_todays_form(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        metadata = EventMetadata(correlation_id=uuid4(), tenant="acme")
        old = noted(event_type="MoneyTransferred", event_data={"cents": 7}, metadata=metadata)
        store.append_to_stream(stream, NO_STREAM, [noted(), old, noted()])
        _deploy(registry, _todays())
        before, event, after = store.read_stream(stream)
        assert event.event_type == "transferred"
        assert event.event_data == Transferred(amount=7, currency="EUR")
        assert (event.event_id, event.event_version) == (old.event_id, 2)
        assert event.occurred_at == old.occurred_at
        assert before.sequence_number < event.sequence_number < after.sequence_number
        # The version is always that of the payload beside it.
        assert event.metadata == metadata.model_copy(update={"schema_version": 3})
        assert list(store.read_all_forward(before.sequence_number, 1)) == [event]

    def test_a_version_is_written_with_the_event(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        _deploy(registry, _todays())
        new = EventEnvelope(
            aggregate_type="account",
            event_data=Transferred(amount=7, currency="EUR"),
            metadata=EventMetadata(user_id="ann"),
        )
        store.append_to_stream(stream, NO_STREAM, [new, noted()])
        event, other = store.read_stream(stream)
        assert event.event_data == new.event_data
        assert event.metadata == EventMetadata(user_id="ann", schema_version=3)
        assert other.metadata == EventMetadata()
        # What was read may be appended elsewhere as it is.
        copy = event.model_copy(update={"event_id": uuid4()})
        assert store.append_to_stream(new_stream(), NO_STREAM, [copy]) == 1

    def test_what_is_stored_is_not_changed(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        store.append_to_stream(stream, NO_STREAM, [_old("MoneyTransferred", cents=7)])
        _deploy(registry, _todays())
        assert _payloads(store.read_stream(stream)) == [Transferred(amount=7, currency="EUR")]
        (stored,) = store.read_stream(stream, as_type=dict)
        assert (stored.event_type, stored.event_data) == ("MoneyTransferred", {"cents": 7})
        assert stored.metadata == EventMetadata()

    def test_one_event_has_become_several_or_none(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        split = _old("opened-with-limit", owner="ann", limit=5)
        dropped = [_old("looked-at") for _ in range(3)]
        store.append_to_stream(stream, NO_STREAM, [dropped[0], split, *dropped[1:], noted("end")])
        _deploy(registry, _todays())
        opened, limit_set, end = store.read_stream(stream)
        assert (opened.event_type, opened.event_data) == ("opened", Opened(owner="ann"))
        assert (limit_set.event_type, limit_set.event_data) == ("limit-set", LimitSet(limit=5))
        assert end.event_version == 5
        for half in (opened, limit_set):
            assert (half.event_id, half.event_version) == (split.event_id, 2)
            assert half.sequence_number == opened.sequence_number

    @pytest.mark.parametrize("page_size", [1, 2, 3, 100])
    def test_pages_are_those_of_the_stored_events(
        self, deployed: tuple[EventStore, EventRegistry], page_size: int
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        store.append_to_stream(
            stream,
            NO_STREAM,
            [
                noted("0"),
                *[_old("looked-at") for _ in range(4)],
                _old("opened-with-limit", owner="ann", limit=5),
                _old("looked-at"),
                noted("1"),
            ],
        )
        _deploy(registry, _todays())
        expected = [{"text": "0"}, Opened(owner="ann"), LimitSet(limit=5), {"text": "1"}]

        def read(**options: Any) -> list[Any]:
            return _payloads(store.read_stream(stream, ReadOptions(page_size=page_size, **options)))

        assert read() == expected
        assert read(max_count=6) == expected[:3]
        assert read(max_count=5) == expected[:1]
        assert read(backward=True) == expected[::-1]
        first = next(iter(store.read_stream(stream))).sequence_number
        own = EventFilter(stream_prefix=stream)
        feed = store.read_all_forward(first - 1, filters=own, page_size=page_size)
        assert _payloads(feed) == expected

    def test_a_query_by_todays_name(self, deployed: tuple[EventStore, EventRegistry]) -> None:
        (store, registry), stream, tags = deployed, new_stream(), [f"account:{uuid4()}"]
        old = [
            _old("MoneyTransferred", cents=7),
            _old("opened-with-limit", owner="ann", limit=5),
            _old("looked-at"),
            noted(),
        ]
        store.append(
            *(
                StreamAppend(f"{stream}-{n}", ANY, [event.model_copy(update={"tags": tags})])
                for n, event in enumerate(old)
            )
        )
        _deploy(registry, _todays())

        def found(*event_types: str) -> list[Any]:
            return _payloads(store.read_by_query(Query(QueryItem(types=event_types, tags=tags))))

        assert found("transferred") == [Transferred(amount=7, currency="EUR")]
        assert found("MoneyTransferred") == found("transferred")
        assert found("limit-set") == [LimitSet(limit=5)]
        assert found("opened", "noted") == [Opened(owner="ann"), {"text": ""}]
        assert len(found()) == 4
        # What was stored under the old name is no news to who has read it by the new one.
        query = Query(QueryItem(types=["limit-set"], tags=tags))
        append = StreamAppend(stream, NO_STREAM, [noted()])
        with pytest.raises(AppendConditionFailed):
            store.append(append, require=no_new(query))
        store.append(append, require=no_new(query, after=store.read_by_query(query).token))

    def test_a_filter_by_todays_name(self, deployed: tuple[EventStore, EventRegistry]) -> None:
        (store, registry), stream = deployed, new_stream()
        store.append_to_stream(
            stream,
            NO_STREAM,
            [
                _old("MoneyTransferred", cents=7),
                _old("opened-with-limit", owner="ann", limit=5),
                noted(),
            ],
        )
        _deploy(registry, _todays())
        new = EventEnvelope(
            aggregate_type="account", event_data=Transferred(amount=8, currency="EUR")
        )
        store.append_to_stream(stream, ANY, [new])

        def found(*event_types: str) -> list[Any]:
            wanted = EventFilter(event_types=event_types, stream_prefix=stream)
            return _payloads(store.read_all_forward(filters=wanted))

        transferred = [Transferred(amount=7, currency="EUR"), new.event_data]
        assert found("transferred") == transferred
        assert found("MoneyTransferred") == transferred
        assert found("limit-set") == [LimitSet(limit=5)]
        assert found("opened", "noted") == [Opened(owner="ann"), {"text": ""}]
        assert found("opened-with-limit") == found("looked-at") == []

    def test_what_does_not_fit_names_the_version_and_the_path(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        store.append_to_stream(
            stream,
            NO_STREAM,
            [_old("MoneyTransferred", cents="hush"), _old("MoneyTransferred", euros=7)],
        )
        _deploy(registry, _todays())
        for version, path in ((1, "$.amount"), (2, "$")):
            with pytest.raises(UpcastingError) as caught:
                next(iter(store.read_stream(stream, ReadOptions(from_version=version))))
            error = caught.value
            assert (error.event_type, error.path) == ("transferred", path)
            assert error.from_version == 1
            assert "hush" not in str(error)

    def test_an_event_of_newer_code_is_told_as_such(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        before = dict(vars(registry))
        newer = EventRegistry()
        newer.register("noted", dict, version=2)
        newer.upcaster("noted", from_version=1)(lambda data: data)
        _deploy(registry, newer)
        store.append_to_stream(stream, NO_STREAM, [noted()])
        vars(registry).update(before)
        with pytest.raises(UpcastingError, match="newer code") as caught:
            list(store.read_stream(stream))
        assert (caught.value.from_version, caught.value.to_version) == (2, 1)

    def test_unknown_types_are_read_raw_by_choice(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        data = {"text": [1, None]}
        store.append_to_stream(stream, NO_STREAM, [noted(event_data=data), noted()])
        _deploy(registry, EventRegistry())
        with pytest.raises(UnknownEventType):
            list(store.read_stream(stream))
        _deploy(registry, EventRegistry(unknown="raw"))
        event = next(iter(store.read_stream(stream)))
        assert (event.event_type, event.event_data) == ("noted", UnknownPayload(data))
        for again in (noted(), event.model_copy(update={"event_id": uuid4()})):
            with pytest.raises(UnknownEventType):
                store.append_to_stream(stream, ANY, [again])

    @pytest.mark.parametrize("name", ["MoneyTransferred", "opened-with-limit", "looked-at"])
    def test_an_old_name_is_not_written(
        self, deployed: tuple[EventStore, EventRegistry], name: str
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        _deploy(registry, _todays())
        with pytest.raises(UnknownEventType):
            store.append_to_stream(stream, ANY, [_old(name)])
        assert store.get_stream_info(stream) is None

    def test_metadata_can_not_name_another_version(
        self, deployed: tuple[EventStore, EventRegistry]
    ) -> None:
        (store, registry), stream = deployed, new_stream()
        _deploy(registry, _todays())
        event = noted(metadata=EventMetadata(schema_version=2))
        with pytest.raises(SerializationError, match="registered version") as caught:
            store.append_to_stream(stream, ANY, [event])
        assert caught.value.path == "metadata.schema_version"

    def test_without_a_registry_the_metadata_says_the_version(self, store: EventStore) -> None:
        stream = new_stream()
        metadata = EventMetadata(schema_version=7)
        store.append_to_stream(stream, NO_STREAM, [noted(metadata=metadata)])
        (event,) = store.read_stream(stream)
        assert event.metadata == metadata
