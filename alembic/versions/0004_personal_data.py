"""Personal data: the keys of its subjects, and who was forgotten.

Revision: es0004, after es0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "es0004"
down_revision = "es0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subject_keys",
        sa.Column("subject_id", sa.String(255), nullable=False),
        sa.Column("wrapped_key", sa.Text(), nullable=True),
        sa.Column("master_key_id", sa.String(255), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(wrapped_key IS NULL) = (forgotten_at IS NOT NULL)",
            name=op.f("ck_subject_keys_key_or_forgotten"),
        ),
        sa.PrimaryKeyConstraint("subject_id", name=op.f("pk_subject_keys")),
    )


def downgrade() -> None:
    op.drop_table("subject_keys")
