"""Subscriptions: their checkpoints and leases, workers, parked streams; projections' versions.

Revision: es0002, after es0001
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from datetime import datetime

revision = "es0002"
down_revision = "es0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subscriptions",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("partition", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("partitions", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(255), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        _timestamp("lease_expires_at", nullable=True),
        sa.Column("marked_position", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("releases", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("filter_fingerprint", sa.String(64), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_error_position", sa.BigInteger(), nullable=True),
        _timestamp("last_error_at", nullable=True),
        _timestamp("updated_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("name", "partition", name=op.f("pk_subscriptions")),
    )
    op.create_table(
        "subscription_workers",
        sa.Column("subscription", sa.String(255), nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        _timestamp("expires_at"),
        sa.PrimaryKeyConstraint("subscription", "worker", name=op.f("pk_subscription_workers")),
    )
    op.create_table(
        "parked_streams",
        sa.Column("subscription", sa.String(255), nullable=False),
        sa.Column("stream_id", sa.String(255), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("event_version", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("traceback", sa.Text(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        _timestamp("parked_at", server_default=sa.func.now()),
        _timestamp("last_attempt_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("subscription", "stream_id", name=op.f("pk_parked_streams")),
    )
    op.create_table(
        "projections",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("tables", postgresql.JSONB(), nullable=False),
        sa.Column("is_live", sa.Boolean(), nullable=False),
        sa.Column("is_inline", sa.Boolean(), nullable=False),
        sa.Column("live_from", sa.BigInteger(), nullable=True),
        sa.Column("live_until", sa.BigInteger(), nullable=True),
        _timestamp("created_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_projections")),
    )
    op.create_index(
        op.f("uq_projections_name_live"),
        "projections",
        ["name"],
        unique=True,
        postgresql_where=sa.text("is_live"),
    )


def downgrade() -> None:
    op.drop_table("projections")
    op.drop_table("parked_streams")
    op.drop_table("subscription_workers")
    op.drop_table("subscriptions")


def _timestamp(
    name: str, *, nullable: bool = False, server_default: sa.ColumnElement[datetime] | None = None
) -> sa.Column[datetime]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=server_default
    )
