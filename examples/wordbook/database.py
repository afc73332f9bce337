"""The database: a schema for each context's event store, and one for what learners are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.schema import CreateSchema

from eventstore import migrate
from examples.wordbook import progress, study, vocabulary
from examples.wordbook.study.tables import Base

if TYPE_CHECKING:
    from sqlalchemy import Engine


def prepare(engine: Engine) -> None:
    """Make what is missing; what is there stays."""
    for schema in (vocabulary.SCHEMA, progress.SCHEMA):
        migrate.upgrade(engine, schema=schema)
    with engine.begin() as connection:
        connection.execute(CreateSchema(study.SCHEMA, if_not_exists=True))
        Base.metadata.create_all(connection)
