"""How long the proof takes: ``EVENTSTORE_TEST_THOROUGH=1`` for all of it."""

from __future__ import annotations

import os

IS_THOROUGH = os.environ.get("EVENTSTORE_TEST_THOROUGH") == "1"
