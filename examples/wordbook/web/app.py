"""The application, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker

from examples.wordbook.web import entries, learners, problems
from examples.wordbook.web.correlation import CorrelationMiddleware

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession


def create_app(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession] | None = None
) -> FastAPI:
    """Make the application on a database that :func:`~examples.wordbook.database.prepare` knows.

    ``sessions`` are those of the requests, of the engine by default.
    """
    app = FastAPI(title="Wordbook", description=__doc__)
    app.state.engine = engine
    app.state.sessions = async_sessionmaker(engine) if sessions is None else sessions
    app.include_router(entries.router)
    app.include_router(learners.router)
    app.add_middleware(CorrelationMiddleware)
    problems.install(app)
    return app
