"""Personal data that can be erased: fields encrypted by a key of their subject's own.

``forget`` destroys the key; the events stay, and what was personal in them reads as
:class:`Erased`. See ``docs/how-to/personal-data.md``.
"""

from __future__ import annotations

from eventstore.personal.ciphers import MASTER_KEY_VARIABLE, MasterKeys, WrappedKey
from eventstore.personal.erasure import ERASURES_STREAM, SUBJECT_FORGOTTEN, SubjectForgotten
from eventstore.personal.fields import Erased, Personal, personal
from eventstore.personal.keys import (
    AsyncKeyStore,
    AsyncKeyWrapper,
    InMemoryKeyStore,
    KeyStore,
    KeyWrapper,
)

__all__ = [
    "ERASURES_STREAM",
    "MASTER_KEY_VARIABLE",
    "SUBJECT_FORGOTTEN",
    "AsyncKeyStore",
    "AsyncKeyWrapper",
    "Erased",
    "InMemoryKeyStore",
    "KeyStore",
    "KeyWrapper",
    "MasterKeys",
    "Personal",
    "SubjectForgotten",
    "WrappedKey",
    "personal",
]
