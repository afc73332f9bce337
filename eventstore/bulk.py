"""Import many events, of whatever streams, by COPY: a history from elsewhere, or from a file.

The source is asked for a batch before its transaction begins: however long that takes, nobody waits
for it. There is one batch in memory, however long the source is.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from eventstore import operations
from eventstore.batches import check_envelope
from eventstore.errors import TransactionConflict
from eventstore.events import EventEnvelope
from eventstore.models import EventRecord
from eventstore.operations.bulk import ImportedBatch, SourceEvent, which
from eventstore.registry import codec_of
from eventstore.streams import check_number, check_schema, check_stream_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventstore.events import AnyEnvelope
    from eventstore.registry import EventRegistry, PayloadCodec

#: About so many bytes make a batch: it is as many events as would have been in the one before it.
_BATCH_BYTES: Final = 8 * 2**20
#: The events of the first batch, when nothing is known of their size.
_FIRST_BATCH: Final = 16
#: How often a batch is written anew that was given up for a deadlock, or for another import.
_ATTEMPTS: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportProgress:
    """How far an import has come: what is told of is committed."""

    imported: int  #: events that were recorded
    already_imported: int  #: events that the store had, as they are: they were left out
    new_streams: int  #: streams whose first event was recorded
    position: int  #: of the last event that was recorded; 0 if none was
    seconds: float  #: since the import began


def import_events(
    engine: Engine | sessionmaker[Session],
    events: Iterable[AnyEnvelope],
    registry: EventRegistry | None = None,
    *,
    schema: str | None = None,
    batch_size: int = 5_000,
    keep_versions: bool = False,
    on_progress: Callable[[ImportProgress], object] | None = None,
) -> ImportProgress:
    """Record ``events`` in their order, each in the stream that its ``stream_id`` names.

    Ids, times and metadata are kept as they are: the context of :func:`causation` adds nothing.
    Versions and positions are assigned: each event gets the next version of its stream, while
    others may append to the same streams. With ``keep_versions`` an event that has an
    ``event_version`` must get that one.

    The import has transactions of its own, one for each ``batch_size`` events (fewer, if they are
    large), and calls ``on_progress`` after each. Interrupted at any time, it is gone on with by the
    same call: events that are recorded already, with the same id, stream, type and payload, are
    left out and counted. What ``on_progress`` raises ends the import behind the committed batch.

    The feed ends before the batch that is being written, as it does before any open transaction
    that appends: subscribers wait for its commit.

    :raises StreamDeleted: a stream that gets new events is soft-deleted.
    :raises DuplicateEvent: an id stands for something else in the store or in ``events``.
    :raises IdempotencyMismatch: a stream has used an event's idempotency key before.
    :raises ConcurrencyConflict: an event doesn't get the version that it must keep.
    :raises SerializationError: an event can't be stored, or not be read back as it was.
    :raises TransactionConflict: PostgreSQL gave up a batch again and again; go on later.
    :raises TypeError, ValueError: wrong arguments or events. Errors of an event have a note
        (:pep:`678`) that says which it is; the batches before it are recorded.
    """
    _check_events(events)
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress must be callable, not {type(on_progress).__name__}")
    if check_number("batch_size", batch_size) == 0:
        raise ValueError("batch_size must be at least 1")
    run = _Import(
        engine_for_copy(engine, "import_events"),
        codec_of(registry),
        schema=check_schema(schema),
        batch_size=batch_size,
        on_progress=on_progress,
    )
    source = _checked(events, keep_versions=keep_versions)
    while batch := list(islice(source, run.next_size)):
        run.write(batch)
    return run.progress


class _Import:
    """What one batch of an import leaves to the next."""

    def __init__(
        self,
        engine: Engine,
        codec: PayloadCodec,
        *,
        schema: str | None,
        batch_size: int,
        on_progress: Callable[[ImportProgress], object] | None,
    ) -> None:
        # Whatever the engine's isolation is: the import takes turns with others at the rows of
        # streams, and must see there what they have committed.
        self._sessions = sessionmaker(engine.execution_options(isolation_level="READ COMMITTED"))
        self._codec = codec
        self._schema = schema
        self._batch_size = batch_size
        self._on_progress = on_progress
        self._began = monotonic()
        # The first batch tells whether this import goes on where another ended.
        self._look_up = True
        self._open_keys: frozenset[tuple[str, str]] = frozenset()
        self.next_size = min(batch_size, _FIRST_BATCH)
        self.progress = ImportProgress(
            imported=0, already_imported=0, new_streams=0, position=0, seconds=0.0
        )

    def write(self, batch: Sequence[SourceEvent]) -> None:
        """Record a batch, tell the caller, and choose the size of the next."""
        imported = self._record(batch)
        self._look_up = imported.already_imported > 0
        self._open_keys = imported.keys
        fitting = _BATCH_BYTES * len(batch) // imported.size
        self.next_size = min(self._batch_size, max(1, fitting))
        self._report(imported)

    def _record(self, batch: Sequence[SourceEvent]) -> ImportedBatch:
        """Record a batch in a transaction, or in the next one if that is given up."""
        attempt = 1
        while True:
            try:
                with self._sessions.begin() as session:
                    return operations.import_batch(
                        session,
                        batch,
                        self._codec,
                        look_up=self._look_up,
                        open_keys=self._open_keys,
                        schema=self._schema,
                    )
            except TransactionConflict:
                if attempt == _ATTEMPTS:
                    raise
                attempt += 1
                self._look_up = True

    def _report(self, batch: ImportedBatch) -> None:
        before = self.progress
        self.progress = ImportProgress(
            imported=before.imported + batch.imported,
            already_imported=before.already_imported + batch.already_imported,
            new_streams=before.new_streams + batch.new_streams,
            position=batch.position or before.position,
            seconds=monotonic() - self._began,
        )
        if self._on_progress is not None:
            self._on_progress(self.progress)


def _check_events(events: Any) -> None:
    if isinstance(events, AsyncIterable):
        raise TypeError(
            f"events must be an iterable, not the asynchronous {type(events).__name__}; import "
            "them a part at a time, each in asyncio.to_thread()"
        )
    if isinstance(events, str | bytes | Mapping | EventEnvelope) or not isinstance(
        events, Iterable
    ):
        raise TypeError(f"events must be an iterable of EventEnvelope, not {type(events).__name__}")


def engine_for_copy(given: Any, caller: str) -> Engine:
    """Return the engine from which ``caller`` gets its connections, if it can COPY with it."""
    engine = given
    if isinstance(given, sessionmaker):
        with given() as session:
            engine = session.get_bind(EventRecord) if isinstance(session, Session) else session
    if not isinstance(engine, Engine) or engine.dialect.is_async:
        raise TypeError(
            f"{caller} needs a synchronous Engine, or a sessionmaker bound to one, not "
            f"{type(given).__name__}; beside an AsyncEngine make one with "
            "create_engine(async_engine.url.set(drivername='postgresql+psycopg')), and call it in "
            "asyncio.to_thread()"
        )
    if engine.dialect.name != "postgresql" or engine.dialect.driver != "psycopg":
        raise ValueError(
            f"{caller} needs PostgreSQL by psycopg, this engine is {engine.dialect.name}+"
            f"{engine.dialect.driver}; make one with create_engine('postgresql+psycopg://...')"
        )
    return engine


def _checked(events: Iterable[AnyEnvelope], *, keep_versions: bool) -> Iterator[SourceEvent]:
    """Yield the events, with what is looked at before they are encoded checked."""
    for number, envelope in enumerate(events, start=1):
        try:
            event = _check(number, envelope, keep_versions=keep_versions)
        except (TypeError, ValueError) as error:
            error.add_note(which(number, envelope))
            raise
        yield event


def _check(number: int, envelope: AnyEnvelope, *, keep_versions: bool) -> SourceEvent:
    check_envelope(envelope)
    if envelope.stream_id == "":
        raise ValueError("stream_id is empty; name the stream: EventEnvelope(stream_id=...)")
    stream_id = check_stream_id(envelope.stream_id)
    version = check_number("event_version", envelope.event_version) if keep_versions else 0
    return SourceEvent(number, stream_id, version, envelope)
