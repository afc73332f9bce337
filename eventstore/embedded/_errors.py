"""What the embedded server reports when it cannot do its work."""

from __future__ import annotations


class EmbeddedPostgresError(RuntimeError):
    """The private server cannot start, stop or be reached; the message says what to do."""


class EmbeddedPostgresMissingError(EmbeddedPostgresError, ModuleNotFoundError):
    """The package that holds the PostgreSQL binaries is not installed."""
