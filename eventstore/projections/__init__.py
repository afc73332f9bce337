"""Projections: tables that are a function of the events; how they are kept, read, rebuilt."""

from __future__ import annotations

from eventstore.projections.definition import Projection, handles
from eventstore.projections.live import live, live_async
from eventstore.projections.projector import async_subscription_of, subscription_of

__all__ = [
    "Projection",
    "async_subscription_of",
    "handles",
    "live",
    "live_async",
    "subscription_of",
]
