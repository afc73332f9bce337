"""Where the requests' sessions and connections come from."""

# Without "from __future__ import annotations": FastAPI reads the annotations as it runs.
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


def sessions_of(request: Request) -> async_sessionmaker[AsyncSession]:
    """Return what opens the application's sessions."""
    sessions: async_sessionmaker[AsyncSession] = request.app.state.sessions
    return sessions


Sessions = Annotated[async_sessionmaker[AsyncSession], Depends(sessions_of)]


def engine_of(request: Request) -> AsyncEngine:
    """Return the application's engine, for what needs a session apart from the request's."""
    engine: AsyncEngine = request.app.state.engine
    return engine


Engine = Annotated[AsyncEngine, Depends(engine_of)]
