"""The event's types, as an application of ours and a hand-written store would declare them."""

from __future__ import annotations

from datetime import date  # noqa: TC003 - pydantic reads it
from typing import Final

from pydantic import BaseModel

from benchmarks import payload
from eventstore import EventRegistry


class Line(BaseModel):
    article: str
    quantity: int
    cents: int


class InvoiceIssued(BaseModel):
    invoice_id: str
    customer_id: str
    due: date
    currency: str
    lines: list[Line]
    total_cents: int
    note: str


class Metadata(BaseModel):
    """What a hand-written store would have: the same ids, and nothing that it doesn't need."""

    correlation_id: str
    causation_id: str
    user_id: str
    source_service: str


registry = EventRegistry()
registry.register(payload.EVENT_TYPE, InvoiceIssued)

# The application's own object is there before the clock starts; what a store makes of it (ids,
# metadata, envelopes, JSON) is timed.
PAYLOAD: Final = InvoiceIssued.model_validate(payload.DATA)
