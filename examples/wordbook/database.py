"""The database: a schema for each context's event store, and one for what learners are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore import migrate
from examples.wordbook import progress, vocabulary

if TYPE_CHECKING:
    from sqlalchemy import Engine


def prepare(engine: Engine) -> None:
    """Make what is missing; what is there stays."""
    for schema in (vocabulary.SCHEMA, progress.SCHEMA):
        migrate.upgrade(engine, schema=schema)
