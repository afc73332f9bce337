"""What can go wrong, told as problem details (RFC 9457), each with the status that fits.

The store's errors are facts with types of their own, so that each is mapped once, here, and no
endpoint catches anything.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from eventstore import (
    ConcurrencyConflict,
    ConnectionUnusable,
    StreamDeleted,
    StreamNotFound,
    TransactionConflict,
)
from examples.wordbook.refusal import Refusal
from examples.wordbook.web.preconditions import etag_of

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

    from eventstore import EventEnvelope


def install(app: FastAPI) -> None:
    """Answer errors of the domain, of the store and of FastAPI itself with problem details."""
    for error_class, answer in (
        (ConcurrencyConflict, late),
        (StreamNotFound, missing),
        (StreamDeleted, gone),
        (TransactionConflict, busy),
        (ConnectionUnusable, busy),
        (Refusal, refused),
        (HTTPException, other),
        (RequestValidationError, unreadable),
    ):
        app.add_exception_handler(error_class, answer)


def problem(
    status: int, detail: str, *, headers: dict[str, str] | None = None, **members: Any
) -> JSONResponse:
    """Make the answer; ``members`` are what a client's code can use."""
    return JSONResponse(
        {"title": HTTPStatus(status).phrase, "status": status, "detail": detail} | members,
        status,
        headers,
        media_type="application/problem+json",
    )


async def late(request: Request, error: Exception) -> JSONResponse:
    """Tell what the client has missed: it may decide again without asking for it."""
    assert isinstance(error, ConcurrencyConflict)
    if error.actual == 0:
        return problem(404, "there is no such thing")
    return problem(
        412 if "If-Match" in request.headers else 409,
        "somebody else has changed it meanwhile",
        headers={"ETag": etag_of(error.actual)},
        missed=None if error.missed is None else [shown(event) for event in error.missed],
    )


def shown(event: EventEnvelope[Any]) -> dict[str, Any]:
    """Return what a client may see of an event."""
    return {
        "version": event.event_version,
        "type": event.event_type,
        "occurred_at": event.occurred_at.isoformat(),
        "data": event.event_data.model_dump(mode="json"),
    }


async def missing(_request: Request, _error: Exception) -> JSONResponse:
    """Nothing has ever happened under this id."""
    return problem(404, "there is no such thing")


async def gone(_request: Request, error: Exception) -> JSONResponse:
    """It was there, and is closed for good."""
    assert isinstance(error, StreamDeleted)
    return problem(410, "it was deleted", deleted_at=error.deleted_at.isoformat())


async def busy(_request: Request, _error: Exception) -> JSONResponse:
    """PostgreSQL gave the transaction up, again and again."""
    return problem(503, "try again", headers={"Retry-After": "1"})


async def refused(_request: Request, error: Exception) -> JSONResponse:
    """The domain says no."""
    return problem(409, str(error))


async def other(_request: Request, error: Exception) -> JSONResponse:
    """No such path, a method that isn't there, a condition that is missing."""
    assert isinstance(error, HTTPException)
    headers = None if error.headers is None else dict(error.headers)
    return problem(error.status_code, error.detail, headers=headers)


async def unreadable(_request: Request, error: Exception) -> JSONResponse:
    """The request does not say what it should; where, and why, but not what it says."""
    assert isinstance(error, RequestValidationError)
    errors = [{"at": list(each["loc"]), "reason": each["msg"]} for each in error.errors()]
    return problem(422, "the request can't be read", errors=errors)
