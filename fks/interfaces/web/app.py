"""`create_app`: the pages as an ASGI application, mounted below `/app` by Ray Serve beside the gateway; and the login.

Any replica answers any request: the gateway checks the password and the code and sets the session's cookie, and nothing
is kept between two requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fks.interfaces.web import outcomes
from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import form_of
from fks.interfaces.web.middleware import PageMiddleware
from fks.interfaces.web.page import WebPage
from fks.interfaces.web.registry import PAGES
from fks.interfaces.web.site import Site, SiteDeps
from fks.interfaces.web.views import diagrams


def create_app(
    deps: SiteDeps, pages: tuple[WebPage, ...] = PAGES, *, beside: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> Starlette:
    """Return the application with these pages. `beside` runs on its loop for as long as it serves."""
    site = Site(deps, pages)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = None if beside is None else asyncio.create_task(beside())
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await deps.gateway.close()

    routes = [
        Route("/static/{name}", site.static, methods=["GET"]),
        Route("/login", site.guarded(show_login), methods=["GET"]),
        Route("/login", site.guarded(log_in), methods=["POST"]),
        Route("/logout", site.guarded(log_out), methods=["POST"]),
        Route("/diagram/{name}", site.guarded(diagrams.frame), methods=["GET"]),
        Route("/outcome/{id}", site.guarded(outcomes.show), methods=["GET"]),
    ]
    for page in pages:
        routes.append(Route(page.path, site.page(page), methods=["GET"], name=page.name))
        for name, perform in page.actions.items():
            path = f"{page.path.rstrip('/')}/{name}"
            routes.append(Route(path, site.action(page, perform), methods=["POST"], name=f"{page.name}.{name}"))
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: site.unknown, 405: site.unknown})
    app.add_middleware(PageMiddleware, clock=deps.clock, log=deps.log, http=deps.http, failed=site.failed)
    return app


async def show_login(site: Site, request: Request) -> Response:
    """Return the form."""
    return _login_form(
        site, request, next_=request.query_params.get("next", ""), ended=request.query_params.get("ended")
    )


async def log_in(site: Site, request: Request) -> Response:
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
        return _login_form(site, request, next_=next_, user=user, refusal=refusal)
    root = request.scope.get("root_path", "")
    response = RedirectResponse(root + safe_path(next_), status_code=303)
    for cookie in answer.set_cookie:
        response.headers.append("set-cookie", cookie)
    return response


async def log_out(site: Site, request: Request) -> Response:
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


def _login_form(
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
