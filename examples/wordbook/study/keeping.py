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

#: Each projection, with the registry and the schema of the store that it reads.
KEPT: Final = (
    (Words(), vocabulary_registry, vocabulary.SCHEMA),
    (Cards(), progress_registry, progress.SCHEMA),
)


@contextmanager
def kept(engine: Engine) -> Iterator[None]:
    """Keep the tables up to date until the end of the block; any number of processes may do it."""
    with ExitStack() as stack:
        for projection, registry, schema in KEPT:
            subscription = subscription_of(projection, registry, schema=schema)
            stack.enter_context(
                SubscriptionRunner(engine, [subscription], registry=registry, schema=schema)
            )
        yield


def bring_up(engine: Engine) -> None:
    """Bring the tables up to date; run it where the application is deployed.

    Where a projection's version was raised, new tables are built beside those that are shown, and
    take their place once they are complete.
    """
    for projection, registry, schema in KEPT:
        rebuild(engine, projection, registry, schema=schema)
