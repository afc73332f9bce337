"""A runner's own pool beside that of an engine which nobody has used yet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, text

from eventstore.subscriptions.engines import separate
from tests.fixtures.stores import DEADLINE_SECONDS

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import URL


def test_the_other_pool_waits_until_the_dialect_knows_its_server(
    store_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shares the dialect, which has no default isolation level to go back to before that."""
    engine = create_engine(store_database)
    asking, go_on, decided = Event(), Event(), Event()
    initialize = engine.dialect.initialize

    def slowly(connection: Any) -> None:
        asking.set()
        assert go_on.wait(DEADLINE_SECONDS)
        initialize(connection)

    monkeypatch.setattr(engine.dialect, "initialize", slowly)
    connects: list[None] = []

    @event.listens_for(engine, "do_connect")
    def count(*_: Any) -> None:
        connects.append(None)
        if len(connects) == 3:  # the other pool's connection is there, and asks this pool
            decided.set()

    own = separate(engine)

    def work() -> None:
        with own.connect() as connection:
            connection.execute(text("SELECT 1"))

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: engine.connect().close())
        assert asking.wait(DEADLINE_SECONDS)
        second = threads.submit(work)
        second.add_done_callback(lambda _: decided.set())
        decided.wait(DEADLINE_SECONDS)
        go_on.set()
        first.result(DEADLINE_SECONDS)
        second.result(DEADLINE_SECONDS)
    own.dispose()
    engine.dispose()
