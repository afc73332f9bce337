"""A condition meets every event that it should, whatever commits when; and waits for no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import (
    ANY,
    AppendConditionFailed,
    FeedUnavailable,
    Query,
    QueryItem,
    SqlAlchemyEventStore,
    StreamAppend,
    no_new,
)
from tests.fixtures.courses import event
from tests.fixtures.stores import in_threads, statements_of, wait_until_blocked

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.orm import sessionmaker

    from eventstore import QueryToken

OF_A = Query(QueryItem(tags=["course:a"]))
BY_TYPE = Query(QueryItem(types=["subscribed"]))


def add(session: Session, *tags: str, stream: str = "s") -> int:
    """Append one event and return its position."""
    append = StreamAppend(stream, ANY, [event("subscribed", tags=list(tags))])
    return SqlAlchemyEventStore(session).append(append)[stream].positions[0]


def add_if(session: Session, query: Query, after: QueryToken | None, stream: str = "mine") -> int:
    append = StreamAppend(stream, ANY, [event("decided", tags=["course:x"])])
    store = SqlAlchemyEventStore(session)
    return store.append(append, require=no_new(query, after=after))[stream].positions[0]


def committing(session: Session, job: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        result = job()
        session.commit()
        return result

    return run


class TestAnEventInFlight:
    """One with a lower position than those that were read, committed after the read."""

    def test_it_is_met(self, sessions: sessionmaker[Session]) -> None:
        with sessions() as slow, sessions() as quick, sessions() as mine:
            in_flight = add(slow, "course:a", stream="slow")
            seen = add(quick, "course:a", stream="quick")
            quick.commit()
            read = SqlAlchemyEventStore(mine).read_by_query(OF_A)
            mine.commit()
            assert [each.sequence_number for each in read] == [seen]
            assert in_flight < seen
            slow.commit()
            with pytest.raises(AppendConditionFailed) as caught:
                add_if(mine, OF_A, read.token)
            assert caught.value.position == in_flight
            # What was seen above it is no news; nor is what has come meanwhile, once it is read.
            again = SqlAlchemyEventStore(mine).read_by_query(OF_A, after=read.token)
            assert [each.sequence_number for each in again] == [in_flight]
            assert add_if(mine, OF_A, again.token) > seen

    @pytest.mark.parametrize("query", [OF_A, BY_TYPE, Query.all()])
    def test_a_condition_waits_for_it(
        self, sessions: sessionmaker[Session], engine: Engine, query: Query
    ) -> None:
        with sessions() as slow, sessions() as mine:
            in_flight = add(slow, "course:a")
            token = SqlAlchemyEventStore(mine).read_by_query(query).token

            def commit_it() -> None:
                wait_until_blocked(engine)
                slow.commit()

            refused, _ = in_threads(lambda: add_if(mine, query, token), commit_it)
            assert isinstance(refused, AppendConditionFailed)
            assert refused.position == in_flight

    @pytest.mark.parametrize("query", [OF_A, BY_TYPE])
    def test_one_that_is_rolled_back_is_none(
        self, sessions: sessionmaker[Session], engine: Engine, query: Query
    ) -> None:
        with sessions() as slow, sessions() as mine:
            add(slow, "course:a")
            token = SqlAlchemyEventStore(mine).read_by_query(query).token

            def roll_it_back() -> None:
                wait_until_blocked(engine)
                slow.rollback()

            position, _ = in_threads(lambda: add_if(mine, query, token), roll_it_back)
            assert isinstance(position, int)

    def test_untagged_ones_matter_to_an_item_without_tags(
        self, sessions: sessionmaker[Session], engine: Engine
    ) -> None:
        with sessions() as slow, sessions() as mine:
            in_flight = add(slow)

            def commit_it() -> None:
                wait_until_blocked(engine)
                slow.commit()

            refused, _ = in_threads(lambda: add_if(mine, BY_TYPE, None), commit_it)
            assert isinstance(refused, AppendConditionFailed)
            assert refused.position == in_flight


class TestAnUnrelatedWriter:
    """One that is open neither makes a condition wait nor fail."""

    @pytest.mark.parametrize("tags", [(), ("course:b",), ("student:1", "course:b")])
    def test_its_events(self, sessions: sessionmaker[Session], tags: tuple[str, ...]) -> None:
        with sessions() as other, sessions() as mine:
            add(other, *tags, stream="before")
            add(mine, "course:a")
            token = SqlAlchemyEventStore(mine).read_by_query(OF_A).token
            mine.commit()
            add(other, *tags, stream="after")
            add_if(mine, OF_A, token)
            mine.commit()
            other.commit()
            add_if(mine, OF_A, token)

    def test_its_conditions(self, sessions: sessionmaker[Session]) -> None:
        """Decisions on two courses go on side by side, in whatever order they end."""
        of_b = Query(QueryItem(types=["subscribed"], tags=["course:b"]), QueryItem(tags=["s:2"]))
        with sessions() as one, sessions() as other:
            add_if(one, OF_A, None, stream="one")
            add_if(other, of_b, None, stream="other")
            add(one, "course:a", stream="one")
            add(other, "course:b", stream="other")
            other.commit()
            one.commit()

    def test_its_events_on_one_of_two_tags(self, sessions: sessionmaker[Session]) -> None:
        """An item is held off by its first tag: who has only the other one can't match."""
        both = Query(QueryItem(tags=["student:1", "course:a"]))
        with sessions() as other, sessions() as mine:
            add(other, "course:a")
            add_if(mine, both, None)
            mine.commit()


class TestAConditionInFlight:
    """What a condition has ruled out waits until its transaction has ended."""

    @pytest.mark.parametrize(
        ("query", "tags"), [(OF_A, ("course:a",)), (BY_TYPE, ()), (BY_TYPE, ("course:z",))]
    )
    @pytest.mark.parametrize("autocommit", [False, True])
    def test_a_matching_event_comes_after_it(
        self,
        sessions: sessionmaker[Session],
        engine: Engine,
        query: Query,
        tags: tuple[str, ...],
        autocommit: bool,
    ) -> None:
        bind = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else engine
        with sessions() as mine, Session(bind) as other:
            position = add_if(mine, query, None)

            def commit_mine() -> None:
                wait_until_blocked(engine)
                mine.commit()

            later, _ = in_threads(
                committing(other, lambda: add(other, *tags, stream="other")), commit_mine
            )
            assert isinstance(later, int)
            assert later > position

    def test_of_two_decisions_one_is_refused(
        self, sessions: sessionmaker[Session], engine: Engine
    ) -> None:
        query = Query(QueryItem(tags=["course:x"]))
        with sessions() as one, sessions() as other:
            first = add_if(one, query, None, stream="one")

            def commit_the_first() -> None:
                wait_until_blocked(engine)
                one.commit()

            refused, _ = in_threads(lambda: add_if(other, query, None, "two"), commit_the_first)
            assert isinstance(refused, AppendConditionFailed)
            assert refused.position == first

    def test_an_append_that_waits_for_it_does_not_hold_the_feed(
        self, sessions: sessionmaker[Session], engine: Engine
    ) -> None:
        with sessions() as mine, sessions() as waiting, sessions() as quick:
            refused = SqlAlchemyEventStore(mine)
            add(quick, "course:a")
            quick.commit()
            with pytest.raises(AppendConditionFailed):  # it keeps the lock
                refused.append(StreamAppend("s", ANY, []), require=no_new(OF_A))

            def read_the_feed() -> list[int]:
                """Return the positions that are readable from one on which is behind the wait."""
                wait_until_blocked(engine)
                behind = add(quick, stream="quick")
                quick.commit()
                feed = SqlAlchemyEventStore(quick).read_all_forward()
                positions = [each.sequence_number for each in feed]
                mine.rollback()
                return [position for position in positions if position >= behind]

            waited, read = in_threads(
                committing(waiting, lambda: add(waiting, "course:a", stream="w")), read_the_feed
            )
            assert isinstance(read, list), read
            assert len(read) == 1
            assert isinstance(waited, int)
            assert waited > read[0]


class TestTheCallersTransaction:
    def test_it_goes_on_after_a_condition_that_failed(
        self, sessions: sessionmaker[Session]
    ) -> None:
        with sessions.begin() as session:
            session.execute(text("CREATE TABLE notes (note text)"))
            add(session, "course:a")
            with pytest.raises(AppendConditionFailed):
                add_if(session, OF_A, None)
            session.execute(text("INSERT INTO notes VALUES ('still here')"))
            token = SqlAlchemyEventStore(session).read_by_query(OF_A).token
            add_if(session, OF_A, token)
        with sessions() as session:
            assert session.scalar(text("SELECT note FROM notes")) == "still here"
            assert len(SqlAlchemyEventStore(session).read_by_query(Query.all()).events) == 2

    def test_what_it_has_appended_is_new_to_its_own_condition(
        self, sessions: sessionmaker[Session]
    ) -> None:
        with sessions() as session:
            token = SqlAlchemyEventStore(session).read_by_query(OF_A).token
            mine = add(session, "course:a")
            with pytest.raises(AppendConditionFailed) as caught:
                add_if(session, OF_A, token)
            assert caught.value.position == mine

    def test_a_savepoint_that_is_rolled_back_gives_its_locks_back(
        self, sessions: sessionmaker[Session]
    ) -> None:
        with sessions() as one, sessions() as other:
            add(one)
            with one.begin_nested() as savepoint:
                add_if(one, OF_A, None)
                savepoint.rollback()
            add(other, "course:a", stream="other")
            other.commit()

    @pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_an_old_snapshot_is_refused(self, engine: Engine, isolation_level: Any) -> None:
        with Session(engine.execution_options(isolation_level=isolation_level)) as session:
            store = SqlAlchemyEventStore(session)
            with pytest.raises(FeedUnavailable, match="READ COMMITTED"):
                store.read_by_query(OF_A)
            with pytest.raises(FeedUnavailable, match=f"{isolation_level} and does not see"):
                add_if(session, OF_A, None)
            add(session, "course:a")
            session.commit()

    @pytest.mark.parametrize("autocommit", [False, True])
    def test_a_conditional_append_is_three_statements(
        self, engine: Engine, autocommit: bool
    ) -> None:
        bind = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else engine
        with Session(bind) as session:
            token = SqlAlchemyEventStore(session).read_by_query(OF_A).token
            with statements_of(engine) as sent:
                add_if(session, OF_A, token)
        own = [statement for statement in sent if statement not in ("BEGIN", "COMMIT")]
        assert len(own) == 3
        assert len(sent) == (5 if autocommit else 3)
