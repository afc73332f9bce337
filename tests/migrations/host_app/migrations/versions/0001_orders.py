"""Orders, each of which has a stream."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "host0001"
down_revision = None
branch_labels = ("host",)
# The table refers to the event store's: that one has to be there first.
depends_on = ("es0001",)


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("stream_id", sa.String(255), sa.ForeignKey("streams.stream_id"), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("orders")
