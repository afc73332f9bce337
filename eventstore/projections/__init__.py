"""Projections: tables that are a function of the events; how they are kept, read, rebuilt."""

from __future__ import annotations

from eventstore.operations.projections import ProjectionVersion
from eventstore.projections.definition import Projection, handles
from eventstore.projections.keepers import make_asynchronous, make_inline
from eventstore.projections.live import fold, fold_async, live, live_async
from eventstore.projections.projector import async_subscription_of, subscription_of
from eventstore.projections.rebuild import rebuild, rebuild_async
from eventstore.projections.versions import (
    begin_rebuild,
    discard_version,
    projection_versions,
    switch_version,
)
from eventstore.projections.waiting import wait_for_projection, wait_for_projection_async

__all__ = [
    "Projection",
    "ProjectionVersion",
    "async_subscription_of",
    "begin_rebuild",
    "discard_version",
    "fold",
    "fold_async",
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
    "wait_for_projection",
    "wait_for_projection_async",
]
