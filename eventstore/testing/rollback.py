"""Sessions whose work is undone at the end, even what the code under test commits.

The recipe is SQLAlchemy's "Joining a Session into an External Transaction": the session's commits
release savepoints of a transaction that is rolled back. What only a real commit shows (two
writers, locks, another connection's view) needs a database that may be spoiled instead: see the
fixture ``committed_database``.

Code that opens its sessions itself is given a factory of such: :func:`rolled_back_sessions`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, sessionmaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


@contextmanager
def rolled_back_sessions(engine: Engine) -> Iterator[sessionmaker[Session]]:
    """Give a factory of sessions, of which nothing is left at the end.

    They share one connection of ``engine``, and see what the others have committed; use one at a
    time.
    """
    with engine.connect() as connection:
        outer = connection.begin()
        try:
            yield sessionmaker(
                connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            )
        finally:
            outer.rollback()


@contextmanager
def rolled_back_session(engine: Engine) -> Iterator[Session]:
    """Open a session on a connection of ``engine``; nothing of it is left at the end."""
    with rolled_back_sessions(engine) as sessions, sessions() as session:
        yield session


@asynccontextmanager
async def rolled_back_async_sessions(
    engine: AsyncEngine,
) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Give a factory of async sessions, of which nothing is left at the end; one at a time."""
    # Here, since asyncio is an extra.
    from sqlalchemy.ext.asyncio import async_sessionmaker  # noqa: PLC0415

    async with engine.connect() as connection:
        outer = await connection.begin()
        try:
            yield async_sessionmaker(
                connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            )
        finally:
            await outer.rollback()


@asynccontextmanager
async def rolled_back_async_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Open an async session on a connection of ``engine``; nothing of it is left at the end."""
    async with rolled_back_async_sessions(engine) as sessions, sessions() as session:
        yield session
