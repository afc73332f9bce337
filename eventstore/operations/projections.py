"""Which version of a projection is live, and who keeps it: a row for each version.

Whoever changes a projection's tables holds its version's row FOR KEY SHARE to the end of the
transaction, whoever makes another version live takes it FOR UPDATE (PostgreSQL manual, 13.3.2):
what a transaction has read of the row stays true for as long as it writes.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Delete,
    Select,
    String,
    Text,
    and_,
    cast,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from eventstore.models import projections_table
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Update
    from sqlalchemy.orm import Session


class ProjectionVersion(NamedTuple):
    """A version of a projection, as the database knows it."""

    name: str
    version: int
    fingerprint: str  #: of the events that it handles
    tables: tuple[tuple[str, str], ...]  #: schema and name of each, while the version is live
    is_live: bool
    is_inline: bool  #: each append keeps it; else a subscription does
    live_from: int | None  #: it has side effects for the events behind this position,
    live_until: int | None  #: up to this one; None if it is live, or never was

    def has_effects_at(self, position: int) -> bool:
        """Tell whether the event at this position is one that it has side effects for."""
        if self.live_from is None or position <= self.live_from:
            return False
        return self.live_until is None or position <= self.live_until


class Hold(Enum):
    """How a row is locked while it is read."""

    NOT = auto()
    SHARED = auto()  #: no other version is made live meanwhile
    EXCLUSIVE = auto()  #: nobody changes its tables meanwhile


def load_version(
    session: Session, name: str, version: int, hold: Hold, *, schema: str | None
) -> ProjectionVersion | None:
    """Return a version of a projection; None if it was never made."""
    return _one(session, _load(hold), {"name": name, "version": version}, schema)


def load_live_version(
    session: Session, name: str, hold: Hold, *, schema: str | None
) -> ProjectionVersion | None:
    """Return the live version of a projection; None if there is none.

    Nor is there one for a statement that has waited for a version which ceased to be live: the
    one that took its place is seen by the next statement.
    """
    return _one(session, _load_live(hold), {"name": name}, schema)


def list_versions(
    session: Session, name: str | None, *, schema: str | None
) -> list[ProjectionVersion]:
    """Return all versions of a projection, or of all projections."""
    connection = connection_of(session)
    rows = run(connection, _list(), {"name": name}, schema=schema_of(connection, schema))
    return [_version(row) for row in rows]


def add_version(session: Session, version: ProjectionVersion, *, schema: str | None) -> bool:
    """Note a new version; False if it is known, or is to be live and another one is."""
    values = version._asdict() | {"tables": json.dumps(version.tables)}
    connection = connection_of(session)
    added = run(connection, _add(), values, schema=schema_of(connection, schema))
    return added.rowcount == 1


def set_live(
    session: Session, name: str, version: int, *, is_live: bool, at: int, schema: str | None
) -> None:
    """Note that a version is the live one for events behind a position, or up to it no more."""
    values = {"name": name, "version": version, "at": at}
    connection = connection_of(session)
    run(connection, _set_live(is_live), values, schema=schema_of(connection, schema))


def set_inline(
    session: Session, name: str, version: int, *, is_inline: bool, schema: str | None
) -> None:
    """Note who keeps a version."""
    values = {"name": name, "version": version, "is_inline": is_inline}
    connection = connection_of(session)
    run(connection, _set_inline(), values, schema=schema_of(connection, schema))


def forget_version(session: Session, name: str, version: int, *, schema: str | None) -> None:
    """Remove a version's row."""
    connection = connection_of(session)
    values = {"name": name, "version": version}
    run(connection, _forget(), values, schema=schema_of(connection, schema))


def _one(
    session: Session, statement: Select[Any], values: dict[str, Any], schema: str | None
) -> ProjectionVersion | None:
    connection = connection_of(session)
    row = run(connection, statement, values, schema=schema_of(connection, schema)).one_or_none()
    return None if row is None else _version(row)


def _version(row: Any) -> ProjectionVersion:
    tables = tuple((schema, table) for schema, table in json.loads(row.tables))
    return ProjectionVersion(
        row.name,
        row.version,
        row.fingerprint,
        tables,
        row.is_live,
        row.is_inline,
        row.live_from,
        row.live_until,
    )


def _columns() -> list[ColumnElement[Any]]:
    row = projections_table.c
    return [
        row.name,
        row.version,
        row.fingerprint,
        cast(row.tables, Text).label("tables"),
        row.is_live,
        row.is_inline,
        row.live_from,
        row.live_until,
    ]


def _is_version() -> ColumnElement[bool]:
    row = projections_table.c
    return and_(
        row.name == parameter("name", String), row.version == parameter("version", BigInteger)
    )


def _held(query: Select[Any], hold: Hold) -> Select[Any]:
    if hold is Hold.NOT:
        return query
    return query.with_for_update(read=hold is Hold.SHARED, key_share=hold is Hold.SHARED)


@cache
def _load(hold: Hold) -> Select[Any]:
    return _held(select(*_columns()).where(_is_version()), hold)


@cache
def _load_live(hold: Hold) -> Select[Any]:
    row = projections_table.c
    query = select(*_columns()).where(row.name == parameter("name", String), row.is_live)
    return _held(query, hold)


@cache
def _list() -> Select[Any]:
    row, name = projections_table.c, parameter("name", String)
    return (
        select(*_columns())
        .where(func.coalesce(row.name == name, literal(True)))
        .order_by(row.name, row.version)
    )


@cache
def _add() -> postgresql.Insert:
    return (
        postgresql.insert(projections_table)
        .values(
            name=parameter("name", String),
            version=parameter("version", BigInteger),
            fingerprint=parameter("fingerprint", String),
            tables=cast(parameter("tables", Text), JSONB),
            is_live=parameter("is_live", Boolean),
            is_inline=parameter("is_inline", Boolean),
            live_from=parameter("live_from", BigInteger),
            live_until=parameter("live_until", BigInteger),
        )
        .on_conflict_do_nothing()
    )


@cache
def _set_live(is_live: bool) -> Update:
    at = parameter("at", BigInteger)
    bounds = {"live_from": at, "live_until": None} if is_live else {"live_until": at}
    return update(projections_table).where(_is_version()).values(is_live=is_live, **bounds)


@cache
def _set_inline() -> Update:
    is_inline = parameter("is_inline", Boolean)
    return update(projections_table).where(_is_version()).values(is_inline=is_inline)


@cache
def _forget() -> Delete:
    return delete(projections_table).where(_is_version())
