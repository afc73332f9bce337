"""When a word is due again: the algorithm SM-2.

P. A. Woźniak, "Optimization of learning", 1990, section 3.2. Its factors of easiness are counted in
per cent here, so that they are whole numbers, in the events too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

#: From 0, "forgotten altogether", to 5, "known at once"; from 3 on the answer was right.
MAX_GRADE = 5
_RIGHT = 3
_LEAST_EASE_PERCENT = 130


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a learner stands with a word."""

    due_on: date
    interval_days: int = 0  #: since the review before; 0 before the first one, or after a lapse
    ease_percent: int = 250  #: by how much the interval grows


def reviewed(card: Card, grade: int, on: date) -> Card:
    """Return the card after an answer of this grade."""
    if grade < _RIGHT:
        return Card(due_on=on + timedelta(days=1), ease_percent=card.ease_percent)
    missing = MAX_GRADE - grade
    ease = max(_LEAST_EASE_PERCENT, card.ease_percent + 10 - missing * (8 + 2 * missing))
    match card.interval_days:
        case 0:
            interval = 1
        case 1:
            interval = 6
        case days:
            interval = -(-days * ease // 100)  # rounded up
    return Card(due_on=on + timedelta(days=interval), interval_days=interval, ease_percent=ease)
