"""Login and logout. The gateway checks the password and the code and sets the session's cookie."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fks.web.client import GatewayRefusal
from fks.web.forms import form_of
from fks.web.site import Site


async def show(site: Site, request: Request) -> Response:
    """Return the form."""
    return _form(site, request, next_=request.query_params.get("next", ""), ended=request.query_params.get("ended"))


async def submit(site: Site, request: Request) -> Response:
    """Log the reader in and go to the page that was asked for; else show the form with the reason."""
    site.check_origin(request)
    form = await form_of(request)
    user, password, code = form.text("user"), form.fields.get("password", ""), form.text("totp")
    next_ = form.text("next")
    body: dict[str, Any] = {"user": user, "password": password, "session": "cookie"}
    if code:
        body["totp"] = code
    try:
        answer = await site.deps.gateway.change(site.caller(request), "POST", "/auth/login", body)
    except GatewayRefusal as refusal:
        return _form(site, request, next_=next_, user=user, refusal=refusal)
    root = request.scope.get("root_path", "")
    response = RedirectResponse(root + safe_path(next_), status_code=303)
    for cookie in answer.set_cookie:
        response.headers.append("set-cookie", cookie)
    return response


async def end(site: Site, request: Request) -> Response:
    """End the session and show the login."""
    site.check_origin(request)
    form = await form_of(request)
    caller = site.caller(request)
    root = request.scope.get("root_path", "")
    response = RedirectResponse(f"{root}/login", status_code=303)
    answer = await site.deps.gateway.change(caller, "POST", "/auth/logout", csrf=form.text("csrf"))
    for cookie in answer.set_cookie:
        response.headers.append("set-cookie", cookie)
    return response


def safe_path(text: str) -> str:
    """Return a path of this application to go on at: never another host's address."""
    is_own = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and "\\" not in text
    return text if is_own and not text.startswith("/log") else "/"


def _form(
    site: Site,
    request: Request,
    *,
    next_: str,
    user: str = "",
    ended: str | None = None,
    refusal: GatewayRefusal | None = None,
) -> Response:
    status = 200 if refusal is None else refusal.status
    is_code_wanted = refusal is not None and refusal.code == "TOTP_REQUIRED"
    answer = site.render(
        request,
        "login.html",
        status,
        next=next_,
        user=user,
        has_ended=bool(ended),
        refusal=refusal,
        is_code_wanted=is_code_wanted,
        layout="layout.html",
    )
    if refusal is not None and refusal.retry_after_s is not None:
        answer.headers["Retry-After"] = str(refusal.retry_after_s)
    return answer
