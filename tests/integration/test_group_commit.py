"""The writer for threads: who waits for whom, and what is left when something breaks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event, Thread, get_ident, main_thread
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    NO_STREAM,
    AsyncGroupCommitWriter,
    ConcurrencyConflict,
    ConnectionUnusable,
    DuplicateEvent,
    GroupCommitWriter,
    SerializationError,
    SqlAlchemyEventStore,
    group_commit,
    operations,
)
from tests.fixtures.events import new_event, new_events
from tests.fixtures.stores import DEADLINE_SECONDS, in_threads, statements_of, wait_until_blocked
from tests.integration.fence.workload import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine
    from sqlalchemy.orm import sessionmaker

    from eventstore import ExpectedVersion


@pytest.fixture
def writer(engine: Engine) -> Iterator[GroupCommitWriter]:
    with GroupCommitWriter(engine) as writer:
        yield writer


@contextmanager
def held(sessions: sessionmaker[Session], *stream_ids: str) -> Iterator[Session]:
    """Lock the rows of streams, so that appends to them wait; the streams are at version 1."""
    with sessions() as session:
        for stream_id in stream_ids:
            SqlAlchemyEventStore(session).append_to_stream(stream_id, ANY, [new_event()])
        session.commit()
        for stream_id in stream_ids:
            query = text("SELECT FROM streams WHERE stream_id = :id FOR UPDATE")
            session.execute(query, {"id": stream_id})
        yield session
        session.rollback()


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor()
    yield pool
    pool.shutdown()


def versions_of(engine: Engine, stream_id: str) -> list[int]:
    with Session(engine) as session:
        store = SqlAlchemyEventStore(session)
        return [event.event_version for event in store.read_stream(stream_id)]


def wait_until(condition: Callable[[], object], engine: Engine) -> None:
    """Return once ``condition`` holds; the server's clock is the pause between two looks."""
    with engine.connect() as connection:
        for _ in range(10_000):
            if condition():
                return
            connection.execute(text("SELECT pg_sleep(0.002)"))
    raise AssertionError("it never became true")


def test_many_threads_on_streams_of_their_own(engine: Engine, writer: GroupCommitWriter) -> None:
    def appends(name: int) -> list[int]:
        return [writer.append_to_stream(f"s-{name}", 2 * n, new_events(2)) for n in range(10)]

    with statements_of(engine) as sent, ThreadPoolExecutor(32) as pool:
        for versions in pool.map(appends, range(32)):
            assert versions == list(range(2, 21, 2))
    assert len(sent) < 320, "no append has shared a statement"
    for name in range(32):
        assert versions_of(engine, f"s-{name}") == list(range(1, 21))


@pytest.mark.parametrize(("expected", "successes"), [(ANY, 20), (NO_STREAM, 1)])
def test_twenty_threads_at_one_stream(
    engine: Engine, writer: GroupCommitWriter, expected: ExpectedVersion, successes: int
) -> None:
    barrier = Barrier(20)

    def append() -> int:
        barrier.wait()
        return writer.append_to_stream("s", expected, [new_event()])

    outcomes = in_threads(*[append] * 20)
    versions = sorted(outcome for outcome in outcomes if isinstance(outcome, int))
    assert versions == list(range(1, successes + 1)) == versions_of(engine, "s")
    conflicts = [outcome for outcome in outcomes if not isinstance(outcome, int)]
    assert Counter(map(type, conflicts)) == Counter({ConcurrencyConflict: 20 - successes})
    # Nobody else's error: each has the traceback of its own thread.
    assert len(set(map(id, conflicts))) == len(conflicts)


def test_wrong_arguments_are_told_before_anything_is_sent(
    engine: Engine, writer: GroupCommitWriter
) -> None:
    twice = new_event()
    with statements_of(engine) as sent:
        for error, call in (
            (ValueError, ("", ANY, [new_event()])),
            (TypeError, ("s", "1", [new_event()])),
            (TypeError, ("s", ANY, new_event())),
            (SerializationError, ("s", ANY, [new_event({"n": float("nan")})])),
            (DuplicateEvent, ("s", ANY, [twice, twice])),
        ):
            with pytest.raises(error):
                writer.append_to_stream(*call)  # type: ignore[arg-type]
    assert sent == []


def test_a_writer_wants_an_engine_on_postgresql(engine: Engine) -> None:
    with pytest.raises(TypeError, match="AsyncGroupCommitWriter"):
        GroupCommitWriter("postgresql://")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="GroupCommitWriter"):
        AsyncGroupCommitWriter(engine)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sqlite"):
        GroupCommitWriter(create_engine("sqlite://"))
    with pytest.raises(ValueError, match="max_batch must be at least 1"):
        GroupCommitWriter(engine, max_batch=0)
    with pytest.raises(TypeError, match="max_waiting"):
        GroupCommitWriter(engine, max_waiting=True)
    with pytest.raises(ValueError, match="schema"):
        GroupCommitWriter(engine, schema="")


def test_a_held_stream_does_not_hold_the_others(
    engine: Engine, sessions: sessionmaker[Session], writer: GroupCommitWriter
) -> None:
    with held(sessions, "held") as holder, threads() as pool:
        waiting = [pool.submit(writer.append_to_stream, "held", ANY, [new_event()])]
        wait_until_blocked(engine)
        waiting += [pool.submit(writer.append_to_stream, "held", ANY, [new_event()])]
        for number in range(1, 4):
            assert writer.append_to_stream("free", ANY, [new_event()]) == number
        assert not any(future.done() for future in waiting)
        holder.rollback()
        assert sorted(future.result(DEADLINE_SECONDS) for future in waiting) == [2, 3]


def test_no_more_than_max_waiting_are_on_their_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_their_way = []
    with GroupCommitWriter(engine, max_waiting=3) as writer:
        queue = writer._queue
        add = queue.add

        def counting(submission: Any) -> None:
            add(submission)
            on_their_way.append(len(queue) + queue._writing)

        monkeypatch.setattr(queue, "add", counting)
        jobs = [lambda: writer.append_to_stream("s", ANY, [new_event()])] * 30
        assert sorted(in_threads(*jobs)) == list(range(1, 31))  # type: ignore[type-var]
    assert len(on_their_way) == 30
    assert max(on_their_way) <= 3


def test_closing_writes_what_was_accepted(engine: Engine, sessions: sessionmaker[Session]) -> None:
    writer = GroupCommitWriter(engine, max_waiting=3)
    with held(sessions, "held") as holder, threads() as pool:
        accepted = [pool.submit(writer.append_to_stream, "held", ANY, [new_event()])]
        wait_until_blocked(engine)
        accepted += [
            pool.submit(writer.append_to_stream, "held", ANY, [new_event()]) for _ in range(2)
        ]
        wait_until(lambda: len(writer._queue) == 2, engine)
        at_the_door = pool.submit(writer.append_to_stream, "held", ANY, [new_event()])
        closing = [pool.submit(writer.close) for _ in range(2)]
        wait_until(lambda: writer._queue.is_closed, engine)
        assert not any(future.done() for future in [*accepted, at_the_door, *closing])
        holder.rollback()
        for future in closing:
            future.result(DEADLINE_SECONDS)
        # They are written once close() returns; whether their threads have woken is another thing.
        assert versions_of(engine, "held") == [1, 2, 3, 4]
        assert sorted(future.result(DEADLINE_SECONDS) for future in accepted) == [2, 3, 4]
        for refused in (at_the_door, pool.submit(writer.append_to_stream, "s", ANY, [new_event()])):
            with pytest.raises(RuntimeError, match="closed"):
                refused.result(DEADLINE_SECONDS)
    writer.close()
    assert versions_of(engine, "held") == [1, 2, 3, 4]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_connection_is_taken_only_while_there_is_something_to_write(
    engine: Engine, writer: GroupCommitWriter
) -> None:
    for _ in range(3):
        writer.append_to_stream("s", ANY, [new_event()])
        wait_until(lambda: engine.pool.checkedout() == 1, engine)  # type: ignore[attr-defined]


def end_blocked_backends(engine: Engine) -> None:
    """Wait until a writer waits for a lock, and end its connection."""
    wait_until_blocked(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )


def test_a_lost_connection_is_replaced_and_nothing_is_written_twice(
    engine: Engine, sessions: sessionmaker[Session], writer: GroupCommitWriter
) -> None:
    with held(sessions, "held") as holder, threads() as pool:
        append = pool.submit(writer.append_to_stream, "held", 1, new_events(2))
        end_blocked_backends(engine)
        wait_until_blocked(engine)
        holder.rollback()
        assert append.result(DEADLINE_SECONDS) == 3
    assert versions_of(engine, "held") == [1, 2, 3]


def test_a_connection_that_is_lost_twice_is_told_and_the_writer_goes_on(
    engine: Engine, sessions: sessionmaker[Session], writer: GroupCommitWriter
) -> None:
    events = new_events(2)
    with held(sessions, "held") as holder, threads() as pool:
        append = pool.submit(writer.append_to_stream, "held", 1, events)
        end_blocked_backends(engine)
        end_blocked_backends(engine)
        with pytest.raises(ConnectionUnusable) as caught:
            append.result(DEADLINE_SECONDS)
        assert caught.value.sqlstate == "57P01"
        assert caught.value.retryable
        holder.rollback()
    # What the error says to do.
    assert writer.append_to_stream("held", 1, events) == 3
    assert writer.append_to_stream("held", 1, events) == 3


def test_a_commit_whose_reply_was_lost_is_recognised(
    engine: Engine, writer: GroupCommitWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_group = operations.append_group
    replies = iter([False])

    def lose_the_first_reply(*args: Any, **kwargs: Any) -> object:
        outcomes = append_group(*args, **kwargs)
        if not next(replies, True):
            raise ConnectionUnusable("08006")
        return outcomes

    monkeypatch.setattr(operations, "append_group", lose_the_first_reply)
    jobs = [lambda: writer.append_to_stream("s", ANY, new_events(2))] * 8
    assert sorted(in_threads(*jobs)) == list(range(2, 17, 2))  # type: ignore[type-var]
    assert versions_of(engine, "s") == list(range(1, 17))


def test_a_server_that_cant_be_reached_is_the_callers_error(engine: Engine) -> None:
    elsewhere = create_engine(engine.url.set(host="127.0.0.1", port=1, query={}))
    with GroupCommitWriter(elsewhere) as writer:
        for _ in range(2):
            outcomes = in_threads(*[lambda: writer.append_to_stream("s", ANY, [new_event()])] * 4)
            assert Counter(map(type, outcomes)) == Counter({OperationalError: 4})


def test_threads_that_end_when_idle_are_replaced(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_IDLE_SECONDS", 0.0)
    with GroupCommitWriter(engine) as writer:

        def appends() -> list[int]:
            return [writer.append_to_stream("s", ANY, [new_event()]) for _ in range(50)]

        outcomes = in_threads(*[appends] * 3)
        wait_until(lambda: not writer._threads, engine)
        assert writer.append_to_stream("s", ANY, [new_event()]) == 151
    versions = [version for each in outcomes if isinstance(each, list) for version in each]
    assert sorted(versions) == list(range(1, 151))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell has started the tests in its background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_caller_goes_and_the_writer_goes_on(
    engine: Engine, sessions: sessionmaker[Session], writer: GroupCommitWriter
) -> None:
    """Once its events are sent, they are written as a whole; before, not at all."""

    def interrupt(when: Callable[[], None]) -> Thread:
        def job() -> None:
            when()
            signal.pthread_kill(main_thread().ident or get_ident(), signal.SIGINT)

        thread = Thread(target=job)
        thread.start()
        return thread

    with held(sessions, "held") as holder:
        interrupting = interrupt(lambda: wait_until_blocked(engine))
        with pytest.raises(KeyboardInterrupt):
            writer.append_to_stream("held", ANY, new_events(2))
        interrupting.join()
        interrupting = interrupt(lambda: wait_until(lambda: len(writer._queue) == 1, engine))
        with pytest.raises(KeyboardInterrupt):
            writer.append_to_stream("held", ANY, new_events(5))
        interrupting.join()
        assert len(writer._queue) == 0
        holder.rollback()
    assert writer.append_to_stream("held", ANY, [new_event()]) == 4
    assert versions_of(engine, "held") == [1, 2, 3, 4]


FORKED = """
import os, sys
from sqlalchemy import create_engine
from eventstore import ANY, EventEnvelope, GroupCommitWriter

def append(writer):
    event = EventEnvelope(aggregate_type="A", event_type="t", event_data={})
    return writer.append_to_stream("s", ANY, [event])

engine = create_engine(sys.argv[1])
unused, used = GroupCommitWriter(engine), GroupCommitWriter(engine)
print(append(used), flush=True)
if child := os.fork():
    print(os.waitpid(child, 0)[1], append(used), flush=True)
else:
    engine.dispose(close=False)
    try:
        append(used)
    except RuntimeError as error:
        print("fork" in str(error), flush=True)
    used.close()
    print(append(unused), flush=True)
    os._exit(0)
# Nobody has closed a writer: the interpreter ends all the same.
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_fork_is_told_and_nothing_hangs_at_the_end(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORKED, url],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["1", "True", "2", "0", "3"]


def test_readers_lose_nothing_while_groups_and_transactions_are_written(engine: Engine) -> None:
    writers_are_done = Event()
    readers = [Reader(page_size=3), Reader(page_size=500, autocommit=True)]
    with GroupCommitWriter(engine) as first, GroupCommitWriter(engine, max_batch=5) as second:

        def append_to(append: Callable[[str], int], count: int) -> int:
            return sum(append(f"s-{number % 7}") > 0 for number in range(count))

        def in_transaction(stream_id: str) -> int:
            with Session(engine) as session, session.begin():
                store = SqlAlchemyEventStore(session)
                store.append_to_stream(stream_id, ANY, [new_event()])
                return store.append_to_stream(stream_id, ANY, [new_event()])

        def in_group(writer: GroupCommitWriter) -> Callable[[str], int]:
            return lambda stream_id: writer.append_to_stream(stream_id, ANY, new_events(2))

        kinds = [in_group(first), in_group(second)] * 5 + [in_transaction] * 3
        with ThreadPoolExecutor(20) as pool:
            reading = [pool.submit(reader.follow, engine, writers_are_done) for reader in readers]
            try:
                assert sum(pool.map(lambda append: append_to(append, 20), kinds)) == 13 * 20
            finally:
                writers_are_done.set()
            delivered = [future.result(DEADLINE_SECONDS) for future in reading]
    with engine.connect() as connection:
        query = "SELECT sequence_number, stream_id, event_version, event_id::text FROM events"
        recorded = connection.execute(text(f"{query} ORDER BY sequence_number")).all()
    assert len(recorded) == 13 * 20 * 2
    for events in delivered:
        assert events == recorded
    for stream_id in {row.stream_id for row in recorded}:
        versions = [row.event_version for row in recorded if row.stream_id == stream_id]
        assert versions == list(range(1, len(versions) + 1))
