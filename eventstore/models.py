"""The tables, declared once: the migrations are checked against them.

Nothing names a schema here. A caller who names one gets it by ``schema_translate_map``; otherwise
the tables are found on the session's search path.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Index,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Constraint names, by which a violation is recognised.
EVENT_ID_KEY: Final = "uq_events_event_id"
STREAM_VERSION_KEY: Final = "uq_events_stream_id_event_version"
LIVE_PROJECTION_KEY: Final = "uq_projections_name_live"
#: The sequence that numbers the events; ``BIGSERIAL`` names it so.
POSITION_SEQUENCE: Final = "events_sequence_number_seq"
#: The revision of the schema that these models describe: the newest one in ``alembic/versions``.
HEAD_REVISION: Final = "es0004"


class Base(DeclarativeBase):
    """Base of the event store's models; its metadata holds nothing else."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        int: BigInteger,
        UUID: Uuid(),
    }


class StreamRecord(Base):
    """A stream's row: its version is the version of its newest event, and appends queue on it."""

    __tablename__ = "streams"

    stream_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    version: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class EventRecord(Base):
    """A recorded event. Rows are never changed or removed: a trigger refuses it."""

    __tablename__ = "events"

    sequence_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    event_id: Mapped[UUID]
    stream_id: Mapped[str] = mapped_column(String(255))
    aggregate_id: Mapped[str] = mapped_column(String(255))
    aggregate_type: Mapped[str] = mapped_column(String(100))
    event_type: Mapped[str] = mapped_column(String(100))
    event_data: Mapped[dict[str, Any]]
    event_version: Mapped[int]
    occurred_at: Mapped[datetime]
    event_metadata: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        # The final arbiter of what was recorded once, and of a stream's versions; each also
        # serves the reads by its columns, so no further index repeats it.
        UniqueConstraint("event_id", name=EVENT_ID_KEY),
        UniqueConstraint("stream_id", "event_version", name=STREAM_VERSION_KEY),
        # "All events about this aggregate", where its id is not the stream's; else the stream is
        # the answer. Costs an event one B-tree entry if its aggregate has another id, or nothing.
        Index(
            "ix_events_aggregate_id",
            "aggregate_id",
            postgresql_where=text("aggregate_id <> stream_id"),
        ),
        # "Everything that happened in this week". Events come roughly in that order, so block
        # ranges are enough (PostgreSQL manual, BRIN indexes); an append costs next to nothing.
        Index("ix_events_occurred_at", "occurred_at", postgresql_using="brin"),
        # "Was this request seen on this stream?", at each append that carries a key; those
        # without one cost nothing.
        Index(
            "ix_events_idempotency_key",
            "stream_id",
            text("(metadata ->> 'idempotency_key')"),
            postgresql_where=text("metadata ->> 'idempotency_key' IS NOT NULL"),
        ),
    )


class EventTagRecord(Base):
    """A tag of an event: how events are found by their tags. As append-only as they are.

    An event without tags has no row here. The key serves both questions: which events have this
    tag, from a position on, and whether this event has that tag too. It costs a tagged event a row
    and a B-tree entry a tag. There is no foreign key: both are written by one statement, neither
    is ever changed, and the look-up would cost as much again.
    """

    __tablename__ = "event_tags"

    tag: Mapped[str] = mapped_column(String(255), primary_key=True)
    sequence_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class SnapshotRecord(Base):
    """The newest snapshot of an aggregate."""

    __tablename__ = "snapshots"

    aggregate_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    aggregate_type: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class SubscriptionRecord(Base):
    """A partition of a subscription: how far it has come, and who works on it.

    Its columns besides the key are no part of any index, so that a checkpoint is a HOT update
    (PostgreSQL's README.HOT): no index is written, and old rows go without a vacuum.
    """

    __tablename__ = "subscriptions"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    partition: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    partitions: Mapped[int]  #: how many partitions the subscription has
    checkpoint: Mapped[int]  #: every event up to here was scanned
    owner: Mapped[str | None] = mapped_column(String(255))  #: the worker that holds the lease
    epoch: Mapped[int] = mapped_column(server_default=text("0"))  #: rises with each new owner
    lease_expires_at: Mapped[datetime | None]
    marked_position: Mapped[int | None]  #: the event that is delivered by itself, if one is
    attempts: Mapped[int] = mapped_column(server_default=text("0"))  #: to deliver that one
    releases: Mapped[int] = mapped_column(server_default=text("0"))  #: of parked streams
    version: Mapped[int] = mapped_column(server_default=text("1"))  #: of what the handler makes
    filter_fingerprint: Mapped[str] = mapped_column(String(64))
    last_error: Mapped[str | None] = mapped_column(Text)
    last_error_position: Mapped[int | None]  #: of the event, if it was one's fault
    last_error_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SubscriptionWorkerRecord(Base):
    """A worker that is there for a subscription, whether or not it has a partition of it."""

    __tablename__ = "subscription_workers"

    subscription: Mapped[str] = mapped_column(String(255), primary_key=True)
    worker: Mapped[str] = mapped_column(String(255), primary_key=True)
    expires_at: Mapped[datetime]


class ParkedStreamRecord(Base):
    """A stream that a subscription has taken aside, from the event on that can't be handled.

    What follows in the stream queues behind it: those events stay where they are, in ``events``.
    """

    __tablename__ = "parked_streams"

    subscription: Mapped[str] = mapped_column(String(255), primary_key=True)
    stream_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    position: Mapped[int]
    event_version: Mapped[int]
    event_id: Mapped[UUID]
    error: Mapped[str] = mapped_column(Text)
    traceback: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    parked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProjectionRecord(Base):
    """A version of a projection: whether its tables are the live ones, and who keeps them."""

    __tablename__ = "projections"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    fingerprint: Mapped[str] = mapped_column(String(64))  #: of the events that it handles
    tables: Mapped[list[list[str]]] = mapped_column(JSONB)  #: schema and name, while it is live
    is_live: Mapped[bool]
    is_inline: Mapped[bool]  #: each append keeps it; else a subscription does
    live_from: Mapped[int | None]  #: it has side effects for the events behind this position,
    live_until: Mapped[int | None]  #: up to this one
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        # One version is live. "Which one is it?", at each append that keeps a projection inline.
        Index(LIVE_PROJECTION_KEY, "name", unique=True, postgresql_where=text("is_live")),
    )


class SubjectKeyRecord(Base):
    """A subject's data key, wrapped by a master key; without one, the subject is forgotten."""

    __tablename__ = "subject_keys"

    subject_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    wrapped_key: Mapped[str | None] = mapped_column(Text)  #: as its wrapper has written it
    master_key_id: Mapped[str | None] = mapped_column(String(255))  #: what has wrapped it
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    forgotten_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "(wrapped_key IS NULL) = (forgotten_at IS NOT NULL)", name="key_or_forgotten"
        ),
    )


#: The tables, for statements; an ORM class does not tell a type checker that it has one.
streams_table: Final = cast("Table", StreamRecord.__table__)
events_table: Final = cast("Table", EventRecord.__table__)
tags_table: Final = cast("Table", EventTagRecord.__table__)
snapshots_table: Final = cast("Table", SnapshotRecord.__table__)
subscriptions_table: Final = cast("Table", SubscriptionRecord.__table__)
workers_table: Final = cast("Table", SubscriptionWorkerRecord.__table__)
parked_table: Final = cast("Table", ParkedStreamRecord.__table__)
subject_keys_table: Final = cast("Table", SubjectKeyRecord.__table__)
projections_table: Final = cast("Table", ProjectionRecord.__table__)
