from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Query, QueryItem, QueryToken, no_new
from eventstore.boundaries import NoNew


def test_what_an_item_matches() -> None:
    item = QueryItem(types=["a", "b"], tags=["x", "y"])
    assert item.matches("a", ["y", "z", "x"])
    assert item.matches("b", ["x", "y"])
    assert not item.matches("c", ["x", "y"])
    assert not item.matches("a", ["x"])
    assert QueryItem().matches("anything", [])
    assert QueryItem(types=["a"]).matches("a", [])
    assert QueryItem(tags=["x"]).matches("anything", ["x"])


def test_what_a_query_matches() -> None:
    query = Query(QueryItem(types=["a"]), QueryItem(tags=["x"]))
    assert query.matches("a", [])
    assert query.matches("b", ["x"])
    assert not query.matches("b", ["y"])
    assert Query.all().matches("anything", [])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: QueryItem(types="a"), TypeError, "not the str 'a'"),
        (lambda: QueryItem(tags="a"), TypeError, "not the str 'a'"),
        (lambda: QueryItem(tags=[1]), TypeError, "tag must be a str"),  # type: ignore[list-item]
        (lambda: QueryItem(tags=[""]), ValueError, "tag must not be empty"),
        (lambda: QueryItem(types=["x" * 101]), ValueError, "at most 100"),
        (lambda: QueryItem(tags=map(str, range(101))), ValueError, "at most 100 tags"),
        (Query, ValueError, r"Query\.all\(\)"),
        (lambda: Query("a"), TypeError, "QueryItem, not str"),  # type: ignore[arg-type]
        (lambda: Query(*(QueryItem(tags=[str(n)]) for n in range(101))), ValueError, "100 items"),
        (lambda: no_new(QueryItem()), TypeError, r"Query\(QueryItem"),  # type: ignore[arg-type]
        (lambda: no_new(Query.all(), after="7"), ValueError, "no token"),
        (lambda: no_new(Query.all(), after=7), TypeError, "QueryToken"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_the_order_of_its_parts_is_no_part_of_what_a_query_means() -> None:
    one = Query(QueryItem(types=["a", "b"], tags=["x", "y"]), QueryItem(tags=["z"]))
    other = Query(QueryItem(tags=["z", "z"]), QueryItem(types=["b", "a"], tags=["y", "x"]))
    assert one.fingerprint == other.fingerprint
    different = [
        Query.all(),
        Query(QueryItem(tags=["z"])),
        Query(QueryItem(types=["z"])),
        Query(QueryItem(types=["a", "b", "x", "y"]), QueryItem(tags=["z"])),
    ]
    assert len({query.fingerprint for query in (one, *different)}) == 5


@given(st.integers(0, 2**62), st.sets(st.integers(1, 2**62)))
def test_a_token_survives_as_text_and_as_a_pickle(position: int, above: set[int]) -> None:
    seen = frozenset(number for number in above if number > position)
    token = QueryToken(Query.all().fingerprint, position, seen)
    assert QueryToken.parse(str(token)) == token
    assert pickle.loads(pickle.dumps(token)) == token
    assert no_new(Query.all(), after=str(token)) == NoNew(Query.all(), token)


@pytest.mark.parametrize(
    "text", ["", "7", "x.7", "0123456789abcdef", "0123456789abcdef.", "0123456789abcdef.-1",
             "0123456789abcdef.7.", "0123456789ABCDEF.7", "0123456789abcdef.\u0667",
             "0123456789abcdef.9999999999999999999", "0123456789abcdef.9223372036854775807.1"],
)  # fmt: skip
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(ValueError, match=r"no token|position"):
        QueryToken.parse(text)


def test_a_token_is_bound_to_its_query() -> None:
    token = QueryToken(Query.all().fingerprint, 7)
    with pytest.raises(ValueError, match="another query's"):
        no_new(Query(QueryItem(tags=["x"])), after=token)


def test_a_query_by_other_names_keeps_items_that_mean_any_type() -> None:
    query = Query(QueryItem(types=["new"], tags=["x"]), QueryItem(tags=["y"]))
    renamed = query.with_types(lambda types: {*types, "old"})
    assert renamed == Query(QueryItem(types=["new", "old"], tags=["x"]), QueryItem(tags=["y"]))
