"""The tables are kept by subscriptions, one on the feed of each context."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from eventstore.projections import rebuild, subscription_of
from eventstore.subscriptions import SubscriptionRunner
from examples.wordbook import progress, vocabulary
from examples.wordbook.progress.events import registry as progress_registry
from examples.wordbook.study.projections import Cards, Words
from examples.wordbook.vocabulary.events import registry as vocabulary_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

#: The subscription that keeps the cards.
CARDS: Final = f"{Cards.name}@{Cards.version}"

_KEPT: Final = (
    (Words(), vocabulary_registry, vocabulary.SCHEMA),
    (Cards(), progress_registry, progress.SCHEMA),
)


def runners(engine: Engine) -> list[SubscriptionRunner]:
    """Return what keeps the tables; any number of processes may run them."""
    return [
        SubscriptionRunner(
            engine,
            [subscription_of(projection, registry, schema=schema)],
            registry=registry,
            schema=schema,
        )
        for projection, registry, schema in _KEPT
    ]


@contextmanager
def kept(engine: Engine) -> Iterator[None]:
    """Keep the tables up to date, by threads, until the end of the block."""
    with ExitStack() as stack:
        for runner in runners(engine):
            stack.enter_context(runner)
        yield


def bring_up(engine: Engine) -> None:
    """Bring the tables up to date; run it where the application is deployed.

    Where a projection's version was raised, new tables are built beside those that learners are
    shown, and take their place once they are complete.
    """
    for projection, registry, schema in _KEPT:
        rebuild(engine, projection, registry, schema=schema)
