"""The vocabulary context: editors write entries and publish them.

It is written with an aggregate *class*: commands are methods, ``@applies`` folds what has happened.
"""

from __future__ import annotations

from typing import Final

#: The schema of this context's event store.
SCHEMA: Final = "vocabulary"
