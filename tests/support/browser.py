"""A headless chromium for tests, spoken to over its DevTools socket: no driver package needed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.waiting import until

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One tab. `complaints` collects console errors, uncaught exceptions and policy violations."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one DevTools command and return its result."""
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        async with asyncio.timeout(20):
            while True:
                message = json.loads(await self._socket.recv())
                self._note(message)
                if message.get("id") == self._number:
                    assert "error" not in message, message
                    found: dict[str, Any] = message["result"]
                    return found

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", params))[:500])
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def go(self, url: str) -> None:
        """Open a page."""
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")


async def says(tab: Page, *texts: str) -> None:
    """Wait until the page shows all of these."""
    seen = ""

    async def is_shown() -> bool:
        nonlocal seen
        seen = await tab.run("document.body ? document.body.innerText : ''") or ""
        return all(text in seen for text in texts)

    try:
        await until(is_shown, deadline_s=30, every_s=0.1)
    except BaseException as error:
        raise AssertionError(f"{texts} are not all in:\n{seen[:3000]}\n{tab.complaints}") from error


async def is_true(tab: Page, script: str) -> None:
    """Wait until an expression is true."""

    async def look() -> bool:
        return bool(await tab.run(script))

    await until(look, deadline_s=30, every_s=0.1)


async def press(tab: Page, key: str) -> None:
    """Press and release one key."""
    named = {"Tab": 9, "Enter": 13, " ": 32}
    text = "\r" if key == "Enter" else key if len(key) == 1 else ""
    code = named.get(key, ord(key.upper()) if len(key) == 1 else 0)
    await tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
    await tab.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)


async def type_(tab: Page, text: str) -> None:
    """Type into the element that has the focus."""
    await tab.call("Input.insertText", text=text)


async def is_live(tab: Page) -> None:
    """Wait until the page's socket is open."""
    await is_true(tab, "document.getElementById('live-state')?.dataset.state === 'on'")


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """Give a tab of a fresh chromium. Without chromium: skip, or fail where FKS_REQUIRE_ALL is set."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        if os.environ.get("FKS_REQUIRE_ALL"):
            pytest.fail("chromium is not installed, and FKS_REQUIRE_ALL is set: apt-get install chromium")
        pytest.skip("chromium is not installed")
    profile = tempfile.mkdtemp(prefix="fks-chromium-")
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    drain: asyncio.Task[bytes] | None = None
    try:
        assert process.stderr is not None
        port = await asyncio.wait_for(_port(process.stderr), 30)
        drain = asyncio.create_task(process.stderr.read())
        async with httpx.AsyncClient(trust_env=False) as client:
            tab = (await client.put(f"http://127.0.0.1:{port}/json/new?about:blank")).json()
        async with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            found = Page(socket)
            for domain in ("Runtime", "Log", "Page"):
                await found.call(f"{domain}.enable")
            yield found
    finally:
        process.kill()
        await process.wait()
        if drain is not None:
            drain.cancel()
        shutil.rmtree(profile, ignore_errors=True)


async def _port(stream: asyncio.StreamReader) -> int:
    while line := (await stream.readline()).decode():
        if "DevTools listening on" in line:
            return int(line.split("://")[1].split("/")[0].rpartition(":")[2])
    raise AssertionError("chromium ended before it listened")
