"""Subscriptions: events of the feed, handed to a handler in order, from a durable checkpoint on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from eventstore.operations.parking import ParkedStream
from eventstore.operations.status import FenceHolder, PartitionStatus
from eventstore.subscriptions.definition import (
    BEGINNING,
    NOW,
    PARK,
    SKIP,
    STOP,
    Delivery,
    MadeFor,
    OnFailure,
    Position,
    RetryPolicy,
    Subscription,
)
from eventstore.subscriptions.notifications import CommitNotifier
from eventstore.subscriptions.replay import (
    discard_parked,
    parked_streams,
    replay_parked,
    replay_parked_async,
)
from eventstore.subscriptions.reset import reset_subscription
from eventstore.subscriptions.runner import SubscriptionRunner
from eventstore.subscriptions.status import subscription_status, wait_for, wait_for_async

if TYPE_CHECKING:
    from eventstore.subscriptions.aio_notifications import AsyncCommitNotifier
    from eventstore.subscriptions.aio_runner import AsyncSubscriptionRunner

__all__ = [
    "BEGINNING",
    "NOW",
    "PARK",
    "SKIP",
    "STOP",
    "AsyncCommitNotifier",
    "AsyncSubscriptionRunner",
    "CommitNotifier",
    "Delivery",
    "FenceHolder",
    "MadeFor",
    "OnFailure",
    "ParkedStream",
    "PartitionStatus",
    "Position",
    "RetryPolicy",
    "Subscription",
    "SubscriptionRunner",
    "discard_parked",
    "parked_streams",
    "replay_parked",
    "replay_parked_async",
    "reset_subscription",
    "subscription_status",
    "wait_for",
    "wait_for_async",
]

#: What can't be imported without greenlet, which comes with the extra ``asyncio``.
_WITH_ASYNCIO: Final = {
    "AsyncCommitNotifier": "eventstore.subscriptions.aio_notifications",
    "AsyncSubscriptionRunner": "eventstore.subscriptions.aio_runner",
}


def __getattr__(name: str) -> Any:
    """Import what needs asyncio when it is asked for (PEP 562)."""
    if name in _WITH_ASYNCIO:
        return getattr(import_module(_WITH_ASYNCIO[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
