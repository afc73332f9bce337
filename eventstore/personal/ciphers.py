"""The cryptography of personal data: a subject's data key, and the master keys that wrap it.

Values are sealed by AES-256-GCM (NIST SP 800-38D). Its 96-bit nonce is not drawn, but derived from
the value and its context by HMAC under a key of its own, as synthetic-IV encryption does (Rogaway
and Shrimpton, "Deterministic Authenticated Encryption", 2006; RFC 5297). So a value that is sealed
again gives the same ciphertext: a batch that is appended twice is recognised as the same, by the
database and without any key. Two values share a nonce as rarely as two drawn ones. What it costs is
that equal values of one subject in the same field of the same event type can be seen to be equal.

The ``cryptography`` package is optional, and imported when the first key is made.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from functools import cache
from typing import Any, Final, NamedTuple

from eventstore.errors import MasterKeyError

#: Bytes of an AES-256 key, data keys and master keys alike.
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
#: Where :meth:`MasterKeys.from_environment` looks.
MASTER_KEY_VARIABLE: Final = "EVENTSTORE_MASTER_KEY"


class UnopenableError(Exception):
    """A ciphertext was not made by this key in this context, or was changed since."""


class WrappedKey(NamedTuple):
    """A subject's data key, encrypted by a master key."""

    master_key_id: str  #: which one
    text: str  #: what that one has made of it, in the wrapper's own format


class DataKey:
    """The key of one subject. Its repr shows nothing of it."""

    __slots__ = ("_aead", "_nonces")

    def __init__(self, secret: bytes) -> None:
        self._aead = _aes_gcm(_derived(secret, b"seal"))
        self._nonces = _derived(secret, b"nonce")

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Return the nonce and the ciphertext; the same for the same value in the same context."""
        prefix = len(context).to_bytes(8, "big")
        nonce = hmac.digest(self._nonces, prefix + context + plaintext, "sha256")[:_NONCE_BYTES]
        sealed: bytes = self._aead.encrypt(nonce, plaintext, context)
        return nonce + sealed

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return the plaintext, or raise :class:`UnopenableError`."""
        return _decrypted(self._aead, sealed, context)


class MasterKeys:
    """Master keys in memory: the one that wraps, and older ones that can still unwrap.

    Each is 32 bytes, from a secret store of yours; :meth:`generate` makes one. To rotate, put a new
    one in front, run :func:`~eventstore.key_rotation.rotate_master_key`, and take the old one out.
    """

    def __init__(self, current: bytes, *older: bytes) -> None:
        for key in (current, *older):
            if type(key) is not bytes or len(key) != KEY_BYTES:
                raise ValueError(f"a master key must be {KEY_BYTES} bytes; make one by generate()")
        self._keys = {_name_of(key): _aes_gcm(key) for key in (current, *older)}
        self._current = _name_of(current)

    @classmethod
    def from_environment(cls, variable: str = MASTER_KEY_VARIABLE) -> MasterKeys:
        """Return the keys of an environment variable: base64, the current one first, by commas.

        :raises MasterKeyError: the variable is missing or empty, or holds something else.
        """
        texts = [text.strip() for text in os.environ.get(variable, "").split(",")]
        if texts == [""]:
            raise MasterKeyError(f"the environment variable {variable} has none")
        try:
            return cls(*(b64decode(text, validate=True) for text in texts))
        except ValueError:
            reason = f"the environment variable {variable} must hold {KEY_BYTES} bytes in base64"
            raise MasterKeyError(reason) from None

    @staticmethod
    def generate() -> str:
        """Return a new master key in base64, for :meth:`from_environment`."""
        return b64encode(os.urandom(KEY_BYTES)).decode()

    @property
    def current_id(self) -> str:
        """The name of the key that wraps: derived from it, so that it can't be given to another."""
        return self._current

    def wrap(self, subject_id: str, data_key: bytes) -> WrappedKey:
        """Return the data key, encrypted by the current master key."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, data_key, subject_id.encode())
        return WrappedKey(self._current, b64encode(nonce + sealed).decode())

    def unwrap(self, subject_id: str, wrapped: WrappedKey) -> bytes:
        """Return the data key.

        :raises MasterKeyError: the master key that wrapped it isn't here, or it was changed.
        """
        key = self._keys.get(wrapped.master_key_id)
        if key is None:
            reason = (
                f"the one named {wrapped.master_key_id!r} is needed to read, and is not among "
                f"those given: {', '.join(map(repr, self._keys))}"
            )
            raise MasterKeyError(reason)
        try:
            return _decrypted(key, b64decode(wrapped.text, validate=True), subject_id.encode())
        except (UnopenableError, ValueError):
            reason = (
                f"the data key that {wrapped.master_key_id!r} has wrapped for a subject was changed"
            )
            raise MasterKeyError(reason) from None


def new_data_key() -> bytes:
    """Return the secret of a new data key."""
    return os.urandom(KEY_BYTES)


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """Return a key for one purpose: a single block of HKDF-Expand (RFC 5869)."""
    return hmac.digest(secret, b"eventstore personal " + purpose + b"\x01", "sha256")


def _name_of(master_key: bytes) -> str:
    return _derived(master_key, b"name").hex()[:16]


def _decrypted(aead: Any, sealed: bytes, context: bytes) -> bytes:
    try:
        plaintext: bytes = aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except (_library()[1], ValueError):
        raise UnopenableError from None
    return plaintext


def _aes_gcm(key: bytes) -> Any:
    return _library()[0](key)


@cache
def _library() -> tuple[Any, type[Exception]]:
    """Return the cipher and the error of a wrong key."""
    try:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "personal data needs the package cryptography: "
            "pip install 'sqlalchemy-eventstore[personal]'"
        ) from error
    return AESGCM, InvalidTag
