"""Whose fault an error is."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from eventstore import ConcurrencyConflict, TransactionConflict
from eventstore.errors import ConnectionUnusable
from eventstore.subscriptions.failures import (
    describe,
    is_idle_too_long,
    is_left_broken,
    is_outage,
    is_outage_of_commit,
)


class DriverError(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("secret")
        self.sqlstate = sqlstate


def operational(
    sqlstate: str | None, *, statement: str | None = "SELECT 1", invalidated: bool = False
) -> OperationalError:
    return OperationalError(
        statement, {}, DriverError(sqlstate), connection_invalidated=invalidated
    )


@pytest.mark.parametrize(
    "error",
    [
        operational("08006"),
        operational("08001"),
        operational("53300"),
        operational("57P01"),
        operational("57P02"),
        operational("57P03"),
        operational("25006"),
        operational("40P01"),
        operational(None, statement=None),  # while connecting
        operational(None, invalidated=True),
        ConnectionUnusable("57P01"),
        TransactionConflict("40001"),
        PoolTimeoutError("QueuePool limit"),
    ],
)
def test_an_outage_is_no_events_fault_however_it_is_wrapped(error: Exception) -> None:
    assert is_outage(error)
    for wrapped in (wrap(error, explicit=True), wrap(error, explicit=False)):
        assert is_outage(wrapped)


def wrap(error: Exception, *, explicit: bool) -> Exception:
    """What a handler makes of it: ``raise ... from error``, or while it handles the error."""
    wrapped = ValueError("no")
    if explicit:
        wrapped.__cause__ = error
    else:
        wrapped.__context__ = error
    return wrapped


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ConnectionRefusedError(),  # somebody else's server: its client's errors are unknown to us
        operational(None),  # the driver can't send it, or it isn't PostgreSQL's
        operational("57014"),  # a statement's time was over
        IntegrityError("INSERT", {}, DriverError("23505")),
        ConcurrencyConflict(1, 2, "s"),
    ],
)
def test_other_errors_are_the_events(error: Exception) -> None:
    assert not is_outage(error)


def test_a_transaction_that_waited_for_its_handler_is_the_events_fault() -> None:
    error = operational("25P03", invalidated=True)
    known = ConnectionUnusable("25P03")
    known.__cause__ = error
    for each in (error, known):
        assert is_idle_too_long(each)
        assert not is_outage(each)


@pytest.mark.parametrize(
    ("error", "is_ours"),
    [
        (operational("57P01", statement=None), True),
        (operational(None, statement=None, invalidated=True), True),
        (ConnectionUnusable("57P01"), True),
        (TransactionConflict("40001"), True),
        (operational(None, statement=None), False),  # another database's part of the commit
        (operational("25P03", invalidated=True), False),
        (IntegrityError("COMMIT", {}, DriverError("23503")), False),
    ],
)
def test_nobody_connects_in_a_commit(error: Exception, *, is_ours: bool) -> None:
    assert is_outage_of_commit(error) is is_ours


@pytest.mark.parametrize(
    ("error", "is_left"),
    [(operational("25P02"), True), (PendingRollbackError(), True), (operational("55P03"), False)],
)
def test_a_transaction_that_was_left_broken(error: Any, *, is_left: bool) -> None:
    assert is_left_broken(error) is is_left


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert not is_outage(one)


def test_what_the_server_says_is_not_told() -> None:
    assert describe(operational("57P01")) == "sqlalchemy.exc.OperationalError: SQLSTATE 57P01"
    assert describe(operational(None)) == "sqlalchemy.exc.OperationalError"
