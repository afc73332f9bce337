"""Another version is built beside the live one, and the two change places at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from eventstore import EventEnvelope, SqlAlchemyEventStore, SubscriptionError
from eventstore.projections import (
    Projection,
    begin_rebuild,
    discard_version,
    handles,
    live,
    make_asynchronous,
    make_inline,
    projection_versions,
    rebuild,
    rebuild_async,
    switch_version,
)
from eventstore.subscriptions import RetryPolicy, discard_parked, reset_subscription
from tests.fixtures.stores import async_engine_of, in_threads, wait_until_blocked
from tests.fixtures.views import (
    Balance,
    Balances,
    Deposited,
    DoubledBalances,
    Entry,
    Renamed,
    balances,
    committed_balances,
    deposit,
    deposits,
    registry,
    run,
)
from tests.integration.projections import elsewhere
from tests.integration.projections.elsewhere import Elsewhere, Owner, Place

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


class TripledBalances(Balances):
    version = 3
    factor = 3


class Counting(Projection):
    """A sibling over the same events, with a table of another schema."""

    name = "counting"
    models = (Place,)

    @handles(Deposited)
    def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
        place = session.get(Place, event.stream_id)
        if place is None:
            session.add(place := Place(account=event.stream_id, amount=0))
        place.amount += self.version


class CountingByTwo(Counting):
    version = 2


@pytest.fixture
def places(bank: Engine) -> Engine:
    with bank.begin() as connection:
        connection.execute(text("CREATE SCHEMA elsewhere"))
        elsewhere.Base.metadata.create_all(connection)
        connection.execute(text("INSERT INTO elsewhere.owners VALUES ('a'), ('b')"))
    return bank


def is_live(engine: Engine) -> dict[int, bool]:
    with Session(engine) as session:
        return {each.version: each.is_live for each in projection_versions(session, "balances")}


def switch(engine: Engine, version: int, **options: Any) -> None:
    with Session(engine) as session, session.begin():
        switch_version(session, "balances", version, **options)


def described(engine: Engine, schema: str) -> list[tuple[str, str]]:
    """Constraints and indexes of the tables in a schema, without the schema's name."""
    query = text(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid IN (SELECT oid FROM pg_class WHERE relname IN ('balances', 'entries'))"
        " AND connamespace = CAST(CAST(:schema AS text) AS regnamespace)"
        " UNION ALL SELECT indexname, indexdef FROM pg_indexes"
        " WHERE schemaname = CAST(:schema AS text) AND tablename IN ('balances', 'entries')"
        " ORDER BY 1, 2"
    )
    with engine.connect() as connection:
        rows = connection.execute(query, {"schema": schema})
        return [(name, definition.replace(f"{schema}.", "")) for name, definition in rows]


def test_readers_see_the_old_version_until_they_see_the_new_one(bank: Engine) -> None:
    deposit(bank, "a", 1, 2)
    run(bank, Balances())
    before = described(bank, "public")
    with Session(bank) as session, session.begin():
        assert begin_rebuild(session, DoubledBalances(), registry)
        assert not begin_rebuild(session, DoubledBalances(), registry)
    run(bank, DoubledBalances())
    assert committed_balances(bank) == {"a": 3}
    assert is_live(bank) == {1: True, 2: False}
    assert described(bank, "public_balances_v2") == before
    switch(bank, 2)
    assert committed_balances(bank) == {"a": 6}
    assert is_live(bank) == {1: False, 2: True}
    assert described(bank, "public") == described(bank, "public_balances_v1") == before


def test_both_versions_go_on_and_back_again(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    rebuild(bank, DoubledBalances(), registry)
    deposit(bank, "a", 1)
    deposit(bank, "b", 5)
    run(bank, Balances())
    run(bank, DoubledBalances())
    assert committed_balances(bank) == {"a": 4, "b": 10}
    switch(bank, 1)
    assert committed_balances(bank) == {"a": 2, "b": 5}
    deposit(bank, "b", 1)
    run(bank, Balances())
    assert committed_balances(bank) == {"a": 2, "b": 6}
    rebuild(bank, DoubledBalances(), registry)
    assert committed_balances(bank) == {"a": 4, "b": 12}
    rebuild(bank, DoubledBalances(), registry)  # the live one: nothing to do
    assert committed_balances(bank) == {"a": 4, "b": 12}


def test_sql_text_finds_the_tables_of_its_version(bank: Engine) -> None:
    class ByText(Balances):
        version = 2

        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            session.execute(
                text("INSERT INTO balances VALUES (:account, 7) ON CONFLICT DO NOTHING"),
                {"account": event.stream_id},
            )

    deposit(bank, "a", 1)
    run(bank, Balances())
    with Session(bank) as session, session.begin():
        begin_rebuild(session, ByText(), registry)
    deposit(bank, "b", 1)
    run(bank, ByText())
    assert committed_balances(bank) == {"a": 1}
    switch(bank, 2)
    assert committed_balances(bank) == {"a": 7, "b": 7}


def test_each_twice_in_one_process_beside_a_sibling(places: Engine) -> None:
    def sibling() -> dict[str, int]:
        with Session(places) as session:
            return {place.account: place.amount for place in session.scalars(select(Place))}

    rebuild(places, Balances(), registry)  # an empty store
    rebuild(places, Counting(), registry)
    assert committed_balances(places) == sibling() == {}
    rebuild(places, DoubledBalances(), registry)  # no matching events
    deposit(places, "a", 1)
    rebuild(places, CountingByTwo(), registry)
    assert (committed_balances(places), sibling()) == ({}, {"a": 2})
    rebuild(places, TripledBalances(), registry)
    deposit(places, "b", 1)
    run(places, TripledBalances())
    run(places, CountingByTwo())
    assert (committed_balances(places), sibling()) == ({"a": 3, "b": 3}, {"a": 2, "b": 2})
    with (
        Session(places) as session,
        live(TripledBalances(), SqlAlchemyEventStore(session, registry)) as view,
    ):
        assert balances(view) == {"a": 3, "b": 3}


def test_models_that_name_a_schema_keep_their_references_outside(places: Engine) -> None:
    class ElsewhereAgain(Elsewhere):
        version = 2

    deposit(places, "a", 1)
    run(places, Elsewhere())
    deposit(places, "stranger", 1)
    with pytest.raises(SubscriptionError, match="1 of its streams are parked"):
        rebuild(places, ElsewhereAgain(), registry)
    with Session(places) as session, session.begin():
        session.add(Owner(account="stranger"))
        assert discard_version(session, "elsewhere", 2)
    rebuild(places, ElsewhereAgain(), registry)
    with Session(places) as session:
        found = session.scalars(select(Place.account).order_by(Place.account)).all()
        assert found == ["a", "stranger"]


def test_what_was_begun_by_other_code_is_refused(bank: Engine) -> None:
    class Changed(DoubledBalances):
        @handles(Renamed)
        def _renamed(self, event: EventEnvelope[Renamed], session: Session) -> None: ...

    run(bank, Balances())
    deposit(bank, "a", 1)
    run(bank, Balances())
    with Session(bank) as session, session.begin():
        begin_rebuild(session, DoubledBalances(), registry)
    with pytest.raises(SubscriptionError, match="raise the version"):
        rebuild(bank, Changed(), registry)
    assert is_live(bank) == {1: True, 2: False}


def test_streams_that_the_new_version_cannot_handle_keep_the_old_one_live(bank: Engine) -> None:
    class Strict(DoubledBalances):
        @handles(Deposited)
        def _deposited(self, event: EventEnvelope[Deposited], session: Session) -> None:
            if event.stream_id == "b":
                raise ValueError("no such account")
            super()._deposited(event, session)

    deposit(bank, "a", 1)
    deposit(bank, "b", 1)
    run(bank, Balances())
    with Session(bank) as session, session.begin():
        begin_rebuild(session, Strict(), registry)
    run(bank, Strict(), retry=RetryPolicy(max_attempts=1, first_seconds=0.001))
    with pytest.raises(SubscriptionError, match="1 of its streams are parked"):
        switch(bank, 2)
    assert committed_balances(bank) == {"a": 1, "b": 1}
    with Session(bank) as session, session.begin():
        discard_parked(session, "balances@2", "b")
    switch(bank, 2)
    assert committed_balances(bank) == {"a": 2}


def test_a_version_that_is_behind_is_not_switched_to(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    with Session(bank) as session, session.begin():
        begin_rebuild(session, DoubledBalances(), registry)
    run(bank, DoubledBalances())
    deposit(bank, "a", 1)
    run(bank, Balances())
    with pytest.raises(TimeoutError, match=r"version 2 is still behind version 1"):
        switch(bank, 2, timeout_seconds=0.1)
    assert committed_balances(bank) == {"a": 2}
    run(bank, DoubledBalances())
    switch(bank, 2, timeout_seconds=0.1)
    assert committed_balances(bank) == {"a": 4}


def test_a_reader_that_stays_is_no_deadlock(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    with Session(bank) as session, session.begin():
        begin_rebuild(session, DoubledBalances(), registry)
    run(bank, DoubledBalances())
    with Session(bank) as reader:
        assert balances(reader) == {"a": 1}
        with pytest.raises(TimeoutError, match="its rows or tables are in use"):
            switch(bank, 2, timeout_seconds=0.1)
        reader.expire_all()
        assert balances(reader) == {"a": 1}
    switch(bank, 2)
    assert committed_balances(bank) == {"a": 2}


def test_a_view_over_the_tables_is_made_again_in_the_same_transaction(bank: Engine) -> None:
    create = text("CREATE VIEW rich AS SELECT account FROM balances WHERE amount > 1")
    with bank.begin() as connection:
        connection.execute(create)
    deposit(bank, "a", 1)
    run(bank, Balances())
    with pytest.raises(SubscriptionError, match="referred to by rich; drop that before"):
        rebuild(bank, DoubledBalances(), registry)
    with Session(bank) as session, session.begin():
        session.execute(text("DROP VIEW rich"))
        switch_version(session, "balances", 2)
        session.execute(create)
    with bank.connect() as connection:
        assert connection.execute(text("SELECT account FROM rich")).scalars().all() == ["a"]


def test_what_is_discarded_leaves_nothing_behind(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    rebuild(bank, DoubledBalances(), registry)
    with Session(bank) as session, session.begin():
        with pytest.raises(SubscriptionError, match="it is the live version"):
            discard_version(session, "balances", 2)
        assert discard_version(session, "balances", 1)
        assert not discard_version(session, "balances", 1)
    assert is_live(bank) == {2: True}
    with bank.connect() as connection:
        schemas = connection.execute(
            text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'public\\_%'")
        ).scalars()
        assert list(schemas) == ["public_balances_v2"]
    with pytest.raises(SubscriptionError, match="there is no such version"):
        switch(bank, 1)
    with pytest.raises(SubscriptionError, match="never built, and version 2 is live"):
        run(bank, Balances())


def test_by_tasks(bank: Engine, async_url: URL) -> None:
    async def again(projection: Projection) -> None:
        async with async_engine_of(async_url) as engine:
            await rebuild_async(engine, projection, registry)

    deposit(bank, "a", 1)
    asyncio.run(again(Balances()))
    asyncio.run(again(DoubledBalances()))
    assert committed_balances(bank) == {"a": 2}


def test_appends_take_over_from_a_subscription_and_give_back(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    deposit(bank, "a", 2)
    deposit(bank, "b", 3)
    with Session(bank) as session, session.begin():
        make_inline(session, Balances(), registry)
        make_inline(session, Balances(), registry)
    assert committed_balances(bank) == {"a": 3, "b": 3}
    deposit(bank, "a", 10, projections=[Balances()])
    assert committed_balances(bank) == {"a": 13, "b": 3}
    with pytest.raises(SubscriptionError, match="each append keeps this projection"):
        run(bank, Balances())
    with Session(bank) as session, session.begin():
        make_asynchronous(session, Balances(), registry)
    deposit(bank, "a", 100, projections=[Balances()])
    assert committed_balances(bank) == {"a": 13, "b": 3}
    run(bank, Balances())
    assert committed_balances(bank) == {"a": 113, "b": 3}


def test_an_open_transaction_that_appended_is_waited_for(bank: Engine) -> None:
    with Session(bank) as writer:
        SqlAlchemyEventStore(writer, registry).append_to_stream("a", 0, [])
        SqlAlchemyEventStore(writer, registry).append_to_stream(
            "a", 0, [EventEnvelope(aggregate_type="A", event_data=Deposited(amount=1))]
        )
        with (
            Session(bank) as session,
            session.begin(),
            pytest.raises(TimeoutError, match="other transactions are appending"),
        ):
            make_inline(session, Balances(), registry, timeout_seconds=0.05)
        writer.commit()
    with Session(bank) as session, session.begin():
        make_inline(session, Balances(), registry)
    assert committed_balances(bank) == {"a": 1}


def test_an_inline_projection_is_rebuilt_by_a_subscription(bank: Engine) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    rebuild(bank, DoubledBalances(), registry)
    deposit(bank, "a", 2, projections=[Balances()])  # by code that knows nothing of it
    assert committed_balances(bank) == {"a": 2}
    with Session(bank) as session, session.begin():
        make_inline(session, DoubledBalances(), registry)
    assert committed_balances(bank) == {"a": 6}
    deposit(bank, "a", 3, projections=[DoubledBalances()])
    assert committed_balances(bank) == {"a": 12}
    with pytest.raises(SubscriptionError, match="version 2 is live, and kept by each append"):
        deposit(bank, "a", 3, projections=[Balances()])
    with Session(bank) as session:
        assert session.scalars(select(Entry.version).order_by(Entry.version)).all() == [1, 2, 3]
        assert session.scalars(select(Balance.amount)).all() == [12]


def test_there_is_a_way_back_to_a_version_that_appends_kept(bank: Engine) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    rebuild(bank, DoubledBalances(), registry)
    deposit(bank, "a", 2, projections=[Balances()])
    run(bank, DoubledBalances())
    run(bank, Balances())  # it is kept aside, by a subscription
    deposit(bank, "b", 3)
    rebuild(bank, Balances(), registry)
    assert committed_balances(bank) == {"a": 3, "b": 3}
    with Session(bank) as session, session.begin():
        make_inline(session, Balances(), registry)
    rebuild(bank, DoubledBalances(), registry)
    assert committed_balances(bank) == {"a": 6, "b": 6}


def test_a_version_that_appends_keep_is_left_when_all_that_it_shows_can_be_read(
    bank: Engine,
) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    with Session(bank) as session, session.begin():
        begin_rebuild(session, DoubledBalances(), registry)
    run(bank, DoubledBalances())
    with Session(bank) as writer:
        SqlAlchemyEventStore(writer, registry).append_to_stream("b", 0, deposits(5))
        deposit(bank, "a", 2, projections=[Balances()])  # behind what is open
        with pytest.raises(TimeoutError, match="other transactions are appending"):
            switch(bank, 2, timeout_seconds=0.05)
        assert committed_balances(bank) == {"a": 3}
    rebuild(bank, DoubledBalances(), registry)
    assert committed_balances(bank) == {"a": 6}


def test_a_version_whose_checkpoints_were_reset_is_not_left_without_a_way_back(
    bank: Engine,
) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    with Session(bank) as session, session.begin():
        assert reset_subscription(session, "balances@1")
    with pytest.raises(SubscriptionError, match="make_asynchronous"):
        rebuild(bank, DoubledBalances(), registry)
    with Session(bank) as session, session.begin():
        make_asynchronous(session, Balances(), registry)
    rebuild(bank, DoubledBalances(), registry)
    run(bank, Balances())
    assert committed_balances(bank) == {"a": 2}


def test_an_append_that_waited_for_the_switch_finds_the_new_version(bank: Engine) -> None:
    deposit(bank, "a", 1, projections=[Balances()])
    with Session(bank) as session, session.begin():
        begin_rebuild(session, DoubledBalances(), registry)
    run(bank, DoubledBalances())
    with Session(bank) as session:
        switch_version(session, "balances", 2)

        def commit() -> None:
            wait_until_blocked(bank)
            session.commit()

        _, last = in_threads(commit, lambda: deposit(bank, "b", 1, projections=[Balances()]))
    assert last == 2
    assert committed_balances(bank) == {"a": 2}
    run(bank, DoubledBalances())
    assert committed_balances(bank) == {"a": 2, "b": 2}


def test_nothing_is_done_by_halves_in_autocommit(bank: Engine) -> None:
    engine = bank.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        for change in (
            lambda: begin_rebuild(session, Balances(), registry),
            lambda: switch_version(session, "balances", 1),
            lambda: discard_version(session, "balances", 1),
            lambda: make_inline(session, Balances(), registry),
            lambda: make_asynchronous(session, Balances(), registry),
        ):
            with pytest.raises(ValueError, match="AUTOCOMMIT"):
                change()
    assert is_live(bank) == {}


def test_roles_may_do_with_the_new_tables_what_they_may_with_the_old_ones(bank: Engine) -> None:
    deposit(bank, "a", 1)
    run(bank, Balances())
    role = f"reader-{bank.url.database}"
    privileges = text(
        "SELECT has_table_privilege(:role, 'balances', 'SELECT'),"
        " has_table_privilege(:role, 'entries', 'INSERT WITH GRANT OPTION'),"
        " has_table_privilege(:role, 'entries', 'UPDATE'),"
        " has_sequence_privilege(:role, 'entries_id_seq', 'USAGE'),"
        " has_schema_privilege(:role, 'public_balances_v1', 'USAGE'),"
        " has_schema_privilege(:role, 'public_balances_v2', 'USAGE')"
    )
    with bank.begin() as connection:
        connection.execute(text(f'CREATE ROLE "{role}"'))
    try:
        with bank.begin() as connection:
            connection.execute(text(f'GRANT SELECT ON balances TO "{role}"'))
            connection.execute(text(f'GRANT INSERT ON entries TO "{role}" WITH GRANT OPTION'))
            connection.execute(text(f'GRANT USAGE ON SEQUENCE entries_id_seq TO "{role}"'))
        rebuild(bank, DoubledBalances(), registry)
        with bank.connect() as connection:
            granted = connection.execute(privileges, {"role": role}).one()
        assert tuple(granted) == (True, True, False, True, True, True)
    finally:
        with bank.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))
