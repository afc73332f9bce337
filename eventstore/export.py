"""Export the feed as lines of JSON, and read them back: for archives, relays and other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import ValidationError
from sqlalchemy.orm import sessionmaker

from eventstore import operations
from eventstore.bulk import engine_for_copy
from eventstore.events import EventEnvelope
from eventstore.reading import PAGE_SIZE, check_feed_read
from eventstore.registry import codec_of
from eventstore.streams import check_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from eventstore.events import AnyEnvelope
    from eventstore.reading import EventFilter
    from eventstore.registry import EventRegistry

#: So many positions a statement: none is so long that it keeps vacuum from its work.
_POSITIONS_A_STATEMENT: Final = 100_000


class BinaryWriter(Protocol):
    """A file opened for writing bytes, a socket's file, ``gzip.open(...)``."""

    def write(self, data: bytes, /) -> object:
        """Take the bytes."""


def export_events(
    engine: Engine | sessionmaker[Session],
    destination: BinaryWriter,
    from_position: int = 0,
    *,
    filters: EventFilter | None = None,
    registry: EventRegistry | None = None,
    schema: str | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Write the events behind ``from_position`` to ``destination``, one JSON object a line.

    A line has the fields of an :class:`EventEnvelope` under their names, as they are stored; the
    text is UTF-8, times have their offset. Nothing is decoded: the server writes the lines, and
    memory doesn't grow with their number. Events come in the order of the feed, up to the fence as
    it stands at the beginning; its position is returned. Call again with it, and only what is new
    is written: whatever appends commit in what order, nothing is ever left out.

    ``filters`` are those of :meth:`SqlAlchemyEventStore.read_all_forward`; ``registry`` is needed
    only where a filter names a type by today's name that was stored under another. ``on_progress``
    is told the position up to which everything is written, each 100,000 positions.

    :raises FeedUnavailable: the server is a standby.
    :raises TypeError, ValueError: wrong arguments; nothing was sent.
    """
    check_feed_read(from_position, None, filters, PAGE_SIZE)
    if not callable(getattr(destination, "write", None)):
        raise TypeError(f"destination must have a write method, not {type(destination).__name__}")
    copying = engine_for_copy(engine, "export_events")
    codec, schema = codec_of(registry, needs_keys=False), check_schema(schema)
    sessions = sessionmaker(copying.execution_options(isolation_level="READ COMMITTED"))
    with sessions.begin() as session:
        until = operations.read_feed_position(session, schema=schema)
    position = from_position
    while position < until:
        end = min(position + _POSITIONS_A_STATEMENT, until)
        with sessions.begin() as session:
            operations.export_range(
                session, destination.write, position, end, filters, codec=codec, schema=schema
            )
        position = end
        if on_progress is not None:
            on_progress(position)
    return max(until, from_position)


def exported_events(lines: Iterable[bytes | str]) -> Iterator[AnyEnvelope]:
    """Yield the events of lines that :func:`export_events` has written, payloads as dicts.

    They can be given to :func:`import_events` as they are, without a registry: what they say, and
    in which schema version, is kept. Raises ValueError that names the number of a line which is no
    event.
    """
    validate = EventEnvelope[dict[str, Any]].model_validate_json
    for number, line in enumerate(lines, start=1):
        try:
            yield validate(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise ValueError(
                f"line {number} is no exported event: {where}: {first['type']}"
            ) from None
