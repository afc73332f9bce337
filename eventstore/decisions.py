"""Execute a decision that rests on a query: read, decide, append if nothing has come between.

With a store on a session of yours, all happens in your transaction. With a function that opens
stores, each call has a transaction of its own, which is run again when PostgreSQL gives it up::

    execute_decision(lambda: event_store(sessions, registry), capacity_of("c1"), decide)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from eventstore.appending import AppendResult, StreamAppend
from eventstore.boundaries import no_new
from eventstore.driving import drive, drive_async
from eventstore.errors import AppendConditionFailed, ConcurrencyConflict, EventStoreError
from eventstore.execution import TEN_ATTEMPTS, Append, ReadByQuery, Retries

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from eventstore.boundaries import QueryResult
    from eventstore.execution import Steps
    from eventstore.folds import DecisionModel
    from eventstore.repository import AsyncStoreSource, StoreSource

S = TypeVar("S")

#: What is decided in a state: what to append, or nothing.
Decide: TypeAlias = Callable[[S], StreamAppend | Iterable[StreamAppend]]


def execute_decision(
    store: StoreSource,
    model: DecisionModel[S],
    decide: Decide[S],
    *,
    retries: Retries = TEN_ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> AppendResult:
    """Append what ``decide`` makes of the state of ``model``, if that is still the state then.

    ``decide`` returns one or several :class:`StreamAppend`, or an empty list if nothing happens, or
    raises an error of the domain. When an event has come between that the model's query means, it
    is decided again on the new state, a bounded number of times; in a transaction the second
    attempt succeeds, since the first one has locked others out. ``store`` is a store on the
    caller's session, or a function that opens one with a transaction of its own. ``sleep`` is for
    tests.

    :raises AppendConditionFailed: all attempts were in vain.
    :raises ConcurrencyConflict: so they were, for a stream that was not at the version expected.
    :raises TransactionConflict: PostgreSQL gave up the caller's transaction, or one of its own too
        often.
    """
    if not callable(store):
        return drive(store, _steps(model, decide, retries))
    for attempt in count(1):
        try:
            with store() as opened:
                return drive(opened, _steps(model, decide, retries))
        except EventStoreError as error:
            delay = retries.delay_seconds_after(error, attempt, repeatable=False)
            if delay is None:
                raise
            sleep(delay)
    raise AssertionError("count() has ended")


async def async_execute_decision(
    store: AsyncStoreSource,
    model: DecisionModel[S],
    decide: Decide[S],
    *,
    retries: Retries = TEN_ATTEMPTS,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> AppendResult:
    """Do what :func:`execute_decision` does, with an async store."""
    if not callable(store):
        return await drive_async(store, _steps(model, decide, retries))
    for attempt in count(1):
        try:
            async with store() as opened:
                return await drive_async(opened, _steps(model, decide, retries))
        except EventStoreError as error:
            delay = retries.delay_seconds_after(error, attempt, repeatable=False)
            if delay is None:
                raise
            await sleep(delay)
    raise AssertionError("count() has ended")


def _steps(model: DecisionModel[S], decide: Decide[S], retries: Retries) -> Steps[AppendResult]:
    for attempt in count(1):
        read: QueryResult = yield ReadByQuery(model.query)
        appends = _appends_of(decide(model.state_of(read.events)))
        if not appends:
            return AppendResult(())
        try:
            result: AppendResult = yield Append(appends, no_new(model.query, after=read.token))
        except (AppendConditionFailed, ConcurrencyConflict):
            # Either may be what a decision meets that another one of its kind has overtaken.
            if attempt >= retries.attempts:
                raise
        else:
            return result
    raise AssertionError("count() has ended")


def _appends_of(decided: StreamAppend | Iterable[StreamAppend]) -> Sequence[StreamAppend]:
    if isinstance(decided, StreamAppend):
        return [decided]
    if not isinstance(decided, Iterable):
        raise TypeError(
            "decide() must return a StreamAppend, several in a list, or an empty list if nothing "
            f"happens; not {type(decided).__qualname__}"
        )
    return list(decided)
