"""asyncio is an extra: without greenlet, all that needs no event loop can be imported."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["greenlet"] = None  # as if it were not installed
import eventstore, eventstore.projections, eventstore.subscriptions
eventstore.subscriptions.SubscriptionRunner
assert "sqlalchemy.ext.asyncio" not in sys.modules
assert not hasattr(eventstore.subscriptions, "Missing")
"""


def test_the_package_is_imported_without_greenlet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
