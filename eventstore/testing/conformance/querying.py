"""Tags, queries by type and tag, and appends that rest on a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from eventstore.appending import StreamAppend, StreamAt
from eventstore.boundaries import Query, QueryItem, QueryToken, no_new
from eventstore.errors import (
    AppendConditionFailed,
    ConcurrencyConflict,
    DuplicateEvent,
    SerializationError,
    StreamDeleted,
)
from eventstore.events import EventMetadata
from eventstore.streams import ANY, NO_STREAM
from eventstore.testing.conformance.accounts import new_stream, noted, texts

if TYPE_CHECKING:
    from eventstore.boundaries import QueryResult
    from eventstore.events import AnyEnvelope
    from eventstore.protocols import EventStore


def new_tag(kind: str = "course") -> str:
    """Return a tag that no test has used."""
    return f"{kind}:{uuid4()}"


def tagged(text: str, *tags: str, **fields: Any) -> AnyEnvelope:
    """Return a plain event with these tags."""
    return noted(text, tags=tags, **fields)


def said(result: QueryResult) -> list[str]:
    """Return what the events of a result say."""
    return [event.event_data["text"] for event in result]


class Tags:
    """An event has its tags wherever it is read."""

    def test_they_come_back(self, store: EventStore) -> None:
        stream, tag, other = new_stream(), new_tag(), new_tag('ü"\\ ')
        position = next(iter(store.append(StreamAppend(stream, ANY, [noted()])))).positions[0]
        metadata = EventMetadata(user_id="u-1", further="$tags")
        store.append_to_stream(stream, 1, [tagged("one", tag, other, metadata=metadata)])
        store.append_to_stream(stream, 2, [tagged("two", tag), noted("three", key="k")])
        recorded = list(store.read_stream(stream))
        assert [event.tags for event in recorded] == [(), (tag, other), (tag,), ()]
        assert recorded[1].metadata == metadata
        assert list(recorded[1].metadata.__pydantic_extra__ or ()) == ["further"]
        assert store.load_stream(stream).events == recorded
        assert list(store.read_all_forward(position - 1)) == recorded
        assert list(store.read_by_query(Query(QueryItem(tags=[tag])))) == recorded[1:3]

    def test_each_tag_counts_once(self, store: EventStore) -> None:
        tag = new_tag()
        store.append_to_stream(new_stream(), ANY, [tagged("", tag, tag)])
        (event,) = store.read_by_query(Query(QueryItem(tags=[tag, tag])))
        assert event.tags == (tag,)

    def test_metadata_has_no_place_for_them(self, store: EventStore) -> None:
        metadata = EventMetadata.model_validate({"$tags": ["course:c1"]})
        with pytest.raises(SerializationError, match=r"metadata\.\$tags is a reserved key"):
            store.append_to_stream(new_stream(), ANY, [noted(metadata=metadata)])

    def test_tags_that_were_not_validated(self, store: EventStore) -> None:
        for wrong, error in (
            ("course:c1", TypeError),
            ([1], TypeError),
            ([""], ValueError),
            (["x" * 256], ValueError),
            (["a\0b"], ValueError),
            ([str(number) for number in range(101)], ValueError),
        ):
            event = noted().model_copy(update={"tags": wrong})
            with pytest.raises(error, match="tag"):
                store.append_to_stream(new_stream(), ANY, [event])


class Querying:
    """Types are alternatives, tags are all needed, items are alternatives."""

    def test_what_an_item_matches(self, store: EventStore) -> None:
        one, other, mine = new_tag(), new_tag(), new_tag("test")
        events = [
            tagged("a1", mine, one, event_type="a"),
            tagged("b1", mine, one, event_type="b"),
            tagged("a2", mine, one, other, event_type="a"),
            tagged("c0", mine, event_type="c"),
            tagged("b2", other, one, mine, event_type="b"),
        ]
        store.append(*(StreamAppend(new_stream(), ANY, [event]) for event in events))
        for items, expected in (
            ([QueryItem(tags=[mine])], ["a1", "b1", "a2", "c0", "b2"]),
            ([QueryItem(tags=[one])], ["a1", "b1", "a2", "b2"]),
            ([QueryItem(tags=[one, other])], ["a2", "b2"]),
            ([QueryItem(tags=[other, one, mine])], ["a2", "b2"]),
            ([QueryItem(types=["a", "c"], tags=[mine])], ["a1", "a2", "c0"]),
            ([QueryItem(types=["b"], tags=[one, other])], ["b2"]),
            ([QueryItem(types=["c"], tags=[one])], []),
            ([QueryItem(tags=[one, new_tag()])], []),
            # An event that two items match comes once.
            (
                [QueryItem(types=["b", "c"], tags=[mine]), QueryItem(tags=[other])],
                ["b1", "a2", "c0", "b2"],
            ),
        ):
            assert said(store.read_by_query(Query(*items))) == expected

    def test_items_without_tags(self, store: EventStore) -> None:
        kind, tag = f"type-{uuid4()}", new_tag()
        before = store.read_by_query(Query.all()).token
        events = [noted("1", event_type=kind), tagged("2", tag, event_type=kind), tagged("3", tag)]
        store.append_to_stream(new_stream(), ANY, events)
        assert said(store.read_by_query(Query(QueryItem(types=[kind])))) == ["1", "2"]
        either = Query(QueryItem(types=[kind]), QueryItem(tags=[tag]))
        assert said(store.read_by_query(either)) == ["1", "2", "3"]
        assert said(store.read_by_query(Query.all(), after=before)) == ["1", "2", "3"]

    def test_more_than_a_page(self, store: EventStore) -> None:
        tag, other = new_tag(), new_tag()
        events = [tagged(str(number), tag, *[other] * (number % 2)) for number in range(1_203)]
        store.append_to_stream(new_stream(), ANY, events)
        every = store.read_by_query(Query(QueryItem(tags=[tag])))
        assert said(every) == [str(number) for number in range(1_203)]
        odd = store.read_by_query(Query(QueryItem(tags=[other, tag]), QueryItem(tags=[other])))
        assert said(odd) == [str(number) for number in range(1, 1_203, 2)]

    def test_events_of_deleted_streams_count(self, store: EventStore) -> None:
        stream, tag = new_stream(), new_tag()
        store.append_to_stream(stream, ANY, [tagged("there", tag)])
        store.delete_stream(stream)
        query = Query(QueryItem(tags=[tag]))
        assert said(store.read_by_query(query)) == ["there"]
        with pytest.raises(AppendConditionFailed):
            store.append(StreamAppend(new_stream(), ANY, [noted()]), require=no_new(query))

    def test_only_what_a_token_has_not_seen(self, store: EventStore) -> None:
        stream, tag = new_stream(), new_tag()
        query = Query(QueryItem(tags=[tag]))
        store.append_to_stream(stream, ANY, [tagged("1", tag)])
        first = store.read_by_query(query)
        assert said(store.read_by_query(query, after=first.token)) == []
        store.append_to_stream(stream, ANY, [tagged("2", tag), noted(), tagged("3", tag)])
        second = store.read_by_query(query, after=first.token)
        assert said(second) == ["2", "3"]
        assert said(store.read_by_query(query, after=second.token)) == []
        assert len(store.read_by_query(query)) == 3

    def test_payloads_as_they_are_stored(self, store: EventStore) -> None:
        tag = new_tag()
        store.append_to_stream(new_stream(), ANY, [tagged("x", tag)])
        (event,) = store.read_by_query(Query(QueryItem(tags=[tag])), as_type=bytes)
        assert event.event_data.replace(b" ", b"") == b'{"text":"x"}'

    def test_wrong_arguments(self, store: EventStore) -> None:
        query = Query(QueryItem(tags=[new_tag()]))
        with pytest.raises(TypeError, match="query must be a Query"):
            store.read_by_query(QueryItem(tags=["a"]))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be a QueryToken"):
            store.read_by_query(query, after=7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="another query's"):
            store.read_by_query(query, after=store.read_by_query(Query.all()).token)
        append = StreamAppend(new_stream(), ANY, [noted()])
        wrong: list[Any] = [query, [query], "query", [no_new(query), 1]]
        for require in wrong:
            with pytest.raises(TypeError):
                store.append(append, require=require)
        assert store.get_stream_info(append.stream_id) is None


class AppendConditions:
    """An append that rests on a query is refused if the query finds something new."""

    def test_nothing_is_there(self, store: EventStore) -> None:
        stream, tag = new_stream(), new_tag()
        free = no_new(Query(QueryItem(tags=[tag])))
        result = store.append(StreamAppend(stream, NO_STREAM, [tagged("1", tag)]), require=free)
        assert result[stream].version == 1
        with pytest.raises(AppendConditionFailed) as caught:
            store.append(StreamAppend(stream, 1, [tagged("2", tag)]), require=[free])
        assert caught.value.position == result[stream].positions[0]
        assert texts(store, stream) == ["1"]

    def test_something_has_come_since(self, store: EventStore) -> None:
        stream, tag, other = new_stream(), new_tag(), new_tag()
        query = Query(
            QueryItem(tags=[tag], types=["noted"]),
            QueryItem(types=["b"], tags=[other]),
            QueryItem(tags=[tag, other, new_tag()]),
        )
        store.append_to_stream(stream, ANY, [tagged("1", tag)])
        token = store.read_by_query(query).token
        # None of these matches.
        harmless = [
            noted(),
            tagged("", other),
            tagged("", tag, event_type="b"),
            tagged("", tag, other, event_type="c"),
            tagged("", new_tag()),
        ]
        store.append_to_stream(new_stream(), ANY, harmless)
        store.append(StreamAppend(stream, 1, [noted("2")]), require=no_new(query, after=token))
        place = store.append(StreamAppend(stream, 2, [tagged("3", other, tag, event_type="b")]))
        for after in (token, str(token)):
            with pytest.raises(AppendConditionFailed) as caught:
                store.append(
                    StreamAppend(stream, ANY, [noted()]), require=no_new(query, after=after)
                )
            assert caught.value.position == place[stream].positions[0]
        again = store.read_by_query(query, after=token).token
        store.append(StreamAppend(stream, 3, [noted("4")]), require=no_new(query, after=again))
        assert texts(store, stream) == ["1", "2", "3", "4"]

    def test_an_item_without_tags(self, store: EventStore) -> None:
        stream, kind = new_stream(), f"type-{uuid4()}"
        query = Query(QueryItem(types=[kind]), QueryItem(tags=[new_tag()]))
        free = no_new(query)
        store.append(StreamAppend(stream, ANY, [noted("1", event_type=kind)]), require=free)
        with pytest.raises(AppendConditionFailed):
            store.append(StreamAppend(stream, ANY, [noted()]), require=free)
        seen = no_new(query, after=store.read_by_query(query).token)
        store.append(StreamAppend(stream, ANY, [tagged("2", new_tag())]), require=seen)
        everything = no_new(Query.all(), after=store.read_by_query(Query.all()).token)
        store.append(StreamAppend(stream, ANY, [noted("3")]), require=everything)
        with pytest.raises(AppendConditionFailed):
            store.append(StreamAppend(stream, ANY, [noted()]), require=everything)
        assert texts(store, stream) == ["1", "2", "3"]

    def test_several_streams_and_requirements(self, store: EventStore) -> None:
        one, other, read, tag = new_stream(), new_stream(), new_stream(), new_tag()
        free = no_new(Query(QueryItem(tags=[tag])))
        also_free = no_new(Query(QueryItem(tags=[new_tag()])))
        appends = (
            StreamAppend(one, ANY, [tagged("1", tag), tagged("2", new_tag())]),
            StreamAppend(other, ANY, [tagged("3", tag)]),
        )
        result = store.append(*appends, require=[also_free, StreamAt(read, NO_STREAM), free])
        assert [placed.stream_id for placed in result] == [one, other]
        new = (StreamAppend(one, ANY, [noted("4")]), StreamAppend(other, ANY, [noted("5")]))
        for beside in (also_free, StreamAt(read, NO_STREAM)):
            with pytest.raises(AppendConditionFailed):
                store.append(*new, require=[beside, free])
        assert texts(store, one) == ["1", "2"]
        with pytest.raises(ConcurrencyConflict):
            store.append(*new, require=[StreamAt(read, 1), also_free])
        store.append(*new, require=[StreamAt(read, NO_STREAM), also_free])
        assert texts(store, other) == ["3", "5"]

    def test_an_append_without_events_only_checks(self, store: EventStore) -> None:
        stream, tag = new_stream(), new_tag()
        free = no_new(Query(QueryItem(tags=[tag])))
        assert store.append(StreamAppend(stream, NO_STREAM, []), require=free)[stream].version == 0
        store.append_to_stream(stream, NO_STREAM, [tagged("", tag)])
        with pytest.raises(AppendConditionFailed):
            store.append(StreamAppend(stream, 1, []), require=free)

    def test_the_same_append_with_its_condition_again(self, store: EventStore) -> None:
        one, other, tag = new_stream(), new_stream(), new_tag()
        free = no_new(Query(QueryItem(tags=[tag])))
        single = StreamAppend(one, NO_STREAM, [tagged("1", tag)])
        first = store.append(single, require=free)
        # What the condition meets is what it has let through itself.
        again = store.append(single, require=free)
        assert again.already_appended
        assert again.streams == first.streams
        with pytest.raises(DuplicateEvent):
            store.append(single, StreamAppend(other, ANY, [tagged("2", tag)]), require=free)
        assert texts(store, one) == ["1"]

    def test_a_deleted_stream_and_a_version_are_named_first(self, store: EventStore) -> None:
        stream, gone, tag = new_stream(), new_stream(), new_tag()
        free = no_new(Query(QueryItem(tags=[tag])))
        store.append_to_stream(gone, ANY, [tagged("", tag)])
        store.delete_stream(gone)
        with pytest.raises(StreamDeleted):
            store.append(StreamAppend(gone, ANY, [noted()]), require=free)
        with pytest.raises(ConcurrencyConflict):
            store.append(StreamAppend(stream, 1, [noted()]), require=free)
        with pytest.raises(AppendConditionFailed):
            store.append(StreamAppend(stream, 0, [noted()]), require=free)

    def test_a_token_that_has_seen_nothing(self, store: EventStore) -> None:
        query = Query(QueryItem(tags=[new_tag()]))
        nothing = QueryToken.parse(str(store.read_by_query(query).token))
        append = StreamAppend(new_stream(), ANY, [noted()])
        assert store.append(append, require=no_new(query, after=nothing)).streams
