"""Do what steps ask for, on a session: run operations, call the handler, commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from eventstore.errors import ConnectionUnusable, SubscriptionError
from eventstore.operations.transactions import begin_read_committed, connection_of
from eventstore.subscriptions.definition import Delivery
from eventstore.subscriptions.failures import is_idle_too_long
from eventstore.subscriptions.steps import Ask, Commit, Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction

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


class _Handling:
    """Around each call of a handler: says whose it is, and tells what it has really come to.

    With a session, a connection that was lost under the handler is told whatever the handler makes
    of it, and so is a transaction that it has ended. What it raises to end a thread or a task is
    its failure.
    """

    def __init__(self, subscription: Subscription, session: Session | None) -> None:
        self._name = subscription.name
        self._session = session
        self._transaction: SessionTransaction | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> None:
        session = self._session
        # Looked up once a transaction: a handler may be quicker than that.
        if session is not None and session.get_transaction() is not self._transaction:
            self._connection = connection_of(session)
            self._transaction = session.get_transaction()
        self._token = handling.set(self._name)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        handling.reset(self._token)
        if error is not None and not isinstance(error, Exception):
            if _is_called_off(error):
                return
            raise RuntimeError(f"the handler has raised {type(error).__qualname__}") from error
        is_lost = self._connection is not None and self._connection.invalidated
        if is_lost and not (error is not None and is_idle_too_long(error)):
            raise ConnectionUnusable(_CONNECTION_FAILURE) from error

    def check_transaction(self) -> None:
        """Raise RuntimeError if the handler has ended the transaction that it was given."""
        if self._session is not None and self._session.get_transaction() is not self._transaction:
            raise RuntimeError(_TRANSACTION_ENDED)


def _is_called_off(error: BaseException) -> bool:
    """Tell whether somebody else than the handler ends its task, or the process.

    A thread beside the main one gets no signal, and nobody hears of its end.
    """
    if isinstance(error, asyncio.CancelledError):
        with suppress(RuntimeError):  # there is no event loop
            task = asyncio.current_task()
            return task is None or task.cancelling() > 0
    return threading.current_thread() is threading.main_thread()


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
    at_work = _Handling(subscription, None if subscription.external else session)
    try:
        step = next(steps)
        while True:
            try:
                answer = _answer(session, subscription, at_work, step)
            except Exception as error:  # noqa: BLE001 - the steps know what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return cast("R", end.value)


def _answer(session: Session, subscription: Subscription, at_work: _Handling, step: Step) -> Any:
    match step:
        case Ask(operation):
            return _ask(session, operation)
        case Hand(event, attempt) if subscription.external:
            with at_work:
                _check_done(
                    subscription, subscription.handler(Delivery(event=event, attempt=attempt))
                )
        case Hand(event):
            with at_work:
                _check_done(subscription, subscription.handler(session, event))
                at_work.check_transaction()
                session.flush()
        case Commit() if session.in_transaction():
            session.commit()
    return None


async def drive_async(
    session: AsyncSession, subscription: Subscription, steps: Generator[Step, Any, R]
) -> R:
    """Do the same with an async session and a handler that is awaited."""
    at_work = _Handling(subscription, None if subscription.external else session.sync_session)
    try:
        step = next(steps)
        while True:
            try:
                answer = await _answer_async(session, subscription, at_work, step)
            except Exception as error:  # noqa: BLE001 - the steps know what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return cast("R", end.value)


async def _answer_async(
    session: AsyncSession, subscription: Subscription, at_work: _Handling, step: Step
) -> Any:
    match step:
        case Ask(operation):
            return await session.run_sync(_ask, operation)
        case Hand(event, attempt) if subscription.external:
            with at_work:
                await _awaited(subscription, Delivery(event=event, attempt=attempt))
        case Hand(event):
            with at_work:
                await _awaited(subscription, session, event)
                at_work.check_transaction()
                if session.new or session.dirty or session.deleted:  # else no greenlet is needed
                    await session.flush()
        case Commit() if session.in_transaction():
            await session.commit()
    return None
