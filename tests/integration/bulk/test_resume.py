"""The same import again goes on where it ended; an id stands for one thing for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from eventstore import (
    ANY,
    DuplicateEvent,
    EventEnvelope,
    ImportProgress,
    event_store,
    import_events,
)
from eventstore.operations import bulk
from eventstore.operations.binary_copy import pack_row

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    AnyEnvelope = EventEnvelope[Any]

BATCH = 15


def event(number: int, **fields: Any) -> AnyEnvelope:
    """The event of a row of the source: the same id each time it is read."""
    values = {
        "event_id": uuid5(NAMESPACE_URL, f"row {number}"),
        "stream_id": f"stream-{number % 7}",
        "aggregate_type": "row",
        "event_type": "read",
        "event_data": {"n": number, "a": [1.0, {"b": None}]},
    }
    return EventEnvelope(**(values | fields))


def events(size: int) -> list[AnyEnvelope]:
    return [event(number) for number in range(size)]


def recorded(engine: Engine) -> list[AnyEnvelope]:
    with event_store(sessionmaker(engine)) as store:
        return list(store.read_all_forward())


def assert_whole(engine: Engine, count: int) -> None:
    """Each event once, in the order of the source, and no version is left out."""
    found = recorded(engine)
    assert [each.event_data["n"] for each in found] == list(range(count))
    versions: dict[str, list[int]] = defaultdict(list)
    for each in found:
        versions[each.stream_id].append(each.event_version)
    for stream_id, those in versions.items():
        assert those == list(range(1, len(those) + 1)), stream_id


def import_until_killed(url: str) -> None:
    """Be the process that dies in the middle of its fourth batch."""
    reports: list[ImportProgress] = []
    of_fourth_batch = count(1)

    def pack_or_die(*row: Any) -> bytes:
        if len(reports) == 3 and next(of_fourth_batch) == BATCH // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return pack_row(*row)

    bulk.pack_row = pack_or_die
    import_events(create_engine(url), events(1_000), batch_size=BATCH, on_progress=reports.append)


def test_a_killed_import_is_gone_on_with(engine: Engine, store_database: URL) -> None:
    killed = subprocess.run(
        [sys.executable, Path(__file__), store_database.render_as_string(hide_password=False)],
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL

    progress = import_events(engine, events(1_000), batch_size=70)

    assert progress.already_imported == 3 * BATCH
    assert progress.imported == 1_000 - progress.already_imported
    assert_whole(engine, 1_000)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_what_is_recorded_is_left_out_and_counted(engine: Engine, batch_size: int) -> None:
    source = events(20)
    assert import_events(engine, source[:10], batch_size=batch_size).already_imported == 0

    progress = import_events(engine, source, batch_size=batch_size)

    assert (progress.imported, progress.already_imported) == (10, 10)
    assert_whole(engine, 20)
    again = import_events(engine, source, batch_size=batch_size)
    assert (again.imported, again.already_imported, again.position) == (0, 20, 0)


def test_known_events_may_stand_anywhere(engine: Engine) -> None:
    with event_store(sessionmaker(engine)) as store:
        # The application has written one of the source's own accord, and another behind it.
        store.append_to_stream("stream-3", ANY, [event(10), event(1_000)])

    progress = import_events(engine, events(20), batch_size=4)

    assert (progress.imported, progress.already_imported) == (19, 1)
    ids = Counter(each.event_id for each in recorded(engine))
    assert set(ids.values()) == {1}
    assert len(ids) == 21


@pytest.mark.parametrize("batch_size", [2, 100])
def test_an_event_that_stands_twice_in_the_source_is_recorded_once(
    engine: Engine, batch_size: int
) -> None:
    source = [*events(3), event(0, event_data={"a": [1, {"b": None}], "n": 0}), event(3), event(3)]

    progress = import_events(engine, source, batch_size=batch_size)

    assert (progress.imported, progress.already_imported) == (4, 2)
    assert_whole(engine, 4)


@pytest.mark.parametrize("distance", ["before", "in another batch", "in the same batch"])
def test_an_id_stands_for_one_thing(engine: Engine, distance: str) -> None:
    others = [{"event_data": {"n": 2}}, {"event_type": "written"}, {"stream_id": "another"}]
    for number, difference in enumerate(others):
        first, second = event(2 * number), event(2 * number + 1)
        source = [first, second, event(2 * number, **difference)]
        if distance == "before":
            import_events(engine, source[:2])
            source = source[2:]

        with pytest.raises(DuplicateEvent) as raised:
            import_events(engine, source, batch_size=2 if distance == "in another batch" else 100)

        assert raised.value.event_id == first.event_id
    assert_whole(engine, 0 if distance == "in the same batch" else 6)


if __name__ == "__main__":
    import_until_killed(sys.argv[1])
