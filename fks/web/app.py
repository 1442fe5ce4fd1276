"""`create_app`: the pages as an ASGI application, mounted below `/app` by Ray Serve beside the gateway.

Any replica answers any request: the session is the gateway's, and nothing is kept between two requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from fks.web import login, outcomes
from fks.web.middleware import PageMiddleware
from fks.web.page import WebPage
from fks.web.registry import PAGES
from fks.web.site import Site, SiteDeps
from fks.web.views import diagrams


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
        Route("/login", site.guarded(login.show), methods=["GET"]),
        Route("/login", site.guarded(login.submit), methods=["POST"]),
        Route("/logout", site.guarded(login.end), methods=["POST"]),
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
