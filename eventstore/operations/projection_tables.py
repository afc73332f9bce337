"""Where the tables of a projection's version are: at home if it is live, else in a schema aside.

At home means where the models say, so that readers need no help of ours: the live tables are
ordinary tables in their ordinary place. Every other version has a schema of its own beside each
schema that its models live in; there, constraints and indexes keep their names too. To make a
version live is to move tables from schema to schema (PostgreSQL manual, ALTER TABLE ... SET
SCHEMA), which takes their indexes, constraints and sequences along.

A session finds tables aside by the search path, where models name no schema, and by SQLAlchemy's
``schema_translate_map``, where they do. Both end with the transaction or with the call.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    MetaData,
    Select,
    String,
    Table,
    Text,
    cast,
    column,
    func,
    literal,
    select,
    table,
    tuple_,
    union,
)
from sqlalchemy.dialects.postgresql import ARRAY, OID, REGCLASS
from sqlalchemy.schema import CreateSchema, DropSchema

from eventstore.errors import SubscriptionError
from eventstore.operations.privileges import open_schema
from eventstore.operations.statements import parameter, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Constraint, ForeignKeyConstraint, Index

    from eventstore.operations.projections import ProjectionVersion

#: The schema of a session's temporary tables.
TEMPORARY: Final = "pg_temp"
#: Where PostgreSQL cuts an identifier.
_MAX_NAME_BYTES: Final = 63


def tables_of(models: Sequence[Any]) -> list[Table]:
    """Return the tables of mapped classes; TypeError for what has none."""
    found: list[Table] = []
    for model in models:
        mapped = getattr(model, "__table__", model)
        if not isinstance(mapped, Table):
            raise TypeError(f"models must be mapped classes or tables, not {model!r}")
        found.append(mapped)
    return found


def homes_of(connection: Connection, tables: Sequence[Table]) -> tuple[tuple[str, str], ...]:
    """Return the schema and name of each table, where the connection finds it or would make it."""
    given = _translate_map(connection)
    homes = (given.get(each.schema) or each.schema for each in tables)
    return tuple(
        (home or _found_schema(connection, each.name), each.name)
        for each, home in zip(tables, homes, strict=True)
    )


def aside(home: str, name: str, version: int) -> str:
    """Return the schema of a version that isn't live, beside a schema of the models."""
    full = f"{home}_{name}_v{version}"
    if len(full.encode()) <= _MAX_NAME_BYTES:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    kept = full.encode()[: _MAX_NAME_BYTES - 9].decode(errors="ignore")
    return f"{kept}_{digest}"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a session finds a projection's tables."""

    #: For the time of a call; None where the search path, or nothing at all, is enough.
    translate_map: Mapping[str | None, str] | None = None

    @contextmanager
    def on(self, connection: Connection) -> Iterator[None]:
        """Let statements on the connection find the tables."""
        if self.translate_map is None:
            yield
            return
        before = connection.get_execution_options().get("schema_translate_map")
        connection.execution_options(schema_translate_map=self.translate_map)
        try:
            yield
        finally:
            connection.execution_options(schema_translate_map=before)


AT_HOME: Final = Placement()


def place(connection: Connection, tables: Sequence[Table], schemas: Sequence[str]) -> Placement:
    """Let this transaction find the tables in these schemas, one for each; say what it takes."""
    given = _translate_map(connection)
    path: list[str] = []
    translate_map: dict[str | None, str] = {}
    for each, schema in zip(tables, schemas, strict=True):
        if each.schema is None and None not in given:
            path += [schema] if schema not in path else []
        else:
            translate_map[each.schema] = schema
    if path:
        quote = connection.dialect.identifier_preparer.quote_identifier
        values = {"path": "".join(f"{quote(schema)}, " for schema in path)}
        run(connection, _prefix_path(), values, schema=None)
    return Placement({**given, **translate_map}) if translate_map else AT_HOME


def create_tables(connection: Connection, tables: Sequence[Table], schemas: Sequence[str]) -> None:
    """Make the tables in these schemas, one for each, with all that the models say of them."""
    targets = dict(zip(tables, schemas, strict=True))
    for schema in sorted({*schemas} - {TEMPORARY}):
        connection.execute(CreateSchema(schema, if_not_exists=True))
    given = _translate_map(connection)
    metadata = MetaData()
    for each in _with_referred(tables):
        target = targets.get(each) or given.get(each.schema)
        each.to_metadata(
            metadata,
            **({} if target is None else {"schema": target}),
            referred_schema_fn=_referred_schema(targets, given),
        )
    copies = [metadata.tables[f"{schema}.{each.name}"] for each, schema in targets.items()]
    for each, copy in zip(tables, copies, strict=True):
        _keep_names(each, copy)
        _forget_outer_references(copy, copies)
    metadata.create_all(connection, tables=copies)


def move_aside(connection: Connection, version: ProjectionVersion) -> None:
    """Move the tables of a version from home to the schemas aside."""
    for home, name in version.tables:
        target = aside(home, version.name, version.version)
        connection.execute(CreateSchema(target, if_not_exists=True))
        open_schema(connection, (home, name), target)
        _move(connection, home, name, target)


def move_home(connection: Connection, version: ProjectionVersion) -> None:
    """Move the tables of a version from the schemas aside to their home."""
    for home, name in version.tables:
        _move(connection, aside(home, version.name, version.version), name, home)


def drop_aside(connection: Connection, version: ProjectionVersion) -> None:
    """Drop the schemas of a version that isn't live, with all that is in them."""
    for schema in {aside(home, version.name, version.version) for home, _ in version.tables}:
        connection.execute(DropSchema(schema, cascade=True, if_exists=True))


def refuse_dependents(connection: Connection, version: ProjectionVersion) -> None:
    """Raise SubscriptionError if views or foreign keys outside would stay with tables that leave.

    They know a table by its identity and not by its name, and would show or check an old one.
    """
    homes, names = zip(*version.tables, strict=True) if version.tables else ((), ())
    values = {"schemas": list(homes), "names": list(names)}
    rows = run(connection, _dependents(), values, schema=None).scalars()
    dependents = sorted(rows)
    if dependents:
        raise SubscriptionError(
            version.name,
            f"its tables are referred to by {', '.join(dependents)}; drop that before the switch, "
            "and make it again behind it, in the same transaction",
        )


def _move(connection: Connection, schema: str, name: str, target: str) -> None:
    quote = connection.dialect.identifier_preparer.quote_identifier
    connection.exec_driver_sql(
        f"ALTER TABLE {quote(schema)}.{quote(name)} SET SCHEMA {quote(target)}"
    )


def _translate_map(connection: Connection) -> Mapping[str | None, str]:
    given: Mapping[str | None, str] | None = connection.get_execution_options().get(
        "schema_translate_map"
    )
    return given or {}


def _found_schema(connection: Connection, name: str) -> str:
    schema: str | None = run(connection, _found(), {"table": name}, schema=None).scalar_one()
    if schema is None:
        raise LookupError(f"the search path names no schema that exists, for table {name!r}")
    return schema


@cache
def _found() -> Select[Any]:
    classes = table(
        "pg_class", column("oid", OID), column("relnamespace", OID), schema="pg_catalog"
    )
    schemas = table("pg_namespace", column("oid", OID), column("nspname"), schema="pg_catalog")
    found = (
        select(schemas.c.nspname)
        .select_from(classes.join(schemas, schemas.c.oid == classes.c.relnamespace))
        .where(classes.c.oid == func.to_regclass(func.quote_ident(parameter("table", Text))))
        .scalar_subquery()
    )
    return select(func.coalesce(found, func.current_schema(type_=String)).label("schema"))


@cache
def _dependents() -> Select[Any]:
    """Views over tables (pg_rewrite), and tables outside whose foreign keys name one."""
    classes = table(
        "pg_class",
        column("oid", OID),
        column("relname", Text),
        column("relnamespace", OID),
        schema="pg_catalog",
    )
    schemas = table(
        "pg_namespace", column("oid", OID), column("nspname", Text), schema="pg_catalog"
    )
    given = (
        func.unnest(
            cast(parameter("schemas", ARRAY(Text)), ARRAY(Text)),
            cast(parameter("names", ARRAY(Text)), ARRAY(Text)),
        )
        .table_valued("schema", "name")
        .render_derived("given")
    )
    own = (
        select(classes.c.oid)
        .select_from(classes.join(schemas, schemas.c.oid == classes.c.relnamespace))
        .where(
            tuple_(schemas.c.nspname, classes.c.relname).in_(select(given.c.schema, given.c.name))
        )
        .cte("own")
    )
    is_own = select(own.c.oid)
    rules = table("pg_rewrite", column("oid", OID), column("ev_class", OID), schema="pg_catalog")
    depends = table(
        "pg_depend",
        column("classid", OID),
        column("objid", OID),
        column("refobjid", OID),
        schema="pg_catalog",
    )
    constraints = table(
        "pg_constraint",
        column("conrelid", OID),
        column("confrelid", OID),
        schema="pg_catalog",
    )
    views = (
        select(rules.c.ev_class.label("oid"))
        .select_from(rules.join(depends, depends.c.objid == rules.c.oid))
        .where(depends.c.refobjid.in_(is_own))
    )
    references = select(constraints.c.conrelid).where(constraints.c.confrelid.in_(is_own))
    found = union(views, references).subquery("found")
    return select(cast(cast(found.c.oid, REGCLASS), Text)).where(found.c.oid.not_in(is_own))


@cache
def _prefix_path() -> Select[Any]:
    setting = literal("search_path")
    path = parameter("path", Text).concat(func.current_setting(setting))
    return select(func.set_config(setting, path, literal(True)))


def _with_referred(tables: Sequence[Table]) -> list[Table]:
    """Return the tables, and those outside that their foreign keys name."""
    found = list(tables)
    for each in tables:
        for constraint in each.foreign_key_constraints:
            if constraint.referred_table not in found:
                found.append(constraint.referred_table)
    return found


def _referred_schema(
    targets: Mapping[Table, str], given: Mapping[str | None, str]
) -> Callable[[Table, str | None, ForeignKeyConstraint, str | None], str | None]:
    def schema_of_referred(
        _table: Table, _schema: str | None, constraint: ForeignKeyConstraint, referred: str | None
    ) -> str | None:
        target = targets.get(constraint.referred_table)
        return given.get(referred, referred) if target is None else target

    return schema_of_referred


def _keep_names(each: Table, copy: Table) -> None:
    """Name constraints and indexes as in the models: a convention may have put the schema in."""
    originals: list[Constraint | Index] = [*each.constraints, *each.indexes]
    copies: list[Constraint | Index] = [*copy.constraints, *copy.indexes]
    names = {_shape(item): item.name for item in originals}
    given = {*names.values()}
    for item in copies:
        if item.name not in given:
            item.name = names.get(_shape(item), item.name)


def _shape(item: Constraint | Index) -> tuple[object, ...]:
    columns = getattr(item, "columns", ())
    return type(item), tuple(column.name for column in columns)


def _forget_outer_references(copy: Table, copies: Sequence[Table]) -> None:
    """Temporary tables may refer to one another only (PostgreSQL manual, CREATE TABLE)."""
    if copy.schema != TEMPORARY:
        return
    for constraint in copy.foreign_key_constraints:
        if constraint.referred_table not in copies:
            copy.constraints.discard(constraint)
