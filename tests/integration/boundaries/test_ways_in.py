"""Whichever way an event comes in, its tags are found and its locks are taken."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    NO_STREAM,
    EventEnvelope,
    GroupCommitWriter,
    Query,
    QueryItem,
    SqlAlchemyEventStore,
    StreamAppend,
    export_events,
    exported_events,
    import_events,
    migrate,
    no_new,
)
from tests.fixtures.events import new_event
from tests.fixtures.stores import in_threads, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import sessionmaker

QUERY = Query(QueryItem(tags=["t:1"]))


def tagged(**fields: Any) -> list[EventEnvelope[Any]]:
    return [new_event(tags=["t:1", "u:2"], **fields), new_event(tags=["t:1"]), new_event()]


def by_group_commit(engine: Engine) -> None:
    with GroupCommitWriter(engine) as writer:
        writer.append_to_stream("s", NO_STREAM, tagged())


def by_import(engine: Engine) -> None:
    import_events(engine, [event.model_copy(update={"stream_id": "s"}) for event in tagged()])


def by_one_append(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, tagged())


def by_an_append_under_a_key(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        SqlAlchemyEventStore(session).append_to_stream("s", NO_STREAM, tagged(key="k"))


def by_single_appends(engine: Engine) -> None:
    for version, isolation_level in enumerate(("REPEATABLE READ", "AUTOCOMMIT")):
        with Session(engine.execution_options(isolation_level=isolation_level)) as session:
            event = tagged()[version]
            assert SqlAlchemyEventStore(session).append_to_stream("s", version, [event])
            session.commit()


def by_an_append_to_several_streams(engine: Engine) -> None:
    events = tagged()
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        SqlAlchemyEventStore(session).append(
            StreamAppend("s", ANY, events[:1]), StreamAppend("t", ANY, events[1:])
        )


WAYS: list[Callable[[Engine], None]] = [
    by_group_commit,
    by_import,
    by_one_append,
    by_an_append_under_a_key,
    by_single_appends,
    by_an_append_to_several_streams,
]


@pytest.mark.parametrize("way", WAYS)
def test_tags_are_found_and_locked(
    engine: Engine, sessions: sessionmaker[Session], way: Callable[[Engine], None]
) -> None:
    with sessions() as deciding:
        store = SqlAlchemyEventStore(deciding)
        decided = store.append(StreamAppend("mine", ANY, [new_event()]), require=no_new(QUERY))

        def commit_it() -> None:
            wait_until_blocked(engine)
            deciding.commit()

        outcomes = in_threads(lambda: way(engine), commit_it)
        assert outcomes == [None, None]
        found = store.read_by_query(QUERY).events
        assert len(found) == 2
        assert all(event.sequence_number > decided["mine"].positions[0] for event in found)
        feed = list(store.read_all_forward(decided["mine"].positions[0]))
        rows = deciding.execute(text("SELECT tag, sequence_number FROM event_tags ORDER BY 2, 1"))
        wanted = [(tag, each.sequence_number) for each in feed for tag in sorted(each.tags)]
        assert [tuple(row) for row in rows] == wanted


def test_a_copy_of_a_store_has_the_tags(engine: Engine, sessions: sessionmaker[Session]) -> None:
    by_one_append(engine)
    migrate.upgrade(engine, schema="copy")
    lines = BytesIO()
    export_events(engine, lines)
    assert b"$tags" not in lines.getvalue()
    for _ in ("the first time", "again"):
        import_events(engine, exported_events(lines.getvalue().splitlines()), schema="copy")
    with sessions() as session:
        copies = SqlAlchemyEventStore(session, schema="copy").read_by_query(QUERY)
        assert list(copies) == list(SqlAlchemyEventStore(session).read_by_query(QUERY))
        assert len(copies) == 2
