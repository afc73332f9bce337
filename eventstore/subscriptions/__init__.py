"""Subscriptions: events of the feed, handed to a handler in order, from a durable checkpoint on."""

from __future__ import annotations

from eventstore.operations.parking import ParkedStream
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
from eventstore.subscriptions.notifications import CommitNotifier
from eventstore.subscriptions.replay import discard_parked, parked_streams, replay_parked
from eventstore.subscriptions.runner import SubscriptionRunner

__all__ = [
    "BEGINNING",
    "NOW",
    "PARK",
    "SKIP",
    "STOP",
    "CommitNotifier",
    "Delivery",
    "OnFailure",
    "ParkedStream",
    "Position",
    "RetryPolicy",
    "Subscription",
    "SubscriptionRunner",
    "discard_parked",
    "parked_streams",
    "replay_parked",
]
