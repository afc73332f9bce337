"""A projection whose table names a schema, and refers to a table that is not the projection's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventstore.projections import Projection, handles
from tests.fixtures.views import Deposited

if TYPE_CHECKING:
    from eventstore import EventEnvelope


class Base(DeclarativeBase):
    metadata = MetaData(schema="elsewhere")


class Owner(Base):
    __tablename__ = "owners"

    account: Mapped[str] = mapped_column(primary_key=True)


class Place(Base):
    __tablename__ = "places"

    account: Mapped[str] = mapped_column(ForeignKey(Owner.account), primary_key=True)
    amount: Mapped[int]


class Elsewhere(Projection):
    name = "elsewhere"
    models = (Place,)

    @handles(Deposited)
    def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
        place = session.get(Place, event.stream_id)
        if place is None:
            session.add(place := Place(account=event.stream_id, amount=0))
        place.amount += event.event_data.amount
