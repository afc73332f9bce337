"""The keys of personal data, in their table: read with a page, made with an append, destroyed.

A page, or an append, asks for the keys of all its subjects at once, on the connection and in the
transaction that it is on itself. So a key that was made with an event goes when the event does, and
one that was destroyed is seen to be by whatever is read afterwards. Where nothing is personal,
nothing is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    Select,
    String,
    Text,
    Update,
    cast,
    column,
    func,
    null,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import await_only

from eventstore.models import subject_keys_table
from eventstore.operations.statements import parameter, run
from eventstore.operations.transactions import connection_of, schema_of
from eventstore.personal.carriers import MARK_BYTES
from eventstore.personal.ciphers import WrappedKey
from eventstore.personal.keys import store_of
from eventstore.personal.sealing import refuse_opened
from eventstore.personal.vault import Vault, refuse_to_wait

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection, TableValuedAlias
    from sqlalchemy.orm import Session

    from eventstore.batches import EncodedBatch, EncodedEvent
    from eventstore.codec import PayloadCodec
    from eventstore.errors import SubjectErased
    from eventstore.personal.keys import KeyWrapper, StoredKey
    from eventstore.recorded import Decoder

# The places of an event's type and payload in a row of events.
_EVENT_TYPE: Final = 4
_EVENT_DATA: Final = 5


class SubjectKeyTable:
    """The :class:`~eventstore.personal.KeyStore` beside the events, on a connection of theirs."""

    def __init__(self, connection: Connection, schema: str | None) -> None:
        self._connection = connection
        self._schema = schema

    def read(self, subject_ids: Collection[str]) -> Mapping[str, StoredKey]:
        """Return the keys of those subjects that are known; None for one that is forgotten."""
        rows = self._run(_read(), subject_ids=list(subject_ids))
        return {row.subject_id: _stored(row) for row in rows}

    def add(self, keys: Mapping[str, WrappedKey]) -> None:
        """Keep new keys; a subject that is known, or forgotten, keeps what it has."""
        self._run(_add(), rows=_rows_of(keys))

    def forget(self, subject_id: str) -> None:
        """Destroy the subject's key for ever, also that of one without any."""
        self._run(_forget(), subject_id=subject_id)

    def lock_outdated(self, master_key_id: str, after: str, limit: int) -> Mapping[str, WrappedKey]:
        """Return the next keys behind a subject that another master key has wrapped, locked."""
        rows = self._run(_outdated(), master_key_id=master_key_id, after=after, limit=limit)
        return {row.subject_id: WrappedKey(row.master_key_id, row.wrapped_key) for row in rows}

    def replace(self, keys: Mapping[str, WrappedKey]) -> None:
        """Keep these in place of those that are there."""
        self._run(_replace(), rows=_rows_of(keys))

    def _run(self, statement: Any, **values: Any) -> Any:
        return run(self._connection, statement, values, schema=self._schema)


def seal(
    connection: Connection,
    batches: Sequence[EncodedBatch],
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> tuple[Sequence[EncodedBatch], SubjectErased | None]:
    """Return the batches as they can be stored, and what forbids to store some of their events.

    Those can only be recognised: see :meth:`Vault.sealed`.
    """
    vault = _vault_for_events(connection, codec, schema)
    if vault is None or all(batch.sealed for batch in batches):
        return batches, None
    events, refusal = vault.sealed([event for batch in batches for event in batch.events])
    rest = iter(events)
    return [
        batch._replace(events=tuple(islice(rest, len(batch.events)))) for batch in batches
    ], refusal


def seal_events(
    connection: Connection,
    events: Sequence[EncodedEvent],
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> tuple[Sequence[EncodedEvent], SubjectErased | None]:
    """Do the same for events that are in no batch."""
    vault = _vault_for_events(connection, codec, schema)
    if vault is None or all(event.event_data for event in events):
        return events, None
    return vault.sealed(events)


def with_keys(
    connection: Connection, decoder: Decoder, rows: Iterable[Any], *, schema: str | None
) -> Decoder:
    """Return a decoder that can open what is personal in rows, which begin as events do."""
    vault = _vault_for_events(connection, decoder.codec, schema) if decoder.opens else None
    if vault is None:
        return decoder
    # Rows of a stream without events have none.
    payloads = (
        (row[_EVENT_TYPE], row[_EVENT_DATA]) for row in rows if row[_EVENT_TYPE] is not None
    )
    return vault.opening(decoder, payloads)


def seal_snapshot(
    connection: Connection,
    aggregate_type: str,
    encoded: bytes,
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> bytes:
    """Return a snapshot's data as it can be stored.

    Raises SerializationError if it holds personal data, and there are no keys.
    """
    if MARK_BYTES not in encoded:
        return encoded
    vault = _vault(connection, codec, schema)
    if vault is not None:
        return vault.seal_snapshot(aggregate_type, encoded)
    refuse_opened(aggregate_type, encoded)
    return encoded


def open_snapshot(
    connection: Connection,
    aggregate_type: str,
    encoded: str,
    codec: PayloadCodec,
    *,
    schema: str | None,
) -> bytes:
    """Return a stored snapshot's data."""
    vault = _vault(connection, codec, schema)
    data = encoded.encode()
    return data if vault is None else vault.open_snapshot(aggregate_type, data)


def destroy_key(
    connection: Connection, subject_id: str, codec: PayloadCodec, *, schema: str | None
) -> None:
    """Destroy the key of a subject, wherever keys are kept."""
    done = store_of(codec.keys, SubjectKeyTable(connection, schema)).forget(subject_id)
    if isinstance(done, Awaitable):
        _wait(done)


class RewrappedPage(NamedTuple):
    """A part of a rotation."""

    rewrapped: int  #: keys that were wrapped anew
    last: str  #: the subject of the last one; empty if there was none


def rewrap_page(
    session: Session, wrapper: KeyWrapper, after: str, limit: int, *, schema: str | None
) -> RewrappedPage:
    """Wrap the next keys by the current master key that are wrapped by another."""
    connection = connection_of(session)
    table = SubjectKeyTable(connection, schema_of(connection, schema))
    outdated = table.lock_outdated(wrapper.current_id, after, limit)
    if not outdated:
        return RewrappedPage(0, "")
    table.replace(
        {
            subject_id: wrapper.wrap(subject_id, wrapper.unwrap(subject_id, wrapped))
            for subject_id, wrapped in outdated.items()
        }
    )
    return RewrappedPage(len(outdated), list(outdated)[-1])


def _vault_for_events(
    connection: Connection, codec: PayloadCodec, schema: str | None
) -> Vault | None:
    return _vault(connection, codec, schema) if codec.personal else None


def _vault(connection: Connection, codec: PayloadCodec, schema: str | None) -> Vault | None:
    if codec.keys is None:
        return None
    return Vault(codec.keys, SubjectKeyTable(connection, schema), _wait)


def _wait(result: Awaitable[Any]) -> Any:
    """Wait in the greenlet of an ``AsyncSession``'s ``run_sync``."""
    try:
        return await_only(result)
    except MissingGreenlet:
        return refuse_to_wait(result)


def _stored(row: Any) -> StoredKey:
    if row.wrapped_key is None:
        return None
    return WrappedKey(row.master_key_id, row.wrapped_key)


def _rows_of(keys: Mapping[str, WrappedKey]) -> str:
    rows = [
        {"subject_id": each, "master_key_id": wrapped.master_key_id, "wrapped_key": wrapped.text}
        # In this order, so that two who make keys of the same subjects don't deadlock.
        for each, wrapped in sorted(keys.items())
    ]
    return to_json(rows).decode()


def _given() -> TableValuedAlias:
    columns = (column("subject_id", String), column("master_key_id", String))
    return (
        func.jsonb_to_recordset(cast(parameter("rows", Text), JSONB))
        .table_valued(*columns, column("wrapped_key", Text))
        .render_derived(name="given", with_types=True)
    )


@cache
def _read() -> Select[Any]:
    keys = subject_keys_table.c
    return select(keys.subject_id, keys.master_key_id, keys.wrapped_key).where(
        keys.subject_id == func.any(parameter("subject_ids", ARRAY(String)))
    )


@cache
def _add() -> postgresql.Insert:
    given = _given()
    names = ["subject_id", "master_key_id", "wrapped_key"]
    rows = select(*(given.c[name] for name in names)).order_by(given.c.subject_id)
    return postgresql.insert(subject_keys_table).from_select(names, rows).on_conflict_do_nothing()


@cache
def _forget() -> postgresql.Insert:
    forgetting = postgresql.insert(subject_keys_table).values(
        subject_id=parameter("subject_id", String), forgotten_at=func.now()
    )
    return forgetting.on_conflict_do_update(
        index_elements=[subject_keys_table.c.subject_id],
        set_={"wrapped_key": null(), "master_key_id": null(), "forgotten_at": func.now()},
        where=subject_keys_table.c.forgotten_at.is_(None),
    )


@cache
def _outdated() -> Select[Any]:
    keys = subject_keys_table.c
    return (
        select(keys.subject_id, keys.master_key_id, keys.wrapped_key)
        .where(
            keys.subject_id > parameter("after", String),
            # One that is forgotten has none.
            keys.master_key_id != parameter("master_key_id", String),
        )
        .order_by(keys.subject_id)
        .limit(parameter("limit", BigInteger))
        .with_for_update()
    )


@cache
def _replace() -> Update:
    given = _given()
    return (
        update(subject_keys_table)
        .values(wrapped_key=given.c.wrapped_key, master_key_id=given.c.master_key_id)
        .where(subject_keys_table.c.subject_id == given.c.subject_id)
    )
