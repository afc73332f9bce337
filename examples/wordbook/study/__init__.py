"""What learners are shown: the words of one context beside the due dates of the other.

Nothing is decided here. All of it can be made again: it is a function of the events.
"""

from __future__ import annotations

from typing import Final

#: The schema of the tables that are shown.
SCHEMA: Final = "study"
