"""Envelopes of events as they are stored: made quickly, and decoded no earlier than needed.

Decoding is what a read costs, not fetching. The payload is decoded once, by pydantic-core from the
text that the database sends. Metadata stays text until somebody looks at it, which most handlers
and folds never do. And a page's objects are made while the garbage collector pauses.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from eventstore.events import EventEnvelope, EventMetadata
from eventstore.payloads import SCHEMA_VERSION_MARK, decode_metadata, payload_type
from eventstore.personal.carriers import MARK, MARK_BYTES
from eventstore.personal.sealing import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventstore.boundaries import Query
    from eventstore.codec import PayloadCodec
    from eventstore.events import AnyEnvelope
    from eventstore.personal.sealing import KeyRing

# The four slots of a pydantic model. `model_construct` fills them too, and takes five times as
# long.
_set_dict: Final = BaseModel.__dict__["__dict__"].__set__
_set_fields_set: Final = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra: Final = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private: Final = BaseModel.__dict__["__pydantic_private__"].__set__
_get_private: Final = BaseModel.__dict__["__pydantic_private__"].__get__

# One set for all: an envelope is frozen, and a copy of one gets a copy.
_FIELDS: Final = set(EventEnvelope.model_fields)
_new: Final = object.__new__


def recorded(values: dict[str, Any]) -> AnyEnvelope:
    """Return the envelope of a stored event: a value for each field, all of them valid."""
    envelope: AnyEnvelope = _new(EventEnvelope)
    _set_dict(envelope, values)
    _set_fields_set(envelope, _FIELDS)
    _set_extra(envelope, None)
    _set_private(envelope, None)
    return envelope


@contextmanager
def collector_paused() -> Iterator[None]:
    """Leave the cyclic garbage collector out while the block makes many objects that all stay.

    Each few hundred of them set it off, and it finds nothing: half the time of reading a page
    (measured). It is one for the whole process, so the block must be short; where the program has
    switched it off, it stays off.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Decoder:
    """How a read makes payloads: as the registry says, all as one type, or left as JSON.

    ``as_type`` None leaves the type to ``codec``; any other reads an event as it is stored, and
    ``bytes`` gives its JSON. Raises TypeError for what pydantic can't read.
    """

    def __init__(self, as_type: Any, codec: PayloadCodec) -> None:
        self.codec = codec
        self.evolves = as_type is None  #: types are read as what they are today
        self._evolved = codec.evolved if self.evolves else frozenset()
        self._key_ring: KeyRing | None = None
        self._decode: Callable[[str, str | bytes], Any]
        #: Personal data is opened for types that know of it; others show what is stored.
        self.opens = bool(codec.personal)
        if as_type is None:
            self._decode = codec.decode
        elif as_type is bytes:
            self._decode, self.opens = _as_it_is, False
        else:
            wanted = payload_type(as_type)
            self._decode, self.opens = wanted.decode, self.opens and wanted.is_personal

    def is_sealed(self, event_type: str, encoded: str | bytes) -> bool:
        """Tell whether an event is to be opened before it is decoded."""
        mark: Any = MARK if isinstance(encoded, str) else MARK_BYTES
        return mark in encoded and event_type in self.codec.personal

    def with_keys(self, key_ring: KeyRing) -> Decoder:
        """Return a decoder that opens personal data by these keys."""
        opening = copy(self)
        opening._key_ring = key_ring  # noqa: SLF001 - a copy of our own
        return opening

    def today(
        self, event_type: str, encoded: str | bytes, metadata: str, wanted: frozenset[str]
    ) -> Sequence[tuple[str, Any, str]]:
        """Return type, payload and metadata of what a stored event says today.

        That is one event, several, or none; none of another type than those ``wanted``, if any
        are named.
        """
        if self._key_ring is not None and self.is_sealed(event_type, encoded):
            encoded = self._key_ring.open(Place("event", event_type), encoded)
        if event_type in self._evolved or (self.evolves and SCHEMA_VERSION_MARK in metadata):
            return self.codec.decode_recorded(event_type, encoded, metadata, wanted)
        return ((event_type, self._decode(event_type, encoded), metadata),)


def matching_today(events: list[AnyEnvelope], query: Query, decoder: Decoder) -> list[AnyEnvelope]:
    """Return those of ``events``, whose stored types match ``query``, whose types today match."""
    if not decoder.evolves:
        return events
    today = query.with_types(decoder.codec.current_types)
    return [event for event in events if today.matches(event.event_type, event.tags)]


def _as_it_is(_event_type: str, encoded: str | bytes) -> bytes:
    return encoded.encode() if isinstance(encoded, str) else encoded


def undecoded_metadata(event_type: str, encoded: str | bytes) -> EventMetadata:
    """Return the metadata that ``encoded`` says, which is decoded at the first look at it.

    That look raises :class:`~eventstore.SerializationError` if it can't be decoded.
    """
    metadata = _new(_UndecodedMetadata)
    _set_private(metadata, (event_type, encoded))
    return metadata


class _UndecodedMetadata(EventMetadata):
    """Metadata until the first look: whatever is asked of it makes it an ``EventMetadata``.

    Python, pydantic and pickle all ask for an attribute first, and find an ordinary instance.
    """

    def __getattribute__(self, name: str) -> Any:
        if type(self) is _UndecodedMetadata:
            _decode(self)
        return object.__getattribute__(self, name)


def _decode(metadata: EventMetadata) -> None:
    undecoded = _get_private(metadata)
    if undecoded is not None:  # else another thread is about to make it the real thing, or has
        decoded = decode_metadata(*undecoded)
        _set_dict(metadata, decoded.__dict__)
        _set_fields_set(metadata, decoded.__pydantic_fields_set__)
        _set_extra(metadata, decoded.__pydantic_extra__)
        _set_private(metadata, None)
    object.__setattr__(metadata, "__class__", EventMetadata)
