"""Shared parts of routes: typed access to the gateway, checked query values, exact bodies, and pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError
from starlette.requests import HTTPConnection, Request

from fks.interfaces.api.auth import require
from fks.interfaces.api.exact import BODY_MAX
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.problems import of_model
from fks.interfaces.api.routing import BODY
from fks.model.errors import Problem, unprocessable
from fks.model.untrusted import parse, whole_of
from fks.store.tokens import Principal

M = TypeVar("M", bound=BaseModel)


async def gateway_of(connection: HTTPConnection) -> Replica:
    """Return the replica that serves this connection. A coroutine: FastAPI would call a plain function on a thread."""
    gateway: Replica = connection.app.state.gateway
    return gateway


Gate = Annotated[Replica, Depends(gateway_of)]
Reader = Annotated[Principal, require("read")]
Signaller = Annotated[Principal, require("signal")]
Approver = Annotated[Principal, require("approve")]
Trader = Annotated[Principal, require("trade")]
Admin = Annotated[Principal, require("admin")]
Limit = Annotated[int, Query(ge=1, le=1000, description="most rows to return")]
Before = Annotated[int | None, Query(description="the `next` of the page before", ge=0, lt=2**63)]
Symbol = Annotated[str | None, Query(description="BTCUSDT, BTC/USDT or BTC-USDT", max_length=64)]
Exchange = Annotated[str | None, Query(description="which one, when several have the symbol", max_length=64)]
Name = Annotated[str | None, Query(max_length=128)]


class Body(BaseModel):
    """A request body: a key it does not know is refused, so that a typo is never a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def body_of(model: type[M], *, is_optional: bool = False) -> Callable[[Request], Any]:
    """Return the dependency that reads a body as `model`, numbers exact. Errors: Problem 400, 413 or 422.

    `is_optional`: an empty body is that of `model` with its defaults.
    """

    async def read(request: Request) -> M:
        raw = await read_body(request)
        found = {} if is_optional and not raw else parse(raw)
        request.state.body = found  # the audit keeps it, without its secrets
        try:
            return model.model_validate(found)
        except ValidationError as error:
            raise of_model(error, request.url.path) from None

    setattr(read, BODY, model)
    return read


if TYPE_CHECKING:
    BodyOf = Annotated[M, "the body"]
else:

    class BodyOf:
        """`BodyOf[PortfolioBody]`: the type of a route's body, which `body_of` reads and OpenAPI describes."""

        def __class_getitem__(cls, model: type[BaseModel]) -> Any:
            return Annotated[model, Depends(body_of(model))]


_VERSION_DIGITS = 9  # PostgreSQL's integers hold them


def version_of(body: int | None, if_match: str | None, code: str) -> int:
    """Return the version that a change was made of, from the body or an If-Match header, whichever is given. Errors:
    Problem 422 `code`."""
    text = None if if_match is None else if_match.strip().removeprefix("W/").strip('"')
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= _VERSION_DIGITS):
        raise Problem(422, code, "If-Match is no version", remedy="send the ETag of the GET")
    if (body is None) == (text is None):
        raise Problem(
            422,
            code,
            "the version that was read is missing, or given twice",
            remedy="send it as version in the body or as If-Match; 0 for the first targets",
        )
    return whole_of(text) if body is None else body


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body as an object, numbers exact, for packages that check their own input. Errors: Problem,
    InputError."""
    found = parse(await read_body(request))
    request.state.body = found
    if not isinstance(found, dict):
        raise unprocessable("INVALID", "body: is not a JSON object", "see /docs for the form")
    return found


JsonObject = Annotated[dict[str, Any], Depends(json_object)]


async def read_body(request: Request, most: int = BODY_MAX) -> bytes:
    """Return the body. Errors: Problem 413 past `most` bytes, 408 past `http.body_timeout_s`: neither reads on."""
    parts: list[bytes] = []
    size = 0
    wait_s = (await gateway_of(request)).deps.settings.http.body_timeout_s
    try:
        async with asyncio.timeout(wait_s):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise Problem(413, "BODY_TOO_LARGE", f"the body is longer than {most} bytes", remedy="send less")
                parts.append(part)
    except TimeoutError:
        raise Problem(
            408,
            "BODY_SLOW",
            f"the body did not arrive within {wait_s:g} s",
            remedy="send it in one go",
            headers={"Connection": "close"},
        ) from None
    return b"".join(parts)


def moment(text: str | None, name: str) -> datetime | None:
    """Return a query's ISO 8601 time; one without a zone is UTC. Errors: InputError naming the parameter."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+") if text.count(" ") == 1 and "T" in text else text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise unprocessable(
            "TIME_INVALID", f"{name}={text!r} is no time", "use ISO 8601: 2026-05-01T00:00:00Z"
        ) from None


def page(rows: Iterable[Any], limit: int | None = None, key: str = "seq") -> dict[str, Any]:
    """Return rows as `{"items", "next"}`; `next` goes into `before` for the following page, null on the last."""
    items = [dict(row) for row in rows]
    return {"items": items, "next": items[-1][key] if limit and len(items) == limit else None}


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is no time in UTC") from None


Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
