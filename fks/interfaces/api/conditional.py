"""Conditional reads of history: ETag, If-None-Match and 304 (RFC 9110, sections 8.8 and 13).

The tag is strong: a hash of the bytes of the body. An answer may be stored by the caller alone and is asked for again
each time (`private, no-cache`), so a revoked token, or a bar that was corrected, is noticed at once; unchanged bytes
are not sent again.
"""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

_CACHED = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization, Cookie, X-API-Key"}


def conditional(request: Request, answer: Response) -> Response:
    """Return `answer` with its tag, or 304 without a body when the caller has it already."""
    tag = etag_of(bytes(answer.body))
    headers = {**_CACHED, "ETag": tag}
    if is_known(request.headers.getlist("if-none-match"), tag):
        link = {name: answer.headers[name] for name in ("link",) if name in answer.headers}
        return Response(status_code=304, headers=headers | link)
    answer.headers.update(headers)
    return answer


def etag_of(body: bytes) -> str:
    """Return the strong tag of a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def is_known(values: list[str], tag: str) -> bool:
    """Return whether an If-None-Match header names the tag. The comparison is the weak one: `W/` does not count."""
    names = {name.strip().removeprefix("W/") for value in values for name in value.split(",")}
    return "*" in names or tag in names
