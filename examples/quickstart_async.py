"""The same with asyncio."""

import asyncio

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventstore import NO_STREAM, AsyncSqlAlchemyEventStore, EventEnvelope, migrate
from eventstore.embedded import EmbeddedPostgres


class Base(DeclarativeBase):
    """Your tables."""


class Order(Base):
    """One of them."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]


async def main(url: URL) -> None:
    """Commit an order and its event together, and read the feed."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(migrate.upgrade)
        await connection.run_sync(Base.metadata.create_all)

    placed = EventEnvelope(
        aggregate_type="order", event_type="order-placed", event_data={"total": 42}
    )
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(id="1", status="placed"))
        store = AsyncSqlAlchemyEventStore(session)
        await store.append_to_stream("order-1", NO_STREAM, [placed])

    async with AsyncSession(engine) as session:
        async for event in AsyncSqlAlchemyEventStore(session).read_all_forward():
            print(event.sequence_number, event.stream_id, event.event_type, event.event_data)
    await engine.dispose()


if __name__ == "__main__":
    with EmbeddedPostgres() as server:
        asyncio.run(main(server.url()))
