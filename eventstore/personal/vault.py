"""Where keys are fetched and made: one look-up for all subjects of a page, or of an append."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from eventstore.errors import SerializationError, SubjectErased
from eventstore.personal.carriers import MARK_BYTES, OPENED, SEALED, subjects_in
from eventstore.personal.ciphers import DataKey, new_data_key
from eventstore.personal.keys import store_of
from eventstore.personal.sealing import KeyRing, Place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from eventstore.batches import EncodedEvent
    from eventstore.personal.keys import KeyStore, StoredKey, SubjectKeys
    from eventstore.recorded import Decoder

#: Waits for what an asynchronous key store or wrapper has returned.
Wait: TypeAlias = Callable[[Awaitable[Any]], Any]


class Vault:
    """Seals what is to be stored and opens what was read, with keys that it asks for each time.

    ``store`` is the event store's own key store, for those who have no other.
    """

    def __init__(self, keys: SubjectKeys, store: KeyStore, wait: Wait) -> None:
        self._wrapper = keys.wrapper
        self._store = store_of(keys, store)
        self._wait = wait

    def sealed(
        self, events: Sequence[EncodedEvent]
    ) -> tuple[tuple[EncodedEvent, ...], SubjectErased | None]:
        """Return events as they can be stored, and what forbids to store some of them.

        Those stay without a payload; they can still be recognised if they were stored before.
        """
        subjects: set[str] = set()
        for event in events:
            if event.unsealed is not None:
                subjects |= subjects_in(event.unsealed, OPENED)
        ring = self._ring_for_writing(subjects)
        refusal: SubjectErased | None = None
        sealed = []
        for event in events:
            try:
                sealed.append(_sealed(event, ring))
            except SubjectErased as error:
                refusal = refusal or error
                sealed.append(event)
        return tuple(sealed), refusal

    def opening(self, decoder: Decoder, payloads: Iterable[tuple[str, str | bytes]]) -> Decoder:
        """Return a decoder with the keys for these payloads, each with its type.

        It is the same one, and no key was asked for, if nothing in them is personal.
        """
        subjects: set[str] = set()
        for event_type, encoded in payloads:
            if decoder.is_sealed(event_type, encoded):
                subjects |= subjects_in(encoded, SEALED)
        return decoder.with_keys(self._ring_for_reading(subjects)) if subjects else decoder

    def seal_snapshot(self, aggregate_type: str, encoded: bytes) -> bytes:
        """Return a snapshot's data as it can be stored."""
        subjects = subjects_in(encoded, OPENED)
        if not subjects:
            return encoded
        return self._ring_for_writing(subjects).seal(Place("snapshot", aggregate_type), encoded)

    def open_snapshot(self, aggregate_type: str, encoded: bytes) -> bytes:
        """Return a stored snapshot's data; what can't be opened stays as it is.

        Whoever restores the state passes such a snapshot over, as any other that is unreadable.
        """
        subjects = subjects_in(encoded, SEALED) if MARK_BYTES in encoded else ()
        if not subjects:
            return encoded
        ring = self._ring_for_reading(subjects)
        try:
            return ring.open(Place("snapshot", aggregate_type), encoded)
        except SerializationError:
            return encoded

    def _ring_for_reading(self, subject_ids: Collection[str]) -> KeyRing:
        return self._unwrapped(self._read(subject_ids))

    def _ring_for_writing(self, subject_ids: Collection[str]) -> KeyRing:
        """Return the keys of all the subjects; those that have none get one.

        Where two writers make the key of a subject at once, both get that of the first.
        """
        if not subject_ids:
            return KeyRing({})
        kept = self._read(subject_ids)
        missing = sorted(set(subject_ids) - kept.keys())
        if missing:
            wrap = self._wrapper.wrap
            new = {each: self._awaited(wrap(each, new_data_key())) for each in missing}
            self._awaited(self._store.add(new))
            kept = {**kept, **self._read(missing)}
        return self._unwrapped(kept)

    def _read(self, subject_ids: Collection[str]) -> Mapping[str, StoredKey]:
        kept: Mapping[str, StoredKey] = self._awaited(self._store.read(subject_ids))
        return kept

    def _unwrapped(self, kept: Mapping[str, StoredKey]) -> KeyRing:
        unwrap = self._wrapper.unwrap
        return KeyRing(
            {
                each: None if wrapped is None else DataKey(self._awaited(unwrap(each, wrapped)))
                for each, wrapped in kept.items()
            }
        )

    def _awaited(self, result: Any) -> Any:
        return self._wait(result) if isinstance(result, Awaitable) else result


def _sealed(event: EncodedEvent, ring: KeyRing) -> EncodedEvent:
    if event.unsealed is None:
        return event
    data = ring.seal(Place("event", event.event_type), event.unsealed)
    return event._replace(event_data=data, unsealed=None)


def refuse_to_wait(result: Awaitable[Any]) -> Any:
    """Raise TypeError: a store that can't wait has been given what is asynchronous."""
    if iscoroutine(result):
        result.close()
    raise TypeError(
        "the key store or key wrapper is asynchronous; give one that isn't, or use the store on an "
        "AsyncSession"
    )
