"""Error responses: one RFC 9457 document with the event, the stable code, and the remedy; OpenAI's form below `/v1`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fks.interfaces.api.aliases import PREFIX, route_path
from fks.interfaces.api.exact import dump
from fks.model.errors import FksError, InputError, OutageError, Problem, StaleEpochError

MEDIA_TYPE = "application/problem+json"


class AnsweredBefore(FksError):
    """The answer to a request is known already: the one of an earlier call."""

    def __init__(self, response: Response) -> None:
        super().__init__("answered before")
        self.response = response


def document(status: int, code: str, detail: str, *, remedy: str = "", **members: object) -> dict[str, Any]:
    """Return the members of a problem. `type` is a URN of the code: docs/api.md lists them."""
    found: dict[str, Any] = {
        "type": f"urn:fks:problem:{code.lower().replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if remedy:
        found["remedy"] = remedy
    return found | members


def answer(problem: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Return a problem as a response; in OpenAI's form where its clients read it."""
    if is_openai(problem.get("instance", "")):
        status = 400 if problem["status"] == 422 else problem["status"]
        return Response(dump(openai_error(problem)), status, headers, "application/json")
    return Response(dump(problem), status_code=problem["status"], media_type=MEDIA_TYPE, headers=headers)


def is_openai(path: str) -> bool:
    """Return whether a path is one of OpenAI's interface, whose errors have OpenAI's form."""
    return path.removeprefix(PREFIX).startswith("/v1/")


def openai_error(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem in the form of OpenAI's API."""
    status, code = problem["status"], problem["code"]
    message = "; ".join(text for text in (problem["detail"], problem.get("remedy")) if text)
    first: Mapping[str, str] = next(iter(problem.get("errors", ())), {})
    return {
        "error": {
            "message": message,
            "type": _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": problem.get("param", first.get("where")),
            "code": _OPENAI_CODES.get(status) or (None if code == "INVALID" else code.lower()),
        }
    }


_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def of_error(error: Exception, path: str) -> Response:
    """Return the response to an error; an unexpected exception becomes a bare 500."""
    if isinstance(error, AnsweredBefore):
        return error.response
    headers = error.headers if isinstance(error, Problem) else None
    if isinstance(error, OutageError | StaleEpochError):
        headers = {"Retry-After": "1"}
    return answer(problem_of(error, path), headers)


def problem_of(error: Exception, path: str) -> dict[str, Any]:
    """Return the members of the problem that an error is reported as."""
    if isinstance(error, Problem):
        return document(error.status, error.code, error.message, remedy=error.remedy, instance=path, **error.members)
    if isinstance(error, InputError):
        return document(error.status, error.code, error.message, remedy=error.remedy, instance=path)
    if isinstance(error, OutageError | StaleEpochError):
        remedy = error.remedy or "try again in a moment, with the same Idempotency-Key"
        return document(503, "UNAVAILABLE", error.message, remedy=remedy, instance=path)
    if isinstance(error, FksError):
        return document(500, "FAILED", error.message, remedy=error.remedy, instance=path)
    return document(
        500,
        "INTERNAL",
        "the gateway failed",
        remedy="find the X-Request-ID of this answer in 'fks logs gateway'",
        instance=path,
    )


def count_refusal(gateway: Any, error: Exception) -> None:
    """Count a refused caller by the code of its problem: the codes are those of the source, so they are few."""
    if gateway is not None and isinstance(error, Problem) and error.status in (401, 403, 421, 429):
        gateway.meter.count("fks_auth_failures_total", code=error.code)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""

    async def on_fks(request: Request, error: Exception) -> Response:
        count_refusal(getattr(app.state, "gateway", None), error)
        return of_error(error, request.url.path)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, remedy = _HTTP.get(error.status_code, ("HTTP_" + str(error.status_code), ""))
        detail = (
            f"{request.method} {request.url.path}: {error.detail}".lower()
            if not remedy
            else (f"there is no {request.method} {request.url.path}")
        )
        headers = dict(error.headers) if error.headers else {}
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(app, route_path(request.scope)))
        return answer(document(error.status_code, code, detail, remedy=remedy, instance=request.url.path), headers)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(invalid(error.errors(), request.url.path))

    app.add_exception_handler(FksError, on_fks)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def _allowed(app: FastAPI, path: str) -> list[str]:
    """Return every method that `path` has: the router itself knows only those of the first route that matched."""
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        pattern = getattr(route, "path_regex", None)
        if pattern is not None and route.methods and pattern.match(path):
            found |= route.methods
    return sorted(found | {"HEAD"} if "GET" in found else found)


_HTTP = {
    404: ("NOT_FOUND", "see /docs for what there is"),
    405: ("METHOD_NOT_ALLOWED", "see the Allow header and /docs"),
}


def invalid(errors: Any, path: str) -> dict[str, Any]:
    """Return the 422 of invalid input: the first error as a sentence, all of them by place."""
    listed = [
        {"where": _place(error["loc"]), "why": error["msg"].removeprefix("Value error, ").lower()} for error in errors
    ]
    first = listed[0] if listed else {"where": "input", "why": "does not fit"}
    return document(
        422,
        "INVALID",
        f"{first['where']}: {first['why']}",
        remedy="see /docs for the form",
        instance=path,
        errors=listed,
    )


def of_model(error: ValidationError, path: str) -> Problem:
    """Return a pydantic error about a body as a Problem."""
    body = invalid([{**e, "loc": ("body", *e["loc"])} for e in error.errors(include_url=False)], path)
    return Problem(422, "INVALID", body["detail"], remedy=body["remedy"], errors=body["errors"])


def _place(loc: tuple[str | int, ...]) -> str:
    parts = [str(part) for part in loc if part not in ("body", "query", "path")]
    return ".".join(parts) or str(loc[0] if loc else "input")
