"""Tags of events, by which queries find them; as append-only as the events.

Events that were recorded before have none, so there is nothing to fill in.

Revision: es0003, after es0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "es0003"
down_revision = "es0002"
branch_labels = None
depends_on = None

# The guard of the events, which names the table that it is on.
APPEND_ONLY = """
CREATE TRIGGER event_tags_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_tags
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events()
"""


def upgrade() -> None:
    op.create_table(
        "event_tags",
        sa.Column("tag", sa.String(255), nullable=False),
        sa.Column("sequence_number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("tag", "sequence_number", name=op.f("pk_event_tags")),
    )
    if not _on_citus():
        op.execute(APPEND_ONLY)


def downgrade() -> None:
    op.drop_table("event_tags")


def _on_citus() -> bool:
    """Return whether the database has the extension, where es0001 has made no guard either."""
    if op.get_context().as_sql:
        return False
    found = op.get_bind().scalar(
        sa.text("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
    )
    return bool(found)
