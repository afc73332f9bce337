from __future__ import annotations

import pytest

from eventstore import (
    ANY,
    ClaimRefused,
    Claims,
    InMemoryEventStore,
    StreamAppend,
    combine,
    execute_decision,
    no_new,
)
from tests.fixtures.courses import event

KEY = b"0123456789abcdef"
EMAILS = Claims("email", key=KEY)


def holder_of(store: InMemoryEventStore, value: str) -> str | None:
    claim = EMAILS.on(value)
    return claim.state_of(store.read_by_query(claim.query))


def take(store: InMemoryEventStore, value: str, stream: str) -> None:
    claim = EMAILS.on(value)

    def decide(holder: str | None) -> StreamAppend:
        claim.require_free(holder)
        return StreamAppend(stream, ANY, [event("registered", tags=[claim.taken])])

    execute_decision(store, claim, decide)


def test_a_value_is_taken_once() -> None:
    store = InMemoryEventStore()
    take(store, "ada@example.org", "user-1")
    with pytest.raises(ClaimRefused) as caught:
        take(store, "ada@example.org", "user-2")
    assert (caught.value.scope, caught.value.holder) == ("email", "user-1")
    take(store, "Ada@example.org", "user-2")  # the case is the caller's to fold
    assert holder_of(store, "ada@example.org") == "user-1"


def test_one_value_is_exchanged_for_another() -> None:
    store = InMemoryEventStore()
    take(store, "old", "user-1")
    before, after = EMAILS.on("old"), EMAILS.on("new")

    def change(stream: str) -> None:
        def decide(holders: dict[str, str | None]) -> StreamAppend:
            before.require_held_by(stream, holders["before"])
            after.require_free(holders["after"])
            changed = event("email-changed", tags=[before.released, after.taken])
            return StreamAppend(stream, ANY, [changed])

        execute_decision(store, combine(dict, before=before, after=after), decide)

    with pytest.raises(ClaimRefused):
        change("user-2")
    change("user-1")
    assert (holder_of(store, "old"), holder_of(store, "new")) == (None, "user-1")
    with pytest.raises(ClaimRefused) as caught:
        change("user-1")
    assert caught.value.holder is None
    take(store, "old", "user-2")


def test_a_value_goes_over_to_another_stream() -> None:
    store = InMemoryEventStore()
    take(store, "team", "user-1")
    claim = EMAILS.on("team")

    def decide(holder: str | None) -> StreamAppend:
        claim.require_held_by("user-1", holder)
        return StreamAppend("user-2", ANY, [event("taken-over", tags=[claim.taken])])

    execute_decision(store, claim, decide)
    assert holder_of(store, "team") == "user-2"


def test_a_value_that_is_never_given_up_needs_no_read() -> None:
    store, claim = InMemoryEventStore(), EMAILS.on("ada")
    registered = event("registered", tags=[claim.taken])
    store.append(StreamAppend("user-1", ANY, [registered]), require=no_new(claim.query))
    assert holder_of(store, "ada") == "user-1"


def test_a_keyed_hash_does_not_show_the_value() -> None:
    claim = EMAILS.on("ada@example.org")
    assert "ada" not in claim.taken + claim.released
    # It must be the same in every version, for ever.
    digest = "c019192e59b92c2f9ae91acdfa09a57ad9309882522c309f88d52c6e8eb6845f"
    assert (claim.taken, claim.released) == (f"taken:email:{digest}", f"released:email:{digest}")
    assert claim != Claims("email", key=KEY[::-1]).on("ada@example.org")
    assert digest not in Claims("name", key=KEY).on("ada@example.org").taken
    assert Claims("email").on("ada").taken == "taken:email:ada"


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="key must be bytes"):
        Claims("email", key="0123456789abcdef")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 16 bytes, not 15"):
        Claims("email", key=KEY[1:])
    with pytest.raises(ValueError, match="scope must not be empty"):
        Claims("")
    with pytest.raises(TypeError, match="value must be a str"):
        EMAILS.on(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keeps a hash of it") as caught:
        Claims("email").on("x" * 300)
    assert "xxx" not in str(caught.value)
    assert EMAILS.on("x" * 300)
