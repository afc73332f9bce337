"""When snapshots of an aggregate are taken, how they are written down, and when one can be used.

A snapshot saves reading, no more: whatever is wrong with it, the events are replayed. So its data
data says of which version of the state's model it is, ``{"model": 3, "state": ...}``. It is used
only if that is the present one, and if the state that it gives would be written down in the same
way again. Thus a field that was renamed, removed or added since is noticed even where validation
would let it pass with a default.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from pydantic import PydanticUserError
from pydantic_core import from_json, to_json

from eventstore.errors import SerializationError
from eventstore.payloads import PayloadType
from eventstore.snapshots import Snapshot
from eventstore.streams import check_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from eventstore.snapshots import AnySnapshot

A = TypeVar("A")

_log: Final = logging.getLogger("eventstore")


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotTail:
    """The events of an aggregate that no snapshot includes: what a policy decides by."""

    version: int  #: of the aggregate now
    snapshot_version: int  #: of its snapshot, 0 if there is none
    since: datetime | None  #: when the oldest of the events happened; None if there are none
    now: datetime
    new_events: Sequence[object]  #: the payloads that have just been appended


class SnapshotPolicy(Protocol):
    """Says when a snapshot is taken; asked after each append of new events."""

    def wants(self, tail: SnapshotTail) -> bool:
        """Tell whether a snapshot should be taken now."""


@dataclass(frozen=True, slots=True)
class EveryEvents:
    """A snapshot once ``count`` events are not included in one: no load reads many more."""

    count: int

    def __post_init__(self) -> None:
        if check_number("count", self.count) == 0:
            raise ValueError("count must be at least 1")

    def wants(self, tail: SnapshotTail) -> bool:
        """Tell whether a snapshot should be taken now."""
        return tail.version - tail.snapshot_version >= self.count


@dataclass(frozen=True, slots=True)
class EveryInterval:
    """A snapshot once the oldest event that none includes is as old as ``interval``."""

    interval: timedelta

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta):
            raise TypeError(f"interval must be a timedelta, not {self.interval!r}")
        if self.interval <= timedelta(0):
            raise ValueError(f"interval must be positive, not {self.interval!r}")

    def wants(self, tail: SnapshotTail) -> bool:
        """Tell whether a snapshot should be taken now."""
        return tail.since is not None and tail.now - tail.since >= self.interval


class OnEvents:
    """A snapshot after events of these payload classes, such as the end of a month."""

    def __init__(self, *event_classes: type) -> None:
        for event_class in event_classes:
            if not isinstance(event_class, type):
                raise TypeError(f"OnEvents() takes classes of events, not {event_class!r}")
        self.event_classes = event_classes

    def wants(self, tail: SnapshotTail) -> bool:
        """Tell whether a snapshot should be taken now."""
        return any(isinstance(event, self.event_classes) for event in tail.new_events)


class AnyPolicy:
    """A snapshot whenever one of several policies wants it."""

    def __init__(self, *policies: SnapshotPolicy) -> None:
        self.policies = policies

    def wants(self, tail: SnapshotTail) -> bool:
        """Tell whether a snapshot should be taken now."""
        return any(policy.wants(tail) for policy in self.policies)


class Snapshots:
    """How snapshots of one type of aggregate are taken. Make one a process, not one a request.

    ``state_type`` is anything that pydantic can write as JSON. An aggregate that is a dataclass is
    its own state, and needs none. Raise ``model_version`` when the state's meaning changes, that
    is, when the same events would be folded into something else than before; a change of its
    *shape* is noticed anyway. Either way the events are replayed, once an aggregate.
    """

    def __init__(
        self, policy: SnapshotPolicy, *, state_type: Any = None, model_version: int = 1
    ) -> None:
        self.policy = policy
        self.state_type = state_type
        self.model_version = check_number("model_version", model_version)
        self._warned_of: set[tuple[str, object]] = set()

    def writer_for(self, state_type: Any) -> StateWriter:
        """Return what writes and reads states of this type, unless another was given."""
        if self.state_type is None and state_type is None:
            raise TypeError("Snapshots() of a decider's states needs their type: state_type=...")
        return StateWriter(self, state_type if self.state_type is None else self.state_type)

    def warn_once(self, aggregate_type: str, model: object, reason: str) -> None:
        """Log that snapshots of a model can't be used: once, however many there are."""
        if (aggregate_type, model) not in self._warned_of:
            self._warned_of.add((aggregate_type, model))
            _log.warning(
                "snapshots of %r are passed over, and the events replayed: %s",
                aggregate_type,
                reason,
                extra={"aggregate_type": aggregate_type, "model": model},
            )


class StateWriter:
    """States of an aggregate as snapshots, and back."""

    def __init__(self, snapshots: Snapshots, state_type: Any) -> None:
        self._snapshots = snapshots
        self._states = PayloadType(state_type)
        with suppress(PydanticUserError):  # it may refer to a class that is defined later
            self._states.check_personal()

    def wants(self, tail: SnapshotTail) -> bool:
        """Tell whether a snapshot should be taken now."""
        return self._snapshots.policy.wants(tail)

    def snapshot_of(
        self, state: object, *, stream_id: str, aggregate_type: str, version: int, now: datetime
    ) -> AnySnapshot | None:
        """Return the snapshot of a state; None, with a warning, if it can't be written as JSON."""
        model = self._snapshots.model_version
        try:
            encoded = self._states.encode(aggregate_type, state)
        except SerializationError as error:
            self._snapshots.warn_once(aggregate_type, "now", f"{error.path} {error.reason}")
            return None
        return Snapshot(
            aggregate_id=stream_id,
            aggregate_type=aggregate_type,
            version=version,
            data={"model": model, "state": from_json(encoded)},
            created_at=now,
        )

    def restore(self, snapshot: AnySnapshot, begin: Callable[[Any], A]) -> A | None:
        """Return what ``begin`` makes of the state; None, with a warning, if it can't be used."""
        try:
            state = self._read(snapshot)
        except _UnusableError as unusable:
            self._snapshots.warn_once(snapshot.aggregate_type, unusable.model, unusable.reason)
            return None
        return begin(state)

    def _read(self, snapshot: AnySnapshot) -> Any:
        data, present = snapshot.data, self._snapshots.model_version
        model = data.get("model") if isinstance(data, dict) else None
        if type(model) is not int or data.keys() != {"model", "state"}:
            raise _UnusableError(None, "they don't say of which model they are")
        if model != present:
            raise _UnusableError(model, f"they are of model {model}, the present is {present}")
        try:
            state = self._states.decode(snapshot.aggregate_type, to_json(data["state"]))
            again = self._states.encode(snapshot.aggregate_type, state)
        except SerializationError as error:
            raise _UnusableError(model, f"{error.path} {error.reason}") from None
        except Exception as error:  # noqa: BLE001 - whatever the state's own code raises
            raise _UnusableError(model, f"{type(error).__name__} was raised") from None
        if from_json(again) != data["state"]:
            raise _UnusableError(model, "the state's fields have changed since")
        return state


class _UnusableError(Exception):
    def __init__(self, model: int | None, reason: str) -> None:
        self.model = model
        self.reason = reason
