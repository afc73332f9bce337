"""A worker for tests that kill or freeze it: ``worker_process.py URL BEHAVIOUR ...``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

from eventstore.subscriptions import RetryPolicy, Subscription, SubscriptionRunner
from tests.fixtures.subscriptions import Seen

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from eventstore.events import AnyEnvelope


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(url: str, behaviour: str, *arguments: str) -> None:
    def handler(session: Session, event: AnyEnvelope) -> None:
        position = event.sequence_number
        if behaviour == "kill-at" and position == int(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "slow" and position == 1:
            say("at work")
            # Whoever reads that freezes the process before it lets it go on.
            sys.stdin.readline()
        # What a frozen owner writes would be seen apart from what its successor does.
        offset = 1000 if behaviour == "slow" else 0
        session.add(Seen(position=position + offset, stream_id="", version=0))
        if behaviour == "slow" and position == 3:
            say("handled")

    runner = SubscriptionRunner(
        create_engine(url),
        [Subscription("view", handler, retry=RetryPolicy(max_attempts=1))],
        notifications=False,
    )
    if "until-current" in arguments:
        runner.run_until_current()
    else:
        runner.start()
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
