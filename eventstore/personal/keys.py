"""Who keeps the subjects' keys, and who wraps them: what a key store and a KMS have to do.

A data key is made with the first value of its subject. It is kept wrapped, and unwrapped for one
page of events or one append: nothing keeps it longer, so that what is read after ``forget`` is
erased, in every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from eventstore.personal.ciphers import WrappedKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: A subject's key; None if it was forgotten.
StoredKey: TypeAlias = WrappedKey | None


@runtime_checkable
class KeyWrapper(Protocol):
    """Wraps data keys by a master key that never leaves it: :class:`MasterKeys`, or a KMS."""

    @property
    def current_id(self) -> str:
        """The name of the master key that wraps now; keys of another name can be rotated."""

    def wrap(self, subject_id: str, data_key: bytes) -> WrappedKey:
        """Return ``data_key`` encrypted, bound to the subject."""

    def unwrap(self, subject_id: str, wrapped: WrappedKey) -> bytes:
        """Return the data key; raise :class:`~eventstore.MasterKeyError` if it can't."""


class AsyncKeyWrapper(Protocol):
    """The twin of :class:`KeyWrapper` for stores on an ``AsyncSession``."""

    @property
    def current_id(self) -> str:
        """The name of the master key that wraps now; keys of another name can be rotated."""

    async def wrap(self, subject_id: str, data_key: bytes) -> WrappedKey:
        """Return ``data_key`` encrypted, bound to the subject."""

    async def unwrap(self, subject_id: str, wrapped: WrappedKey) -> bytes:
        """Return the data key; raise :class:`~eventstore.MasterKeyError` if it can't."""


@runtime_checkable
class KeyStore(Protocol):
    """Keeps the wrapped keys: the table beside the events, or a place that no backup has."""

    def read(self, subject_ids: Collection[str]) -> Mapping[str, StoredKey]:
        """Return the keys of those subjects that are known; None for one that is forgotten."""

    def add(self, keys: Mapping[str, WrappedKey]) -> None:
        """Keep new keys; a subject that is known, or forgotten, keeps what it has."""

    def forget(self, subject_id: str) -> None:
        """Destroy the subject's key for ever, also that of one without any."""


class AsyncKeyStore(Protocol):
    """The twin of :class:`KeyStore` for stores on an ``AsyncSession``."""

    async def read(self, subject_ids: Collection[str]) -> Mapping[str, StoredKey]:
        """Return the keys of those subjects that are known; None for one that is forgotten."""

    async def add(self, keys: Mapping[str, WrappedKey]) -> None:
        """Keep new keys; a subject that is known, or forgotten, keeps what it has."""

    async def forget(self, subject_id: str) -> None:
        """Destroy the subject's key for ever, also that of one without any."""


class InMemoryKeyStore:
    """A :class:`KeyStore` that ends with the process, for tests. Thread-safe."""

    def __init__(self) -> None:
        self._keys: dict[str, StoredKey] = {}
        self._lock = Lock()

    def read(self, subject_ids: Collection[str]) -> Mapping[str, StoredKey]:
        """Return the keys of those subjects that are known; None for one that is forgotten."""
        with self._lock:
            return {each: self._keys[each] for each in subject_ids if each in self._keys}

    def add(self, keys: Mapping[str, WrappedKey]) -> None:
        """Keep new keys; a subject that is known, or forgotten, keeps what it has."""
        with self._lock:
            self._keys = {**keys, **self._keys}

    def forget(self, subject_id: str) -> None:
        """Destroy the subject's key for ever, also that of one without any."""
        with self._lock:
            self._keys[subject_id] = None


@dataclass(frozen=True, slots=True)
class SubjectKeys:
    """What a registry has been given to seal and open with."""

    wrapper: KeyWrapper | AsyncKeyWrapper
    store: KeyStore | AsyncKeyStore | None  #: None: the one that belongs to the event store


def store_of(keys: SubjectKeys | None, own: KeyStore) -> KeyStore | AsyncKeyStore:
    """Return where keys are kept: elsewhere, or in the event store's ``own`` place."""
    return own if keys is None or keys.store is None else keys.store


def check_keys(wrapper: Any, store: Any) -> SubjectKeys:
    """Return both, or raise TypeError for what has not the methods, awaited or not."""
    if not isinstance(wrapper, KeyWrapper):
        raise TypeError(
            f"keys must have current_id, wrap and unwrap, as MasterKeys has; not {type(wrapper)}"
        )
    if store is not None and not isinstance(store, KeyStore):
        raise TypeError(f"store must have read, add and forget; not {type(store)}")
    return SubjectKeys(wrapper, store)
