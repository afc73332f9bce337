"""Fields of personal data: what is refused, what they are in JSON, and who can see them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from eventstore import EventEnvelope, EventRegistry, SerializationError, Snapshot, Snapshots
from eventstore.personal import Erased, Personal, personal
from eventstore.personal.carriers import KEY, OPENED
from eventstore.snapshotting import EveryEvents
from tests.fixtures.learners import ANN, BOB, Address, Introduced, Registered

T = TypeVar("T")


def encoded(payload: Any, name: str = "registered") -> Any:
    """What a registry makes of it: JSON whose personal values are still in plain text."""
    registry = EventRegistry()
    registry.register(name, type(payload))
    _, text = registry.encode(EventEnvelope(aggregate_type="x", event_data=payload))
    assert registry.decode(name, text) == payload
    return json.loads(text)


def opened(subject: str, value: Any) -> dict[str, Any]:
    return {KEY: OPENED, "subject": subject, "value": value}


def test_a_value_is_its_type_and_is_written_with_its_subject() -> None:
    address = Address(street="Mill Lane 5", city="Ulm")
    event = Registered(learner_id="7", email=ANN, address=address)

    assert event.email == ANN
    assert encoded(event) == {
        "learner_id": "7",
        "email": opened("7", ANN),
        "address": opened("7", {"street": "Mill Lane 5", "city": "Ulm"}),
        "course": "python",
    }


def test_one_event_names_several_subjects_also_in_lists() -> None:
    event = Introduced(teacher="t", learner="p", teacher_email=BOB, nicknames=["a", "b"])

    assert encoded(event) == {
        "teacher": "t",
        "learner": "p",
        "teacher_email": opened("t", BOB),
        "nicknames": [opened("p", "a"), opened("p", "b")],
    }


def test_an_erased_value_is_written_as_such_and_is_one_in_python_too() -> None:
    event = Registered(learner_id="7", email=Erased("7"), address=Erased("7"))

    written = encoded(event)

    assert written["email"] == written["address"] == {KEY: "erased", "subject": "7"}
    assert Registered.model_validate(event.model_dump()) == event
    assert Registered.model_validate_json(event.model_dump_json()) == event


def test_to_an_application_it_is_written_as_any_other_value() -> None:
    event = Registered(learner_id="7", email=ANN)

    assert event.model_dump()["email"] == ANN
    assert json.loads(event.model_dump_json())["email"] == ANN


def test_none_can_stand_beside_a_value_or_be_one() -> None:
    class Both(BaseModel):
        who: int
        beside: Annotated[Personal[str] | None, personal(subject="who")] = None
        inside: Annotated[Personal[str | None], personal(subject="who")] = None

    assert encoded(Both(who=7)) == {"who": 7, "beside": None, "inside": opened("7", None)}


class Attendee(BaseModel):
    learner_id: UUID
    name: Annotated[Personal[str], personal(subject="learner_id")]


def test_the_subject_is_the_nearest_field_of_that_name_looking_outwards() -> None:
    class Course(BaseModel):
        learner_id: str
        attendees: list[Attendee]
        by_room: dict[str, list[Attendee]]

    first, second = UUID(int=1), UUID(int=2)
    ann, bob = Attendee(learner_id=first, name="Ann"), Attendee(learner_id=second, name="Bob")

    written = encoded(Course(learner_id="teacher", attendees=[ann, bob], by_room={"1": [bob]}))

    assert [each["name"]["subject"] for each in written["attendees"]] == [str(first), str(second)]
    assert written["by_room"]["1"][0]["name"] == opened(str(second), "Bob")


def test_a_class_within_may_leave_the_subject_to_the_one_around_it() -> None:
    class Contact(BaseModel):
        phone: Annotated[Personal[str], personal(subject="customer")]

    class Ordered(BaseModel):
        customer: str
        contact: Contact | None

    event = Ordered(customer="c", contact=Contact(phone="0731"))
    assert encoded(event)["contact"]["phone"] == opened("c", "0731")
    registry = EventRegistry()
    with pytest.raises(TypeError, match="names no field beside it or around it"):
        registry.register("contact", Contact)


def test_a_field_is_named_as_in_json() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(populate_by_name=True)

        who: str = Field(alias="learnerId")
        email: Annotated[Personal[str], personal(subject="learnerId")] = Field(alias="eMail")

    assert encoded(Aliased(learnerId="7", eMail="x"))["eMail"] == opened("7", "x")


def test_dataclasses_and_generic_models() -> None:
    @dataclass
    class Moved:
        who: str
        to: Annotated[Personal[Address], personal(subject="who")] = field(repr=False)

    class Told(BaseModel, Generic[T]):
        who: str
        what: Annotated[Personal[T], personal(subject="who")]

    moved = Moved("7", Address(street="s", city="c"))
    assert encoded(moved)["to"] == opened("7", {"street": "s", "city": "c"})
    assert encoded(Told[int](who="7", what=3))["what"] == opened("7", 3)
    assert "city" not in repr(moved)


def test_a_repr_shows_nothing_personal() -> None:
    event = Registered(learner_id="7", email=ANN, address=Address(street="Mill", city="Ulm"))
    state = {"email": opened("7", ANN)}
    snapshot = Snapshot(aggregate_id="7", aggregate_type="x", version=1, data=state)

    envelope = EventEnvelope(aggregate_type="learner", event_data=event)
    for shown in (repr(event), str(event), repr(envelope), repr(snapshot)):
        assert "secret" not in shown
        assert "Mill" not in shown


class Nobody(BaseModel):
    email: Personal[str]


class WrongName(BaseModel):
    learner_id: str
    email: Annotated[Personal[str], personal(subject="learner")]


class Twice(BaseModel):
    who: str
    inner: Annotated[Personal[Registered], personal(subject="who")]


class Bytes(BaseModel):
    who: str
    data: Annotated[Personal[bytes], personal(subject="who")]


class Shown(BaseModel):
    who: str
    names: Annotated[dict[str, Personal[str]], personal(subject="who")] = Field(repr=True)


class ShownAgain(BaseModel):
    who: str
    name: Annotated[Personal[str], personal(subject="who")] = Field(default="x", repr=True)


@dataclass
class ShownByADataclass:
    who: str
    name: Annotated[Personal[str], personal(subject="who")]


class Loose(TypedDict):
    who: str
    name: Annotated[Personal[str], personal(subject="who")]


class InAModel(BaseModel):
    loose: Loose


class HiddenInAModel(BaseModel):
    loose: Loose = Field(repr=False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Nobody, r"doesn't say whose it is"),
        (WrongName, r"personal\(subject='learner'\) names no field"),
        (Twice, "holds another one"),
        (Bytes, "bytes that are no UTF-8"),
        (Shown, r"repr of Shown shows the personal field 'names'; give it Field\(repr=False\)"),
        (ShownAgain, "repr of ShownAgain shows"),
        (ShownByADataclass, r"'name'; give it field\(repr=False\)"),
        (Loose, "'name' of a TypedDict would be shown"),
        (HiddenInAModel, "'name' of a TypedDict would be shown"),
        (InAModel, "'name' of a TypedDict would be shown|repr of InAModel shows"),
    ],
)
def test_what_can_not_be_kept_is_refused_at_registration(wrong: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        EventRegistry().register("wrong", wrong)


def test_a_state_of_snapshots_is_held_to_the_same() -> None:
    with pytest.raises(TypeError, match="names no field"):
        Snapshots(EveryEvents(1), state_type=WrongName).writer_for(None)


def test_a_subject_without_personal_data_is_a_mistake() -> None:
    with pytest.raises(TypeError, match=r"marks a field without a Personal\[...\]"):

        class Mistaken(BaseModel):
            who: str
            name: Annotated[str, personal(subject="who")]

    with pytest.raises(ValueError, match="subject"):
        personal(subject="")


class Optional(BaseModel):
    who: Any = None
    name: Annotated[Personal[str], personal(subject="who")]


@pytest.mark.parametrize("who", [None, "", "x" * 256, 1.5, True, ["a"]])
def test_whose_it_is_must_be_known(who: Any) -> None:
    registry = EventRegistry()
    registry.register("told", Optional)

    with pytest.raises(SerializationError, match="personal data of nobody") as refused:
        registry.encode(EventEnvelope(aggregate_type="x", event_data=Optional(who=who, name=ANN)))
    assert refused.value.path == "$.name"
    assert "secret" not in str(refused.value)


def test_the_key_of_carriers_is_the_stores_own() -> None:
    class Free(BaseModel):
        who: str
        name: Annotated[Personal[str], personal(subject="who")]
        rest: dict[str, Any]

    registry = EventRegistry()
    registry.register("free", Free)
    event = Free(who="7", name="x", rest={"a": [{KEY: "sealed/1", "subject": "7", "data": ""}]})
    with pytest.raises(SerializationError, match="the store's own") as refused:
        registry.encode(EventEnvelope(aggregate_type="x", event_data=event))
    assert refused.value.path == "$.rest.a[0]"


@pytest.mark.parametrize(
    "carrier",
    [
        {KEY: "sealed/1", "subject": "7", "data": "AAAA"},
        {KEY: "sealed/9", "subject": "7", "data": "AAAA"},
        {KEY: OPENED, "subject": "7", "value": 7},
        {KEY: OPENED, "subject": "7", "value": ANN, "more": 1},
        {KEY: "erased"},
        {KEY: ["erased"], "subject": "7"},
        {KEY: OPENED, "subject": 7, "value": "x"},
    ],
)
def test_what_is_no_value_is_an_error_and_not_shown(carrier: Any) -> None:
    registry = EventRegistry()
    registry.register("registered", Registered)
    text = json.dumps({"learner_id": "7", "email": carrier})

    with pytest.raises(SerializationError, match="does not validate as Registered") as unreadable:
        registry.decode("registered", text)
    assert unreadable.value.path.startswith("$.email")
    assert "secret" not in str(unreadable.value)


def test_what_was_stored_before_the_field_was_personal_is_still_read() -> None:
    registry = EventRegistry()
    registry.register("registered", Registered)

    assert registry.decode("registered", '{"learner_id": "7", "email": "x"}').email == "x"


def test_constraints_hold() -> None:
    class Short(BaseModel):
        who: str
        name: Annotated[Personal[Annotated[str, Field(max_length=3)]], personal(subject="who")]

    assert Short(who="7", name=Erased("7")).name == Erased("7")
    with pytest.raises(ValidationError, match="string_too_long"):
        TypeAdapter(Short).validate_python({"who": "7", "name": "long"})
