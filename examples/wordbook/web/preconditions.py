"""ETags are versions, and conditions are expected versions (RFC 9110, sections 8.8.3 and 13.1)."""

# Without "from __future__ import annotations": FastAPI reads the annotations as it runs.
import re
from typing import Annotated, Final

from fastapi import Depends, Header, HTTPException

from eventstore import STREAM_EXISTS, ExpectedVersion

_ETAG: Final = re.compile(r'"([1-9][0-9]{0,17})"')


def etag_of(version: int) -> str:
    """Return the ETag of what is at this version."""
    return f'"{version}"'


def version_of(if_match: Annotated[str | None, Header()] = None) -> ExpectedVersion:
    """Return the version that the client wants to change: it has to say which one it has seen."""
    if if_match is None:
        raise HTTPException(428, "say by If-Match which version you have seen, or * for any")
    if if_match == "*":
        return STREAM_EXISTS
    if (version := _ETAG.fullmatch(if_match)) is None:
        raise HTTPException(412, "If-Match takes one ETag that was given here, or *")
    return int(version[1])


SeenVersion = Annotated[ExpectedVersion, Depends(version_of)]

#: Names the request: sent again under the same key, it is answered as the first time.
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)
]
