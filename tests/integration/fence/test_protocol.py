"""Every schedule of the protocol, in a model: none skips; and each rule left out lets one skip.

EVENTSTORE_TEST_ALL_SCHEDULES=1 walks through every pair of writers, and three of them: minutes.
"""

from __future__ import annotations

import os
from itertools import combinations_with_replacement

import pytest

from .protocol import (
    Step,
    draw,
    draw_cached,
    explore,
    find_least_key,
    find_least_key_with_own,
    ignore_locks,
    prepare,
    publish,
    publish_prepared,
    read_head,
    read_last_number,
    read_one_event,
    read_page,
    release,
    release_locks,
    release_locks_alone,
    release_prepared,
    roll_back,
    rollback_but_for_the_setting,
    rollback_to_savepoint,
    savepoint,
    take_lock,
    take_snapshot,
)

Program = tuple[Step, ...]

APPEND: Program = (read_last_number, take_lock, draw)
COMMIT: Program = (publish, release_locks)
MARK: Program = (read_head, find_least_key)
POLL: Program = (*MARK, take_snapshot, read_page)

WRITERS: dict[str, Program] = {
    "commits": (*APPEND, *COMMIT),
    "rolls back": (*APPEND, roll_back),
    "two appends": (*APPEND, *APPEND, *COMMIT),
    "two events": (*APPEND, draw, *COMMIT),
    "savepoint released": (savepoint, *APPEND, release, *COMMIT),
    "savepoint rolled back, then an append": (
        savepoint,
        *APPEND,
        rollback_to_savepoint,
        *APPEND,
        *COMMIT,
    ),
    "an append, then a savepoint rolled back": (
        *APPEND,
        savepoint,
        *APPEND,
        rollback_to_savepoint,
        *COMMIT,
    ),
    "released inside, rolled back outside": (
        savepoint,
        savepoint,
        *APPEND,
        release,
        rollback_to_savepoint,
        *APPEND,
        *COMMIT,
    ),
    "prepares": (*APPEND, prepare, publish_prepared, release_prepared),
    "two transactions": (*APPEND, *COMMIT, *APPEND, *COMMIT),
}
EVERY_PAIR = bool(os.environ.get("EVENTSTORE_TEST_ALL_SCHEDULES"))
# One mark serves for several pages, each with a snapshot of its own.
PAGES: Program = (*MARK, take_snapshot, read_one_event, take_snapshot, read_one_event)


def test_no_schedule_of_two_writers_skips() -> None:
    schedules = states = 0
    pairs = [(one, "commits") for one in WRITERS]
    if EVERY_PAIR:
        pairs = list(combinations_with_replacement(WRITERS, 2))
    for one, other in pairs:
        # One poll is enough: a skip is a checkpoint that one poll moves too far.
        found = explore(WRITERS[one], WRITERS[other], POLL)
        assert found.skip is None, (one, other)
        schedules += found.schedules
        states += found.states
    print(f"{schedules:,} schedules, {states:,} states")  # noqa: T201


@pytest.mark.parametrize(
    "reader", [pytest.param(POLL + POLL, id="two polls"), pytest.param(PAGES, id="two pages")]
)
def test_no_schedule_of_a_longer_read_skips(reader: Program) -> None:
    found = explore(WRITERS["commits"], WRITERS["two events"], reader)

    assert found.skip is None
    print(f"{found.schedules:,} schedules, {found.states:,} states")  # noqa: T201


@pytest.mark.skipif(not EVERY_PAIR, reason="takes long; set EVENTSTORE_TEST_ALL_SCHEDULES=1")
def test_no_schedule_of_three_writers_skips() -> None:
    found = explore(APPEND + COMMIT, (*APPEND, roll_back), APPEND + COMMIT, POLL)

    assert found.skip is None
    print(f"{found.schedules:,} schedules, {found.states:,} states")  # noqa: T201


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param((*APPEND, *POLL, *COMMIT, *POLL), id="reads in its own transaction"),
        pytest.param((*APPEND, *POLL, *APPEND, *POLL, *COMMIT), id="between its appends"),
        pytest.param((*APPEND, *POLL, roll_back, *POLL), id="then rolls back"),
        pytest.param(
            (savepoint, *APPEND, *POLL, rollback_to_savepoint, *APPEND, *COMMIT, *POLL),
            id="then rolls back to a savepoint",
        ),
        pytest.param((*APPEND, *MARK, *COMMIT, take_snapshot, read_page), id="mark before commit"),
        pytest.param((*APPEND, prepare, *POLL, publish_prepared, release_prepared), id="prepares"),
    ],
)
def test_a_session_that_sees_its_own_events_skips_nothing(reader: Program) -> None:
    for other in ("commits", "savepoint released"):
        assert explore(reader, WRITERS[other]).skip is None


def test_a_mark_that_ignores_own_locks_ends_with_prepare_transaction() -> None:
    """Its events are no longer the session's own, and not published either."""
    reader: Program = (*APPEND, *MARK, prepare, take_snapshot, read_page)
    commit: Program = (publish_prepared, release_prepared)

    assert explore((*reader, *commit), WRITERS["commits"]).skip is not None
    # A session that counted its own locks would be safe, but not see its own events.
    careful = tuple(find_least_key_with_own if s is find_least_key else s for s in reader)
    assert explore((*careful, *commit), WRITERS["commits"]).skip is None


WITHOUT_A_RULE: dict[str, tuple[Program, Program]] = {
    "the lock after the number": (
        (read_last_number, draw, take_lock, *COMMIT),
        POLL,
    ),
    "no lock": ((read_last_number, draw, *COMMIT), POLL),
    "locks released before the commit is published": (
        (*APPEND, release_locks_alone, *COMMIT),
        POLL,
    ),
    "(2) before (1)": ((*APPEND, *COMMIT), (find_least_key, read_head, take_snapshot, read_page)),
    "(3) in a snapshot older than (2)": (
        (*APPEND, *COMMIT),
        (read_head, take_snapshot, find_least_key, read_page),
    ),
    "the head for the mark": (
        (*APPEND, *COMMIT),
        (read_head, ignore_locks, take_snapshot, read_page),
    ),
    "a setting that outlives the savepoint": (
        (savepoint, *APPEND, rollback_but_for_the_setting, *APPEND, *COMMIT),
        POLL,
    ),
    "a sequence with a cache": (
        (
            read_last_number,
            take_lock,
            draw_cached,
            *COMMIT,
            read_last_number,
            take_lock,
            draw_cached,
            *COMMIT,
        ),
        POLL,
    ),
}


@pytest.mark.parametrize("rule", WITHOUT_A_RULE)
def test_each_rule_is_needed(rule: str) -> None:
    writer, reader = WITHOUT_A_RULE[rule]

    found = explore(writer, writer, reader)

    assert found.skip is not None
    print(" ".join(found.skip))  # noqa: T201
