"""Rotate the master key: wrap every subject's key anew. No event is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from eventstore import operations
from eventstore.streams import check_number, check_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.personal.keys import KeyWrapper

_BATCH_SIZE: Final = 500


def rotate_master_key(
    engine: Engine,
    keys: KeyWrapper,
    *,
    schema: str | None = None,
    batch_size: int = _BATCH_SIZE,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Wrap all subjects' keys by the current one of ``keys`` that another master key has wrapped.

    Return how many they were. Each batch is a transaction of its own; interrupted at any time, the
    same call goes on with what is left. ``on_progress`` is told how many are done, after each.

    Give the new master key to every process first, in front of the old one; the old one can go once
    a call has returned 0.

    :raises MasterKeyError: a key was wrapped by a master key that isn't among ``keys``.
    :raises TypeError, ValueError: wrong arguments.
    """
    _refuse_async(engine)
    if check_number("batch_size", batch_size) == 0:
        raise ValueError("batch_size must be at least 1")
    schema = check_schema(schema)
    # Whatever the engine's isolation is: rows that others change meanwhile are seen as they are.
    rotating = engine.execution_options(isolation_level="READ COMMITTED")
    rotated, after = 0, ""
    while True:
        with Session(rotating) as session, session.begin():
            page = operations.rewrap_page(session, keys, after, batch_size, schema=schema)
        if page.rewrapped == 0:
            return rotated
        rotated, after = rotated + page.rewrapped, page.last
        if on_progress is not None:
            on_progress(rotated)


def _refuse_async(engine: Any) -> None:
    if not isinstance(engine, Engine) or engine.dialect.is_async:
        raise TypeError(
            f"rotate_master_key needs a synchronous Engine, not {type(engine).__name__}; beside an "
            "AsyncEngine make one, and call it in asyncio.to_thread()"
        )
