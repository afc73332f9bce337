from __future__ import annotations

import json
from datetime import datetime
from uuid import UUID

import pytest

from eventstore.batches import encode_event
from eventstore.events import EventEnvelope, EventMetadata
from eventstore.operations.incoming import row_of
from eventstore.registry import JsonPayloads

AWKWARD = 'a"b\\c\n{"é€𝄞'


@pytest.mark.parametrize("key", [None, AWKWARD])
def test_a_row_is_the_json_of_its_event_whatever_its_names_are(key: str | None) -> None:
    event = EventEnvelope(
        aggregate_id=AWKWARD,
        aggregate_type=AWKWARD + "type",
        event_type=AWKWARD + "event",
        event_data={"text": AWKWARD},
        metadata=EventMetadata(idempotency_key=key, user_id=AWKWARD),
    )
    row = json.loads(b"{" + row_of(encode_event("s", event, JsonPayloads())))
    assert UUID(row["i"]) == event.event_id
    assert (row["a"], row["g"], row["t"]) == (AWKWARD, AWKWARD + "type", AWKWARD + "event")
    assert row["k"] == key
    assert row["d"] == {"text": AWKWARD}
    assert row["m"]["user_id"] == AWKWARD
    assert datetime.fromisoformat(row["h"]) == event.occurred_at
