"""The README's first example, as it stands there: a row and its event in one transaction."""

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventstore import NO_STREAM, EventEnvelope, SqlAlchemyEventStore, migrate
from eventstore.embedded import EmbeddedPostgres


class Base(DeclarativeBase):
    """Your tables."""


class Order(Base):
    """One of them."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]


with EmbeddedPostgres() as server:  # a temporary one; any engine of yours will do
    engine = create_engine(server.url())
    migrate.upgrade(engine)
    Base.metadata.create_all(engine)

    placed = EventEnvelope(
        aggregate_type="order", event_type="order-placed", event_data={"total": 42}
    )
    with Session(engine) as session, session.begin():
        session.add(Order(id="1", status="placed"))
        SqlAlchemyEventStore(session).append_to_stream("order-1", NO_STREAM, [placed])
    # Here both are committed. Had anything failed, neither would be.

    with Session(engine) as session:
        for event in SqlAlchemyEventStore(session).read_all_forward():
            print(event.sequence_number, event.stream_id, event.event_type, event.event_data)
