"""Values that one stream at a time may hold: "this e-mail once".

A claim is a pair of tags for one value, and a decision model whose state is the stream that holds
the value. The event that takes the value carries the one tag, the event that gives it up the other;
they are your own events, in your own streams::

    EMAILS = Claims("email", key=secret)

    claim = EMAILS.on("ada@example.org")

    def decide(holder: str | None) -> StreamAppend:
        claim.require_free(holder)
        return StreamAppend("user-7", NO_STREAM, [registered(tags=[claim.taken])])

    execute_decision(store, claim, decide)

An event of another stream that is tagged ``taken`` transfers the value to it. What is one value is
the caller's business: fold the case, normalise (:func:`unicodedata.normalize`) before.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from eventstore.boundaries import MAX_TAG_LENGTH, Query, QueryItem
from eventstore.errors import ClaimRefused
from eventstore.streams import MAX_TYPE_LENGTH, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstore.events import AnyEnvelope

#: NIST SP 800-107, 5.3.4: a key for HMAC of at least the security strength that is wanted.
_MIN_KEY_BYTES: Final = 16


class Claims:
    """The values of one kind, ``scope``, each of which at most one stream holds.

    With a ``key`` (16 bytes or more) tags hold a keyed hash of the value, HMAC-SHA256, instead of
    the value: tags are stored in the clear and for ever, so use one for personal data. Whoever has
    the key can still test whether a value is there. The key can't be changed later, or old claims
    are not found any more.
    """

    def __init__(self, scope: str, *, key: bytes | None = None) -> None:
        self.scope = check_text("scope", scope, MAX_TYPE_LENGTH)
        if key is not None and not isinstance(key, bytes):
            raise TypeError(f"key must be bytes, not {type(key).__name__}")
        if key is not None and len(key) < _MIN_KEY_BYTES:
            raise ValueError(f"key must have at least {_MIN_KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def on(self, value: str) -> Claim:
        """Return the claim on ``value``; two values are one if they are equal as ``str``.

        ValueError for one that is too long for a tag: give a key then, too.
        """
        if not isinstance(value, str):
            raise TypeError(f"value must be a str, not {type(value).__name__}")
        if self._key is not None:
            value = hmac.digest(self._key, f"{self.scope}\0{value}".encode(), "sha256").hex()
        taken, released = (f"{role}:{self.scope}:{value}" for role in ("taken", "released"))
        if max(len(taken), len(released)) > MAX_TAG_LENGTH:
            raise ValueError(
                f"the value of {self.scope!r} has {len(value)} characters and is too long for a "
                "tag; Claims(..., key=...) keeps a hash of it"
            )
        return Claim(self.scope, taken, released)


@dataclass(frozen=True)
class Claim:
    """One value: a decision model whose state is the id of the stream that holds it, or None."""

    scope: str
    taken: str  #: the tag of an event by which its stream takes the value
    released: str  #: the tag of an event by which the value is given up

    @cached_property
    def query(self) -> Query:
        """The events that have taken or released the value."""
        return Query(QueryItem(tags=[self.taken]), QueryItem(tags=[self.released]))

    def state_of(self, events: Iterable[AnyEnvelope]) -> str | None:
        """Return the stream that holds the value after ``events``, None if nobody does."""
        holder = None
        for event in events:
            if self.taken in event.tags:
                holder = event.stream_id
            elif self.released in event.tags:
                holder = None
        return holder

    def require_free(self, holder: str | None) -> None:
        """Raise :class:`ClaimRefused` if anybody holds the value."""
        if holder is not None:
            raise ClaimRefused(self.scope, holder)

    def require_held_by(self, stream_id: str, holder: str | None) -> None:
        """Raise :class:`ClaimRefused` unless this stream holds the value."""
        if holder != stream_id:
            raise ClaimRefused(self.scope, holder)
