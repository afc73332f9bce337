"""Orders over HTTP: a session per request, and the store over that session.

The row that the API shows and the event that explains it are written in one transaction. A
client that lost the reply sends its request again under the same ``Idempotency-Key``.

To serve it, give it the sessions of your database::

    engine = create_async_engine("postgresql+psycopg://localhost/orders")
    app = create_app(async_sessionmaker(engine))

The tables are made beforehand, where you deploy: those of the event store by ``alembic upgrade
head`` or :func:`eventstore.migrate.upgrade`, that of the orders by ``Base.metadata``.
"""

# Without "from __future__ import annotations": FastAPI reads the annotations as it runs.
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventstore import (
    NO_STREAM,
    AsyncSqlAlchemyEventStore,
    ConcurrencyConflict,
    EventEnvelope,
    EventMetadata,
    EventRegistry,
    IdempotencyMismatch,
    StreamAppend,
)

registry = EventRegistry()


@registry.register("order-placed")
class OrderPlaced(BaseModel):
    """A customer has begun an order."""

    customer: str


@registry.register("item-added")
class ItemAdded(BaseModel):
    """An item was added to it."""

    item: str


class Base(DeclarativeBase):
    """Base of the application's tables."""


class OrderRow(Base):
    """An order as the API shows it: the read model."""

    __tablename__ = "orders"

    order_id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    item_count: Mapped[int]
    version: Mapped[int]


class PlaceOrder(BaseModel):
    """The body of a request to begin an order."""

    order_id: str
    customer: str


class AddItem(BaseModel):
    """The body of a request to add an item to an order, as the client has seen it."""

    item: str
    expected_version: Annotated[int, Field(ge=1)]


class Order(BaseModel):
    """What the client sees of an order."""

    model_config = ConfigDict(from_attributes=True)

    order_id: str
    customer: str
    item_count: int
    version: int


async def new_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Open the session of a request. What changes something commits before it replies.

    It is not committed here: code behind this ``yield`` may run when the reply has been sent, too
    late to report a failure.
    """
    session_factory: async_sessionmaker[AsyncSession] = request.app.state.session_factory
    async with session_factory() as session:
        yield session


InSession = Annotated[AsyncSession, Depends(new_session)]


def store_of(session: InSession) -> AsyncSqlAlchemyEventStore:
    """Put the store over the request's session; FastAPI opens only one for both."""
    return AsyncSqlAlchemyEventStore(session, registry)


InStore = Annotated[AsyncSqlAlchemyEventStore, Depends(store_of)]
IdempotencyKey = Annotated[str | None, Header()]

router = APIRouter()


@router.post("/orders", status_code=201)
async def place_order(
    body: PlaceOrder, session: InSession, store: InStore, idempotency_key: IdempotencyKey = None
) -> Order:
    """Begin an order; the same request under the same key gets the order that there is."""
    stream_id = stream_of(body.order_id)
    placed = EventEnvelope(
        aggregate_type="order",
        event_data=OrderPlaced(customer=body.customer),
        metadata=EventMetadata(idempotency_key=idempotency_key),
    )
    async with session.begin():
        result = await store.append(StreamAppend(stream_id, NO_STREAM, [placed]))
        if not result.already_appended:
            session.add(
                OrderRow(
                    order_id=body.order_id,
                    customer=body.customer,
                    item_count=0,
                    version=result[stream_id].version,
                )
            )
        return Order.model_validate(await session.get_one(OrderRow, body.order_id))


@router.post("/orders/{order_id}/items")
async def add_item(
    order_id: str,
    body: AddItem,
    session: InSession,
    store: InStore,
    idempotency_key: IdempotencyKey = None,
) -> Order:
    """Add an item to an order, if that is still as the client has seen it."""
    stream_id = stream_of(order_id)
    added = EventEnvelope(
        aggregate_type="order",
        event_data=ItemAdded(item=body.item),
        metadata=EventMetadata(idempotency_key=idempotency_key),
    )
    async with session.begin():
        # Before the row is read: until the commit, nobody else appends to this order's stream,
        # and so nobody else changes its row.
        result = await store.append(StreamAppend(stream_id, body.expected_version, [added]))
        row = await session.get_one(OrderRow, order_id)
        if not result.already_appended:
            row.item_count += 1
            row.version = result[stream_id].version
        return Order.model_validate(row)


@router.get("/orders/{order_id}")
async def show_order(order_id: str, session: InSession) -> Order:
    """Show an order."""
    row = await session.get(OrderRow, order_id)
    if row is None:
        raise HTTPException(404, "there is no such order")
    return Order.model_validate(row)


def stream_of(order_id: str) -> str:
    """Return the id of an order's stream."""
    return f"order-{order_id}"


async def refuse_conflict(_: Request, error: Exception) -> JSONResponse:
    """Answer 409 and the order's version, so that the client loads it and decides again."""
    assert isinstance(error, ConcurrencyConflict)
    if error.actual == 0:
        return JSONResponse({"detail": "there is no such order"}, 404)
    return JSONResponse({"detail": str(error), "actual_version": error.actual}, 409)


async def refuse_used_key(_: Request, error: Exception) -> JSONResponse:
    """Answer 422: the key belongs to another request."""
    return JSONResponse({"detail": str(error)}, 422)


def create_app(session_factory: async_sessionmaker[AsyncSession]) -> FastAPI:
    """Make the application on the database of ``session_factory``."""
    app = FastAPI(title="Orders")
    app.state.session_factory = session_factory
    app.include_router(router)
    app.add_exception_handler(ConcurrencyConflict, refuse_conflict)
    app.add_exception_handler(IdempotencyMismatch, refuse_used_key)
    return app
