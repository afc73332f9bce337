"""The members of sets in one order: JSON has no sets, and a list of the same members is the same.

Python's own order differs from process to process (its hashes of texts do, PYTHONHASHSEED), and
with the way by which a set came about. Written as it comes, a batch that is appended again would
not be known as the same, nor a snapshot's state as what it was.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import RootModel

from eventstore.comparison import children_of
from eventstore.personal.carriers import form_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def in_one_order(value: object, written: Any) -> Any:
    """Return ``written``, the JSON of ``value``, with the members of each set sorted by their JSON.

    Both are walked side by side; where JSON was written in a way of its own, it is left as it is.
    """
    if form_of(written) is not None and "value" in written:
        return written | {"value": in_one_order(value, written["value"])}
    if isinstance(value, RootModel):
        return in_one_order(value.root, written)
    if isinstance(written, list):
        return _list_in_order(value, written)
    if isinstance(written, dict):
        held = _held_by_keys(value, written)
        return {
            key: in_one_order(held[key], each) if key in held else each
            for key, each in written.items()
        }
    return written


def _list_in_order(value: object, written: list[Any]) -> list[Any]:
    if not isinstance(value, list | tuple | set | frozenset) or len(value) != len(written):
        return written
    members = map(in_one_order, value, written)
    return list(members) if isinstance(value, list | tuple) else sorted(members, key=_text)


def _held_by_keys(value: object, written: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a container holds by the keys that JSON has for it."""
    if isinstance(value, dict):
        # In the same order, and the keys may have been something else than texts.
        return dict(zip(written, value.values(), strict=len(written) == len(value)))
    fields = getattr(type(value), "__pydantic_fields__", {})
    return {
        (fields[name].serialization_alias or name if name in fields else name): each
        for name, each in (children_of(value) or {}).items()
    }


def _text(written: object) -> str:
    return json.dumps(written, sort_keys=True)
