"""After an erasure, and before it: no byte of the cluster or of a dump says what was personal.

Plain text is never written, so that this holds for the write-ahead log, dead rows and the server's
log too. The keys that could open the ciphertext are nowhere in plain text either.
"""

from __future__ import annotations

import io
import subprocess
from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from eventstore import (
    ANY,
    EventEnvelope,
    GroupCommitWriter,
    Snapshot,
    SqlAlchemyEventStore,
    event_store,
    export_events,
    import_events,
    migrate,
)
from eventstore.embedded import EmbeddedPostgres
from eventstore.personal import MasterKeys, Personal, WrappedKey, personal
from eventstore.subscriptions import RetryPolicy, Subscription, SubscriptionRunner
from tests.acceptance.test_readme import needs_embedded
from tests.fixtures.learners import (
    ANN,
    Address,
    new_master_key,
    noted,
    registered,
    registry_with,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from eventstore import EventRegistry

#: What nobody has erased, and a search must find: else it would prove nothing.
KEPT = "Kept-zoë-7@public-example.org"


class Profile(BaseModel):
    learner_id: str
    email: Annotated[Personal[str], personal(subject="learner_id")]


class Watched:
    """Master keys that remember which data keys they have seen."""

    def __init__(self) -> None:
        self.master_key = new_master_key()
        self._keys = MasterKeys(self.master_key)
        self.current_id = self._keys.current_id
        self.data_keys: set[bytes] = set()

    def wrap(self, subject_id: str, data_key: bytes) -> WrappedKey:
        self.data_keys.add(data_key)
        return self._keys.wrap(subject_id, data_key)

    def unwrap(self, subject_id: str, wrapped: WrappedKey) -> bytes:
        return self._keys.unwrap(subject_id, wrapped)


def forms_of(secret: str) -> Iterator[bytes]:
    """Yield the ways in which a text may be written."""
    yield secret.encode()
    yield secret.encode("utf-16-le")
    yield secret.encode("utf-16-be")
    yield secret.encode("latin-1")
    yield secret.encode("unicode_escape")
    yield quote(secret).encode()
    yield from forms_of_bytes(secret.encode())


def forms_of_bytes(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):  # base64 of what it stands in: whole groups of what is certain
        yield b64encode(b"\0" * shift + secret)[4 if shift else 0 :][: 4 * (len(secret) // 3 - 1)]


def found(secrets: Iterable[bytes], contents: Iterable[bytes]) -> list[bytes]:
    secrets = list(secrets)
    return [secret for content in contents for secret in secrets if secret in content]


def files_of(folder: Path) -> Iterator[bytes]:
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield file.read_bytes()


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


def write_everywhere(engine: Engine, registry: EventRegistry) -> None:
    """Store personal data in every way there is."""
    sessions = sessionmaker(engine)
    with event_store(sessions, registry) as store:
        address = Address(street=ANN, city=ANN)
        store.append_to_stream("a", 0, [registered(data={"address": address}), noted()])
        store.append_to_stream("b", 0, [noted(event_data={"public": KEPT})])
        store.append_to_stream("p", 0, [registered()])
        profile = Profile(learner_id="learner-1", email=ANN)
        store.save_snapshot(
            Snapshot(aggregate_id="a", aggregate_type="learner", version=1, data=profile)
        )
    with Session(engine) as undone:  # what is rolled back stays in files for a while
        SqlAlchemyEventStore(undone, registry).append_to_stream("undone", 0, [registered()])
        undone.rollback()
    with GroupCommitWriter(engine, registry) as writer:
        writer.append_to_stream("g", ANY, [registered()])
    import_events(engine, [registered().model_copy(update={"stream_id": "i"})], registry)

    def fail(_session: Session, event: EventEnvelope[Any]) -> None:
        if event.stream_id == "p":
            raise ValueError("no")

    once = RetryPolicy(max_attempts=1, first_seconds=0.001, max_seconds=0.001)
    SubscriptionRunner(
        engine, [Subscription("mails", fail, retry=once)], registry=registry
    ).run_until_current()


@needs_embedded
def test_no_byte_of_the_cluster_or_of_a_dump_tells(server: EmbeddedPostgres) -> None:
    keys = Watched()
    registry = registry_with(keys)
    engine = create_engine(server.url())
    migrate.upgrade(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # The server's own log is a file too.
        connection.execute(text("ALTER SYSTEM SET log_statement = 'all'"))
        connection.execute(text("ALTER SYSTEM SET log_parameter_max_length = -1"))
        connection.execute(text("SELECT pg_reload_conf()"))

    write_everywhere(engine, registry)
    with event_store(sessionmaker(engine), registry) as store:
        assert store.forget("learner-1")
    exported = io.BytesIO()
    export_events(engine, exported)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.scalar(text("SELECT count(*) FROM parked_streams")) == 1
        row = connection.execute(text("SELECT wrapped_key, forgotten_at FROM subject_keys")).one()
        for statement in ("CHECKPOINT", "VACUUM FULL", "CHECKPOINT"):
            connection.execute(text(statement))
    engine.dispose()
    dump = subprocess.run(
        [server.bin_dir / "pg_dump", server.conninfo()], capture_output=True, check=True, timeout=60
    ).stdout
    contents = [*files_of(server.data_dir), dump, exported.getvalue()]

    assert row.wrapped_key is None
    assert row.forgotten_at is not None
    for where in (contents[:-2], [dump], [exported.getvalue()]):
        assert found(forms_of(KEPT), where), "the search finds nothing at all"
    assert found(forms_of(ANN), contents) == []
    assert len(keys.data_keys) >= 1
    for secret in (keys.master_key, *keys.data_keys):
        assert found(forms_of_bytes(secret), contents) == []
