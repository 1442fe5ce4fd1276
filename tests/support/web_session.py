"""A browser's session with the pages of a running system."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx

from tests.support.browser import Page, page
from tests.support.system import System
from tests.support.users import PASSWORD, bearer, code_of, enrol, log_in


async def session_of(system: System, user: str) -> str:
    """Make an administrator with a second factor, log in, and return the session's cookie."""
    token = (system.home / "cli.token").read_text().strip()
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=30.0) as client:
        body = {"name": user, "password": PASSWORD, "scope": "admin"}
        (await client.post("/users", json=body, headers=bearer(token))).raise_for_status()
        access = (await log_in(client, user)).json()["access_token"]
        secret = await enrol(client, bearer(access))
        form = {"user": user, "password": PASSWORD, "totp": code_of(secret, steps=1)}
        answer = await client.post("/app/login", data=form)
        assert answer.status_code == 303, answer.text
        return answer.cookies["fks_session"]


@contextlib.asynccontextmanager
async def logged_in(system: System, cookie: str) -> AsyncIterator[Page]:
    """Give a tab with the session's cookie."""
    async with page() as tab:
        await tab.call("Network.setCookie", name="fks_session", value=cookie, url=system.url, httpOnly=True)
        yield tab
