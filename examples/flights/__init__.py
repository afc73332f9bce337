"""The flights out of New York in the first week of January 2013, as events.

``python -m examples.flights`` runs it all. What to read first:

- ``events``: the domain. Which events a flight has, and what is known of it after them.
- ``timetable``: the data. From rows of a CSV file to events, in the order of their happening.
- ``punctuality``: a projection. One table, folded from the feed, and once more from the file.
- ``board``: a subscription. The same table, kept current by a process that may be killed.
- ``refunds``: a read model. Its rows commit together with their events.
- ``tour``: the library. What it answers when writers collide, retry, fail and look back.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

#: The checkout.
ROOT = Path(__file__).parents[2]


def data_dir(days: int) -> Path:
    """Return where the embedded server keeps the flights of the first ``days`` days.

    That is in the checkout; for root it is outside, since the server then runs under another
    account, which may not be able to enter the checkout's folder.
    """
    if os.geteuid() == 0:
        checkout = blake2b(os.fsencode(ROOT), digest_size=4).hexdigest()
        home = Path("/var/lib/eventstore-demo") / checkout
    else:
        home = ROOT / ".data"
    return home / f"flights-{days}-days"
