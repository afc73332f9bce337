"""The three tables, and the guard that keeps events as they were recorded.

No statement names a schema: the environment pins the search path to the store's one, and in a
host's environment the tables go where the host's own go.

Revision: es0001, the first
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

if TYPE_CHECKING:
    from datetime import datetime

revision = "es0001"
down_revision = None
branch_labels = ("eventstore",)
depends_on = None

log = logging.getLogger("alembic.eventstore")

# The empty search path makes the function mean the same whoever calls it: only names of
# pg_catalog are left.
REFUSE_CHANGE = """
CREATE FUNCTION refuse_change_of_events() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $function$
BEGIN
    IF current_setting('eventstore.maintenance', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'restrict_violation',
            MESSAGE = TG_OP || ' refused: the events in ' || quote_ident(TG_TABLE_SCHEMA) || '.'
                || quote_ident(TG_TABLE_NAME) || ' are append-only',
            HINT = 'Append an event that corrects the earlier one. For maintenance, run '
                || 'SET LOCAL eventstore.maintenance = ''on'' first, in the same transaction.';
    END IF;
    RETURN NULL;
END
$function$
"""

# Once a statement, not once a row: an INSERT pays nothing, and TRUNCATE has no rows to ask about.
APPEND_ONLY = """
CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events()
"""


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("stream_id", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        _timestamp("created_at", server_default=sa.func.now()),
        _timestamp("updated_at", server_default=sa.func.now()),
        _timestamp("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("stream_id", name=op.f("pk_streams")),
    )
    op.create_table(
        "events",
        # BIGSERIAL. Its sequence keeps the default CACHE 1: a session that cached numbers would
        # use them late, below positions that readers have passed.
        sa.Column("sequence_number", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("stream_id", sa.String(255), nullable=False),
        sa.Column("aggregate_id", sa.String(255), nullable=False),
        sa.Column("aggregate_type", sa.String(100), nullable=False),
        sa.Column("event_type", sa.String(100), nullable=False),
        sa.Column("event_data", JSONB(), nullable=False),
        sa.Column("event_version", sa.BigInteger(), nullable=False),
        _timestamp("occurred_at"),
        sa.Column("metadata", JSONB(), nullable=False),
        _timestamp("created_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("sequence_number", name=op.f("pk_events")),
        sa.UniqueConstraint("event_id", name=op.f("uq_events_event_id")),
        sa.UniqueConstraint(
            "stream_id", "event_version", name=op.f("uq_events_stream_id_event_version")
        ),
    )
    op.create_index(
        op.f("ix_events_aggregate_id"),
        "events",
        ["aggregate_id"],
        postgresql_where=sa.text("aggregate_id <> stream_id"),
    )
    op.create_index(
        op.f("ix_events_occurred_at"), "events", ["occurred_at"], postgresql_using="brin"
    )
    op.create_index(
        op.f("ix_events_idempotency_key"),
        "events",
        ["stream_id", sa.text("(metadata ->> 'idempotency_key')")],
        postgresql_where=sa.text("metadata ->> 'idempotency_key' IS NOT NULL"),
    )
    op.create_table(
        "snapshots",
        sa.Column("aggregate_id", sa.String(255), nullable=False),
        sa.Column("aggregate_type", sa.String(100), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("data", JSONB(), nullable=False),
        _timestamp("created_at"),
        sa.PrimaryKeyConstraint("aggregate_id", "aggregate_type", name=op.f("pk_snapshots")),
    )
    if _on_citus():
        log.warning(
            "Citus allows no triggers on distributed tables: events are append-only by grants "
            "alone here, so give the application's role no UPDATE, DELETE or TRUNCATE on them"
        )
    else:
        op.execute(REFUSE_CHANGE)
        op.execute(APPEND_ONLY)


def downgrade() -> None:
    op.drop_table("snapshots")
    op.drop_table("events")
    op.drop_table("streams")
    op.execute("DROP FUNCTION IF EXISTS refuse_change_of_events()")


def _timestamp(
    name: str, *, nullable: bool = False, server_default: sa.ColumnElement[datetime] | None = None
) -> sa.Column[datetime]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=server_default
    )


def _on_citus() -> bool:
    """Return whether the database has the extension; a script (``--sql``) has none to ask."""
    if op.get_context().as_sql:
        return False
    found = op.get_bind().scalar(
        sa.text("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
    )
    return bool(found)
