"""Where a runner's sessions come from: the handlers', and those of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session, sessionmaker

from eventstore.models import EventRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession


def sessions_of(given: Any) -> tuple[Callable[[], Session], Engine]:
    """Return what makes the handlers' sessions, and the engine on which they reach the events."""
    sessions = sessionmaker(given) if isinstance(given, Engine) else given
    if isinstance(sessions, sessionmaker):
        with sessions() as session:
            engine = session.get_bind(EventRecord) if isinstance(session, Session) else None
        if isinstance(engine, Engine) and not engine.dialect.is_async:
            return sessions, engine
    raise TypeError(
        f"engine must be an Engine, or a sessionmaker that is bound to one, not "
        f"{type(given).__name__}; for an AsyncEngine there is the async twin"
    )


def async_sessions_of(given: Any) -> tuple[Callable[[], AsyncSession], AsyncEngine]:
    """Return the same of an async engine, or of an application's own ``async_sessionmaker``."""
    # Here, since asyncio is an extra.
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker  # noqa: PLC0415

    sessions = (
        async_sessionmaker(given, expire_on_commit=False)
        if isinstance(given, AsyncEngine)
        else given
    )
    if isinstance(sessions, async_sessionmaker):
        # Nothing was opened that would have to be closed.
        engine = sessions().sync_session.get_bind(EventRecord)
        if isinstance(engine, Engine) and engine.dialect.is_async:
            return sessions, AsyncEngine(engine)
    raise TypeError(
        f"engine must be an AsyncEngine, or an async_sessionmaker that is bound to one, not "
        f"{type(given).__name__}; for an Engine there is the twin without Async"
    )


def separate(engine: Engine) -> Engine:
    """Return an engine in AUTOCOMMIT that connects as the given one, with a pool of its own.

    What a runner does beside its handlers (renewing leases above all) must not wait for a
    connection until a handler has given one back. The new pool connects by the same function and
    has the same event listeners (SQLAlchemy, ``Pool.recreate()``). Whoever asks disposes of it.
    """

    def initialize(*_: object) -> None:
        # What a dialect must know of its server is asked by its first connection, once: the other
        # pool would neither ask nor wait. The given engine's own pool does wait.
        if not hasattr(engine.dialect, "default_isolation_level"):
            engine.connect().close()

    pool = engine.pool.recreate()
    event.listen(pool, "connect", initialize, insert=True)
    options = {**engine.get_execution_options(), "isolation_level": "AUTOCOMMIT"}
    return Engine(pool, engine.dialect, engine.url, execution_options=options)


def separate_async(engine: AsyncEngine) -> AsyncEngine:
    """Return the same of an async engine."""
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415 - an extra

    return AsyncEngine(separate(engine.sync_engine))
