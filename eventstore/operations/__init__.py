"""The operations as functions: the session first, a value back. The only SQL of the package."""

from __future__ import annotations

from eventstore.operations.append import append, append_to_stream
from eventstore.operations.bulk import import_batch
from eventstore.operations.checkpoints import reset_subscription
from eventstore.operations.delete import delete_stream, restore_stream
from eventstore.operations.export import export_range
from eventstore.operations.forget import forget
from eventstore.operations.group_append import append_group, encode_append
from eventstore.operations.load import load_stream
from eventstore.operations.query import read_by_query
from eventstore.operations.read import read_feed_page, read_feed_position, read_stream_page
from eventstore.operations.snapshots import get_snapshot, save_snapshot
from eventstore.operations.streams import get_stream_info
from eventstore.operations.subject_keys import rewrap_page
from eventstore.operations.transactions import commit

__all__ = [
    "append",
    "append_group",
    "append_to_stream",
    "commit",
    "delete_stream",
    "encode_append",
    "export_range",
    "forget",
    "get_snapshot",
    "get_stream_info",
    "import_batch",
    "load_stream",
    "read_by_query",
    "read_feed_page",
    "read_feed_position",
    "read_stream_page",
    "reset_subscription",
    "restore_stream",
    "rewrap_page",
    "save_snapshot",
]
