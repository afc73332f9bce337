"""Sessions whose work is undone at the end, even what the code under test commits.

The recipe is SQLAlchemy's "Joining a Session into an External Transaction": the session's commits
release savepoints of a transaction that is rolled back. What only a real commit shows (two
writers, locks, another connection's view) needs a database that may be spoiled instead: see the
fixture ``committed_database``.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession


@contextmanager
def rolled_back_session(engine: Engine) -> Iterator[Session]:
    """Open a session on a connection of ``engine``; nothing of it is left at the end."""
    with engine.connect() as connection:
        outer = connection.begin()
        try:
            with Session(
                connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            ) as session:
                yield session
        finally:
            outer.rollback()


@asynccontextmanager
async def rolled_back_async_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Open an async session on a connection of ``engine``; nothing of it is left at the end."""
    # Here, since asyncio is an extra.
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415

    async with engine.connect() as connection:
        outer = await connection.begin()
        try:
            async with AsyncSession(
                connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            ) as session:
                yield session
        finally:
            await outer.rollback()
