"""Message DB: its own functions in PostgreSQL, called through psycopg.

It is a schema of SQL functions, without a client for Python. A batch is one call for each message,
pipelined in one transaction: it has no function for many. Reads stop at dicts. Its feed is that of
a category.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.contents import CATEGORY, DATA, EVENT_TYPE, new_metadata
from benchmarks.worker import MAX_CONNECTIONS, Client, Store, serve, share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_PAGE: Final = 1_000
_DATABASE_FOLDER: Final = (
    Path(__file__).parents[1]
    / ".peers"
    / "message-db"
    / "node_modules"
    / "@eventide"
    / "message-db"
    / "database"
)
_WRITE: Final = """
SELECT write_message(%s::varchar, %s::varchar, %s::varchar, %s::jsonb, %s::jsonb, %s::bigint)
"""
_COLUMNS: Final = "id, stream_name, type, position, global_position, data, metadata, time"
_READ_STREAM: Final = f"SELECT {_COLUMNS} FROM get_stream_messages(%s, 0, -1)"
_READ_CATEGORY: Final = f"SELECT {_COLUMNS} FROM get_category_messages(%s, %s, %s)"


def make_tables(url: str) -> None:
    """Run its own script, which makes functions too."""
    server = conninfo_to_dict(url)
    variables = {
        "PGHOST": server.get("host"),
        "PGPORT": server.get("port"),
        "PGUSER": server.get("user"),
        "PGPASSWORD": server.get("password"),
        "DATABASE_NAME": server["dbname"],
        "CREATE_DATABASE": "off",
    }
    with tempfile.TemporaryDirectory(prefix="message-db-") as folder:
        shutil.copytree(_DATABASE_FOLDER, folder, dirs_exist_ok=True)
        # It asks for pgcrypto, which not every server has, to make UUIDs, which all can.
        Path(folder, "extensions", "pgcrypto.sql").write_text("")
        done = subprocess.run(
            ["bash", Path(folder, "install.sh")],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {name: str(value) for name, value in variables.items() if value},
        )
    if done.returncode:
        raise RuntimeError(f"its tables can't be made: {done.stderr.strip()}")


def decode(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return messages with JSON decoded: it gives data and metadata as text."""
    names = _COLUMNS.split(", ")
    messages = [dict(zip(names, row, strict=True)) for row in rows]
    for message in messages:
        message["data"] = json.loads(message["data"])
        message["metadata"] = json.loads(message["metadata"])
    return messages


class MessageDbClient(Client):
    """One connection, each statement prepared."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    async def append(self, stream_id: str, version: int, count: int) -> None:
        # Its positions begin at 0: an empty stream is at -1.
        messages = [
            (
                str(uuid4()),
                stream_id,
                EVENT_TYPE,
                json.dumps(DATA),
                json.dumps(new_metadata()),
                expected,
            )
            for expected in range(version - 1, version - 1 + count)
        ]
        if count == 1:
            self._connection.execute(_WRITE, messages[0]).fetchone()
        else:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(_WRITE, messages)

    async def read_stream(self, stream_id: str) -> int:
        return len(decode(self._connection.execute(_READ_STREAM, (stream_id,)).fetchall()))

    async def read_feed(self, count: int) -> int:
        done, position = 0, 1
        while done < count:
            arguments = (CATEGORY, position, min(_PAGE, count - done))
            page = decode(self._connection.execute(_READ_CATEGORY, arguments).fetchall())
            if not page:
                break
            position = page[-1]["global_position"] + 1
            done += len(page)
        return done


class MessageDbStore(Store):
    """Threads, each with a connection of its own."""

    conflict = psycopg.errors.RaiseException
    distributions = ("psycopg", "psycopg-binary")

    async def set_up(self, url: str) -> None:
        make_tables(url)

    @asynccontextmanager
    async def open(self, url: str, writers: int) -> AsyncIterator[Sequence[Client]]:
        with ExitStack() as stack:
            clients = [
                MessageDbClient(
                    stack.enter_context(
                        psycopg.connect(
                            url,
                            autocommit=True,
                            prepare_threshold=0,
                            options="-c search_path=message_store,public",
                        )
                    )
                )
                for _ in range(min(writers, MAX_CONNECTIONS))
            ]
            yield share(clients, writers)


if __name__ == "__main__":
    serve(MessageDbStore())
