from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from eventstore import EventEnvelope, EventRegistry, Upcast
from eventstore.personal import MasterKeys
from eventstore.testing.golden import GoldenEvents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Placed(BaseModel):
    order_id: str
    tags: set[str] = set()
    lines: list[dict[str, int]] = []


class PlacedWithoutTags(BaseModel):
    order_id: str
    lines: list[dict[str, int]] = []


class PlacedWithMore(Placed):
    note: str = ""


class PlacedToday(BaseModel):
    order_id: str
    currency: str


SAMPLE = Placed(order_id="7", tags={"a", "b", "c"}, lines=[{"cents": 7}])


def first_registry(payload_type: Any = Placed) -> EventRegistry:
    registry = EventRegistry()
    registry.register("OrderPlaced", payload_type)
    return registry


def todays_registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register("order-placed", PlacedToday, version=2, aliases=["OrderPlaced"])
    registry.upcaster("order-placed", from_version=1)(
        lambda data: {"order_id": data["order_id"], "currency": "EUR"}
    )
    return registry


def test_the_librarys_own_types_are_its_own_to_test(tmp_path: Path) -> None:
    registry = first_registry()
    registry.use_keys(MasterKeys(bytes(32)))
    GoldenEvents(tmp_path, write=True).check(registry, [SAMPLE])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the golden event of the first version."""
    GoldenEvents(tmp_path / "golden", write=True).check(first_registry(), [SAMPLE])
    return tmp_path / "golden"


def problems(golden: GoldenEvents, registry: EventRegistry) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        golden.check(registry)
    return str(caught.value).split("\n- ")[1:]


def test_the_first_version_is_written_on_request(tmp_path: Path) -> None:
    golden = GoldenEvents(tmp_path)
    for samples in ([], [SAMPLE]):
        with pytest.raises(AssertionError, match="--write-golden-events") as caught:
            golden.check(first_registry(), samples)
        assert str(tmp_path / "OrderPlaced" / "v1.json") in str(caught.value)
    assert not list(tmp_path.iterdir())
    GoldenEvents(tmp_path, write=True).check(first_registry(), [SAMPLE])
    assert json.loads((tmp_path / "OrderPlaced" / "v1.json").read_bytes())["order_id"] == "7"
    golden.check(first_registry())


def test_what_was_written_stays(folder: Path) -> None:
    text = (folder / "OrderPlaced" / "v1.json").read_text()
    GoldenEvents(folder, write=True).check(first_registry(), [Placed(order_id="8")])
    assert (folder / "OrderPlaced" / "v1.json").read_text() == text


def test_a_new_version_reads_the_old_one(folder: Path) -> None:
    golden = GoldenEvents(folder)
    (missing,) = problems(golden, todays_registry())
    assert missing.startswith(f"{folder / 'order-placed' / 'v2.json'}: ")
    sample = PlacedToday(order_id="8", currency="USD")
    GoldenEvents(folder, write=True).check(todays_registry(), [sample])
    golden.check(todays_registry())
    assert golden.read(todays_registry(), "OrderPlaced") == [
        PlacedToday(order_id="7", currency="EUR")
    ]
    assert golden.read(todays_registry(), "order-placed", 2) == [sample]


def test_a_change_that_breaks_an_old_one_fails(folder: Path) -> None:
    (broken,) = problems(GoldenEvents(folder), first_registry(PlacedToday))
    assert broken.startswith(f"{folder / 'OrderPlaced' / 'v1.json'}: ")
    assert "$.currency" in broken
    broken_upcaster = EventRegistry()
    broken_upcaster.register("OrderPlaced", PlacedToday, version=2)
    broken_upcaster.upcaster("OrderPlaced", from_version=1)(lambda data: data["no such key"])
    told = problems(GoldenEvents(folder), broken_upcaster)
    assert "KeyError" in told[0]


def test_a_field_that_is_lost_without_a_new_version_fails(folder: Path) -> None:
    (lost,) = problems(GoldenEvents(folder), first_registry(PlacedWithoutTags))
    assert "$.tags is lost or changed" in lost


def test_a_field_that_is_added_with_a_default_does_not(folder: Path) -> None:
    GoldenEvents(folder).check(first_registry(PlacedWithMore))


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        ({"order_id": "7", "tags": ["b", "a"]}, None),
        ({"order_id": "7", "lines": [{"a": 1}, {"b": 2}]}, None),
        ({"order_id": "7", "lines": [{"a": 1.0}]}, None),
        ({"order_id": "7", "lines": [{"a": True}]}, "$.lines[0].a"),
        ({"order_id": "7", "tags": ["a", "a"]}, "$.tags"),
        ({"order_id": "7", "more": 1}, "$.more"),
    ],
)
def test_what_counts_as_lost(tmp_path: Path, stored: dict[str, Any], path: str | None) -> None:
    golden = GoldenEvents(tmp_path)
    file = golden.path_of("OrderPlaced", 1)
    file.parent.mkdir()
    file.write_text(json.dumps(stored))
    if path is None:
        golden.check(first_registry())
    else:
        assert f"{path} is lost or changed" in problems(golden, first_registry())[0]


def test_a_type_that_was_forgotten_fails(folder: Path) -> None:
    for registry in (EventRegistry(), EventRegistry(unknown="raw")):
        (forgotten,) = problems(GoldenEvents(folder), registry)
        assert "'OrderPlaced' is neither registered nor retired" in forgotten


def test_an_old_version_without_a_golden_event_is_told(tmp_path: Path) -> None:
    golden = GoldenEvents(tmp_path, write=True)
    golden.write(todays_registry(), PlacedToday(order_id="7", currency="EUR"))
    (missing,) = problems(golden, todays_registry())
    assert str(tmp_path / "order-placed" / "v1.json") in missing
    assert "from a store" in missing


def test_retired_types_are_read_too(folder: Path) -> None:
    registry = EventRegistry()
    registry.register("begun", dict)
    registry.retire("OrderPlaced")

    @registry.upcaster("OrderPlaced", from_version=1, into={"begun": 1})
    def split(data: dict[str, Any]) -> Iterator[Upcast]:
        yield Upcast("begun", {"order": data["order_id"]})
        yield Upcast("begun", {})

    golden = GoldenEvents(folder, write=True)
    sample = EventEnvelope(aggregate_type="order", event_type="begun", event_data={"order": "8"})
    golden.check(registry, [sample])
    assert golden.read(registry, "OrderPlaced") == [{"order": "7"}, {}]
    (folder / "OrderPlaced" / "v1.json").unlink()
    (missing,) = problems(golden, registry)
    assert "'OrderPlaced', version 1" in missing


def test_no_message_shows_the_payload(folder: Path) -> None:
    file = folder / "OrderPlaced" / "v1.json"
    for text in ('{"order_id": "hush", "more": 1}', '{"order_id": ["hush"]}', "hush", "[]"):
        file.write_text(text)
        (told,) = problems(GoldenEvents(folder), first_registry())
        assert "hush" not in told


@pytest.mark.parametrize("event_type", ["a/b", "..", ".", "a b", "a%2Fb", "a:b?*", "é", "a.b"])
def test_any_type_has_a_folder_of_its_own(tmp_path: Path, event_type: str) -> None:
    registry = EventRegistry()
    registry.register(event_type, Placed)
    golden = GoldenEvents(tmp_path, write=True)
    path = golden.write(registry, SAMPLE)
    assert path.parent.parent == tmp_path
    golden.check(registry)


def test_other_files_are_left_alone(folder: Path) -> None:
    (folder / "README.md").write_text("")
    (folder / "OrderPlaced" / "v1.json.orig").write_text("")
    (folder / "OrderPlaced" / "notes.json").write_text("")
    GoldenEvents(folder).check(first_registry())
