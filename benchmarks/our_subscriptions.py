"""Our subscriptions, as a runner of threads and one of tasks have them.

A runner has an engine of its own with SQLAlchemy's default pool, beside that of the appends.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sqlalchemy import URL, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.tables import registry
from benchmarks.worker import Client
from eventstore.subscriptions import (
    NOW,
    AsyncCommitNotifier,
    AsyncSubscriptionRunner,
    CommitNotifier,
    Position,
    Subscription,
    SubscriptionRunner,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.orm import Session

    from eventstore import EventEnvelope

_HEAD: Final = text("SELECT coalesce(max(sequence_number), 0) FROM events")


class View:
    """A table of its own, that counts the events of each customer, and the statements for it."""

    def __init__(self) -> None:
        self.name = f"view_{uuid4().hex}"
        self.create = text(
            f"CREATE TABLE {self.name} (customer_id text PRIMARY KEY, events bigint)"
        )
        self.count_event = text(
            f"INSERT INTO {self.name} AS v VALUES (:customer_id, 1)"
            " ON CONFLICT (customer_id) DO UPDATE SET events = v.events + 1"
        )
        self.total = text(f"SELECT sum(events) FROM {self.name}")
        self.drop = text(f"DROP TABLE {self.name}")


class SubscribingClient(Client):
    """Runs subscriptions by threads."""

    def __init__(self, url: URL) -> None:
        self._url = url

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        engine = create_engine(self._url)
        try:
            with CommitNotifier(engine):
                yield
        finally:
            engine.dispose()

    @asynccontextmanager
    async def subscribe(self, handle: Callable[[str], None]) -> AsyncIterator[None]:
        engine = create_engine(self._url)

        def handler(_: Session, event: EventEnvelope[Any]) -> None:
            handle(event.stream_id)

        subscription = Subscription(f"handler-{uuid4()}", handler, start=NOW)
        try:
            with SubscriptionRunner(engine, [subscription], registry=registry):
                yield
        finally:
            engine.dispose()

    @asynccontextmanager
    async def project(self, count: int, batch: int) -> AsyncIterator[int]:
        engine, view = create_engine(self._url), View()

        def handler(session: Session, event: EventEnvelope[Any]) -> None:
            session.execute(view.count_event, {"customer_id": event.event_data.customer_id})

        with engine.begin() as connection:
            connection.execute(view.create)
            head: int = connection.execute(_HEAD).scalar_one()
        subscription = Subscription(
            view.name, handler, start=Position(head - count), batch_size=batch
        )
        try:
            with SubscriptionRunner(engine, [subscription], registry=registry) as runner:
                runner.run_until_current()
                with engine.connect() as connection:
                    viewed: int = connection.execute(view.total).scalar_one()
                yield viewed
        finally:
            with engine.begin() as connection:
                connection.execute(view.drop)
            engine.dispose()


class AsyncSubscribingClient(Client):
    """Runs subscriptions by tasks."""

    def __init__(self, url: URL) -> None:
        self._url = url

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        engine = create_async_engine(self._url)
        try:
            async with AsyncCommitNotifier(engine):
                yield
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def subscribe(self, handle: Callable[[str], None]) -> AsyncIterator[None]:
        engine = create_async_engine(self._url)

        async def handler(_: AsyncSession, event: EventEnvelope[Any]) -> None:
            handle(event.stream_id)

        subscription = Subscription(f"handler-{uuid4()}", handler, start=NOW)
        try:
            async with AsyncSubscriptionRunner(engine, [subscription], registry=registry):
                yield
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def project(self, count: int, batch: int) -> AsyncIterator[int]:
        engine, view = create_async_engine(self._url), View()

        async def handler(session: AsyncSession, event: EventEnvelope[Any]) -> None:
            await session.execute(view.count_event, {"customer_id": event.event_data.customer_id})

        async with engine.begin() as connection:
            await connection.execute(view.create)
            head: int = (await connection.execute(_HEAD)).scalar_one()
        subscription = Subscription(
            view.name, handler, start=Position(head - count), batch_size=batch
        )
        try:
            async with AsyncSubscriptionRunner(engine, [subscription], registry=registry) as runner:
                await runner.run_until_current()
                async with engine.connect() as connection:
                    viewed: int = (await connection.execute(view.total)).scalar_one()
                yield viewed
        finally:
            async with engine.begin() as connection:
                await connection.execute(view.drop)
            await engine.dispose()
