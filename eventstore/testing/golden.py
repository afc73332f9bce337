"""Golden events: a sample of every version ever written, kept beside the tests and read back.

A sample is a file ``<folder>/<event type>/v<version>.json`` with the payload as it is stored. It
is written once, by the code that writes such events, and stays for ever: the store still holds
its like when that code is long gone::

    def test_every_event_ever_written_can_be_read(golden_events):
        golden_events.check(registry, samples=[OrderPlaced(order_id="7", currency="EUR")])

Personal values stand in it as upcasters see them: so give made-up ones.

``pytest --write-golden-events`` writes those that are missing, from ``samples``. Without pytest
the same is ``GoldenEvents("tests/golden").check(registry)``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote

from eventstore.comparison import step_to
from eventstore.errors import SerializationError
from eventstore.events import EventEnvelope
from eventstore.payloads import canonical_json, with_schema_version
from eventstore.personal.carriers import MARK_BYTES, without_sealed
from eventstore.personal.erasure import SUBJECT_FORGOTTEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from eventstore.codec import Recorded
    from eventstore.registry import EventRegistry

_FILE_NAME: Final = re.compile(r"v([1-9][0-9]*)\.json")


class _Golden(NamedTuple):
    event_type: str
    version: int
    path: Path


class GoldenEvents:
    """The golden events of one folder; with ``write``, :meth:`check` writes missing ones."""

    def __init__(self, folder: Path | str, *, write: bool = False) -> None:
        self.folder = Path(folder)
        self._write = write

    def check(self, registry: EventRegistry, samples: Iterable[object] = ()) -> None:
        """Raise AssertionError, naming every reason, unless all golden events can be read.

        It fails if one can't be read into today's type; if one of today's version loses something
        in it (a field was removed, but the version is the same); if a version of a registered or
        retired type has none; and if one is of a type that the registry doesn't know.

        ``samples`` are payloads, or envelopes of such that don't tell their type by their class.
        They must be of today's types, and are written to files if that was asked for.
        """
        registry.check()
        if self._write:
            for sample in samples:
                self.write(registry, sample)
        problems = [*self._unreadable(registry), *self._missing(registry)]
        if problems:
            raise AssertionError("golden events:\n- " + "\n- ".join(problems))

    def write(self, registry: EventRegistry, sample: object) -> Path:
        """Write ``sample``, a payload or an envelope, as the golden event of its type's version.

        One that is there is left as it is: what was once written does not change.
        """
        event: EventEnvelope[Any] = (
            sample
            if isinstance(sample, EventEnvelope)
            else EventEnvelope(aggregate_type="golden", event_data=sample)
        )
        event_type, encoded = registry.encode(event)
        path = self.path_of(event_type, registry.schema_version(event_type))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(json.loads(encoded), indent=2, sort_keys=True, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        return path

    def read(self, registry: EventRegistry, event_type: str, version: int = 1) -> list[Any]:
        """Return the payloads that a golden event says today: one, after a split several, or none.

        For a test of yours that knows what they should be.
        """
        golden = _Golden(event_type, version, self.path_of(event_type, version))
        return [recorded.payload for recorded in _read(registry, golden)]

    def path_of(self, event_type: str, version: int) -> Path:
        """Return the file of the golden event of this version, whether it is there or not."""
        # A sign that may mean something in a path is written as % and its code.
        folder = quote(event_type, safe=" ")
        if folder.startswith("."):
            folder = f"%2E{folder[1:]}"
        return self.folder / folder / f"v{version}.json"

    def _golden(self) -> Iterator[_Golden]:
        for path in sorted(self.folder.glob("*/*.json")):
            if match := _FILE_NAME.fullmatch(path.name):
                yield _Golden(unquote(path.parent.name), int(match[1]), path)

    def _unreadable(self, registry: EventRegistry) -> Iterator[str]:
        versions = registry.last_versions()
        for golden in self._golden():
            name = registry.current_type(golden.event_type)
            if name not in versions:
                yield (
                    f"{golden.path}: {golden.event_type!r} is neither registered nor retired, nor "
                    "an alias; the store has events of it for ever"
                )
                continue
            try:
                today = _read(registry, golden)
            except SerializationError as error:
                yield f"{golden.path}: {error}"
                continue
            if name in registry and golden.version == versions[name]:
                lost = _lost_by(registry, golden, today[0])
                if lost is not None:
                    yield (
                        f"{golden.path}: {lost} is lost or changed by today's type, which has the "
                        "same version; give the type a new version and an upcaster"
                    )

    def _missing(self, registry: EventRegistry) -> Iterator[str]:
        there = {
            (registry.current_type(golden.event_type), golden.version) for golden in self._golden()
        }
        for event_type, last in registry.last_versions().items():
            if event_type == SUBJECT_FORGOTTEN:
                continue  # not the caller's type, but one that use_keys() has registered
            for version in range(1, last + 1):
                if (event_type, version) in there:
                    continue
                cure = (
                    "give a sample of it and run `pytest --write-golden-events` once"
                    if event_type in registry and version == last
                    else "save there the event_data of one from a store"
                )
                yield (
                    f"{self.path_of(event_type, version)}: there is none of {event_type!r}, "
                    f"version {version}; {cure}"
                )


def _stored(golden: _Golden) -> bytes:
    """Return the payload; what is personal in one from a store is as if erased, without its key."""
    encoded = golden.path.read_bytes()
    return without_sealed(encoded) if MARK_BYTES in encoded else encoded


def _read(registry: EventRegistry, golden: _Golden) -> Sequence[Recorded]:
    encoded = _stored(golden)
    return registry.decode_recorded(
        golden.event_type, encoded, with_schema_version("{}", golden.version)
    )


def _lost_by(registry: EventRegistry, golden: _Golden, today: Recorded) -> str | None:
    """Return the path of the first value that is not there when the payload is written again."""
    event = EventEnvelope(
        aggregate_type="golden", event_type=today.event_type, event_data=today.payload
    )
    _, again = registry.encode(event)
    return _first_loss(json.loads(_stored(golden)), json.loads(again), "$")


def _first_loss(stored: object, again: object, path: str) -> str | None:
    """Return the path of the first value of ``stored`` that ``again``, which may hold more, lacks.

    The order of a list is left out of it where that alone differs: a set has none.
    """
    if isinstance(stored, dict) and isinstance(again, dict):
        for key, value in stored.items():
            step = path + step_to(key, within=stored)
            if key not in again:
                return step
            if (lost := _first_loss(value, again[key], step)) is not None:
                return lost
        return None
    if isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        losses = (
            _first_loss(value, other, path + step_to(place, within=stored))
            for place, (value, other) in enumerate(zip(stored, again, strict=True))
        )
        lost = next((loss for loss in losses if loss is not None), None)
        return None if sorted(map(_text, stored)) == sorted(map(_text, again)) else lost
    return None if _text(stored) == _text(again) else path


def _text(value: object) -> str:
    return canonical_json(json.dumps(value))
