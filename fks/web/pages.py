"""The pages' router. A page is static and open; it fetches its data with the reader's own token."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

router = APIRouter()


@cache
def page(name: str) -> tuple[bytes, str]:
    """Return a page and its Content-Security-Policy: only the scripts and styles in it, by hash, and only this host."""
    text = (resources.files("fks.web") / "templates" / f"{name}.html").read_text()
    scripts = " ".join(_hashes(text, "script"))
    styles = " ".join(_hashes(text, "style"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _hashes(text: str, tag: str) -> list[str]:
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies]


def _html(name: str) -> Response:
    body, policy = page(name)
    return Response(body, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


@router.get("/monitor/")
def monitor() -> Response:
    """Show the tree live."""
    return _html("monitor")


@router.get("/docs")
def docs() -> Response:
    """Show the API: every route, its parameters and scope, and a way to try it."""
    return _html("docs")


@router.get("/monitor")
def to_monitor() -> Response:
    """Go to the monitor page."""
    return RedirectResponse("/monitor/", status_code=307)


@router.get("/")
def front() -> Response:
    """Go to the pages, which another application serves."""
    return RedirectResponse("/app/", status_code=307)


@router.get("/admin")
@router.get("/admin/")
def administration() -> Response:
    """Go to the first of the administrative pages."""
    return RedirectResponse("/app/users", status_code=307)
