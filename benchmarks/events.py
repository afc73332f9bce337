"""The event that every contender writes and reads: 250 bytes of payload, metadata of four ids."""

from __future__ import annotations

from datetime import date
from typing import Final

from pydantic import BaseModel

from eventstore import EventMetadata, EventRegistry

AGGREGATE_TYPE: Final = "invoice"
EVENT_TYPE: Final = "invoice-issued"


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
registry.register(EVENT_TYPE, InvoiceIssued)

# The application's own objects are there before the clock starts; what a store makes of them
# (ids, envelopes, JSON) is timed.
PAYLOAD: Final = InvoiceIssued(
    invoice_id="2024-000184",
    customer_id="customer-7712",
    due=date(2024, 11, 30),
    currency="EUR",
    lines=[
        Line(article="AX-1009", quantity=2, cents=1250),
        Line(article="BK-77", quantity=1, cents=39900),
    ],
    total_cents=42400,
    note="deliver to the back door",
)
METADATA: Final = Metadata(
    correlation_id="0192f3a1-6f6e-7c3b-9a54-1f0c7d1b2a90",
    causation_id="0192f3a1-6f70-7f11-8c1d-93a4b5c6d7e8",
    user_id="user-20417",
    source_service="billing",
)
EVENT_METADATA: Final = EventMetadata(**METADATA.model_dump())
