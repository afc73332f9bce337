"""SQL whose text is made once, from the models, for each driver and schema.

Compiling a statement costs more than running it: on SQLAlchemy 2.0 one that holds
``insert().on_conflict_do_update()`` is compiled anew at every call. So each operation builds its
statement by a cached function, the text is kept here, and it is sent with ``exec_driver_sql``,
which SQLAlchemy's events and ``echo`` still see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import BigInteger, BindParameter, bindparam, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import visitors

from eventstore.operations.conflicts import translate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, CursorResult, Dialect, Executable, ScalarSelect
    from sqlalchemy.types import TypeEngine

T = TypeVar("T")

#: A caller's server-side cursors are not for us: a DECLARE can't modify, and pages are small.
_BUFFERED: Final = {"stream_results": False, "yield_per": None}


@dataclass(frozen=True, slots=True)
class _DriverSql:
    text: str
    names: tuple[str, ...] | None  #: the parameters in their order, where the driver counts them

    def parameters(self, values: Mapping[str, Any]) -> Any:
        return values if self.names is None else tuple(values[name] for name in self.names)


_texts: Final[dict[tuple[Any, ...], _DriverSql]] = {}
#: A schema each tenant must not fill the memory.
_MAX_TEXTS: Final = 4096


def run(
    connection: Connection,
    statement: Executable,
    values: Mapping[str, Any],
    *,
    schema: str | None,
) -> CursorResult[Any]:
    """Run ``statement`` with the tables in ``schema`` (None: found on the search path).

    ``statement`` must be the same object at each call: its text is kept. Raises the typed error
    where PostgreSQL's has one; the parameters are kept out of every message.
    """
    sql = _text_of(statement, connection.dialect, schema)
    try:
        return connection.exec_driver_sql(
            sql.text, sql.parameters(values), execution_options=_BUFFERED
        )
    except DBAPIError as error:
        # Parameters are payloads.
        error.hide_parameters = True
        known = translate(error, connection)
        if known is None:
            raise
        raise known from error


def fetch(
    connection: Connection,
    statement: Executable,
    values: Mapping[str, Any],
    *,
    schema: str | None,
) -> list[Any]:
    """Return the rows of :func:`run` as the driver gives them: plain tuples, in half the time."""
    result = run(connection, statement, values, schema=schema)
    cursor: Any = result.cursor
    rows: list[Any] = cursor.fetchall()
    result.close()
    return rows


def text_of(connection: Connection, statement: Executable, *, schema: str | None) -> str:
    """Return the text that :func:`run` would send, for what wraps it: COPY."""
    return _text_of(statement, connection.dialect, schema).text


def parameter(name: str, type_: TypeEngine[T] | type[TypeEngine[T]]) -> BindParameter[T]:
    """Return a value that each call of :func:`run` gives under this name."""
    return bindparam(name, type_=type_, required=False)


def unplanned(name: str) -> ScalarSelect[int]:
    """Return a number that each call of :func:`run` gives, and that the planner does not see.

    It would see that a page at the end of the feed is short, and expect one from anywhere in a feed
    of a million to be long: a plan for the one at hand would look better than the one it keeps, and
    each page would be planned anew, for twice the time that it takes to read an event.
    """
    return select(parameter(name, BigInteger)).scalar_subquery()


def _text_of(statement: Any, dialect: Dialect, schema: str | None) -> _DriverSql:
    # What the text depends on: all dialects of one driver render the same.
    key = statement, type(dialect), dialect.paramstyle, schema
    text = _texts.get(key)
    if text is None:
        if len(_texts) >= _MAX_TEXTS:
            _texts.clear()
        text = _texts[key] = _compile(statement, dialect, schema)
    return text


def _compile(statement: Any, dialect: Dialect, schema: str | None) -> _DriverSql:
    for element in visitors.iterate(statement):
        # Constants belong to the text; what is bound at each call has a name of ours.
        if isinstance(element, BindParameter) and element.unique:
            element.literal_execute = True
    compiled = statement.compile(
        dialect=dialect,
        schema_translate_map=None if schema is None else {None: schema},
        compile_kwargs={"render_postcompile": True},
        **({} if schema is None else {"render_schema_translate": True}),
    )
    names = tuple(compiled.positiontup) if compiled.positional else None
    return _DriverSql(str(compiled), names)
