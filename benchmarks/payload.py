"""The event that everybody writes and reads, as plain data: `payload.json`.

250 bytes of payload, metadata of four ids. Two of those differ from event to event, as real ones
do, so that nobody profits from equal texts. Workers in other environments import this: it needs the
standard library alone.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from random import getrandbits
from typing import Any, Final

_EVENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("payload.json").read_text())

AGGREGATE_TYPE: Final[str] = _EVENT["aggregate_type"]
EVENT_TYPE: Final[str] = _EVENT["event_type"]
DATA: Final[dict[str, Any]] = _EVENT["data"]
METADATA: Final[dict[str, str]] = _EVENT["metadata"]

_numbers: Final = count(getrandbits(46))


def new_metadata() -> dict[str, str]:
    """Return metadata with a correlation id and a causation id of its own."""
    number = f"{next(_numbers):012x}"
    return {
        **METADATA,
        "correlation_id": f"0192f3a1-6f6e-7c3b-9a54-{number}",
        "causation_id": f"0192f3a1-6f70-7f11-8c1d-{number}",
    }
