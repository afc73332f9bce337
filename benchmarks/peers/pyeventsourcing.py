"""eventsourcing (pyeventsourcing) on PostgreSQL, and its extension for SQLAlchemy.

Its event store is driven as its `Repository` does it: domain events are mapped by the JSON
transcoder, recorded by the application recorder, and come back as its own immutable objects, which
it does not validate. Streams are ids of any text. Events have no metadata there, so the four ids
are a field of the event.

    python -m benchmarks.peers.pyeventsourcing plain | function | sqlalchemy

`function` inserts by a function in the database (POSTGRES_ENABLE_DB_FUNCTIONS), its quickest way.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import psycopg
from eventsourcing.domain import DomainEvent, datetime_now_with_tzinfo
from eventsourcing.persistence import (
    DatetimeAsISO,
    InfrastructureFactory,
    IntegrityError,
    JSONTranscoder,
    Tracking,
    UUIDAsHex,
)
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.utils import Environment, clear_topic_cache
from psycopg.conninfo import conninfo_to_dict

from benchmarks.payload import DATA, METADATA
from benchmarks.pooling import MAX_CONNECTIONS
from benchmarks.worker import Client, Store, Unsupported, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
