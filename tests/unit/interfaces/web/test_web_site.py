"""Serving of pages over a gateway that a test holds: reads shared by tabs, and the part sent before the reads end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from fks.clock import RealClock
from fks.config.settings import Http
from fks.interfaces.web.app import create_app
from fks.interfaces.web.assets import AssetFiles
from fks.interfaces.web.client import BrowserCaller, GatewayRefusal
from fks.interfaces.web.registry import PAGES
from fks.interfaces.web.site import SiteDeps
from fks.interfaces.web.visits import WebSession
from tests.support.ports import CollectingLog
from tests.support.waiting import until

REGION = {"HX-Request": "true", "HX-Target": "region"}


class HeldGateway:
    """A gateway whose answers, but that about the session, wait until `may_answer`."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, str]] = []
        self.ended: set[str] = set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fault: Exception | None = None

    async def close(self) -> None:
        """Do nothing."""

    def session_of(self, cookies: Mapping[str, str]) -> str:
        """Return the session of a browser."""
        return cookies.get("fks_session", "")

    async def read(self, caller: BrowserCaller, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return an empty list, or the session."""
        self.reads.append((caller.session, path))
        if caller.session in self.ended:
            raise GatewayRefusal(401, "UNAUTHORIZED", "the session has ended")
        if path == "/auth/session":
            return {"name": f"user:{caller.session}", "scope": "read", "csrf_token": caller.session}
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        return {"items": []}


@pytest.fixture
def gateway() -> HeldGateway:
    """Return a gateway that answers at once."""
    return HeldGateway()


def browser(gateway: HeldGateway, session: str = "ann", log: CollectingLog | None = None) -> httpx.AsyncClient:
    """Return a browser with a session, of pages of its own where `gateway` has none yet."""
    if not hasattr(gateway, "app"):
        deps = SiteDeps(Http(), RealClock(), log or CollectingLog(), gateway, AssetFiles())  # type: ignore[arg-type]
        gateway.app = create_app(deps)  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app=gateway.app, client=("127.0.0.1", 40000))  # type: ignore[attr-defined]
    cookies = {"fks_session": session}
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", cookies=cookies)


async def test_twenty_tabs_make_their_region_twice(gateway: HeldGateway) -> None:
    """Once for the first, and once for all that asked after it had begun."""
    async with browser(gateway) as tabs:
        gateway.may_answer.clear()
        first = asyncio.create_task(tabs.get("/", headers=REGION))
        await until(lambda: ("ann", "/positions") in gateway.reads, deadline_s=5)
        others = [asyncio.create_task(tabs.get("/", headers=REGION)) for _ in range(19)]
        await asyncio.sleep(0)
        gateway.may_answer.set()
        answers = await asyncio.gather(first, *others)
    assert {answer.status_code for answer in answers} == {200}
    assert all("Nothing is held." in answer.text for answer in answers)
    assert [gateway.reads.count(("ann", path)) for path in ("/auth/session", "/positions", "/kill")] == [2, 2, 2]


async def test_sessions_pages_and_zones_share_no_region(gateway: HeldGateway) -> None:
    async with browser(gateway) as ann, browser(gateway, "bob") as bob:
        zone = {**REGION, "Cookie": "fks_session=ann; fks_zone=Europe/Berlin"}
        asked = [ann.get("/", headers=REGION), bob.get("/", headers=REGION), ann.get("/stop", headers=REGION)]
        await asyncio.gather(*asked, ann.get("/", headers=zone), ann.get("/?page=2", headers=REGION))
    assert gateway.reads.count(("ann", "/positions")) == 4
    assert gateway.reads.count(("bob", "/positions")) == 1


async def test_ended_session_gets_no_shared_region(gateway: HeldGateway) -> None:
    async with browser(gateway) as tabs:
        gateway.may_answer.clear()
        first = asyncio.create_task(tabs.get("/", headers=REGION))
        await until(lambda: ("ann", "/positions") in gateway.reads, deadline_s=5)
        gateway.ended.add("ann")
        gateway.may_answer.set()
        late = await tabs.get("/", headers=REGION)
        assert (late.status_code, late.headers["hx-redirect"][:9]) == (401, "/login?en")
        assert (await first).status_code in (200, 401)


async def parts_of(gateway: HeldGateway, path: str) -> list[str]:
    """Return a page as it arrives: the part sent while its reads wait, and the rest."""
    parts: list[str] = []

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            parts.append(str(message["status"]))
        elif message.get("body"):
            parts.append(message["body"].decode())
            gateway.may_answer.set()

    async def receive() -> Mapping[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    headers = [(b"host", b"127.0.0.1:8000"), (b"cookie", b"fks_session=ann")]
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "client": ("127.0.0.1", 40000), "root_path": "", "scheme": "http"}
    scope |= {"http_version": "1.1", "server": ("127.0.0.1", 8000)}
    gateway.may_answer.clear()
    async with asyncio.timeout(10):
        await gateway.app({**scope, "asgi": {"spec_version": "2.4"}}, receive, send)  # type: ignore[attr-defined]
    return parts


async def test_head_and_navigation_are_sent_before_the_reads_end(gateway: HeldGateway) -> None:
    async with browser(gateway) as tab:
        status, shell, rest = await parts_of(gateway, "/")
        gateway.may_answer.set()
        assert (await tab.get("/")).text.count("<main") == 1
    assert status == "200"
    assert ("pages.css" in shell, "</nav>" in shell, "<main" in shell) == (True, True, False)
    assert (rest.lstrip()[:5], "Nothing is held." in rest, "</html>" in rest) == ("<main", True, True)


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_early], ids=lambda page: page.name)
async def test_page_that_is_sent_early_takes_every_refusal(gateway: HeldGateway, page: Any) -> None:
    """Its status is out before its reads: a refusal has its place on the page."""
    gateway.fault = GatewayRefusal(503, "GATEWAY_AWAY", "the gateway cannot be reached")
    async with browser(gateway) as tab:
        answer = await tab.get(page.path)
    assert (answer.status_code, "GATEWAY_AWAY" in answer.text, "PAGE_FAILED" in answer.text) == (200, True, False)


async def test_fault_after_the_first_part_is_shown_and_logged(gateway: HeldGateway) -> None:
    log = CollectingLog()
    gateway.fault = RuntimeError("a fault of ours")
    async with browser(gateway, log=log) as tab:
        answer = await tab.get("/")
    assert (answer.status_code, "PAGE_FAILED" in answer.text, answer.text.count("</html>")) == (200, True, 1)
    assert "a fault of ours" not in answer.text
    assert log.events() == ["web.failed"]


def test_sessions_read_at_moments_of_their_own() -> None:
    phases = {WebSession("ann", "read", "read", csrf=f"token-{number}").phase_ms % 5000 // 500 for number in range(200)}
    assert phases == set(range(10))
