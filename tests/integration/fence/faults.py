"""The fence switched off, on either side: what the tests must be able to notice."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sqlalchemy import ColumnElement, Select, func, select, true

from eventstore.operations import append_statement, fence, tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@contextmanager
def writers_without_lock() -> Iterator[None]:
    """Writers draw their numbers without a lock."""
    statements = append_statement.append_statement, append_statement.recording_statement
    for statement in statements:
        statement.cache_clear()
    with patch.object(tags, "lock_of_writer", _no_lock):
        yield
    for statement in statements:
        statement.cache_clear()


@contextmanager
def readers_without_locks() -> Iterator[None]:
    """Readers take the last number handed out for the mark, as if nobody held a lock."""
    with patch.object(fence, "_mark_statement", _head_as_mark):
        yield


FAULTS: Final[dict[str, Callable[[], AbstractContextManager[None]]]] = {
    "none": nullcontext,
    "writers_without_lock": writers_without_lock,
    "readers_without_locks": readers_without_locks,
}


def _no_lock(*, for_statement: bool) -> ColumnElement[bool]:
    return true()


@cache
def _head_as_mark() -> Select[Any]:
    _, last_number = fence._sequence_state()
    head = select(last_number.label("last_number")).subquery("head")
    return select(
        head.c.last_number.label("position"),
        head.c.last_number.label("head"),
        func.current_setting("transaction_isolation").label("isolation"),
        func.pg_is_in_recovery().label("in_recovery"),
    )
