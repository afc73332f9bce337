"""The fence switched off, on either side: what the tests must be able to notice."""

from __future__ import annotations

import importlib
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sqlalchemy import CTE, Select, func, select, true

from eventstore.operations import fence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

# `eventstore.operations.append` is also the name of a function.
_append: Final = importlib.import_module("eventstore.operations.append")


@contextmanager
def writers_without_lock() -> Iterator[None]:
    """Writers draw their numbers without a lock."""
    _append._append_statement.cache_clear()
    with patch.object(_append, "writer_lock", _no_lock):
        yield
    _append._append_statement.cache_clear()


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


def _no_lock() -> CTE:
    return select(true().label("held")).cte("fence")


@cache
def _head_as_mark() -> Select[Any]:
    head = fence._sequence_state().subquery("head")
    return select(
        head.c.last_number.label("position"),
        head.c.last_number.label("head"),
        func.current_setting("transaction_isolation").label("isolation"),
        func.pg_is_in_recovery().label("in_recovery"),
    )
