"""Serving of pages and their actions: sessions, refusals, and the values that every template has."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from fks.clock import Clock
from fks.config.settings import Http
from fks.interfaces.web import formats
from fks.interfaces.web.assets import FRAMED, AssetFiles
from fks.interfaces.web.client import BrowserCaller, GatewayClient, GatewayRefusal
from fks.interfaces.web.forms import form_of
from fks.interfaces.web.middleware import record_failure
from fks.interfaces.web.page import ActionResult, Performer, WebPage
from fks.interfaces.web.rendering import Renderer
from fks.interfaces.web.sharing import Shared
from fks.interfaces.web.visits import ReadResult, Visit, WebSession
from fks.model.timeframe import to_datetime
from fks.system.process.callers import address_of, is_own_origin

if TYPE_CHECKING:
    from fks.model.ports import Log

ZONE_COOKIE, THEME_COOKIE = "fks_zone", "fks_theme"
#: A 401 about what was typed, such as a wrong password before a change: the session goes on.
_WRONG_INPUT = ("LOGIN_FAILED", "TOTP_REQUIRED")
_HTML = "text/html; charset=utf-8"
#: Values of a template that is not in the registry.
_NO_SESSION: Mapping[str, Any] = {"me": None, "page": None, "kill": ReadResult(), "outcome": None}
#: Tabs get an event within some milliseconds of each other.
_GATHER_S = 0.025
_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class SiteDeps:
    """Arguments of `create_app`. `gateway` is closed with the application."""

    http: Http
    clock: Clock
    log: Log
    gateway: GatewayClient
    assets: AssetFiles


class Site:
    """Serves the pages. Soft state: the regions that are being made; none of any session."""

    def __init__(self, deps: SiteDeps, pages: tuple[WebPage, ...]) -> None:
        self.deps = deps
        self.pages = pages
        self._renderer = Renderer(deps.assets)
        self._regions: Shared[tuple[BrowserCaller, str, str, str], str] = Shared(_GATHER_S)

    # ── handlers ─────────────────────────────────────────────────────────────────────────────────
    def page(self, page: WebPage) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of a page: the whole of it, or for htmx its region alone."""

        async def show(site: Site, request: Request) -> Response:
            if _is_region(request):
                return _html(await self._region(page, request), 200)
            visit = await self.visit(request)
            if page.is_early:
                return StreamingResponse(self._in_parts(page, visit), media_type=_HTML)
            return await self._shown(page, visit)

        return self.guarded(show)

    def action(self, page: WebPage, perform: Performer) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of an action of a page: its outcome alone for htmx, else the page with the outcome."""

        async def act(site: Site, request: Request) -> Response:
            self.check_origin(request)
            form = await form_of(request)
            visit = await self.visit(request)
            if not hmac.compare_digest(form.text("csrf").encode(), visit.session.csrf.encode()):
                raise GatewayRefusal(403, "CSRF", "the form has not the token of this session", "load the page again")
            try:
                outcome = await perform(visit, form)
            except GatewayRefusal as refusal:
                if refusal.status == 401 and refusal.code not in _WRONG_INPUT:
                    raise
                if is_htmx(request):
                    return self.fragment(request, "parts/outcome.html", refusal=refusal, outcome=None)
                return await self._shown(page, visit, refusal=refusal)
            if is_htmx(request):
                answer = self.fragment(request, "parts/outcome.html", refusal=None, outcome=outcome)
                answer.headers["HX-Trigger"] = "fks:refresh"
                return answer
            return await self._shown(page, visit, outcome=outcome)

        return self.guarded(act)

    async def _shown(
        self, page: WebPage, visit: Visit, outcome: ActionResult | None = None, refusal: GatewayRefusal | None = None
    ) -> Response:
        text = await self._text(page, visit, outcome=outcome, refusal=refusal)
        return _html(text, 200 if refusal is None else refusal.status)

    async def _region(self, page: WebPage, request: Request) -> str:
        """Return the region of a page. Tabs of one session that one event makes read again share it.

        The session is a part of the shared work, so that an ended one is refused from its next read on.
        """
        zone = request.cookies.get(ZONE_COOKIE, "")

        async def make() -> str:
            return await self._text(page, await self.visit(request), layout="region.html")

        return await self._regions.get((self.caller(request), path_of(request), request.url.query, zone), make)

    async def _in_parts(self, page: WebPage, visit: Visit) -> AsyncIterator[str]:
        """Give all before the content at once, and the content after its reads: the browser loads style sheets and
        scripts meanwhile, and paints. The status is sent with the first part, so that a fault is shown as content."""
        rest = asyncio.create_task(self._text(page, visit, part="rest"))
        try:
            shell = {**self._values(page, visit), "layout": "layout.html", "part": "shell"}
            yield self._renderer.render("shell.html", shell)
            try:
                yield await rest
            except GatewayRefusal as refusal:
                yield self._problem_text(visit.request, refusal, part="rest")
            except Exception as error:
                request_id = record_failure(self.deps.log, visit.request.scope["path"], error)
                yield self._problem_text(visit.request, _failure(request_id), part="rest")
        finally:
            rest.cancel()  # the browser has gone

    async def _text(self, page: WebPage, visit: Visit, **more: Any) -> str:
        """Read what a page shows, and return it as HTML. Errors: GatewayRefusal."""
        values, common = await asyncio.gather(page.load(visit), visit.read_all(kill="/kill"))
        return self._renderer.render(
            f"pages/{page.name}.html",
            {"layout": "layout.html", "outcome": None, "refusal": None, **self._values(page, visit), **common}
            | more
            | values,
        )

    def _values(self, page: WebPage, visit: Visit) -> dict[str, Any]:
        """Return the values of a page of a session, without those that it reads."""
        return {**self.common(visit.request), "page": page, "me": visit.session, "may": visit.may}

    async def static(self, request: Request) -> Response:
        """Serve one file. Its address holds a hash of it, so that it may be kept for a year."""
        found = self.deps.assets.get(request.path_params["name"])
        if found is None:
            return await self.unknown(request, None)
        headers = {"Cache-Control": _YEAR, "Vary": "Accept-Encoding", "ETag": f'"{found.digest}"'}
        if request.path_params["name"] in FRAMED:
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if found.zipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.zipped, media_type=found.media_type, headers={**headers, "Content-Encoding": "gzip"})
        return Response(found.body, media_type=found.media_type, headers=headers)

    async def unknown(self, request: Request, _: Any) -> Response:
        """Return the page for a path that does not exist."""
        refusal = GatewayRefusal(404, "PAGE_UNKNOWN", "there is no such page", "use the navigation")
        return self.problem(request, refusal)

    def failed(self, request: Request, request_id: str) -> Response:
        """Return the page for a fault of ours."""
        return self.problem(request, _failure(request_id))

    # ── parts of handlers ────────────────────────────────────────────────────────────────────────
    def guarded(
        self, handle: Callable[[Site, Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler with refusals answered: an ended session goes to the login, all else is a page."""

        async def handler(request: Request) -> Response:
            try:
                return await handle(self, request)
            except GatewayRefusal as refusal:
                if refusal.status == 401:
                    return self.to_login(request)
                if is_htmx(request):
                    return self.fragment(request, "parts/outcome.html", refusal=refusal, outcome=None)
                return self.problem(request, refusal)

        return handler

    def caller(self, request: Request) -> BrowserCaller:
        """Return what the gateway has to know about the browser."""
        http = self.deps.http
        return BrowserCaller(
            session=self.deps.gateway.session_of(request.cookies),
            address=address_of(request, http.behind_proxy, http.trusted_proxies),
            host=request.headers.get("host", ""),
            origin=request.headers.get("origin"),
        )

    async def visit(self, request: Request) -> Visit:
        """Return the visit of a session. Errors: GatewayRefusal 401 without one; nothing else is asked with an ended
        one, as each such call counts as a wrong token of the browser's address."""
        caller = self.caller(request)
        if not caller.session:
            raise GatewayRefusal(401, "UNAUTHORIZED", "nobody is logged in", "log in")
        gateway = self.deps.gateway
        body = await gateway.read(caller, "/auth/session")
        return Visit(request, gateway, caller, WebSession.of(body), self.zone(request), self.now())

    def now(self) -> Any:
        """Return the present, UTC."""
        return to_datetime(self.deps.clock.now_ns())

    @staticmethod
    def zone(request: Request) -> Any:
        """Return the zone that the reader chose; UTC without one."""
        return formats.zone_of(unquote(request.cookies.get(ZONE_COOKIE, "")))

    @staticmethod
    def check_origin(request: HTTPConnection) -> None:
        """Refuse a form of another origin's page. Errors: GatewayRefusal 403 ORIGIN_FORBIDDEN."""
        is_foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_foreign or not is_own_origin(request, ()):
            raise GatewayRefusal(
                403, "ORIGIN_FORBIDDEN", "a page of another origin may change nothing here", "use the page itself"
            )

    def common(self, request: Request) -> dict[str, Any]:
        """Return the values of every template."""
        theme, zone = request.cookies.get(THEME_COOKIE, ""), self.zone(request)
        return {
            "root": request.scope.get("root_path", ""),
            "pages": [page for page in self.pages if page.group],
            "theme": theme if theme in ("light", "dark") else "",
            "zone": zone,
            "zone_name": str(getattr(zone, "key", "UTC")),
            "now": self.now(),
            "path": path_of(request),
            "part": "whole",
        }

    def render(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        """Return a page that is not in the registry."""
        return _html(self._renderer.render(name, {**_NO_SESSION, **self.common(request), **values}), status)

    def fragment(self, request: Request, name: str, **values: Any) -> Response:
        """Return a part of a page, for htmx."""
        refusal: GatewayRefusal | None = values.get("refusal")
        text = self._renderer.render(name, {**self.common(request), **values})
        return _html(text, 200 if refusal is None else refusal.status)

    def problem(self, request: Request, refusal: GatewayRefusal) -> Response:
        """Return a page that shows a refusal alone."""
        answer = _html(self._problem_text(request, refusal), refusal.status)
        if refusal.retry_after_s is not None:
            answer.headers["Retry-After"] = str(refusal.retry_after_s)
        return answer

    def _problem_text(self, request: Request, refusal: GatewayRefusal, **more: Any) -> str:
        known = {**_NO_SESSION, **self.common(request), "refusal": refusal, "layout": "layout.html"}
        return self._renderer.render("problem.html", {**known, **more})

    def to_login(self, request: Request) -> Response:
        """Send the browser to the login, and from there back to this page."""
        root = request.scope.get("root_path", "")
        back = path_of(request) if request.method == "GET" and not is_htmx(request) else ""
        if is_htmx(request) and (shown := request.headers.get("hx-current-url")):
            back = urlsplit(shown).path.removeprefix(root)
        address = f"{root}/login?ended={'1' if request.cookies else ''}&next={quote(back, safe='/')}"
        if is_htmx(request):
            return Response(status_code=401, headers={"HX-Redirect": address})
        return RedirectResponse(address, status_code=303)


def is_htmx(request: Request) -> bool:
    """Return whether htmx asks: it takes a part of a page."""
    return request.headers.get("hx-request") == "true"


def _is_region(request: Request) -> bool:
    """Return whether the part that is kept current is wanted alone."""
    return is_htmx(request) and request.headers.get("hx-target") == "region"


def _failure(request_id: str) -> GatewayRefusal:
    remedy = f"the log has it under {request_id}: fks logs web"
    return GatewayRefusal(500, "PAGE_FAILED", "this page could not be made", remedy)


def path_of(request: Request) -> str:
    """Return the request's path within the application."""
    root = str(request.scope.get("root_path", ""))
    path = str(request.scope["path"])
    return path.removeprefix(root) or "/"


def _html(text: str, status: int) -> Response:
    return Response(text, status_code=status, media_type=_HTML)
