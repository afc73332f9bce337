"""What a piece of work on a session is made of: whoever drives it waits, or awaits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from eventstore.events import AnyEnvelope


@dataclass(frozen=True, slots=True)
class Ask:
    """Run the operation on the session, and send what it returns."""

    operation: Callable[[Session], Any]


@dataclass(frozen=True, slots=True)
class Hand:
    """Call the handler, and flush what it left in the session."""

    event: AnyEnvelope
    attempt: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the session; what follows is another transaction."""


Step: TypeAlias = Ask | Hand | Commit
