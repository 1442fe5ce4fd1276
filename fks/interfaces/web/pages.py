"""The gateway's own pages, the API and the guide, and redirects to the pages of `/app`.

The own ones are static, and fetch data as their reader.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import re
from functools import cache, lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from fks.interfaces.web.assets import FOLDER, digest

router = APIRouter()
#: Pages about the system, not of it: open on this host, elsewhere they need a login.
host_router = APIRouter()
GUIDE = FOLDER / "guide"
_HTML = "text/html; charset=utf-8"
_ADDRESS = re.compile(r'(?<=")(swagger-ui[a-z.-]+)(?=")')
for _type, _suffix in (("font/woff", ".woff"), ("font/woff2", ".woff2"), ("image/webp", ".webp")):
    mimetypes.add_type(_type, _suffix)  # a system without a table of types knows only Python's


@cache
def page(name: str) -> tuple[bytes, str]:
    """Return a page and its Content-Security-Policy: the scripts and styles in it, by hash, and files of this host."""
    text = (FOLDER / "templates" / f"{name}.html").read_text()
    text = _ADDRESS.sub(lambda found: _address(found[1]), text)
    policy = (
        f"default-src 'none'; script-src 'self' {_hashes(text, 'script')}; style-src 'self' {_hashes(text, 'style')}; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _address(name: str) -> str:
    """Return the address at which the pages serve a file of another project."""
    path = FOLDER / "vendor" / name
    return f"/app/static/{name}" + (f"?v={digest(path.read_bytes())}" if path.is_file() else "")


def _hashes(text: str, tag: str) -> str:
    bodies = dict.fromkeys(re.findall(rf"<{tag}(?![^>]*\ssrc=)[^>]*>(.*?)</{tag}>", text, flags=re.DOTALL))
    hashes = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
    return " ".join(f"'sha256-{text}'" for text in hashes)


def _html(name: str) -> Response:
    body, policy = page(name)
    return Response(body, media_type=_HTML, headers={"Content-Security-Policy": policy})


@host_router.get("/docs")
def docs() -> Response:
    """Show the API in Swagger UI: every route, its parameters and scope, and a way to try it."""
    return _html("docs")


class _Guide(StaticFiles):
    """Files of the guide. A browser keeps them, and asks each time whether they are current."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or 304; either one has the policy, as a browser takes over the headers of a 304."""
        found = super().file_response(full_path, stat_result, scope, status_code)
        found.headers["Cache-Control"] = "no-cache"
        if str(full_path).endswith(".html"):
            found.headers["Content-Security-Policy"] = _guide_policy(str(full_path), stat_result.st_mtime_ns)
        return found


@host_router.get("/guide/{path:path}")
async def guide(request: Request, path: str) -> Response:
    """Show the guide: the pages of docs/, which `make docs` builds."""
    if not (GUIDE / "index.html").is_file():
        return _html("guide")
    return await _Guide(directory=GUIDE, html=True).get_response(path, request.scope)


@lru_cache(maxsize=512)
def _guide_policy(path: str, stamp: int) -> str:
    """Return the policy of a page of the guide as it was at `stamp`: files of this host, its own scripts by hash.

    Mermaid, the search dialog and the tables of notebooks write styles, and a style that is admitted runs no code.
    """
    text = Path(path).read_text()
    return (
        f"default-src 'none'; script-src 'self' {_hashes(text, 'script')}; worker-src 'self'; connect-src 'self'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; media-src 'self'; "
        "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


@router.get("/monitor")
@router.get("/monitor/")
def to_monitor() -> Response:
    """Go to the monitor page."""
    return RedirectResponse("/app/monitor", status_code=307)


@router.get("/")
def front() -> Response:
    """Go to the pages, which another application serves."""
    return RedirectResponse("/app/", status_code=307)


@router.get("/admin")
@router.get("/admin/")
def administration() -> Response:
    """Go to the first of the administrative pages."""
    return RedirectResponse("/app/users", status_code=307)
