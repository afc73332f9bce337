"""The product's own SQL, one step of the protocol at a time, so that a test can halt in between.

The append and the mark are one statement each. Here the state of the sequence, which they read
for themselves, is given to them: that splits each in two, and leaves the rest of the text as it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, NamedTuple
from unittest.mock import patch
from uuid import uuid4

from sqlalchemy import BigInteger, select, text
from sqlalchemy.dialects.postgresql import OID

from eventstore.operations import append_statement, fence
from eventstore.operations.statements import parameter, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection


_read: Final = importlib.import_module("eventstore.operations.read")


def _given_state() -> tuple[ColumnElement[int], ColumnElement[int]]:
    return parameter("oid", OID), parameter("last_number", BigInteger)


READ_STATE: Final = select(
    *(
        column.label(name)
        for name, column in zip(("oid", "last_number"), fence._sequence_state(), strict=True)
    )
)
with patch.object(fence, "_sequence_state", _given_state):
    TAKE_LOCK: Final = select(fence.lock_of_writer(for_statement=False))
    FIND_MARK: Final = fence._mark_statement.__wrapped__()
LOCK_STREAM: Final = append_statement.lock_streams()
READ_PAGE: Final = _read._feed_page(())
INSERT: Final = text(
    "INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type,"
    " event_data, event_version, occurred_at, metadata)"
    " SELECT :event_id, stream_id, stream_id, 'a', 't', '{}', version + 1, now(), '{}'"
    " FROM streams WHERE stream_id = :stream_id RETURNING sequence_number"
)


class State(NamedTuple):
    """The state of the sequence, as a step has read it."""

    oid: int
    last_number: int


def read_state(connection: Connection) -> State:
    return State(**run(connection, READ_STATE, {}, schema=None).one()._mapping)


class Writer:
    """One append, in steps."""

    def __init__(self, connection: Connection, stream_id: str) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.number = 0

    def read_last_number(self) -> None:
        self._state = read_state(self.connection)

    def take_lock(self) -> None:
        assert run(self.connection, TAKE_LOCK, self._state._asdict(), schema=None).scalar_one()

    def lock_stream(self) -> None:
        values = {"stream_ids": [self.stream_id]}
        run(self.connection, LOCK_STREAM, values, schema=None)

    def draw(self) -> None:
        values = {"event_id": uuid4(), "stream_id": self.stream_id}
        self.number = self.connection.execute(INSERT, values).scalar_one()

    def savepoint(self) -> None:
        self.connection.exec_driver_sql("SAVEPOINT here")

    def rollback_to_savepoint(self) -> None:
        self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT here")

    def commit(self) -> None:
        self.connection.commit()

    def roll_back(self) -> None:
        self.connection.rollback()


class Reader:
    """Polls in steps; keeps a checkpoint, and what it got."""

    def __init__(self, connection: Connection, checkpoint: int = 0) -> None:
        self.connection = connection
        self.checkpoint = checkpoint
        self.delivered: list[int] = []

    def read_head(self) -> None:
        self._state = read_state(self.connection)

    def find_mark(self) -> None:
        values = self._state._asdict()
        self.mark = run(self.connection, FIND_MARK, values, schema=None).one().position

    def find_least_key_first(self) -> None:
        """(2) before (1): the locks as they are now, to be judged by a head that is read later."""
        self._state = read_state(self.connection)._replace(last_number=2**24)
        self.find_mark()
        self._least = self.mark

    def read_head_last(self) -> None:
        self.mark = min(self._least, read_state(self.connection).last_number)

    def take_head_for_mark(self) -> None:
        self.mark = read_state(self.connection).last_number

    def read_page(self) -> None:
        values = {"after": self.checkpoint, "until": self.mark, "limit": 100}
        found = run(self.connection, READ_PAGE, values, schema=None)
        self.delivered += [row.sequence_number for row in found]
        self.checkpoint = max([self.checkpoint, *self.delivered])

    def poll(self) -> None:
        self.read_head()
        self.find_mark()
        self.read_page()

    def skipped(self) -> set[int]:
        """Return the committed events that lie behind the checkpoint and were not delivered."""
        rows = self.connection.exec_driver_sql(
            "SELECT sequence_number FROM events WHERE sequence_number <= %s", (self.checkpoint,)
        )
        return set(rows.scalars()) - set(self.delivered)


def interleavings(*lengths: int) -> Iterator[tuple[int, ...]]:
    """Every order of the steps of actors that have so many steps each, as the actors' numbers."""
    if not any(lengths):
        yield ()
    for actor, left in enumerate(lengths):
        if left:
            fewer = (*lengths[:actor], left - 1, *lengths[actor + 1 :])
            for rest in interleavings(*fewer):
                yield (actor, *rest)
