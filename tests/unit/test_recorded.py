from __future__ import annotations

import copy
import gc
import pickle
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, TypeAdapter

from eventstore import EventMetadata, SerializationError
from eventstore.recorded import collector_paused, undecoded_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = '{"correlation_id": "c", "user_id": "u", "tenant": {"id": 7}}'
METADATA = EventMetadata(correlation_id="c", user_id="u", tenant={"id": 7})


class Holder(BaseModel):
    metadata: EventMetadata


#: Each looks at metadata in a way of its own.
LOOKS: dict[str, Callable[[EventMetadata], Any]] = {
    "a field": lambda metadata: metadata.user_id,
    "a field that is not set": lambda metadata: metadata.causation_id,
    "a further key": lambda metadata: metadata.tenant,  # type: ignore[attr-defined]
    "itself": lambda metadata: metadata,
    "hash": lambda metadata: hash(metadata.model_copy(update={"tenant": None})),
    "repr": repr,
    "class": lambda metadata: metadata.__class__,
    "vars": vars,
    "fields": dict,
    "set fields": lambda metadata: metadata.model_fields_set,
    "dump": lambda metadata: metadata.model_dump(),
    "dump by another model": lambda metadata: Holder(metadata=metadata).model_dump_json(),
    "dump by an adapter": lambda metadata: TypeAdapter(EventMetadata).dump_json(metadata),
    "validate": TypeAdapter(EventMetadata).validate_python,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "pickle": lambda metadata: pickle.loads(pickle.dumps(metadata)),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_whatever_looks_at_metadata_finds_it_decoded(look: Callable[[EventMetadata], Any]) -> None:
    metadata = undecoded_metadata("noted", JSON)
    assert look(metadata) == look(METADATA)
    assert type(metadata) is EventMetadata


def test_it_is_equal_either_way_round() -> None:
    assert undecoded_metadata("noted", JSON) == METADATA
    assert METADATA == undecoded_metadata("noted", JSON)  # noqa: SIM300 - the other way round
    assert undecoded_metadata("noted", "{}") != METADATA


def test_the_first_look_tells_what_does_not_validate() -> None:
    metadata = undecoded_metadata("noted", '{"user_id": 7}')
    for _ in range(2):
        with pytest.raises(SerializationError) as refused:
            _ = metadata.user_id
        assert (refused.value.event_type, refused.value.path) == ("noted", "metadata.user_id")


def test_threads_may_look_at_the_same_time() -> None:
    everyone, seen = Barrier(8), list[object]()

    def look(metadata: EventMetadata) -> None:
        everyone.wait()
        seen.append(metadata.user_id)

    for _ in range(50):
        metadata = undecoded_metadata("noted", JSON)
        threads = [Thread(target=look, args=(metadata,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == ["u"] * 400


def test_the_collector_pauses_and_goes_on() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), collector_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
