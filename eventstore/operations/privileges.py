"""Who may do what with tables that take another's place: the same as with those."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import Boolean, Select, Text, case, cast, column, func, literal, or_, select, table
from sqlalchemy.dialects.postgresql import OID, REGCLASS

from eventstore.operations.statements import parameter, run

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: A table: its schema, and its name.
Place: TypeAlias = "tuple[str, str]"


class Privilege(NamedTuple):
    """What a role may do with a table, or with a sequence that belongs to it."""

    relation: str
    is_sequence: bool
    role: str  #: as SQL has it: quoted where need be, or PUBLIC
    privilege: str
    is_grantable: bool


def copy_privileges(connection: Connection, source: Place, target_schema: str) -> None:
    """Grant on the table of the same name in a schema what is granted on the source.

    And on its sequences, where they have the same names; and let the same roles into the schema.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    for each in _privileges(connection, source):
        values = {"schema": target_schema, "name": each.relation}
        if run(connection, _exists(), values, schema=None).scalar_one():
            kind = "SEQUENCE" if each.is_sequence else "TABLE"
            grantable = " WITH GRANT OPTION" if each.is_grantable else ""
            connection.exec_driver_sql(
                f"GRANT {each.privilege} ON {kind} {quote(target_schema)}.{quote(each.relation)} "
                f"TO {each.role}{grantable}"
            )
    open_schema(connection, source, target_schema)


def open_schema(connection: Connection, source: Place, schema: str) -> None:
    """Let those into a schema who may do anything with a table that comes there."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    for role in sorted({each.role for each in _privileges(connection, source)}):
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {quote(schema)} TO {role}")


def _privileges(connection: Connection, source: Place) -> list[Privilege]:
    values = dict(zip(("schema", "name"), source, strict=True))
    return [Privilege._make(row) for row in run(connection, _granted(), values, schema=None)]


def _qualified() -> Any:
    schema, name = parameter("schema", Text), parameter("name", Text)
    return func.to_regclass(func.format(literal("%I.%I", Text), schema, name))


@cache
def _exists() -> Select[Any]:
    return select(_qualified().is_not(None))


@cache
def _granted() -> Select[Any]:
    """PostgreSQL manual, 9.27.2: aclexplode."""
    classes = table(
        "pg_class",
        column("oid", OID),
        column("relname", Text),
        column("relkind", Text),
        column("relacl"),
        schema="pg_catalog",
    )
    depends = table(
        "pg_depend",
        column("classid", OID),
        column("objid", OID),
        column("refobjid", OID),
        column("deptype", Text),
        schema="pg_catalog",
    )
    own = _qualified()
    sequences = select(depends.c.objid).where(
        depends.c.refobjid == own,
        depends.c.classid == cast(literal("pg_class"), REGCLASS),
        depends.c.deptype.in_(("a", "i")),
    )
    acl = (
        func.aclexplode(classes.c.relacl)
        .table_valued(
            column("grantor", OID),
            column("grantee", OID),
            column("privilege_type", Text),
            column("is_grantable", Boolean),
        )
        .render_derived("acl")
    )
    role = func.quote_ident(func.pg_get_userbyid(acl.c.grantee))
    is_sequence = classes.c.relkind == literal("S")
    return (
        select(
            classes.c.relname,
            is_sequence,
            case((acl.c.grantee == 0, literal("PUBLIC")), else_=role),
            acl.c.privilege_type,
            acl.c.is_grantable,
        )
        .select_from(classes.join(acl, literal(True)))
        .where(
            or_(
                classes.c.oid == own,
                (classes.c.oid.in_(sequences)) & is_sequence,
            )
        )
        .order_by(classes.c.relname, acl.c.privilege_type)
    )
