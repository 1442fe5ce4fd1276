"""Fields of a form that a browser sent (application/x-www-form-urlencoded)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request

from fks.interfaces.web.client import GatewayRefusal

BODY_MAX, FIELDS_MAX = 64 * 1024, 200


@dataclass(frozen=True, slots=True)
class Form:
    """The fields; of one that was sent twice, the last."""

    fields: dict[str, str]

    def text(self, name: str) -> str:
        """Return a field without the white space around it; "" when it is missing."""
        return self.fields.get(name, "").strip()

    def needed(self, name: str, label: str = "") -> str:
        """Return a field that has to be filled in. Errors: GatewayRefusal 422."""
        found = self.text(name)
        if not found:
            raise GatewayRefusal(
                422, "FIELD_MISSING", f"{label or name} is missing", "fill it in and send the form again"
            )
        return found

    def whole(self, name: str, what: str, remedy: str) -> int:
        """Return a field that is a whole number of at most 10^9. Errors: GatewayRefusal 422 FIELD_WRONG."""
        text = self.text(name)
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) > 10**9:
            raise GatewayRefusal(422, "FIELD_WRONG", f"{text[:40]!r} is no {what}", remedy)
        return int(text)

    def is_ticked(self, name: str) -> bool:
        """Return whether a checkbox was ticked."""
        return bool(self.text(name))


async def form_of(request: Request) -> Form:
    """Return the form of a request. Errors: GatewayRefusal 413, 415, 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise GatewayRefusal(415, "FORM_TYPE", "the request is no form", "send application/x-www-form-urlencoded")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX:
            raise GatewayRefusal(413, "BODY_TOO_LARGE", "the form is longer than 64 KiB", "send less")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=False, max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise GatewayRefusal(422, "FORM_INVALID", "the form cannot be read", "send it again") from error
    return Form(dict(pairs))
