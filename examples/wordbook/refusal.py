"""What the contexts say when they don't allow something."""

from __future__ import annotations


class Refusal(Exception):
    """The domain does not allow it now; the message is for whoever has asked."""
