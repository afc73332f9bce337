"""Given events, when they are projected, then these are the rows: tests of projections.

::

    def test_a_balance(session):
        (
            given_events(Deposited(5), Deposited(7), stream_id="ann")
            .and_events(Deposited(1), stream_id="bob")
            .project(Balances(), session)
            .then_rows(Balance, {"account": "ann", "amount": 12}, {"account": "bob", "amount": 1})
        )

The session is one on a real PostgreSQL, such as that of the fixture ``event_store``. Nothing is
appended, and no table need be there: the projection is folded into temporary ones, by
:func:`eventstore.projections.fold`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from sqlalchemy import inspect, select

from eventstore.events import AnyEnvelope, EventEnvelope
from eventstore.projections.live import fold
from eventstore.testing.fakes import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from sqlalchemy.orm import Session

    from eventstore.projections.definition import Projection

X = TypeVar("X", bound=BaseException)


def given_events(*events: Any, stream_id: str = "stream") -> GivenEvents:
    """Begin with events of a stream: payloads, or envelopes where a test is about what they say."""
    return GivenEvents(()).and_events(*events, stream_id=stream_id)


class GivenEvents:
    """Events as a store would record them, one after the other."""

    def __init__(self, events: Sequence[AnyEnvelope]) -> None:
        self._events = tuple(events)

    def and_events(self, *events: Any, stream_id: str = "stream") -> GivenEvents:
        """Add events of a stream."""
        recorded = list(self._events)
        for event in events:
            version = sum(known.stream_id == stream_id for known in recorded) + 1
            recorded.append(_recorded(event, stream_id, version, len(recorded) + 1))
        return GivenEvents(recorded)

    def project(self, projection: Projection, session: Session) -> ProjectedEvents:
        """Say what is made of them, and on which connection. Nothing runs before a ``then``."""
        return ProjectedEvents(self._events, projection, session)


class ProjectedEvents:
    """What a projection makes of the events."""

    def __init__(
        self, events: Sequence[AnyEnvelope], projection: Projection, session: Session
    ) -> None:
        self._events = events
        self._projection = projection
        self._session = session

    def then_rows(self, model: type[Any], *rows: dict[str, Any]) -> Self:
        """Assert that a table has exactly these rows, in the order of its primary key.

        A row is given by as many attributes of the model as the test is about, the same in each.
        """
        names = sorted({name for row in rows for name in row})
        key = inspect(model).primary_key
        with fold(self._projection, self._events, self._session) as view:
            found = view.scalars(select(model).order_by(*key)).all()
            assert [{name: getattr(row, name) for name in names} for row in found] == [  # noqa: S101
                *rows
            ]
        return self

    def then(self, expected: Callable[[Session], object]) -> Self:
        """Assert what ``expected`` finds with the session that it is given: it returns not False.

        So that it may also hold assertions of its own, and return nothing.
        """
        with fold(self._projection, self._events, self._session) as view:
            assert expected(view) is not False  # noqa: S101
        return self

    def then_raises(self, error: type[X], *, match: str | None = None) -> X:
        """Assert that a method refuses an event with such an error, and return it."""
        with (
            pytest.raises(error, match=match) as caught,
            fold(self._projection, self._events, self._session),
        ):
            pass
        return caught.value


def _recorded(event: Any, stream_id: str, version: int, position: int) -> AnyEnvelope:
    envelope: AnyEnvelope = (
        event
        if isinstance(event, EventEnvelope)
        else EventEnvelope(aggregate_type="Test", event_data=event, occurred_at=FakeClock()())
    )
    return envelope.model_copy(
        update={
            "stream_id": stream_id,
            "aggregate_id": envelope.aggregate_id or stream_id,
            "event_version": version,
            "sequence_number": position,
        }
    )
