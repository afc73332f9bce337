"""Subscriptions: events of the feed, handed to a handler in order, from a durable checkpoint on."""

from __future__ import annotations

from eventstore.subscriptions.definition import (
    BEGINNING,
    NOW,
    PARK,
    SKIP,
    STOP,
    Delivery,
    OnFailure,
    Position,
    RetryPolicy,
    Subscription,
)
from eventstore.subscriptions.runner import SubscriptionRunner

__all__ = [
    "BEGINNING",
    "NOW",
    "PARK",
    "SKIP",
    "STOP",
    "Delivery",
    "OnFailure",
    "Position",
    "RetryPolicy",
    "Subscription",
    "SubscriptionRunner",
]
