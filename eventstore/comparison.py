"""Where two values differ, told by their fields and never by an ``__eq__`` of their own.

A class that compares by its id alone would hide that another field was lost.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

# Deeper than any JSON that pydantic-core reads (200), so that a walk over a cycle ends.
_MAX_DEPTH: Final = 300


def first_difference(left: object, right: object, path: str = "$") -> str | None:
    """Return the JSON path of the first value in which the two differ, None if there is none.

    Two NaN are the same here, and so is the same clock time with the same offset: Python holds
    two times unequal in the hour that a zone runs through twice (PEP 495).
    """
    if isinstance(left, set | frozenset) and isinstance(right, set | frozenset):
        return None if _same_members(left, right) else path
    children, others = children_of(left), children_of(right)
    if children is None or others is None:
        return None if _same_leaf(left, right) else path
    if type(left) is not type(right):
        return path
    for key in [*children, *(other for other in others if other not in children)]:
        step = path + step_to(key, within=left)
        if key not in children or key not in others:
            return step
        if (found := first_difference(children[key], others[key], step)) is not None:
            return found
    return None


def _same_members(left: AbstractSet[Any], right: AbstractSet[Any]) -> bool:
    others = {member: member for member in right}
    return len(left) == len(right) and all(
        member in others and first_difference(member, others[member]) is None for member in left
    )


def _same_leaf(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, datetime) and isinstance(right, datetime):
        return left == right or left.isoformat() == right.isoformat()
    return bool(left == right)


def children_of(value: object) -> Mapping[Any, Any] | None:
    """Return what a container holds by key, None for a value that holds nothing."""
    if isinstance(value, BaseModel):
        # Not the whole of __dict__, which keeps cached properties too.
        state, fields = value.__dict__, type(value).__pydantic_fields__
        known = {name: state[name] for name in fields if name in state}
        return known | (value.__pydantic_extra__ or {})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return None


def leaves_of(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield every key of an object and every value that holds nothing, with its path."""
    children = children_of(value)
    if children is None or depth == _MAX_DEPTH:
        yield path, value
        return
    for key, child in children.items():
        step = path + step_to(key, within=value)
        if isinstance(value, dict):
            yield step, key
        yield from leaves_of(child, step, depth + 1)


def step_to(key: object, *, within: object) -> str:
    """Return the step of a JSON path from a container to what it holds under ``key``."""
    if isinstance(key, int) and isinstance(within, list | tuple):
        return f"[{key}]"
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    return f"[{key!r}]"
