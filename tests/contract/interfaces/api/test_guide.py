"""The guide and the page of the API: static files of the gateway, for this host, with a policy that admits no other."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.interfaces.web import pages
from tests.support.gateway import Running, serving

SCRIPT = "document.title = 'ran'"
PAGE = f"<html><head><style>p {{ color: red }}</style><script>{SCRIPT}</script></head><body><p>Trade</p></body></html>"
SECRET = "the file beside the guide"
#: file -> bytes and media type
FILES = {
    "index.html": (PAGE.encode(), "text/html; charset=utf-8"),
    "trade/index.html": (PAGE.encode(), "text/html; charset=utf-8"),
    "assets/site.css": (b"p{}", "text/css; charset=utf-8"),
    "assets/site.js": (b"1", "text/javascript; charset=utf-8"),
    "assets/module.mjs": (b"1", "text/javascript; charset=utf-8"),
    "assets/text.woff2": (b"wOF2", "font/woff2"),
    "assets/chart.svg": (b"<svg/>", "image/svg+xml"),
    "assets/chart.png": (b"\x89PNG", "image/png"),
    "search.json": (b"{}", "application/json"),
}
#: Paths below /guide/ that leave it, or cannot be one.
OUTSIDE = ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "assets/../../secret.txt", "%2e%2e%2fsecret.txt")
OUTSIDE += ("/etc/passwd", "%2fetc%2fpasswd", "..\\secret.txt", "link.txt", "a%00b", "a" * 5000)


@pytest.fixture
async def site(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    """A gateway with a guide, and a file beside it."""
    folder = tmp_path / "guide"
    for name, (body, _) in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    (tmp_path / "secret.txt").write_text(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(pages, "GUIDE", folder)
    async with serving(database_url, redis_url, tmp_path, {}) as gateway:
        yield gateway


async def test_files_of_the_guide_have_their_types_policy_and_etag(site: Running) -> None:
    async with site.client(None) as client:
        for name, (body, kind) in FILES.items():
            found = await client.get(f"/guide/{name}")
            assert (found.status_code, found.content, found.headers["content-type"]) == (200, body, kind), name
            policy = found.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'"), name
            assert "unsafe" not in policy.replace("style-src 'self' 'unsafe-inline'", ""), name
            assert "http" not in policy, name
            again = await client.get(f"/guide/{name}", headers={"If-None-Match": found.headers["etag"]})
            assert (again.status_code, again.content) == (304, b""), name
            assert again.headers["content-security-policy"] == policy, "a browser takes over the headers of a 304"
            assert again.headers["cache-control"] == "no-cache", name
        index = await client.get("/guide/")
        assert index.text == PAGE
        script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        assert f"script-src 'self' 'sha256-{script}';" in index.headers["content-security-policy"]
        folder = await client.get("/guide/trade")
        assert (folder.status_code, folder.headers["location"]) == (307, f"{site.url}/guide/trade/")
        assert (await client.get("/guide", follow_redirects=True)).text == PAGE
        assert (await client.get("/guide/none.html")).json()["code"] == "NOT_FOUND"


async def test_nothing_outside_the_guide_is_served(site: Running) -> None:
    host, port = site.url.removeprefix("http://").split(":")
    for path in OUTSIDE:
        reader, writer = await asyncio.open_connection(host, int(port))  # a client library would tidy the path
        writer.write(f"GET /guide/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.split(b" ", 2)[1] == b"404", (path, answer[:300])
        assert SECRET.encode() not in answer, path


async def test_guide_and_api_page_are_for_this_host_or_a_login(site: Running) -> None:
    async with site.client(None) as client:
        for path in ("/guide/", "/guide/assets/site.css", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path
            assert (await client.get(path, headers={"X-Forwarded-For": "203.0.113.7"})).status_code == 401, path


async def test_guide_that_is_not_built_says_how(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with serving(database_url, redis_url, tmp_path, {}) as gateway, gateway.client(None) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "GUIDE", tmp_path / "none")
            for path in ("/guide/", "/guide/trade/"):
                found = await client.get(path)
                assert "make docs" in found.text, path
                assert "'unsafe" not in found.headers["content-security-policy"], path
