"""Rounds: everybody takes a turn in each, so that a neighbour's or the disk's mood meets all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.controller import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.protocol import Sample


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What the turns have taken, by contender."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)  #: one for each round
    skipped: dict[str, str] = field(default_factory=dict)  #: the reasons


def interleave(turns: Mapping[str, Callable[[], Sample]], rounds: int) -> Taken:
    """Let everybody take a turn in each round, in an order that rotates from round to round.

    Who fails is out: what it did before is not told either, since the rounds' ratios need the
    same rounds.
    """
    taken = Taken(samples={name: [] for name in turns})
    for number in range(rounds):
        for name in rotate(list(taken.samples), number):
            try:
                sample = turns[name]()
            except Unavailable as error:
                taken.skipped[name] = str(error)
                del taken.samples[name]
            else:
                taken.samples[name].append(sample)
    return taken


def rotate(names: list[str], number: int) -> list[str]:
    """Return the names, begun with another one for each number."""
    first = number % len(names) if names else 0
    return names[first:] + names[:first]
