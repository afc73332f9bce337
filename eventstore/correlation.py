"""Who and what led to an event: ids that flow by a context variable into all events below.

What one request sets off shares a correlation id; each event names what directly caused it (Greg
Young's rule: an event takes the correlation id of the message that it answers, and that message's
id as its causation id)::

    with causation(correlation_id=request_id, user_id="ann"):
        accounts.execute("1", Withdraw(10))

    with caused_by(event):  # in the handler of that event
        letters.execute("1", SendLetter())

The context is that of :mod:`contextvars`: tasks inherit it, threads of a pool do not.

A span of OpenTelemetry that is active adds its W3C ``traceparent``. Nothing is imported for that: a
program that traces has imported ``opentelemetry.trace`` already.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from uuid_utils.compat import uuid7

from eventstore.events import EventMetadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventstore.events import AnyEnvelope

_context: Final[ContextVar[EventMetadata | None]] = ContextVar("eventstore", default=None)
_EMPTY: Final = EventMetadata()


@contextmanager
def causation(
    *,
    correlation_id: UUID | str | None = None,
    causation_id: UUID | str | None = None,
    user_id: str | None = None,
    source_service: str | None = None,
    **further: Any,
) -> Iterator[EventMetadata]:
    """Give all events that are appended within the block this metadata, where they have none.

    What is not given comes from the block around it; a first block without a correlation id begins
    a conversation under a new one. Yields the metadata that holds within.

    Raises TypeError for an idempotency key or a schema version, which belong to one append, and
    pydantic's ``ValidationError``, a :class:`ValueError`, for what can't be metadata.
    """
    for name in ("idempotency_key", "schema_version"):
        if name in further:
            raise TypeError(f"{name} belongs to one append, not to all below; give it to that")
    given = EventMetadata(
        correlation_id=correlation_id,
        causation_id=causation_id,
        user_id=user_id,
        source_service=source_service,
        **further,
    )
    metadata = _filled(given, _known(_context.get()))
    if metadata.correlation_id is None:
        metadata = metadata.model_copy(update={"correlation_id": str(uuid7())})
    token = _context.set(metadata)
    try:
        yield metadata
    finally:
        _context.reset(token)


def caused_by(event: AnyEnvelope) -> AbstractContextManager[EventMetadata]:
    """Make ``event`` the cause of all events that are appended within the block.

    They join its conversation; one without a correlation id begins it.
    """
    return causation(
        correlation_id=event.metadata.correlation_id or event.event_id,
        causation_id=event.event_id,
    )


def enrich(metadata: EventMetadata) -> EventMetadata:
    """Return ``metadata``, completed by the context it is in; what is explicit stays."""
    context = _context.get()
    traceparent = _traceparent()
    if context is None and traceparent is None:
        return metadata
    known = _known(context)
    if traceparent is not None:
        known.setdefault("traceparent", traceparent)
    return _filled(metadata, known)


def _known(metadata: EventMetadata | None) -> dict[str, Any]:
    return {} if metadata is None else {key: value for key, value in metadata if value is not None}


def _filled(metadata: EventMetadata, known: dict[str, Any]) -> EventMetadata:
    given = dict(metadata)
    missing = {key: value for key, value in known.items() if given.get(key) is None}
    return metadata.model_copy(update=missing) if missing else metadata


def _traceparent() -> str | None:
    """Return the ``traceparent`` of the active span, if any (W3C Trace Context, section 3.2)."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
