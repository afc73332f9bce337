"""What the suite stores: the events of an account, typed and plain."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from typing_extensions import TypedDict

from eventstore.events import AnyEnvelope, EventEnvelope, EventMetadata
from eventstore.protocols import EventStore
from eventstore.registry import EventRegistry


class AccountOpened(BaseModel):
    """A payload that is a pydantic model."""

    owner: str
    limit: Decimal
    opened_on: date


@dataclass(frozen=True)
class MoneyDeposited:
    """A payload that is a dataclass."""

    amount: int
    labels: tuple[str, ...] = ()


class AccountClosed(TypedDict):
    """A payload that is a TypedDict."""

    reason: str


class AccountFrozen(BaseModel):
    """A payload that no registry of the suite knows."""

    reason: str


def registry() -> EventRegistry:
    """Return a registry of the account's events: one type of each kind."""
    known = EventRegistry()
    known.register("account-opened", AccountOpened)
    known.register("money-deposited", MoneyDeposited)
    known.register("account-closed", AccountClosed)
    known.register("noted", dict)
    return known


def new_stream() -> str:
    """Return the id of a stream that no test has used."""
    return f"account-{uuid4()}"


def noted(text: str = "", *, key: str | None = None, **fields: Any) -> AnyEnvelope:
    """Return a plain event, under an idempotency key if one is given."""
    given: dict[str, Any] = {
        "aggregate_type": "account",
        "event_type": "noted",
        "event_data": {"text": text},
        "metadata": EventMetadata(idempotency_key=key),
    }
    return EventEnvelope(**(given | fields))


def again(event: AnyEnvelope, **changes: Any) -> AnyEnvelope:
    """Return ``event`` as its writer sends it a second time, with these fields changed."""
    return event.model_copy(update=changes)


def texts(store: EventStore, stream_id: str) -> list[str]:
    """Return what the events of a stream say, in their order."""
    return [event.event_data["text"] for event in store.read_stream(stream_id)]
