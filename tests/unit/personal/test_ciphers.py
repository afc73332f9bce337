"""Keys: what they open, what they don't, and what is told when one is missing."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode

import pytest

from eventstore import MasterKeyError, SerializationError
from eventstore.personal import MasterKeys, WrappedKey
from eventstore.personal.ciphers import DataKey, UnopenableError, new_data_key
from eventstore.personal.sealing import KeyRing, Place
from tests.fixtures.learners import new_master_key

OPENED = b'{"who":"7","email":{"$personal":"opened","subject":"7","value":{"b":1.0,"a":"x"}}}'
PLACE = Place("event", "registered")


def test_a_value_is_opened_by_its_key_in_its_context_only() -> None:
    key = DataKey(new_data_key())
    sealed = key.seal(b"text", b"here")

    assert key.open(sealed, b"here") == b"text"
    for opening in (
        lambda: key.open(sealed, b"there"),
        lambda: DataKey(new_data_key()).open(sealed, b"here"),
        lambda: key.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), b"here"),
        lambda: key.open(b"short", b"here"),
        lambda: key.open(b"", b"here"),
    ):
        with pytest.raises(UnopenableError):
            opening()


def test_sealed_again_it_is_the_same_and_otherwise_never() -> None:
    secret = new_data_key()
    key = DataKey(secret)

    assert key.seal(b"text", b"here") == DataKey(secret).seal(b"text", b"here")
    others = [
        key.seal(b"text", b"there"),
        key.seal(b"texT", b"here"),
        key.seal(b"etext", b"her"),  # where context ends and value begins
        DataKey(new_data_key()).seal(b"text", b"here"),
    ]
    nonces = {sealed[:12] for sealed in [key.seal(b"text", b"here"), *others]}
    assert len(nonces) == len(others) + 1


def test_json_is_sealed_by_its_value() -> None:
    ring = KeyRing({"7": DataKey(new_data_key())})
    again = OPENED.replace(b'"b":1.0,"a":"x"', b'"a":"x","b":1')

    assert ring.seal(PLACE, OPENED) == ring.seal(PLACE, again)
    assert b'{"a":"x","b":1}' in ring.open(PLACE, ring.seal(PLACE, OPENED))


@pytest.mark.parametrize(
    "moved",
    [
        lambda sealed: (Place("snapshot", "registered"), sealed),
        lambda sealed: (Place("event", "unregistered"), sealed),
        lambda sealed: (PLACE, sealed.replace(b'"email"', b'"phone"')),
        lambda sealed: (PLACE, b'{"list":[%b]}' % sealed),
        lambda sealed: (PLACE, sealed.replace(b'"subject":"7"', b'"subject":"8"')),
        lambda sealed: (PLACE, sealed.replace(b'"data":"', b'"data":"!')),
        lambda sealed: (PLACE, sealed.replace(b'"data":"', b'"data":"\\u00e9')),
        lambda sealed: (PLACE, sealed.replace(b'"data":"', b'"data":"A')),
    ],
)
def test_a_ciphertext_can_not_be_moved_or_changed(moved: object) -> None:
    ring = KeyRing(dict.fromkeys(("7", "8"), DataKey(new_data_key())))
    place, sealed = moved(ring.seal(PLACE, OPENED))  # type: ignore[operator]

    with pytest.raises(SerializationError, match="sealed elsewhere, or was changed"):
        ring.open(place, sealed)


def test_a_key_that_is_not_there_is_no_erasure() -> None:
    sealed = KeyRing({"7": DataKey(new_data_key())}).seal(PLACE, OPENED)

    with pytest.raises(SerializationError, match="a key that this store doesn't have"):
        KeyRing({}).open(PLACE, sealed)
    assert KeyRing({"7": None}).open(PLACE, sealed) == (
        b'{"who":"7","email":{"$personal":"erased","subject":"7"}}'
    )


def test_master_keys_wrap_for_one_subject() -> None:
    keys = MasterKeys(new_master_key())
    data_key = new_data_key()
    wrapped = keys.wrap("7", data_key)

    assert keys.unwrap("7", wrapped) == data_key
    assert wrapped.master_key_id == keys.current_id
    for wrong in (wrapped.text[:-4] + "AAAA", "", "no base64"):
        with pytest.raises(MasterKeyError, match="was changed"):
            keys.unwrap("7", WrappedKey(keys.current_id, wrong))
    with pytest.raises(MasterKeyError, match="was changed"):
        keys.unwrap("8", wrapped)


def test_another_master_key_is_told_by_name() -> None:
    first, second = new_master_key(), new_master_key()
    wrapped = MasterKeys(first).wrap("7", new_data_key())

    with pytest.raises(MasterKeyError, match=wrapped.master_key_id):
        MasterKeys(second).unwrap("7", wrapped)
    both = MasterKeys(second, first)
    assert both.unwrap("7", wrapped)
    assert both.wrap("7", new_data_key()).master_key_id != wrapped.master_key_id


def test_master_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = MasterKeys.generate(), MasterKeys.generate()
    monkeypatch.setenv("EVENTSTORE_MASTER_KEY", first)
    wrapped = MasterKeys.from_environment().wrap("7", new_data_key())
    monkeypatch.setenv("OTHER", f"{second}, {first}")

    rotated = MasterKeys.from_environment("OTHER")

    assert rotated.unwrap("7", wrapped)
    assert rotated.current_id != wrapped.master_key_id


@pytest.mark.parametrize("text", [None, "", " ", "no base64!", b64encode(b"short").decode(), ","])
def test_a_master_key_that_is_missing_or_none_is_told_at_start(
    monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.delenv("EVENTSTORE_MASTER_KEY", raising=False)
    if text is not None:
        monkeypatch.setenv("EVENTSTORE_MASTER_KEY", text)

    with pytest.raises(MasterKeyError, match="EVENTSTORE_MASTER_KEY") as missing:
        MasterKeys.from_environment()
    assert "short" not in str(missing.value)


def test_keys_show_nothing_of_themselves() -> None:
    secret = bytes(range(32))
    ring = KeyRing({"7": DataKey(secret)})
    shown = f"{MasterKeys(secret)!r} {DataKey(secret)!r} {ring!r} {ring.keys!r}"

    assert secret.hex() not in shown
    assert "\\x00\\x01" not in shown


def test_without_cryptography_everything_else_works_and_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["cryptography"] = None
import eventstore.personal
from eventstore import InMemoryEventStore
InMemoryEventStore().get_stream_info("s")
try:
    eventstore.personal.MasterKeys(bytes(32))
except ImportError as error:
    assert "eventstore[personal]" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
