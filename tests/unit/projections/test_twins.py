"""Twins take the same, but for the kind of engine, store or session."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from eventstore import projections

PAIRS = ["fold", "live", "rebuild", "wait_for_projection"]


@pytest.mark.parametrize("name", PAIRS)
def test_the_twins_have_the_same_parameters(name: str) -> None:
    one, twin = parameters(getattr(projections, name)), parameters(twin_of(name))
    assert one == twin


def test_so_have_subscriptions() -> None:
    one, twin = projections.subscription_of, projections.async_subscription_of
    assert inspect.signature(one) == inspect.signature(twin)


def twin_of(name: str) -> Any:
    return getattr(projections, f"{name}_async")


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]
