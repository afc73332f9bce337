"""The progress context: learners take words, and review each when it is due.

It is written as a *decider*: pure functions over plain values. It knows the vocabulary's entries
by their ids alone.
"""

from __future__ import annotations

from typing import Final

#: The schema of this context's event store.
SCHEMA: Final = "progress"
