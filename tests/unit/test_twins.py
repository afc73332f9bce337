"""The twins stay twins: the same names, parameters and descriptions, awaited or iterated."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from eventstore import (
    AsyncEventStore,
    AsyncGroupCommitWriter,
    AsyncSqlAlchemyEventStore,
    EventStore,
    GroupCommitWriter,
    SqlAlchemyEventStore,
)
from eventstore.memory import InMemoryEventStore
from eventstore.memory_aio import AsyncInMemoryEventStore

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (SqlAlchemyEventStore, AsyncSqlAlchemyEventStore),
    (InMemoryEventStore, AsyncInMemoryEventStore),
    (EventStore, AsyncEventStore),
]

#: A protocol's overloads have no implementation whose signature could be compared.
ITERATES = {"read_stream", "read_all_forward"}
OVERLOADED = {"read_stream", "read_all_forward", "get_snapshot"}


def operations(store: type[Any]) -> dict[str, Any]:
    methods = inspect.getmembers(store, inspect.isfunction)
    return {name: method for name, method in methods if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
def test_the_twins_have_the_same_operations(sync: type[Any], twin: type[Any]) -> None:
    assert operations(sync).keys() == operations(twin).keys() == operations(EventStore).keys()


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
@pytest.mark.parametrize("name", operations(EventStore))
def test_an_operation_is_the_same_in_both(sync: type[Any], twin: type[Any], name: str) -> None:
    method, other = operations(sync)[name], operations(twin)[name]
    if sync is not EventStore or name not in OVERLOADED:
        assert inspect.signature(method).parameters == inspect.signature(other).parameters
        assert inspect.iscoroutinefunction(other) != (name in ITERATES)
    assert method.__doc__ == other.__doc__


@pytest.mark.parametrize("store", [SqlAlchemyEventStore, InMemoryEventStore])
@pytest.mark.parametrize("name", operations(EventStore).keys() - OVERLOADED)
def test_the_stores_have_the_signatures_of_the_protocol(store: type[Any], name: str) -> None:
    wanted = inspect.signature(operations(EventStore)[name]).parameters
    assert inspect.signature(operations(store)[name]).parameters == wanted


@pytest.mark.parametrize("name", ["__init__", "append_to_stream", "close"])
def test_the_writers_are_twins_too(name: str) -> None:
    method, other = getattr(GroupCommitWriter, name), getattr(AsyncGroupCommitWriter, name)
    parameters, others = (inspect.signature(each).parameters for each in (method, other))
    assert list(parameters) == list(others)
    if name != "__init__":  # which takes another engine
        assert parameters == others
        assert inspect.iscoroutinefunction(other)
    assert method.__doc__ == other.__doc__
    assert operations(GroupCommitWriter).keys() == operations(AsyncGroupCommitWriter).keys()
