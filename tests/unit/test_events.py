from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from eventstore.events import EventEnvelope, EventMetadata


def envelope(**fields: Any) -> EventEnvelope[Any]:
    given: dict[str, Any] = {"aggregate_type": "account", "event_type": "noted", "event_data": {}}
    return EventEnvelope(**(given | fields))


def test_defaults_of_an_event_that_is_not_recorded_yet() -> None:
    before = datetime.now(UTC)
    event = envelope()
    assert (event.stream_id, event.aggregate_id) == ("", "")
    assert (event.event_version, event.sequence_number) == (0, 0)
    assert event.metadata == EventMetadata()
    assert before <= event.occurred_at <= datetime.now(UTC)
    assert event.occurred_at.tzinfo is UTC


def test_ids_are_standard_uuid7_in_the_order_of_time() -> None:
    first = envelope().event_id
    time.sleep(0.002)
    second = envelope().event_id
    assert type(first) is UUID
    assert first.version == second.version == 7
    assert first < second


def test_an_id_may_be_any_uuid_or_its_text() -> None:
    chosen = uuid4()
    assert envelope(event_id=chosen).event_id == chosen
    assert envelope(event_id=str(chosen)).event_id == chosen
    with pytest.raises(ValidationError):
        envelope(event_id="7")


def test_an_envelope_is_frozen_and_has_no_other_fields() -> None:
    event = envelope()
    with pytest.raises(ValidationError):
        event.event_version = 5
    with pytest.raises(ValidationError):
        envelope(version=5)


def test_a_naive_time_is_refused_and_an_aware_one_becomes_utc() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        envelope(occurred_at=datetime(2024, 7, 1, 5))  # noqa: DTZ001 - the case in question
    in_delhi = datetime(2024, 7, 1, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    occurred_at = envelope(occurred_at=in_delhi).occurred_at
    assert (occurred_at, occurred_at.utcoffset()) == (in_delhi, timedelta(0))


@pytest.mark.parametrize("sign", ["a", "é", "\U0001f600"])
def test_names_have_a_longest_length_in_characters(sign: str) -> None:
    names = {"aggregate_id": 255, "aggregate_type": 100, "event_type": 100}
    envelope(**{name: sign * length for name, length in names.items()})
    for name, length in names.items():
        with pytest.raises(ValidationError, match=name):
            envelope(**{name: sign * (length + 1)})
    with pytest.raises(ValidationError, match="idempotency_key"):
        EventMetadata(idempotency_key=sign * 256)


@pytest.mark.parametrize("text", ["\0", "a\0", "\0\n", "a\n\0", "\ud800", 7, None])
@pytest.mark.parametrize("name", ["aggregate_id", "aggregate_type", "event_type"])
def test_a_name_that_no_column_can_hold_is_refused(name: str, text: object) -> None:
    with pytest.raises(ValidationError, match=name):
        envelope(**{name: text})


def test_an_empty_aggregate_type_or_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="aggregate_type"):
        envelope(aggregate_type="")
    with pytest.raises(ValidationError, match="idempotency_key"):
        EventMetadata(idempotency_key="")


def test_no_message_shows_the_payload() -> None:
    with pytest.raises(ValidationError) as caught:
        EventEnvelope[int](aggregate_type="account", event_data="hush")  # type: ignore[arg-type]
    assert "event_data" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_metadata_keeps_further_keys_and_takes_uuids_as_references() -> None:
    reference = uuid4()
    metadata = EventMetadata.model_validate(
        {"correlation_id": reference, "causation_id": str(reference), "tenant": {"id": 7}}
    )
    assert metadata.correlation_id == metadata.causation_id == str(reference)
    assert metadata.model_dump(exclude_none=True)["tenant"] == {"id": 7}
    with pytest.raises(ValidationError):
        metadata.user_id = "changed"
