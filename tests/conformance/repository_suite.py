"""What a repository does, over whatever store: the tests that each of them inherits."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

import pytest

from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AggregateType,
    AnyPolicy,
    AppendConditionFailed,
    ConcurrencyConflict,
    Decider,
    EventEnvelope,
    EveryEvents,
    EveryInterval,
    OnEvents,
    Query,
    QueryItem,
    Retries,
    Snapshot,
    Snapshots,
    StreamAt,
    StreamDeleted,
    StreamNotFound,
    causation,
    no_new,
)
from eventstore.personal import Personal, personal
from eventstore.testing.fakes import FakeClock, SequentialIds
from tests.fixtures.bank import (
    DECIDED,
    OBJECTS,
    Account,
    Deposit,
    Deposited,
    InsufficientFunds,
    Rename,
    Renamed,
    State,
    Withdraw,
    Withdrawn,
    account,
)

if TYPE_CHECKING:
    from tests.fixtures.repositories import Bank


def event(payload: object, **fields: Any) -> EventEnvelope[Any]:
    return EventEnvelope(aggregate_type="account", event_data=payload, **fields)


def payloads(bank: Bank, account_id: object) -> list[object]:
    return [event.event_data for event in bank.store.read_stream(f"account-{account_id}")]


def snapshotting(policy: Any, *, model_version: int = 1) -> AggregateType[Any, Any]:
    return AggregateType(
        "account",
        account,
        snapshots=Snapshots(policy, state_type=State, model_version=model_version),
    )


class LoadingAndSaving:
    def test_an_aggregate_of_which_nothing_has_happened(self, bank: Bank) -> None:
        new = bank.repository(OBJECTS).load(str(uuid4()))
        assert (new, new.version) == (Account(), 0)
        assert bank.repository(DECIDED).load(str(uuid4())).state == State()

    def test_what_is_saved_is_loaded(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(OBJECTS), uuid4()
        new = accounts.begin(account_id)
        new.deposit(10)
        new.withdraw(4)
        result = accounts.save(new)
        assert (result.streams[0].version, new.version, new.pending_events) == (2, 2, ())
        loaded = accounts.load(account_id)
        assert (loaded, loaded.version, loaded.aggregate_id) == (new, 2, str(account_id))
        assert payloads(bank, account_id) == [Deposited(10), Withdrawn(4)]

    def test_a_decider_is_loaded_and_saved_too(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        new = accounts.begin(account_id)
        new.handle(Deposit(10))
        accounts.save(new)
        new.handle(Withdraw(4))
        accounts.save(new)
        loaded = accounts.load(account_id)
        assert (loaded.state, loaded.version) == (new.state, new.version) == (State(6), 2)

    def test_nothing_to_save_asks_nothing(self, bank: Bank) -> None:
        accounts = bank.repository(OBJECTS)
        assert accounts.save(accounts.begin("1")).streams == ()
        assert bank.requests == []

    def test_a_late_save_is_refused_and_changes_nothing(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(OBJECTS), uuid4()
        accounts.execute(account_id, lambda it: it.deposit(1))
        first, second = accounts.load(account_id), accounts.load(account_id)
        first.deposit(2)
        second.deposit(3)
        accounts.save(first)
        with pytest.raises(ConcurrencyConflict) as caught:
            accounts.save(second)
        assert caught.value.missed is not None
        assert [missed.event_data for missed in caught.value.missed] == [Deposited(2)]
        assert second.pending_events == (Deposited(3),)
        assert payloads(bank, account_id) == [Deposited(1), Deposited(2)]

    def test_several_aggregates_are_saved_as_one(self, bank: Bank) -> None:
        accounts, payer_id, payee_id = bank.repository(OBJECTS), uuid4(), uuid4()
        accounts.execute(payer_id, lambda it: it.deposit(10))
        payer, payee = accounts.load(payer_id), accounts.begin(payee_id)
        payer.withdraw(7)
        payee.deposit(7)
        bank.requests.clear()
        result = accounts.save(payer, payee)
        assert bank.requests == ["append"]
        assert [stream.version for stream in result] == [2, 1]
        bank.interfere(f"account-{payee_id}", event(Renamed("eve")))
        payer.deposit(7)
        payee.withdraw(7)
        with pytest.raises(ConcurrencyConflict):
            accounts.save(payer, payee)
        assert payloads(bank, payer_id) == [Deposited(10), Withdrawn(7)]

    def test_aggregates_of_several_types_are_appended_as_one(self, bank: Bank) -> None:
        people = bank.repository(AggregateType("person", Account))
        accounts, the_id = bank.repository(OBJECTS), uuid4()
        person, new = people.begin(the_id), accounts.begin(the_id)
        person.rename("ann")
        new.deposit(1)
        result = bank.store.append(people.changes(person), accounts.changes(new))
        assert result[f"person-{the_id}"].version == result[f"account-{the_id}"].version == 1

    def test_a_retry_of_a_save_is_recognised_by_its_key(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(OBJECTS), uuid4()
        for already_appended in (False, True):
            new = accounts.begin(account_id)
            new.deposit(1)
            result = accounts.save(new, idempotency_key="k")
            assert (result.already_appended, new.version) == (already_appended, 1)
        assert payloads(bank, account_id) == [Deposited(1)]

    def test_a_retry_that_was_decided_on_its_own_first_try_keeps_nothing(self, bank: Bank) -> None:
        kind = AggregateType("account", Account, snapshots=Snapshots(EveryEvents(1)))
        accounts, account_id = bank.repository(kind), uuid4()
        for _ in range(2):
            late = accounts.load(account_id)
            late.deposit(1)
            accounts.save(late, idempotency_key="k")
        kept = bank.store.get_snapshot(f"account-{account_id}", "account")
        assert kept is not None
        assert kept.data["state"]["balance"] == accounts.load(account_id).balance == 1
        late.deposit(1)
        with pytest.raises(ConcurrencyConflict):
            accounts.save(late)
        assert payloads(bank, account_id) == [Deposited(1)]

    def test_streams_may_be_named_otherwise(self, bank: Bank) -> None:
        stream_id = str(uuid4())
        kind = AggregateType("account", Account, stream_id=lambda _: stream_id)
        bank.repository(kind).execute("7", lambda it: it.deposit(1))
        (recorded,) = bank.store.read_stream(stream_id)
        assert (recorded.aggregate_id, recorded.aggregate_type) == ("7", "account")

    def test_a_tail_longer_than_a_page(self, bank: Bank) -> None:
        account_id = uuid4()
        deposits = [event(Deposited(1)) for _ in range(1001)]
        bank.store.append_to_stream(f"account-{account_id}", NO_STREAM, deposits)
        loaded = bank.repository(DECIDED).load(account_id)
        assert (loaded.state, loaded.version) == (State(1001), 1001)

    def test_a_deleted_stream(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        accounts.execute(account_id, Deposit(1))
        bank.store.delete_stream(f"account-{account_id}")
        with pytest.raises(StreamDeleted):
            accounts.load(account_id)
        with pytest.raises(StreamDeleted):
            accounts.execute(account_id, Deposit(1))

    def test_clock_and_ids_can_be_foreseen(self, bank: Bank) -> None:
        clock, ids, account_id = FakeClock(), SequentialIds(), uuid4()
        accounts = bank.repository(DECIDED, clock=clock, new_id=ids)
        accounts.execute(account_id, Deposit(1))
        clock.advance(days=1)
        accounts.execute(account_id, Deposit(2))
        first, second = bank.store.read_stream(f"account-{account_id}")
        assert (first.event_id, second.event_id) == (UUID(int=1), UUID(int=2))
        assert second.occurred_at - first.occurred_at == timedelta(days=1)


class Executing:
    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_a_command_is_decided_and_appended(self, bank: Bank, kind: Any) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        commands = {
            OBJECTS: (lambda it: it.deposit(10), lambda it: it.withdraw(4)),
            DECIDED: (Deposit(10), Withdraw(4)),
        }[kind]
        first, second = (accounts.execute(account_id, command) for command in commands)
        assert (first.events, first.version) == ((Deposited(10),), 1)
        assert (second.events, second.version) == ((Withdrawn(4),), 2)
        assert (second.attempts, second.already_appended) == (1, False)
        recorded = list(bank.store.read_stream(f"account-{account_id}"))
        assert second.positions == (recorded[1].sequence_number,)
        assert second.aggregate.version == 2
        assert bank.requests == ["load_stream", "append", "load_stream", "append"]

    def test_a_command_may_lead_to_nothing(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        accounts.execute(account_id, Rename("ann"))
        outcome = accounts.execute(account_id, Rename("ann"))
        assert (outcome.events, outcome.version, outcome.positions) == ((), 1, ())
        assert payloads(bank, account_id) == [Renamed("ann")]

    def test_an_error_of_the_domain_is_the_callers(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        accounts.execute(account_id, Deposit(1))
        with pytest.raises(InsufficientFunds):
            accounts.execute(account_id, Withdraw(2))
        assert payloads(bank, account_id) == [Deposited(1)]

    def test_a_command_for_an_object_is_callable(self, bank: Bank) -> None:
        with pytest.raises(TypeError, match="lambda it"):
            bank.repository(OBJECTS).execute("1", Deposit(1))

    def test_ids_flow_into_the_events(self, bank: Bank) -> None:
        account_id = uuid4()
        with causation(correlation_id="c", causation_id="d", user_id="ann"):
            bank.repository(DECIDED).execute(account_id, Deposit(1), idempotency_key="k")
        (recorded,) = bank.store.read_stream(f"account-{account_id}")
        metadata = recorded.metadata
        assert (metadata.correlation_id, metadata.causation_id) == ("c", "d")
        assert (metadata.user_id, metadata.idempotency_key) == ("ann", "k")


class Conflicts:
    def test_a_decider_decides_again_without_loading(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        accounts.execute(account_id, Deposit(100))
        bank.requests.clear()
        bank.interfere(f"account-{account_id}", event(Withdrawn(80)), event(Deposited(1)))
        with pytest.raises(InsufficientFunds):
            accounts.execute(account_id, Withdraw(80))
        assert bank.requests == ["load_stream", "append"]
        bank.interfere(f"account-{account_id}", event(Deposited(1)))
        outcome = accounts.execute(account_id, Withdraw(20))
        assert (outcome.version, outcome.attempts) == (5, 2)
        assert outcome.aggregate.state == accounts.load(account_id).state == State(2)

    def test_an_object_is_loaded_again(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(OBJECTS), uuid4()
        accounts.execute(account_id, lambda it: it.deposit(100))
        bank.interfere(f"account-{account_id}", event(Withdrawn(80)))
        with pytest.raises(InsufficientFunds):
            accounts.execute(account_id, lambda it: it.withdraw(80))
        bank.interfere(f"account-{account_id}", event(Deposited(1)))
        bank.requests.clear()
        outcome = accounts.execute(account_id, lambda it: it.withdraw(20))
        assert (outcome.version, outcome.attempts, outcome.aggregate) == (4, 2, Account(1))
        assert bank.requests == ["load_stream", "append", "load_stream", "append"]

    @pytest.mark.parametrize(
        "commutes", [[Renamed], {"renamed"}, lambda missed: missed.event_type == "renamed"]
    )
    def test_what_commutes_is_appended_as_it_was_decided(self, bank: Bank, commutes: Any) -> None:
        decisions = []

        def decide(command: Any, state: State) -> Any:
            decisions.append(state)
            return account.decide(command, state)

        kind: Any = AggregateType(
            "account", Decider(initial=State(), decide=decide, evolve=account.evolve)
        )
        accounts, account_id = bank.repository(kind), uuid4()
        bank.interfere(f"account-{account_id}", event(Renamed("ann")), event(Renamed("bob")))
        outcome = accounts.execute(account_id, Deposit(5), commutes=commutes)
        assert (outcome.events, outcome.version, outcome.attempts) == ((Deposited(5),), 3, 2)
        assert outcome.aggregate.state == accounts.load(account_id).state == State(5, "bob")
        assert decisions == [State()]
        bank.interfere(f"account-{account_id}", event(Renamed("eve")), event(Withdrawn(5)))
        with pytest.raises(InsufficientFunds):
            accounts.execute(account_id, Withdraw(1), commutes=commutes)

    @pytest.mark.parametrize("policy", [None, EveryEvents(2)])
    def test_what_an_object_has_decided_is_not_decided_again(self, bank: Bank, policy: Any) -> None:
        snapshots = None if policy is None else Snapshots(policy)
        accounts = bank.repository(AggregateType("account", Account, snapshots=snapshots))
        account_id, seen = uuid4(), []

        def deposit(it: Account) -> None:
            seen.append((it.version, it.balance))
            it.deposit(5)

        accounts.execute(account_id, lambda it: it.deposit(1))
        bank.interfere(f"account-{account_id}", event(Renamed("ann")))
        bank.interfere(f"account-{account_id}", event(Renamed("bob")))
        bank.requests.clear()
        outcome = accounts.execute(account_id, deposit, commutes=[Renamed])
        assert bank.requests[:5] == ["load_stream", "append", "append", "append", "load_stream"]
        assert seen == [(1, 1)]
        assert (outcome.events, outcome.version, outcome.attempts) == ((Deposited(5),), 4, 3)
        assert len(outcome.positions) == 1
        loaded = accounts.load(account_id)
        assert outcome.aggregate == loaded == Account(6, "bob")
        assert outcome.aggregate.version == loaded.version == 4
        assert outcome.aggregate.pending_events == ()
        assert loaded.snapshot_version == (0 if policy is None else 4)
        outcome.aggregate.withdraw(6)
        assert accounts.save(outcome.aggregate).streams[0].version == 5

    def test_what_matters_after_all_is_decided_on(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(OBJECTS), uuid4()
        accounts.execute(account_id, lambda it: it.deposit(5))
        bank.interfere(f"account-{account_id}", event(Renamed("ann")))
        bank.interfere(f"account-{account_id}", event(Withdrawn(5)))
        with pytest.raises(InsufficientFunds):
            accounts.execute(account_id, lambda it: it.withdraw(1), commutes=[Renamed])
        assert payloads(bank, account_id) == [Deposited(5), Renamed("ann"), Withdrawn(5)]

    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_what_commutes_is_folded_in_the_order_of_the_stream(
        self, bank: Bank, kind: Any
    ) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        command: Any = Rename("second") if kind is DECIDED else lambda it: it.rename("second")
        bank.interfere(f"account-{account_id}", event(Renamed("first")))
        outcome = accounts.execute(account_id, command, commutes=[Renamed])
        for it in (outcome.aggregate, accounts.load(account_id)):
            assert (it.state if kind is DECIDED else it).name == "second"

    def test_more_than_a_page_is_loaded_again(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        bank.interfere(f"account-{account_id}", *(event(Deposited(1)) for _ in range(501)))
        outcome = accounts.execute(account_id, Deposit(1))
        assert (outcome.version, outcome.aggregate.state) == (502, State(502))
        assert bank.requests[:3] == ["load_stream", "append", "load_stream"]

    def test_attempts_are_bounded(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED, retries=Retries(attempts=3)), uuid4()
        for _ in range(3):
            bank.interfere(f"account-{account_id}", event(Deposited(1)))
        with pytest.raises(ConcurrencyConflict):
            accounts.execute(account_id, Deposit(5))
        assert bank.requests.count("append") == 3
        assert payloads(bank, account_id) == [Deposited(1)] * 3
        assert accounts.execute(account_id, Deposit(5)).version == 4

    @pytest.mark.parametrize("wrong", ["renamed", Renamed, [7], 7])
    def test_a_rule_must_say_something_about_events(self, bank: Bank, wrong: Any) -> None:
        with pytest.raises(TypeError, match="commutes"):
            bank.repository(DECIDED).execute("1", Deposit(1), commutes=wrong)


class ExpectedVersions:
    """What is decided on the version that somebody has seen."""

    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_a_command_for_the_version_that_is_there(self, bank: Bank, kind: Any) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        command: Any = Deposit(1) if kind is DECIDED else lambda it: it.deposit(1)
        for expected in (NO_STREAM, 1, STREAM_EXISTS, ANY, None):
            accounts.execute(account_id, command, expected_version=expected)
        assert bank.requests == ["load_stream", "append"] * 5
        assert payloads(bank, account_id) == [Deposited(1)] * 5

    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_on_another_version_nothing_is_decided(self, bank: Bank, kind: Any) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        deposit: Any = Deposit(1) if kind is DECIDED else lambda it: it.deposit(1)
        withdraw: Any = Withdraw(9) if kind is DECIDED else lambda it: it.withdraw(9)
        accounts.execute(account_id, deposit)
        accounts.execute(account_id, deposit)
        with pytest.raises(ConcurrencyConflict) as caught:
            accounts.execute(account_id, withdraw, expected_version=1)
        assert (caught.value.expected, caught.value.actual) == (1, 2)
        assert caught.value.missed is not None
        assert [missed.event_data for missed in caught.value.missed] == [Deposited(1)]
        with pytest.raises(ConcurrencyConflict) as caught:
            accounts.execute(account_id, deposit, expected_version=3)
        assert caught.value.missed is None
        assert payloads(bank, account_id) == [Deposited(1)] * 2

    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_somebody_was_quicker(self, bank: Bank, kind: Any) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        command: Any = Deposit(1) if kind is DECIDED else lambda it: it.deposit(1)
        accounts.execute(account_id, command)
        bank.interfere(f"account-{account_id}", event(Deposited(2)))
        with pytest.raises(ConcurrencyConflict) as caught:
            accounts.execute(account_id, command, expected_version=1)
        assert caught.value.actual == 2
        assert payloads(bank, account_id) == [Deposited(1), Deposited(2)]

    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_what_commutes_was_not_missed(self, bank: Bank, kind: Any) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        command: Any = Deposit(1) if kind is DECIDED else lambda it: it.deposit(1)
        accounts.execute(account_id, command)
        bank.store.append_to_stream(f"account-{account_id}", 1, [event(Renamed("ann"))])
        bank.interfere(f"account-{account_id}", event(Renamed("bob")))
        outcome = accounts.execute(account_id, command, expected_version=1, commutes=[Renamed])
        assert outcome.version == 4
        with pytest.raises(ConcurrencyConflict):
            accounts.execute(account_id, command, expected_version=1, commutes=[Renamed])

    def test_a_stream_that_should_exist(self, bank: Bank) -> None:
        with pytest.raises(StreamNotFound):
            bank.repository(DECIDED).execute(uuid4(), Deposit(1), expected_version=STREAM_EXISTS)

    def test_a_repeated_command_is_not_late(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(DECIDED), uuid4()
        for _ in range(2):
            outcome = accounts.execute(
                account_id, Deposit(1), expected_version=NO_STREAM, idempotency_key="k"
            )
        assert outcome.already_appended
        assert payloads(bank, account_id) == [Deposited(1)]

    @pytest.mark.parametrize("wrong", [True, -1, "1"])
    def test_what_no_version_can_be(self, bank: Bank, wrong: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="expected_version"):
            bank.repository(DECIDED).execute("1", Deposit(1), expected_version=wrong)
        assert bank.requests == []


class RepeatedCommands:
    @pytest.mark.parametrize("policy", [None, EveryEvents(1)])
    def test_the_outcome_is_that_of_the_first_time(self, bank: Bank, policy: Any) -> None:
        kind = DECIDED if policy is None else snapshotting(policy)
        accounts, account_id = bank.repository(kind), uuid4()
        accounts.execute(account_id, Deposit(100))
        first = accounts.execute(account_id, Withdraw(80), idempotency_key="k")
        accounts.execute(account_id, Rename("ann"))
        again = accounts.execute(account_id, Withdraw(80), idempotency_key="k")
        assert again.already_appended
        assert (again.events, again.version, again.positions) == (
            first.events,
            first.version,
            first.positions,
        )
        assert again.aggregate.state == first.aggregate.state == State(20)
        assert again.aggregate.version == 2
        assert bank.store.get_stream_info(f"account-{account_id}").version == 3  # type: ignore[union-attr]

    def test_several_events_of_one_command(self, bank: Bank) -> None:
        def both(it: Account) -> None:
            it.deposit(1)
            it.rename("ann")

        accounts, account_id = bank.repository(OBJECTS), uuid4()
        first = accounts.execute(account_id, both, idempotency_key="k")
        again = accounts.execute(account_id, both, idempotency_key="k")
        assert again.events == first.events == (Deposited(1), Renamed("ann"))
        assert again.positions == first.positions

    def test_keys_belong_to_their_stream(self, bank: Bank) -> None:
        accounts = bank.repository(DECIDED)
        outcomes = [accounts.execute(uuid4(), Deposit(1), idempotency_key="k") for _ in range(2)]
        assert [outcome.already_appended for outcome in outcomes] == [False, False]

    @pytest.mark.parametrize("payload", [Deposited(1), Deposited(2)])
    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_another_attempt_was_quicker(self, bank: Bank, kind: Any, payload: Deposited) -> None:
        accounts, account_id = bank.repository(kind), uuid4()
        command: Any = Deposit(1) if kind is DECIDED else lambda it: it.deposit(1)
        bank.interfere(f"account-{account_id}", event(payload, metadata={"idempotency_key": "k"}))
        outcome = accounts.execute(account_id, command, idempotency_key="k")
        assert (outcome.events, outcome.version) == ((payload,), 1)
        assert outcome.already_appended
        assert payloads(bank, account_id) == [payload]


def tagged(account_id: str, event: object) -> list[str]:
    name = [f"name:{event.name}"] if isinstance(event, Renamed) else []
    return [f"account:{account_id}", *name]


class Conditions:
    """Decisions on more than the aggregate's own stream."""

    @pytest.mark.parametrize("model", [Account, account])
    def test_events_get_their_tags(self, bank: Bank, model: Any) -> None:
        accounts, account_id = (
            bank.repository(AggregateType("account", model, tags=tagged)),
            uuid4(),
        )
        command: Any = Rename("ann") if model is account else lambda it: it.rename("ann")
        accounts.execute(account_id, command)
        new = accounts.load(account_id)
        new.record(Deposited(1))
        accounts.save(new)
        tags = [event.tags for event in bank.store.read_stream(f"account-{account_id}")]
        assert tags == [(f"account:{account_id}", "name:ann"), (f"account:{account_id}",)]

    def test_tags_that_are_none_are_refused(self, bank: Bank) -> None:
        wrong: Any = lambda *_: "ann"  # noqa: E731
        with pytest.raises((TypeError, ValueError), match="tags"):
            bank.repository(AggregateType("account", account, tags=wrong)).execute("1", Deposit(1))
        assert "append" not in bank.requests
        with pytest.raises(TypeError, match="tags must be a function"):
            AggregateType("account", Account, tags=["ann"])  # type: ignore[arg-type]

    def test_a_command_may_require_that_nothing_else_has_come(self, bank: Bank) -> None:
        accounts = bank.repository(AggregateType("account", account, tags=tagged))
        first, second = uuid4(), uuid4()
        name = str(uuid4())
        free = no_new(Query(QueryItem(types=["renamed"], tags=[f"name:{name}"])))
        accounts.execute(first, Rename(name), require=free)
        bank.requests.clear()
        with pytest.raises(AppendConditionFailed):
            accounts.execute(second, Rename(name), require=free)
        assert bank.requests == ["load_stream", "append"]
        assert payloads(bank, second) == []

    def test_it_is_required_of_each_attempt(self, bank: Bank) -> None:
        accounts = bank.repository(AggregateType("account", Account, tags=tagged))
        account_id, name = uuid4(), str(uuid4())
        taken = event(Renamed(name), tags=[f"name:{name}"])
        free = no_new(Query(QueryItem(types=["renamed"], tags=[f"name:{name}"])))
        bank.interfere(f"account-{account_id}", event(Deposited(1)))
        bank.interfere(f"account-{uuid4()}", taken)
        with pytest.raises(AppendConditionFailed):
            accounts.execute(
                account_id, lambda it: it.rename(name), commutes=[Deposited], require=[free]
            )
        assert payloads(bank, account_id) == [Deposited(1)]

    def test_a_repeated_command_requires_nothing(self, bank: Bank) -> None:
        accounts = bank.repository(AggregateType("account", account, tags=tagged))
        account_id, name = uuid4(), str(uuid4())
        free = no_new(Query(QueryItem(tags=[f"name:{name}"])))
        outcomes = [
            accounts.execute(account_id, Rename(name), require=free, idempotency_key="k")
            for _ in range(2)
        ]
        assert [outcome.already_appended for outcome in outcomes] == [False, True]

    @pytest.mark.parametrize("kind", [OBJECTS, DECIDED])
    def test_another_stream_that_has_moved_is_the_callers(self, bank: Bank, kind: Any) -> None:
        accounts, account_id, other_id = bank.repository(kind), uuid4(), uuid4()
        command: Any = Deposit(1) if kind is DECIDED else lambda it: it.deposit(1)
        bank.interfere(f"account-{other_id}", event(Deposited(7)))
        with pytest.raises(ConcurrencyConflict) as caught:
            accounts.execute(
                account_id,
                command,
                commutes=[Deposited],
                require=StreamAt(f"account-{other_id}", 0),
            )
        assert caught.value.stream_id == f"account-{other_id}"
        assert bank.requests == ["load_stream", "append"]
        accounts.execute(account_id, command, require=[StreamAt(f"account-{other_id}", 1)])
        assert payloads(bank, account_id) == [Deposited(1)]

    def test_a_save_may_require_it_too(self, bank: Bank) -> None:
        accounts = bank.repository(AggregateType("account", Account, tags=tagged))
        name = str(uuid4())
        free = no_new(Query(QueryItem(tags=[f"name:{name}"])))
        first, second = accounts.begin(uuid4()), accounts.begin(uuid4())
        for each in (first, second):
            each.rename(name)
        accounts.save(first, require=free)
        with pytest.raises(AppendConditionFailed):
            accounts.save(second, require=[free])
        assert second.pending_events == (Renamed(name),)
        assert payloads(bank, second.aggregate_id) == []

    def test_what_is_no_requirement(self, bank: Bank) -> None:
        wrong: Any = [7]
        with pytest.raises(TypeError, match="require"):
            bank.repository(DECIDED).execute("1", Deposit(1), require=wrong)
        assert bank.requests == []


class TakingSnapshots:
    def test_every_so_many_events(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(snapshotting(EveryEvents(3))), uuid4()
        versions = []
        for _ in range(7):
            accounts.execute(account_id, Deposit(1))
            kept = bank.store.get_snapshot(f"account-{account_id}", "account")
            versions.append(kept and kept.version)
        assert versions == [None, None, 3, 3, 3, 6, 6]
        loaded = accounts.load(account_id)
        assert (loaded.state, loaded.version, loaded.snapshot_version) == (State(7), 7, 6)

    def test_after_a_time(self, bank: Bank) -> None:
        clock, account_id = FakeClock(), uuid4()
        kind = snapshotting(EveryInterval(timedelta(days=2)))
        accounts = bank.repository(kind, clock=clock)
        versions = []
        for _ in range(6):
            accounts.execute(account_id, Deposit(1))
            kept = bank.store.get_snapshot(f"account-{account_id}", "account")
            versions.append(kept and kept.version)
            clock.advance(days=1)
        assert versions == [None, None, 3, 3, 3, 6]

    def test_after_certain_events(self, bank: Bank) -> None:
        accounts, account_id = bank.repository(snapshotting(OnEvents(Withdrawn))), uuid4()
        for command in (Deposit(1), Withdraw(1), Deposit(1)):
            accounts.execute(account_id, command)
        kept = bank.store.get_snapshot(f"account-{account_id}", "account")
        assert kept is not None
        assert (kept.version, kept.data) == (
            2,
            {"model": 1, "state": {"balance": 0, "name": ""}},
        )

    def test_whatever_of_several_policies_wants(self, bank: Bank) -> None:
        policy = AnyPolicy(OnEvents(Renamed), EveryEvents(3))
        accounts, account_id = bank.repository(snapshotting(policy)), uuid4()
        versions = []
        for command in (Rename("ann"), Deposit(1), Deposit(1), Deposit(1)):
            accounts.execute(account_id, command)
            kept = bank.store.get_snapshot(f"account-{account_id}", "account")
            versions.append(kept and kept.version)
        assert versions == [1, 1, 1, 4]

    def test_an_object_is_its_own_state(self, bank: Bank) -> None:
        kind = AggregateType("account", Account, snapshots=Snapshots(EveryEvents(1)))
        accounts, account_id = bank.repository(kind), uuid4()
        new = accounts.begin(account_id)
        new.deposit(3)
        accounts.save(new)
        loaded = accounts.load(account_id)
        assert (loaded, loaded.snapshot_version) == (Account(3), 1)
        loaded.withdraw(1)
        accounts.save(loaded)
        assert accounts.load(account_id) == Account(2)

    def test_an_aggregate_that_is_saved_again_and_again(self, bank: Bank) -> None:
        kind = AggregateType("account", Account, snapshots=Snapshots(EveryEvents(2)))
        accounts, account_id = bank.repository(kind), uuid4()
        new, versions = accounts.begin(account_id), []
        for _ in range(5):
            new.deposit(1)
            accounts.save(new)
            kept = bank.store.get_snapshot(f"account-{account_id}", "account")
            versions.append(kept and kept.version)
        assert versions == [None, 2, 2, 4, 4]

    def test_only_the_events_after_it_are_read(self, bank: Bank) -> None:
        account_id = uuid4()
        stream_id = f"account-{account_id}"
        accounts = bank.repository(snapshotting(EveryEvents(2)))
        for _ in range(3):
            accounts.execute(account_id, Deposit(1))
        found = bank.store.load_stream(stream_id, "account")
        assert [event.event_version for event in found.events] == [3]
        bank.requests.clear()
        accounts.load(account_id)
        assert bank.requests == ["load_stream"]


@dataclass(frozen=True)
class StateOfOld:
    balance: int = 0


@dataclass(frozen=True)
class Holder:
    account_id: str = "1"
    name: Annotated[Personal[str] | None, personal(subject="account_id")] = field(
        default=None, repr=False
    )


class UnusableSnapshots:
    def keep(self, bank: Bank, data: Any) -> str:
        """Keep a snapshot whose state is wrong, so that it shows whether it is used."""
        account_id = str(uuid4())
        stream_id = f"account-{account_id}"
        bank.store.append_to_stream(stream_id, 0, [event(Deposited(1)), event(Renamed("ann"))])
        bank.store.save_snapshot(
            Snapshot(aggregate_id=stream_id, aggregate_type="account", version=1, data=data)
        )
        return account_id

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({"model": 1, "state": {"balance": 7, "name": ""}}, "of model 1, the present is 2"),
            ({"model": 2, "state": {"balance": 7}}, "have changed"),
            ({"model": 2, "state": {"balance": 7, "name": "", "gone": 1}}, "have changed"),
            ({"model": 2, "state": {"balance": "secret", "name": ""}}, "$.balance"),
            ({"model": 2}, "don't say"),
            ({"balance": 7, "name": ""}, "don't say"),
            ({"model": "secret", "state": {}}, "don't say"),
            ([7], "don't say"),
            (7, "don't say"),
        ],
    )
    def test_it_is_passed_over_with_one_warning(
        self, bank: Bank, data: Any, words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        accounts = bank.repository(snapshotting(EveryEvents(2), model_version=2))
        with caplog.at_level(logging.WARNING, "eventstore"):
            for _ in range(2):
                loaded = accounts.load(self.keep(bank, data))
                assert (loaded.state, loaded.snapshot_version) == (State(1, "ann"), 0)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "'account'" in record.getMessage()
        assert words in record.getMessage()
        assert "secret" not in record.getMessage()

    def test_a_fresh_one_takes_its_place(self, bank: Bank) -> None:
        account_id = self.keep(bank, {"model": 1, "state": {"balance": 7, "name": ""}})
        accounts = bank.repository(snapshotting(EveryEvents(2), model_version=2))
        accounts.execute(account_id, Deposit(1))
        kept = bank.store.get_snapshot(f"account-{account_id}", "account")
        assert kept is not None
        assert (kept.version, kept.data["model"]) == (3, 2)
        assert accounts.load(account_id).snapshot_version == 3

    def test_one_that_can_be_used_warns_of_nothing(
        self, bank: Bank, caplog: pytest.LogCaptureFixture
    ) -> None:
        account_id = self.keep(bank, {"model": 1, "state": {"name": "", "balance": 7}})
        loaded = bank.repository(snapshotting(EveryEvents(9))).load(account_id)
        assert (loaded.state, loaded.snapshot_version) == (State(7, "ann"), 1)
        assert caplog.records == []

    def test_an_error_while_replaying_is_not_swallowed(self, bank: Bank) -> None:
        def evolve(_state: State, _event: Any) -> State:
            raise InsufficientFunds

        broken: Any = AggregateType(
            "account",
            Decider(initial=State(), decide=account.decide, evolve=evolve),
            snapshots=Snapshots(EveryEvents(1), state_type=State),
        )
        for model in (0, 1):
            account_id = self.keep(bank, {"model": model, "state": {"balance": 7, "name": ""}})
            with pytest.raises(InsufficientFunds):
                bank.repository(broken).load(account_id)

    def test_one_ahead_of_its_stream_is_not_used(self, bank: Bank) -> None:
        account_id = str(uuid4())
        stream_id = f"account-{account_id}"
        bank.store.append_to_stream(stream_id, 0, [event(Deposited(1)), event(Deposited(1))])
        data = {"model": 1, "state": {"balance": 100, "name": ""}}
        bank.store.save_snapshot(
            Snapshot(aggregate_id=stream_id, aggregate_type="account", version=100, data=data)
        )
        loaded = bank.repository(snapshotting(EveryEvents(9))).load(account_id)
        assert (loaded.state, loaded.version) == (State(2), 2)

    def test_a_state_that_cannot_be_written_does_not_stop_a_command(
        self, bank: Bank, caplog: pytest.LogCaptureFixture
    ) -> None:
        unwritable: Any = Decider(
            initial=0.0, decide=lambda c, _: [c], evolve=lambda *_: float("nan")
        )
        kind = AggregateType(
            "account", unwritable, snapshots=Snapshots(EveryEvents(1), state_type=float)
        )
        accounts, account_id = bank.repository(kind), uuid4()
        for _ in range(2):
            accounts.execute(account_id, Deposited(1))
        assert len(caplog.records) == 1
        assert payloads(bank, account_id) == [Deposited(1)] * 2

    def test_a_state_that_the_store_cannot_seal_does_not_stop_one_either(
        self, bank: Bank, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = Decider[Any, Any, Any](
            initial=Holder(),
            decide=lambda command, _: [command],
            evolve=lambda _, event: Holder(name=event.name),
        )
        kind = AggregateType(
            "account", model, snapshots=Snapshots(EveryEvents(1), state_type=Holder)
        )
        accounts, account_id = bank.repository(kind), uuid4()
        for name in ("ann", "bob"):
            outcome = accounts.execute(account_id, Renamed(name))
            assert outcome.aggregate.snapshot_version == 0
        new = accounts.load(account_id)
        new.record(Renamed("eve"))
        accounts.save(new)
        assert (new.version, new.snapshot_version) == (3, 0)
        (record,) = caplog.records
        assert "has no keys" in record.getMessage()
        assert "ann" not in record.getMessage()
        assert payloads(bank, account_id) == [Renamed("ann"), Renamed("bob"), Renamed("eve")]
        assert bank.store.get_snapshot(f"account-{account_id}", "account") is None


class RepositorySuite(
    LoadingAndSaving,
    Executing,
    Conflicts,
    ExpectedVersions,
    RepeatedCommands,
    Conditions,
    TakingSnapshots,
    UnusableSnapshots,
):
    """All of it; a subclass gives the fixture ``bank``."""
