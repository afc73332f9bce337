"""Import many events, of whatever streams, by COPY: a history from elsewhere, or from a file.

While a batch is being written by a thread of the import's own, the caller's thread asks the source
for the next one and encodes it: the server and Python work at the same time. So there are two
batches in memory, never more, however long the source is.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from eventstore import operations
from eventstore.batches import encode_event
from eventstore.errors import EventStoreError, TransactionConflict
from eventstore.events import EventEnvelope
from eventstore.models import EventRecord
from eventstore.operations.bulk import ImportedBatch, StreamEvent
from eventstore.operations.incoming import MAX_BATCH_BYTES
from eventstore.registry import codec_of
from eventstore.streams import check_number, check_schema, check_stream_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from eventstore.events import AnyEnvelope
    from eventstore.registry import EventRegistry, PayloadCodec

#: A batch is held to this many bytes of payload and metadata, or to one event.
_BATCH_BYTES: Final = 8 * 2**20
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
    codec = codec_of(registry)
    run = _Import(engine_for_copy(engine, "import_events"), check_schema(schema), on_progress)
    with ThreadPoolExecutor(1, thread_name_prefix="eventstore-import") as writer:
        writing: Future[ImportedBatch] | None = None
        try:
            for batch in _batches(events, codec, batch_size, keep_versions=keep_versions):
                if writing is not None:
                    before, writing = writing, None
                    run.report(before.result())
                writing = writer.submit(run.write, batch)
        finally:
            # Also when the source has failed: this batch is complete.
            if writing is not None:
                run.report(writing.result())
    return run.progress


class _Import:
    """What one batch of an import leaves to the next."""

    def __init__(
        self,
        engine: Engine,
        schema: str | None,
        on_progress: Callable[[ImportProgress], object] | None,
    ) -> None:
        # Whatever the engine's isolation is: the import takes turns with others at the rows of
        # streams, and must see there what they have committed.
        self._sessions = sessionmaker(engine.execution_options(isolation_level="READ COMMITTED"))
        self._schema = schema
        self._on_progress = on_progress
        self._began = monotonic()
        # The first batch tells whether this import goes on where another ended.
        self._look_up = True
        self._open_keys: frozenset[tuple[str, str]] = frozenset()
        self.progress = ImportProgress(
            imported=0, already_imported=0, new_streams=0, position=0, seconds=0.0
        )

    def write(self, batch: Sequence[StreamEvent]) -> ImportedBatch:
        """Record a batch in a transaction, or in the next one if that is given up."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                with self._sessions.begin() as session:
                    imported = operations.import_batch(
                        session,
                        batch,
                        look_up=self._look_up,
                        open_keys=self._open_keys,
                        schema=self._schema,
                    )
                break
            except TransactionConflict:
                if not attempts_left:
                    raise
                self._look_up = True
        self._look_up = imported.already_imported > 0
        self._open_keys = imported.keys
        return imported

    def report(self, batch: ImportedBatch) -> None:
        """Add a committed batch to the progress, and tell the caller."""
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


def _batches(
    events: Iterable[AnyEnvelope], codec: PayloadCodec, batch_size: int, *, keep_versions: bool
) -> Iterator[list[StreamEvent]]:
    """Yield the encoded events, so many at a time that they don't take too much memory."""
    batch: list[StreamEvent] = []
    batch_bytes = 0
    for number, envelope in enumerate(events, start=1):
        try:
            event = _encode(envelope, codec, keep_versions=keep_versions)
            event_bytes = _size(event)
        except (EventStoreError, TypeError, ValueError) as error:
            error.add_note(_which(number, envelope))
            raise
        if batch and (len(batch) == batch_size or batch_bytes + event_bytes > _BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(event)
        batch_bytes += event_bytes
    if batch:
        yield batch


def _encode(envelope: AnyEnvelope, codec: PayloadCodec, *, keep_versions: bool) -> StreamEvent:
    if not isinstance(envelope, EventEnvelope):
        raise TypeError(f"an event must be an EventEnvelope, not a {type(envelope).__qualname__}")
    if envelope.stream_id == "":
        raise ValueError("stream_id is empty; name the stream: EventEnvelope(stream_id=...)")
    stream_id = check_stream_id(envelope.stream_id)
    version = check_number("event_version", envelope.event_version) if keep_versions else 0
    event = encode_event(stream_id, envelope, codec, in_context=False)
    return StreamEvent(stream_id, version, event)


def _size(event: StreamEvent) -> int:
    size = len(event.event.event_data) + len(event.event.metadata)
    if size > MAX_BATCH_BYTES:
        raise ValueError(f"the event has {size} bytes as JSON, at most {MAX_BATCH_BYTES} are taken")
    return size


def _which(number: int, envelope: AnyEnvelope) -> str:
    if not isinstance(envelope, EventEnvelope):
        return f"event {number} of the import"
    return f"event {number} of the import: {envelope.event_id} for stream {envelope.stream_id!r}"
