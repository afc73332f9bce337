"""Do what steps ask for, on a session: run operations, call the handler, commit."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from eventstore.errors import ConnectionUnusable
from eventstore.operations.transactions import begin_read_committed, connection_of
from eventstore.subscriptions.definition import Delivery
from eventstore.subscriptions.failures import is_idle_too_long
from eventstore.subscriptions.steps import Ask, Commit, Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from eventstore.subscriptions.definition import Subscription
    from eventstore.subscriptions.steps import Step

R = TypeVar("R")

_CONNECTION_FAILURE: Final = "08006"
_TRANSACTION_ENDED: Final = (
    "the handler has committed or rolled back the session that it was given; its writes are "
    "committed together with the checkpoint"
)

#: The name of the subscription whose handler is at work in this thread or task.
handling: ContextVar[str | None] = ContextVar("handling", default=None)


@contextmanager
def _handling(subscription: Subscription) -> Iterator[None]:
    token = handling.set(subscription.name)
    try:
        yield
    finally:
        handling.reset(token)


@contextmanager
def _outages_told(connection: Connection) -> Iterator[None]:
    """Tell a connection that was lost under a handler, whatever the handler makes of it."""
    try:
        yield
    except Exception as error:
        if connection.invalidated and not is_idle_too_long(error):
            raise ConnectionUnusable(_CONNECTION_FAILURE) from error
        raise
    if connection.invalidated:
        raise ConnectionUnusable(_CONNECTION_FAILURE)


def _ask(session: Session, operation: Callable[[Session], Any]) -> Any:
    begin_read_committed(session)
    return operation(session)


def drive(session: Session, subscription: Subscription, steps: Generator[Step, Any, R]) -> R:
    """Do what the steps ask for, one after the other, and return their result."""
    try:
        step = next(steps)
        while True:
            try:
                answer = _answer(session, subscription, step)
            except Exception as error:  # noqa: BLE001 - the steps know what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return cast("R", end.value)


def _answer(session: Session, subscription: Subscription, step: Step) -> Any:
    match step:
        case Ask(operation):
            return _ask(session, operation)
        case Hand(event, attempt) if subscription.external:
            with _handling(subscription):
                subscription.handler(Delivery(event=event, attempt=attempt))
        case Hand(event):
            transaction, connection = session.get_transaction(), connection_of(session)
            with _handling(subscription), _outages_told(connection):
                subscription.handler(session, event)
                if session.get_transaction() is not transaction:
                    raise RuntimeError(_TRANSACTION_ENDED)
                session.flush()
        case Commit() if session.in_transaction():
            session.commit()
    return None


async def drive_async(
    session: AsyncSession, subscription: Subscription, steps: Generator[Step, Any, R]
) -> R:
    """Do the same with an async session and a handler that is awaited."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await _answer_async(session, subscription, step)
            except Exception as error:  # noqa: BLE001 - the steps know what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return cast("R", end.value)


async def _answer_async(session: AsyncSession, subscription: Subscription, step: Step) -> Any:
    match step:
        case Ask(operation):
            return await session.run_sync(_ask, operation)
        case Hand(event, attempt) if subscription.external:
            with _handling(subscription):
                await subscription.handler(Delivery(event=event, attempt=attempt))
        case Hand(event):
            transaction = session.sync_session.get_transaction()
            connection = connection_of(session.sync_session)
            with _handling(subscription), _outages_told(connection):
                await subscription.handler(session, event)
                if session.sync_session.get_transaction() is not transaction:
                    raise RuntimeError(_TRANSACTION_ENDED)
                await session.flush()
        case Commit() if session.in_transaction():
            await session.commit()
    return None
