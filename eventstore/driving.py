"""Ask a store for what steps request, one request after the other: waiting, and awaiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from eventstore.errors import EventStoreError
from eventstore.execution import Append, ForEach, LoadStream, ReadByQuery, SaveSnapshot

if TYPE_CHECKING:
    from eventstore.execution import Request, Steps
    from eventstore.protocols import AsyncEventStore, EventStore

R = TypeVar("R")


def drive(store: EventStore, steps: Steps[R]) -> R:
    """Ask ``store`` for what the steps request, one after the other, and return their result."""
    try:
        request = next(steps)
        while True:
            try:
                answer = _answer(store, request)
            except EventStoreError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        return cast("R", end.value)


def _answer(store: EventStore, request: Request) -> object:
    match request:
        case LoadStream(stream_id, snapshot_type, key):
            return store.load_stream(stream_id, snapshot_type, idempotency_key=key)
        case Append(appends, require):
            return store.append(*appends, require=require, fetch_missed=True)
        case ReadByQuery(query):
            return store.read_by_query(query)
        case SaveSnapshot(snapshot):
            store.save_snapshot(snapshot)
        case ForEach(stream_id, options, visit):
            for event in store.read_stream(stream_id, options):
                visit(event)
    return None


async def drive_async(store: AsyncEventStore, steps: Steps[R]) -> R:
    """Do the same with an async store."""
    try:
        request = next(steps)
        while True:
            try:
                answer = await _answer_async(store, request)
            except EventStoreError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as end:
        return cast("R", end.value)


async def _answer_async(store: AsyncEventStore, request: Request) -> object:
    match request:
        case LoadStream(stream_id, snapshot_type, key):
            return await store.load_stream(stream_id, snapshot_type, idempotency_key=key)
        case Append(appends, require):
            return await store.append(*appends, require=require, fetch_missed=True)
        case ReadByQuery(query):
            return await store.read_by_query(query)
        case SaveSnapshot(snapshot):
            await store.save_snapshot(snapshot)
        case ForEach(stream_id, options, visit):
            async for event in store.read_stream(stream_id, options):
                visit(event)
    return None
