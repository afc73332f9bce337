"""Forgetting a subject, as far as it shows without keys: it is told once, and to everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventstore.events import EventMetadata
from eventstore.personal.erasure import ERASURES_STREAM, SUBJECT_FORGOTTEN
from eventstore.testing.conformance.accounts import new_stream

if TYPE_CHECKING:
    from eventstore.protocols import EventStore

_NO_SUBJECTS: list[Any] = ["", "x" * 256, "a\0b", 7, None]


class Forgetting:
    """What is recorded, and what is refused."""

    def test_it_is_recorded_once(self, store: EventStore) -> None:
        subject = new_stream()

        assert store.forget(subject, metadata=EventMetadata(user_id="officer")) is True
        assert store.forget(subject) is False

        told = [
            event for event in store.read_stream(ERASURES_STREAM) if event.aggregate_id == subject
        ]
        assert [event.event_type for event in told] == [SUBJECT_FORGOTTEN]
        assert told[0].event_data == {"subject_id": subject}
        assert told[0].metadata.user_id == "officer"

    @pytest.mark.parametrize("subject_id", _NO_SUBJECTS, ids=range(len(_NO_SUBJECTS)))
    def test_a_subject_has_a_name(self, store: EventStore, subject_id: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="subject_id"):
            store.forget(subject_id)
