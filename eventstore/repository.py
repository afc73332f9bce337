"""Repositories: aggregates are loaded, commands executed, and what follows is saved.

With a store on a session of yours, all happens in your transaction. With a function that opens
stores, each call has a transaction of its own, which is run again when PostgreSQL gives it up::

    accounts = Repository(store, ACCOUNTS)
    accounts = Repository(lambda: event_store(sessions, registry), ACCOUNTS)

    accounts.execute("1", Withdraw(10))

The store needs a registry, which tells the payloads' types.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from itertools import count
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from uuid_utils.compat import uuid7

from eventstore.aggregate_types import AggregateType, Envelopes
from eventstore.aggregates import Aggregate
from eventstore.appending import AppendResult, check_requirements
from eventstore.driving import drive, drive_async
from eventstore.errors import EventStoreError
from eventstore.execution import TEN_ATTEMPTS, Executor, rule_of
from eventstore.protocols import AsyncEventStore, EventStore
from eventstore.streams import check_expected_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from eventstore.aggregate_types import AggregateId
    from eventstore.appending import Requirement, StreamAppend
    from eventstore.execution import Commutes, Outcome, Retries, Steps
    from eventstore.snapshots import AnySnapshot
    from eventstore.streams import ExpectedVersion

A = TypeVar("A", bound=Aggregate)
C = TypeVar("C")
R = TypeVar("R")

#: A store in the caller's transaction, or what opens one with a transaction of its own.
StoreSource: TypeAlias = EventStore | Callable[[], AbstractContextManager[EventStore]]
AsyncStoreSource: TypeAlias = (
    AsyncEventStore | Callable[[], AbstractAsyncContextManager[AsyncEventStore]]
)

_log: Final = logging.getLogger("eventstore")


def _now() -> datetime:
    return datetime.now(UTC)


class _Repository(Generic[C, A]):
    """What both repositories know and decide without waiting."""

    def __init__(
        self,
        kind: AggregateType[C, A],
        retries: Retries,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        if not isinstance(kind, AggregateType):
            raise TypeError(f"kind must be an AggregateType, not {type(kind).__name__}")
        self._kind = kind
        self._retries = retries
        self._envelopes = Envelopes(clock, new_id)

    def begin(self, aggregate_id: AggregateId) -> A:
        """Return an aggregate of which nothing has happened, without asking the store.

        Saving it meets :class:`~eventstore.ConcurrencyConflict` if there is one.
        """
        return self._kind.begin(aggregate_id)

    def changes(self, aggregate: A, *, idempotency_key: str | None = None) -> StreamAppend:
        """Return what appends the aggregate's pending events.

        So that aggregates of several types can be saved by one append, all or nothing:
        ``store.append(accounts.changes(account), orders.changes(order))``. They don't learn of it;
        load them again before you go on.

        :raises TypeError, ValueError: an aggregate of another type, or one without an id.
        """
        return self._envelopes.append_of(self._kind, self._kind.check(aggregate), idempotency_key)

    def _executor(self, keep_snapshot: Callable[[AnySnapshot], object] | None) -> Executor[C, A]:
        return Executor(self._kind, self._envelopes, self._retries, keep_snapshot)


class Repository(_Repository[C, A]):
    """Loads aggregates of one type, executes commands on them, and saves what follows.

    ``store`` is a store on the caller's session, or a function that opens one with a transaction
    of its own (:func:`~eventstore.event_store`). ``write_snapshot`` takes snapshots out of the
    transaction: it is called after the commit, and may hand them to a thread that has a session of
    its own; without it they are saved in the transaction of their events. ``clock``, ``new_id``
    and ``sleep`` are for tests.
    """

    def __init__(
        self,
        store: StoreSource,
        kind: AggregateType[C, A],
        *,
        retries: Retries = TEN_ATTEMPTS,
        write_snapshot: Callable[[AnySnapshot], object] | None = None,
        clock: Callable[[], datetime] = _now,
        new_id: Callable[[], UUID] = uuid7,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(kind, retries, clock, new_id)
        _check_source(store, write_snapshot, is_async=False)
        self._store = store
        self._write_snapshot = write_snapshot
        self._sleep = sleep

    def load(self, aggregate_id: AggregateId) -> A:
        """Return the aggregate as its events say; one without events is at version 0.

        One round trip, and one more for each 500 events after its snapshot.

        :raises StreamDeleted: its stream is soft-deleted.
        """
        return self._transact(lambda executor: executor.load(aggregate_id), repeatable=True)

    def save(
        self,
        *aggregates: A,
        idempotency_key: str | None = None,
        require: Requirement | Sequence[Requirement] = (),
    ) -> AppendResult:
        """Append the pending events of the aggregates, all or nothing.

        An aggregate without any is left out; with none at all, nothing is asked of the store.
        ``require`` is what else must hold: :func:`~eventstore.no_new`,
        :class:`~eventstore.StreamAt`.

        When the result says ``already_appended``, under ``idempotency_key``, what was decided now
        was recorded before and is not again: forget the aggregates then, too, and load them. What
        they are asked to save next is a conflict.

        :raises ConcurrencyConflict: somebody has appended to one of the streams since it was
            loaded; nothing was written. Forget the aggregates, load and decide again. Or a
            required stream is at another version.
        :raises AppendConditionFailed: an event has come that ``require`` excludes; nothing was
            written.
        :raises TypeError, ValueError: an aggregate of another type, or one without an id.
        """
        changed = [each for each in aggregates if self._kind.check(each).pending_events]
        # Made once: when the transaction is run again, the same events are known by their ids.
        appends = [self.changes(each, idempotency_key=idempotency_key) for each in changed]
        if not appends:
            return AppendResult(())
        return self._transact(
            lambda executor: executor.save(changed, appends, require), repeatable=True
        )

    def execute(
        self,
        aggregate_id: AggregateId,
        command: C,
        *,
        expected_version: ExpectedVersion = None,
        commutes: Commutes = (),
        idempotency_key: str | None = None,
        require: Requirement | Sequence[Requirement] = (),
    ) -> Outcome[A]:
        """Load the aggregate, let it decide on ``command``, and append what follows.

        Two round trips. When somebody else has appended meanwhile, it is decided again, a bounded
        number of times; in a transaction the second attempt succeeds, since the first one locks
        the stream's row. ``commutes`` says which missed events don't matter to this command: if
        none of them does, what was decided is appended as it is, without a second decision.

        ``expected_version`` is the version that whoever gave the command has seen: on another one
        nothing is decided, unless all events since then commute with the command. So a form, or an
        HTTP request with ``If-Match``, is only carried out on what its sender was shown.

        ``idempotency_key`` names the command: when it is executed again, since the reply was lost,
        nothing is decided, and the outcome is that of the first time; so it is for another command
        under the same key, which can't be told from it. (A command that led to nothing leaves no
        trace, and is decided again.)

        ``require`` is what else must hold when something is appended, whatever was decided: what a
        command reads besides its aggregate belongs there. Read that again, and give the command
        again, if it fails; to have that done, see :func:`~eventstore.execute_decision`.

        :raises ConcurrencyConflict: all attempts were in vain, or the aggregate is at another
            version than expected; ``missed`` are the events since then. Or a required stream is at
            another version.
        :raises AppendConditionFailed: an event has come that ``require`` excludes; nothing was
            written.
        :raises StreamNotFound: nothing has happened of the aggregate, and ``STREAM_EXISTS`` was
            expected.
        :raises StreamDeleted: the aggregate's stream is soft-deleted.
        :raises TransactionConflict: PostgreSQL gave up the caller's transaction, or one of its own
            too often.
        """
        expected, rule = check_expected_version(expected_version), rule_of(commutes)
        check_requirements(require)
        return self._transact(
            lambda executor: executor.execute(
                aggregate_id, command, expected, rule, idempotency_key, require=require
            ),
            repeatable=idempotency_key is not None,
        )

    def _transact(self, steps_of: Callable[[Executor[C, A]], Steps[R]], *, repeatable: bool) -> R:
        """Go the steps in the caller's transaction, or in one of its own: again, if need be."""
        source = self._store
        if not callable(source):
            return drive(source, steps_of(self._executor(None)))
        for attempt in count(1):
            kept: list[AnySnapshot] = []
            executor = self._executor(kept.append if self._write_snapshot else None)
            try:
                with source() as store:
                    result = drive(store, steps_of(executor))
            except EventStoreError as error:
                delay = self._retries.delay_seconds_after(error, attempt, repeatable=repeatable)
                if delay is None:
                    raise
                self._sleep(delay)
            else:
                self._write(kept)
                return result
        raise AssertionError("count() has ended")

    def _write(self, snapshots: Sequence[AnySnapshot]) -> None:
        for snapshot in snapshots:
            if self._write_snapshot is not None:
                with _failure_logged(snapshot):
                    self._write_snapshot(snapshot)


class AsyncRepository(_Repository[C, A]):
    """The twin of :class:`Repository` for asyncio, over an async store.

    ``store`` is a store on the caller's session, or a function that opens one with a transaction
    of its own (:func:`~eventstore.async_event_store`). ``write_snapshot`` takes snapshots out of
    the transaction: it is awaited after the commit, with a session of its own; without it they are
    saved in the transaction of their events. ``clock``, ``new_id`` and ``sleep`` are for tests.
    """

    def __init__(
        self,
        store: AsyncStoreSource,
        kind: AggregateType[C, A],
        *,
        retries: Retries = TEN_ATTEMPTS,
        write_snapshot: Callable[[AnySnapshot], Awaitable[object]] | None = None,
        clock: Callable[[], datetime] = _now,
        new_id: Callable[[], UUID] = uuid7,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(kind, retries, clock, new_id)
        _check_source(store, write_snapshot, is_async=True)
        self._store = store
        self._write_snapshot = write_snapshot
        self._sleep = sleep

    async def load(self, aggregate_id: AggregateId) -> A:
        """Return the aggregate as its events say; one without events is at version 0.

        One round trip, and one more for each 500 events after its snapshot.

        :raises StreamDeleted: its stream is soft-deleted.
        """
        return await self._transact(lambda executor: executor.load(aggregate_id), repeatable=True)

    async def save(
        self,
        *aggregates: A,
        idempotency_key: str | None = None,
        require: Requirement | Sequence[Requirement] = (),
    ) -> AppendResult:
        """Append the pending events of the aggregates, all or nothing.

        An aggregate without any is left out; with none at all, nothing is asked of the store.
        ``require`` is what else must hold: :func:`~eventstore.no_new`,
        :class:`~eventstore.StreamAt`.

        When the result says ``already_appended``, under ``idempotency_key``, what was decided now
        was recorded before and is not again: forget the aggregates then, too, and load them. What
        they are asked to save next is a conflict.

        :raises ConcurrencyConflict: somebody has appended to one of the streams since it was
            loaded; nothing was written. Forget the aggregates, load and decide again. Or a
            required stream is at another version.
        :raises AppendConditionFailed: an event has come that ``require`` excludes; nothing was
            written.
        :raises TypeError, ValueError: an aggregate of another type, or one without an id.
        """
        changed = [each for each in aggregates if self._kind.check(each).pending_events]
        # Made once: when the transaction is run again, the same events are known by their ids.
        appends = [self.changes(each, idempotency_key=idempotency_key) for each in changed]
        if not appends:
            return AppendResult(())
        return await self._transact(
            lambda executor: executor.save(changed, appends, require), repeatable=True
        )

    async def execute(
        self,
        aggregate_id: AggregateId,
        command: C,
        *,
        expected_version: ExpectedVersion = None,
        commutes: Commutes = (),
        idempotency_key: str | None = None,
        require: Requirement | Sequence[Requirement] = (),
    ) -> Outcome[A]:
        """Load the aggregate, let it decide on ``command``, and append what follows.

        Two round trips. When somebody else has appended meanwhile, it is decided again, a bounded
        number of times; in a transaction the second attempt succeeds, since the first one locks
        the stream's row. ``commutes`` says which missed events don't matter to this command: if
        none of them does, what was decided is appended as it is, without a second decision.

        ``expected_version`` is the version that whoever gave the command has seen: on another one
        nothing is decided, unless all events since then commute with the command. So a form, or an
        HTTP request with ``If-Match``, is only carried out on what its sender was shown.

        ``idempotency_key`` names the command: when it is executed again, since the reply was lost,
        nothing is decided, and the outcome is that of the first time; so it is for another command
        under the same key, which can't be told from it. (A command that led to nothing leaves no
        trace, and is decided again.)

        ``require`` is what else must hold when something is appended, whatever was decided: what a
        command reads besides its aggregate belongs there. Read that again, and give the command
        again, if it fails; to have that done, see :func:`~eventstore.execute_decision`.

        :raises ConcurrencyConflict: all attempts were in vain, or the aggregate is at another
            version than expected; ``missed`` are the events since then. Or a required stream is at
            another version.
        :raises AppendConditionFailed: an event has come that ``require`` excludes; nothing was
            written.
        :raises StreamNotFound: nothing has happened of the aggregate, and ``STREAM_EXISTS`` was
            expected.
        :raises StreamDeleted: the aggregate's stream is soft-deleted.
        :raises TransactionConflict: PostgreSQL gave up the caller's transaction, or one of its own
            too often.
        """
        expected, rule = check_expected_version(expected_version), rule_of(commutes)
        check_requirements(require)
        return await self._transact(
            lambda executor: executor.execute(
                aggregate_id, command, expected, rule, idempotency_key, require=require
            ),
            repeatable=idempotency_key is not None,
        )

    async def _transact(
        self, steps_of: Callable[[Executor[C, A]], Steps[R]], *, repeatable: bool
    ) -> R:
        """Go the steps in the caller's transaction, or in one of its own: again, if need be."""
        source = self._store
        if not callable(source):
            return await drive_async(source, steps_of(self._executor(None)))
        for attempt in count(1):
            kept: list[AnySnapshot] = []
            executor = self._executor(kept.append if self._write_snapshot else None)
            try:
                async with source() as store:
                    result = await drive_async(store, steps_of(executor))
            except EventStoreError as error:
                delay = self._retries.delay_seconds_after(error, attempt, repeatable=repeatable)
                if delay is None:
                    raise
                await self._sleep(delay)
            else:
                await self._write(kept)
                return result
        raise AssertionError("count() has ended")

    async def _write(self, snapshots: Sequence[AnySnapshot]) -> None:
        for snapshot in snapshots:
            if self._write_snapshot is not None:
                with _failure_logged(snapshot):
                    await self._write_snapshot(snapshot)


@contextmanager
def _failure_logged(snapshot: AnySnapshot) -> Iterator[None]:
    """Log what the block raises: the events are committed, and must not look as if they weren't."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever the caller's function raises
        _log.exception(
            "a snapshot of %r was not written",
            snapshot.aggregate_type,
            extra={"aggregate_type": snapshot.aggregate_type, "version": snapshot.version},
        )


def _check_source(store: object, write_snapshot: object, *, is_async: bool) -> None:
    if callable(store):
        return
    append = getattr(store, "append", None)
    if append is None or iscoroutinefunction(append) is not is_async:
        wanted, other = ("an AsyncEventStore", "") if is_async else ("an EventStore", "Async")
        raise TypeError(
            f"store must be {wanted} or a function that opens one, not {type(store).__name__}; "
            f"for the other kind there is {other}Repository"
        )
    if write_snapshot is not None:
        raise ValueError(
            "write_snapshot needs a function that opens stores: only then is it known when the "
            "events are committed, and a snapshot of others must never be kept"
        )
