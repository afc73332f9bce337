"""A request is a conversation: whatever it sets off carries the request's correlation id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from eventstore import causation

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = "X-Correlation-Id"
_MAX_LENGTH: Final = 200


class CorrelationMiddleware:
    """Takes the id of the request's header, or begins a conversation; the reply names it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request within its conversation."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")[:_MAX_LENGTH]
        with causation(correlation_id=given or None, source_service="wordbook") as metadata:

            async def send_with_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message)[HEADER] = str(metadata.correlation_id)
                await send(message)

            await self._app(scope, receive, send_with_id)
