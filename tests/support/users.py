"""Users of a test's gateway: made by its administrator, logged in as a program or a browser would."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pyotp

from tests.support.gateway import Running

PASSWORD = "correct horse battery"
STEP_S = 30  # for so long an authenticator shows a code


async def add_user(gateway: Running, name: str, scope: str, **more: Any) -> None:
    """Make a user with PASSWORD."""
    async with gateway.client("admin") as admin:
        made = await admin.post("/users", json={"name": name, "password": PASSWORD, "scope": scope, **more})
    assert made.status_code == 201, made.text


async def log_in(client: httpx.AsyncClient, name: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
    """Send a login."""
    return await client.post("/auth/login", json={"user": name, "password": password, **more})


def bearer(access: str) -> dict[str, str]:
    """Return the header of an access token."""
    return {"Authorization": f"Bearer {access}"}


def code_of(secret: str, *, steps: int = 0) -> str:
    """Return the authenticator's code now, or some 30-second steps from now."""
    return pyotp.TOTP(secret).at(int(time.time()) + STEP_S * steps)


async def early_in_a_step(least_s: float = 2.0) -> None:
    """Wait until the authenticator's code changes no sooner than `least_s` from now."""
    left_s = STEP_S - time.time() % STEP_S
    if left_s < least_s:
        await asyncio.sleep(left_s)


async def enrol(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    """Set a second factor up in a session and return its secret."""
    secret, _ = await enrol_with(client, headers)
    return secret


async def enrol_with(client: httpx.AsyncClient, headers: dict[str, str]) -> tuple[str, str]:
    """Set a second factor up in a session; return its secret and the code that confirmed it."""
    offered = await client.post("/auth/totp", json={"password": PASSWORD}, headers=headers)
    assert offered.status_code == 200, offered.text
    secret = str(offered.json()["secret"])
    code = code_of(secret)
    done = await client.post("/auth/totp/confirm", json={"totp": code}, headers=headers)
    assert done.status_code == 200, done.text
    return secret, code
