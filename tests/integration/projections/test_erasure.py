"""Projections that keep personal data are told when a subject is forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from sqlalchemy import String, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventstore import (
    ANY,
    AsyncSqlAlchemyEventStore,
    EventEnvelope,
    EventFilter,
    EventRegistry,
    SqlAlchemyEventStore,
)
from eventstore.personal import Erased, MasterKeys, SubjectForgotten
from eventstore.projections import Projection, handles, live, subscription_of
from eventstore.subscriptions import SubscriptionRunner
from tests.fixtures.learners import (
    ANN,
    Introduced,
    Registered,
    new_master_key,
    registered,
    registry_with,
)
from tests.fixtures.stores import async_engine_of

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Base(DeclarativeBase): ...


class Contact(Base):
    __tablename__ = "contacts"

    learner: Mapped[str] = mapped_column(String, primary_key=True)
    email: Mapped[str | None]


class Contacts(Projection):
    name = "contacts"
    models = (Contact,)

    @handles(Registered)
    def _registered(self, event: EventEnvelope[Registered], session: Session) -> None:
        email = event.event_data.email
        known = None if isinstance(email, Erased) else email
        session.add(Contact(learner=event.event_data.learner_id, email=known))

    @handles(SubjectForgotten)
    def _forgotten(self, event: EventEnvelope[SubjectForgotten], session: Session) -> None:
        session.execute(delete(Contact).where(Contact.learner == event.event_data.subject_id))


@pytest.fixture
def registry() -> EventRegistry:
    return registry_with(MasterKeys(new_master_key()))


@pytest.fixture
def school(engine: Engine) -> Engine:
    """A database with the projection's table."""
    Base.metadata.create_all(engine)
    return engine


def contacts(session: Session) -> dict[str, str | None]:
    return {row.learner: row.email for row in session.scalars(select(Contact))}


def test_a_subscription_is_told(school: Engine, registry: EventRegistry) -> None:
    def run() -> None:
        subscription = subscription_of(Contacts(), registry)
        SubscriptionRunner(school, [subscription], registry=registry).run_until_current()

    with Session(school) as session:
        store = SqlAlchemyEventStore(session, registry)
        store.append_to_stream("s", ANY, [registered("l-1"), registered("l-2", "bob@x.org")])
        session.commit()
        run()
        assert contacts(session) == {"l-1": ANN, "l-2": "bob@x.org"}
        store.forget("l-1")
        session.commit()
        run()
        session.expire_all()
        assert contacts(session) == {"l-2": "bob@x.org"}


def test_what_is_kept_inline_is_told_at_once(school: Engine, registry: EventRegistry) -> None:
    with Session(school) as session:
        store = SqlAlchemyEventStore(session, registry, projections=[Contacts()])
        store.append_to_stream("s", ANY, [registered("l-1")])
        assert contacts(session) == {"l-1": ANN}
        assert store.forget("l-1")
        assert contacts(session) == {}
        assert not store.forget("l-1")


def test_what_an_async_store_keeps_inline_is_told_at_once(
    school: Engine, registry: EventRegistry
) -> None:
    async def scenario() -> None:
        async with async_engine_of(school.url) as engine, AsyncSession(engine) as session:
            store = AsyncSqlAlchemyEventStore(session, registry, projections=[Contacts()])
            await store.append_to_stream("s", ANY, [registered("l-1")])
            assert await session.run_sync(contacts) == {"l-1": ANN}
            assert await store.forget("l-1")
            assert await session.run_sync(contacts) == {}

    asyncio.run(scenario())


def test_a_fold_reads_what_is_erased(school: Engine, registry: EventRegistry) -> None:
    with Session(school) as session:
        store = SqlAlchemyEventStore(session, registry)
        store.append_to_stream("s", ANY, [registered("l-1")])
        session.commit()
        with live(Contacts(), store):
            assert contacts(session) == {"l-1": ANN}
        store.forget("l-1")
        session.commit()
        with live(Contacts(), store):
            assert contacts(session) == {}


class Deaf(Projection):
    """It isn't told."""

    name = "deaf"

    @handles(Introduced)
    def _introduced(self, event: EventEnvelope[Introduced], session: Session) -> None: ...


class Sparing(Deaf):
    name = "sparing"
    keeps_personal_data = False


class Filtered(Contacts):
    name = "filtered"
    filters: ClassVar[EventFilter] = EventFilter(stream_prefix="learner-")


class Parted(Contacts):
    name = "parted"
    partitions = 2


@pytest.mark.parametrize(
    ("projection", "cure"),
    [
        (Deaf(), "introduced.*SubjectForgotten.*keeps_personal_data = False"),
        (Filtered(), "filter in the methods"),
        (Parted(), "leave it at 1"),
    ],
)
def test_one_that_would_not_be_told_is_refused(
    registry: EventRegistry, projection: Any, cure: str
) -> None:
    with pytest.raises(ValueError, match=cure):
        subscription_of(projection, registry)


def test_one_that_keeps_nothing_need_not_be_told(registry: EventRegistry) -> None:
    subscription_of(Sparing(), registry)
