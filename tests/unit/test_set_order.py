"""Equal sets are written as equal JSON, in whatever order Python has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_serializer
from pydantic.alias_generators import to_camel

from eventstore import EventEnvelope, EventRegistry, InMemoryEventStore, Snapshots, StreamAppend
from eventstore.payloads import PayloadType
from eventstore.personal import Personal, personal
from eventstore.personal.fields import AS_CARRIERS
from eventstore.snapshotting import EveryEvents

# Two that fall on one place of a hash table stand in the order in which they came.
ONE, OTHER = frozenset([0, 8]), frozenset([8, 0])


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    some_numbers: set[int]


class Named(BaseModel):
    numbers: Annotated[frozenset[int], Field(alias="n")]


class Numbers(RootModel[frozenset[int]]):
    pass


class Pair(NamedTuple):
    first: frozenset[int]
    second: int


class Owned(BaseModel):
    owner: str = "o"
    numbers: Annotated[Personal[frozenset[int]], personal(subject="owner")]


class Odd(BaseModel):
    """Writes its set in a way of its own."""

    numbers: frozenset[int]

    @field_serializer("numbers")
    def _written(self, numbers: frozenset[int]) -> str:
        return " ".join(map(str, sorted(numbers)))


@dataclass(frozen=True)
class Basket:
    numbers: frozenset[int]


MAKERS: list[tuple[Any, Any]] = [
    (frozenset[int], lambda numbers: numbers),
    (list[set[int]], lambda numbers: [{*()}, set(numbers)]),
    (dict[UUID, frozenset[int]], lambda numbers: {UUID(int=1): numbers}),
    (frozenset[frozenset[int]], lambda numbers: frozenset([frozenset([1]), numbers])),
    (frozenset[Basket], lambda numbers: frozenset([Basket(numbers), Basket(frozenset())])),
    (tuple[int, frozenset[int]] | None, lambda numbers: (1, numbers)),
    (Basket, Basket),
    (Camel, lambda numbers: Camel(some_numbers=set(numbers))),
    (Named, lambda numbers: Named(n=numbers)),
    (list[Numbers], lambda numbers: [Numbers(numbers)]),
    (Pair, lambda numbers: Pair(numbers, 1)),
    (Owned, lambda numbers: Owned(numbers=numbers)),
]


def test_the_order_of_two_equal_sets_differs() -> None:
    assert ONE == OTHER
    assert list(ONE) != list(OTHER)


@pytest.mark.parametrize(
    ("python_type", "make"), [pytest.param(*maker, id=str(maker[0])) for maker in MAKERS]
)
def test_equal_values_are_written_alike(python_type: Any, make: Any) -> None:
    of_type = PayloadType(python_type)
    written = of_type.encode("it", make(ONE))
    assert written == of_type.encode("it", make(OTHER))
    if not of_type.is_personal:
        assert of_type.decode("it", written) == make(ONE)


def test_lists_keep_their_order() -> None:
    of_type = PayloadType(tuple[list[int], frozenset[int]])
    assert of_type.encode("it", ([8, 0], OTHER)) == b"[[8,0],[0,8]]"


def test_what_is_written_in_a_way_of_its_own_is_left() -> None:
    of_type = PayloadType(Odd, verify=False)
    assert of_type.encode("it", Odd(numbers=OTHER)) == b'{"numbers":"0 8"}'


def test_what_is_personal_is_written_alike_too() -> None:
    one, other = (
        PayloadType(Owned)._written("it", Owned(numbers=numbers), AS_CARRIERS)
        for numbers in (ONE, OTHER)
    )
    assert one == other
    assert b'"value":[0,8]' in one


def test_a_batch_that_is_appended_again_is_known() -> None:
    registry = EventRegistry()
    registry.register("basket", Basket)
    store = InMemoryEventStore(registry)
    results = [
        store.append(
            StreamAppend(
                "s",
                0,
                [
                    EventEnvelope(
                        event_id=UUID(int=1), aggregate_type="basket", event_data=Basket(numbers)
                    )
                ],
            )
        )
        for numbers in (ONE, OTHER)
    ]
    assert [result.already_appended for result in results] == [False, True]


def test_a_snapshot_of_a_set_is_used() -> None:
    class Grown(BaseModel):
        numbers: set[int]

    writer = Snapshots(EveryEvents(1)).writer_for(Grown)
    # Its table stays large, and so the order is another one than that of a copy.
    numbers = set(range(100))
    numbers.difference_update(range(7), range(9, 100))
    assert list(numbers) != list(set(list(numbers)))  # noqa: C414 - from a set, it is copied
    kept = writer.snapshot_of(
        Grown.model_construct(numbers=numbers),
        stream_id="s",
        aggregate_type="t",
        version=1,
        now=datetime.now(UTC),
    )
    assert kept is not None
    assert writer.restore(kept, lambda state: state) == Grown(numbers=numbers)
