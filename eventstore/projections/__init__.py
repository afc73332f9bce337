"""Projections: tables that are a function of the events; how they are kept, read, rebuilt."""

from __future__ import annotations

from eventstore.operations.projections import ProjectionVersion
from eventstore.projections.definition import Projection, handles
from eventstore.projections.live import live, live_async
from eventstore.projections.projector import async_subscription_of, subscription_of
from eventstore.projections.rebuild import rebuild, rebuild_async
from eventstore.projections.versions import (
    begin_rebuild,
    discard_version,
    make_asynchronous,
    make_inline,
    projection_versions,
    switch_version,
)

__all__ = [
    "Projection",
    "ProjectionVersion",
    "async_subscription_of",
    "begin_rebuild",
    "discard_version",
    "handles",
    "live",
    "live_async",
    "make_asynchronous",
    "make_inline",
    "projection_versions",
    "rebuild",
    "rebuild_async",
    "subscription_of",
    "switch_version",
]
