"""The application, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from examples.wordbook.web import entries, learners, problems
from examples.wordbook.web.correlation import CorrelationMiddleware

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker


def create_app(sessions: async_sessionmaker[AsyncSession]) -> FastAPI:
    """Make the application on a database that :func:`~examples.wordbook.database.prepare` knows."""
    app = FastAPI(title="Wordbook", description=__doc__)
    app.state.sessions = sessions
    app.include_router(entries.router)
    app.include_router(learners.router)
    app.add_middleware(CorrelationMiddleware)
    problems.install(app)
    return app
