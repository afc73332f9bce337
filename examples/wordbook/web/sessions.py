"""Where the requests' sessions come from."""

# Without "from __future__ import annotations": FastAPI reads the annotations as it runs.
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker


def sessions_of(request: Request) -> async_sessionmaker[AsyncSession]:
    """Return what opens the application's sessions."""
    sessions: async_sessionmaker[AsyncSession] = request.app.state.sessions
    return sessions


Sessions = Annotated[async_sessionmaker[AsyncSession], Depends(sessions_of)]
