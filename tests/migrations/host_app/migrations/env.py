"""A host application's environment, which also runs the event store's revisions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from alembic import context
from sqlalchemy import create_engine

from eventstore.models import Base as EventStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import Base as Host

with create_engine(os.environ["HOST_DATABASE_URL"]).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=[Host.metadata, EventStore.metadata],
    )
    with context.begin_transaction():
        context.run_migrations()
