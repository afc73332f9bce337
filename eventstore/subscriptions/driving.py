"""Do what steps ask for, on a session: run operations, call the handler, commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Coroutine
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from eventstore.errors import ConnectionUnusable, SubscriptionError
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
    """Say whose handler is at work; what it raises to end a thread or a task is its failure."""
    token = handling.set(subscription.name)
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if _is_called_off(error):
            raise
        raise RuntimeError(f"the handler has raised {type(error).__qualname__}") from error
    finally:
        handling.reset(token)


def _is_called_off(error: BaseException) -> bool:
    """Tell whether somebody else than the handler ends its task, or the process.

    A thread beside the main one gets no signal, and nobody hears of its end.
    """
    if isinstance(error, asyncio.CancelledError):
        with suppress(RuntimeError):  # there is no event loop
            task = asyncio.current_task()
            return task is None or task.cancelling() > 0
    return threading.current_thread() is threading.main_thread()


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


def _check_done(subscription: Subscription, answer: object) -> None:
    """Raise SubscriptionError if a handler has yet to be awaited: the event would be lost."""
    if isinstance(answer, Awaitable):
        if isinstance(answer, Coroutine):
            answer.close()
        raise SubscriptionError(
            subscription.name,
            "its handler is a coroutine function; it needs AsyncSubscriptionRunner, or "
            "replay_parked_async()",
        )


async def _awaited(subscription: Subscription, *arguments: Any) -> None:
    """Call a handler and await it; raise SubscriptionError if that can't be done."""
    answer = subscription.handler(*arguments)
    if not isinstance(answer, Awaitable):
        raise SubscriptionError(
            subscription.name,
            "its handler is no coroutine function; it needs SubscriptionRunner, or replay_parked()",
        )
    await answer


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
                _check_done(
                    subscription, subscription.handler(Delivery(event=event, attempt=attempt))
                )
        case Hand(event):
            transaction, connection = session.get_transaction(), connection_of(session)
            with _handling(subscription), _outages_told(connection):
                _check_done(subscription, subscription.handler(session, event))
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
                await _awaited(subscription, Delivery(event=event, attempt=attempt))
        case Hand(event):
            transaction = session.sync_session.get_transaction()
            connection = connection_of(session.sync_session)
            with _handling(subscription), _outages_told(connection):
                await _awaited(subscription, session, event)
                if session.sync_session.get_transaction() is not transaction:
                    raise RuntimeError(_TRANSACTION_ENDED)
                await session.flush()
        case Commit() if session.in_transaction():
            await session.commit()
    return None
