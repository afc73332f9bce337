"""The event that everybody writes and reads, as plain data: `payload.json`.

250 bytes of payload, metadata of four ids. Workers in other environments import this: it needs
the standard library alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_EVENT: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("payload.json").read_text())

AGGREGATE_TYPE: Final[str] = _EVENT["aggregate_type"]
EVENT_TYPE: Final[str] = _EVENT["event_type"]
DATA: Final[dict[str, Any]] = _EVENT["data"]
METADATA: Final[dict[str, str]] = _EVENT["metadata"]
