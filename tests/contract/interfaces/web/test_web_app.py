"""The pages over HTTP with a real gateway behind them: sessions, refusals, and text of others that shows as text."""

from __future__ import annotations

import re
from html import unescape

import httpx

from fks.interfaces.web.registry import PAGES
from fks.store.db import Database
from tests.support.users import PASSWORD, code_of
from tests.support.web import Web, csrf_of, log_in, make_user

ACTIONS = [(page, name) for page in PAGES for name in page.actions]
#: Each is made twice, and an address may show fewer than ten wrong tokens in a minute.
CALLS_AN_ADDRESS = 4
PARAMETERS = {"{what}": "0d1f6a1c-3a5e-4f7e-9d0a-0c5f6b5a9f11", "{id}": "1", "{name}": "x"}


def path_of(template: str) -> str:
    for name, value in PARAMETERS.items():
        template = template.replace(name, value)
    return "/app" + template


def browser_at(web: Web, address: str, cookies: dict[str, str] | None = None) -> httpx.AsyncClient:
    """Return a browser at another address of this machine."""
    # verify: without TLS no certificates are read, which takes longer than the calls
    transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)
    return httpx.AsyncClient(base_url=web.url, trust_env=False, transport=transport, cookies=cookies, timeout=20.0)


async def test_a_page_without_a_session_leads_to_the_login_and_back(web: Web) -> None:
    async with web.client() as browser:
        for page in PAGES:
            answer = await browser.get(path_of(page.path))
            assert answer.status_code == 303, page.name
            assert answer.headers["location"] == f"/app/login?ended=&next={path_of(page.path).removeprefix('/app')}"
        await make_user(web, "ann", "read")
        answer = await browser.post("/app/login", data={"user": "ann", "password": PASSWORD, "next": "/orders"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/app/orders")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()


async def test_every_page_is_shown_to_a_reader(web: Web) -> None:
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        for page in PAGES:
            answer = await browser.get(path_of(page.path))
            assert answer.status_code == 200, (page.name, answer.text[:3000])
            assert answer.headers["cache-control"] == "no-store"
            assert "unsafe" not in answer.headers["content-security-policy"]
    assert web.log.lines == []


async def test_an_ended_session_is_refused_on_every_page_and_action(web: Web) -> None:
    await make_user(web, "ann", "approve")
    async with web.client() as browser:
        await log_in(web, browser, "ann")
        csrf = await csrf_of(browser)
        async with web.gateway.client("admin") as admin:
            assert (await admin.delete("/users/ann/sessions")).status_code == 200
        cookies = dict(browser.cookies)
    # each call counts as a wrong token of its address, and an address has ten of them in a minute
    wanted = [("GET", path_of(page.path)) for page in PAGES]
    wanted += [("POST", f"{path_of(page.path)}/{name}") for page, name in ACTIONS]
    for number, place in enumerate(range(0, len(wanted), CALLS_AN_ADDRESS)):
        async with browser_at(web, f"127.0.2.{number + 1}", cookies) as browser:
            for method, path in wanted[place : place + CALLS_AN_ADDRESS]:
                form = {"csrf": csrf} if method == "POST" else None
                answer = await browser.request(method, path, data=form)
                assert (answer.status_code, answer.headers.get("location", "")[:18]) == (303, "/app/login?ended=1"), (
                    path
                )
                part = await browser.request(method, path, data=form, headers={"HX-Request": "true"})
                assert (part.status_code, part.headers["hx-redirect"][:18]) == (401, "/app/login?ended=1"), path


ORIGINS = ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"})
FIELDS = {
    "id": "0d1f6a1c-3a5e-4f7e-9d0a-0c5f6b5a9f11",
    "reason": "test",
    "symbol": "BTCUSDT",
    "key": "0" * 32,
    "name": "x",
    "target": "x",
    "instance": "x",
    "account": "demo",
    "symbols": "BTCUSDT",
    "size": "1",
    "scope": "read",
    "password": "x",
    "minutes": "1",
    "base": "0",
    "version": "0",
    "action": "backup",
    "verdict": "refused",
    "strategy": "sma_cross",
    "p.fast": "5:10",
    "history": "30",
    "kind": "threshold",
    "on": "x",
    "severity": "page",
    "url": "json://127.0.0.1",
    "totp": "000000",
    "new_password": "x",
    "plan_hash": "0" * 64,
    "api_key": "x",
    "question": "x",
    "channel": "x",
    "text": "x",
    "api_secret": "x",
}


async def test_every_action_is_refused_without_token_origin_or_scope(web: Web) -> None:
    secret = await make_user(web, "root", "admin")
    await make_user(web, "ann", "read")
    async with web.client() as browser, web.client() as other:
        await log_in(web, browser, "root", code_of(str(secret), steps=1))
        await log_in(web, other, "ann")
        foreign, csrf = await csrf_of(other), await csrf_of(browser)
        for page, name in ACTIONS:
            path = f"{path_of(page.path)}/{name}"
            is_first = name == next(iter(page.actions))  # of its page: every kind of wrong token and origin
            for given in ("", foreign, csrf[:-1] + ("0" if csrf[-1] != "0" else "1")) if is_first else (foreign,):
                answer = await browser.post(path, data={**FIELDS, "csrf": given})
                assert (answer.status_code, "CSRF" in answer.text) == (403, True), path
            for headers in ORIGINS if is_first else ORIGINS[:1]:
                answer = await browser.post(path, data={**FIELDS, "csrf": csrf}, headers=headers)
                assert (answer.status_code, "ORIGIN_FORBIDDEN" in answer.text) == (403, True), path
            answer = await other.post(path, data={**FIELDS, "csrf": foreign})
            if page.name == "own":  # every user's own login: what was typed is refused, and the session goes on
                assert (400 <= answer.status_code < 500, 'class="problem"' in answer.text) == (True, True), path
            elif (page.name, name) == ("documents", "ask"):  # it reads
                assert answer.status_code == 200, path
            else:
                assert (answer.status_code, "SCOPE_MISSING" in answer.text) == (403, True), path
            answer = await browser.post(path, json={**FIELDS, "csrf": csrf})
            assert answer.status_code == 415, path


async def test_the_login_says_what_is_wrong_and_when_the_lock_ends(web: Web) -> None:
    await make_user(web, "ann", "trade")
    async with web.client() as browser:
        right = await browser.post("/app/login", data={"user": "ann", "password": PASSWORD})
        assert (right.status_code, "six digits of your authenticator" in right.text) == (401, True)
        for _ in range(5):
            wrong = await browser.post("/app/login", data={"user": "ann", "password": "no"})
            assert (wrong.status_code, "LOGIN_FAILED" in wrong.text) == (401, True)
            assert "no" not in re.findall(r'value="([^"]*)"', wrong.text)
        locked = await browser.post("/app/login", data={"user": "ann", "password": PASSWORD})
        assert (locked.status_code, "LOGIN_LOCKED" in locked.text) == (429, True)
        assert int(locked.headers["retry-after"]) > 3000
        assert "fks users unlock" in locked.text


async def test_a_login_goes_on_within_the_application_only(web: Web) -> None:
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        for next_ in (
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "/a\nb",
            "/login",
        ):
            answer = await browser.post("/app/login", data={"user": "ann", "password": PASSWORD, "next": next_})
            assert answer.headers["location"] == "/app/", next_


async def test_a_foreign_page_cannot_log_anybody_in_or_out(web: Web) -> None:
    await make_user(web, "ann", "read")
    async with web.client() as browser:
        form = {"user": "ann", "password": PASSWORD}
        answer = await browser.post("/app/login", data=form, headers={"Origin": "https://evil.example"})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        await log_in(web, browser, "ann")
        assert (await browser.post("/app/logout", data={"csrf": "x"})).status_code == 403
        assert (await browser.get("/app/")).status_code == 200
        answer = await browser.post("/app/logout", data={"csrf": await csrf_of(browser)})
        assert answer.status_code == 303
        assert (await browser.get("/app/")).status_code == 303


async def test_failed_logins_count_on_the_browsers_own_address(web: Web, database: Database) -> None:
    """Not on that of the pages: else five wrong passwords of one person would lock every user out."""
    await make_user(web, "ann", "read")
    async with browser_at(web, "127.0.0.9") as browser:
        await browser.post("/app/login", data={"user": "ann", "password": "no"})
    keys = [row["key"] for row in await database.sql("SELECT key FROM login_failures ORDER BY key")]
    assert keys == ["address:127.0.0.9", "user:ann"]


async def test_a_forwarded_address_without_the_proof_is_ignored(web: Web, database: Database) -> None:
    await make_user(web, "ann", "read")
    async with web.gateway.client(None) as client:
        headers = {"X-FKS-Client": "192.0.2.1 " + "0" * 64}
        await client.post("/auth/login", json={"user": "ann", "password": "no"}, headers=headers)
    keys = [row["key"] for row in await database.sql("SELECT key FROM login_failures ORDER BY key")]
    assert keys == ["address:127.0.0.1", "user:ann"]


async def test_another_host_is_refused(web: Web) -> None:
    async with web.client() as browser:
        for path in ("/app/login", "/app/static/fks.css"):
            answer = await browser.get(path, headers={"Host": "evil.example"})
            assert (answer.status_code, "HOST_FORBIDDEN" in answer.text) == (421, True)


async def test_an_unknown_page_and_file_are_404(web: Web) -> None:
    async with web.client() as browser:
        for path in ("/app/none", "/app/static/none.js", "/app/static/..%2Fapp.py"):
            answer = await browser.get(path)
            assert (answer.status_code, "PAGE_UNKNOWN" in answer.text) == (404, True), path


def shown(text: str) -> str:
    """Return what a browser would show of a page's text."""
    return unescape(re.sub(r"<[^>]*>", "", text))
