"""A headless chromium for tests, spoken to over its DevTools socket: no driver package needed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.programs import require
from tests.support.waiting import until

SHOWN_S = 60.0  # bounds a failure alone: no test proves a time with it
LOOK_S = 0.03  # between two looks at a page: a look costs a millisecond
NAMES = ("chromium", "chromium-browser", "google-chrome")
#: DevTools answers to a command that a navigation overtook
NAVIGATED = ("Inspected target navigated or closed", "Execution context was destroyed")


class NavigatedError(AssertionError):
    """A navigation overtook the command: a read may be repeated, a click or a key may have had its effect."""


class Page:
    """One tab. `complaints` collects console errors, uncaught exceptions and policy violations."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one DevTools command and return its result. Errors: NavigatedError if a navigation overtook it."""
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        async with asyncio.timeout(SHOWN_S):
            while True:
                message = json.loads(await self._socket.recv())
                self._note(message)
                if message.get("id") == self._number:
                    if str(message.get("error", {}).get("message", "")).startswith(NAVIGATED):
                        raise NavigatedError(message)
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

    async def look(self, script: str) -> Any:
        """Return the value of an expression that changes nothing, for a condition that is polled; None while the page
        navigates."""
        with contextlib.suppress(NavigatedError):
            return await self.run(script)
        return None


async def says(tab: Page, *texts: str) -> None:
    """Wait until the page shows all of these."""
    seen = ""

    async def is_shown() -> bool:
        nonlocal seen
        seen = await tab.look("document.body ? document.body.innerText : ''") or ""
        return all(text in seen for text in texts)

    try:
        await until(is_shown, deadline_s=SHOWN_S, every_s=LOOK_S)
    except BaseException as error:
        raise AssertionError(f"{texts} are not all in:\n{seen[:3000]}\n{tab.complaints}") from error


async def is_true(tab: Page, script: str) -> None:
    """Wait until an expression is true."""

    async def look() -> bool:
        return bool(await tab.look(script))

    await until(look, deadline_s=SHOWN_S, every_s=LOOK_S)


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


SIZES = {"wide": (1440, 900), "phone": (390, 844)}


async def look_at(tab: Page, size: str, theme: str) -> None:
    """Give the page a size and a theme, and wait until it has both."""
    width, height = SIZES[size]
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    await tab.call("Emulation.setDeviceMetricsOverride", **metrics)
    await is_true(
        tab, f"matchMedia('(width: {width}px)').matches && document.documentElement.dataset.bsTheme === '{theme}'"
    )


async def picture(tab: Page, path: Path, size: str) -> None:
    """Write what the screen shows."""
    width, height = SIZES[size]
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = await tab.call("Page.captureScreenshot", format="png", clip=clip)
    await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


class Browser:
    """One headless chromium for all tests of this process: a start takes seconds. Each page has cookies of its own."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="fks-chromium-")
        self._process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-proxy-server",
                "--disable-background-networking",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def address(self) -> str:
        """Return the DevTools socket of the browser itself, once it listens."""
        file = Path(self._profile) / "DevToolsActivePort"

        def lines() -> list[str]:
            assert self._process.poll() is None, "chromium ended before it listened"
            return file.read_text().split() if file.is_file() else []

        port, path = await until(lambda: found if len(found := lines()) == 2 else None, deadline_s=60) or ("", "")
        return f"ws://127.0.0.1:{port}{path}"

    @property
    def is_alive(self) -> bool:
        """Return whether its process runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


_shared: list[Browser] = []


def close_shared() -> None:
    """End the browser of this process, at the end of its tests."""
    while _shared:
        _shared.pop().close()


def _browser() -> Browser:
    """Return the browser of this process; without chromium the test is left out."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        require("chromium")
        raise AssertionError
    if _shared and not _shared[0].is_alive:
        close_shared()
    if not _shared:
        _shared.append(Browser(program))
    return _shared[0]


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """Give a tab with cookies and storage of its own. Without chromium the test is left out."""
    address = await _browser().address()
    async with connect(address, max_size=None, proxy=None) as control:
        browser = Page(control)
        context = (await browser.call("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
        try:
            made = await browser.call("Target.createTarget", url="about:blank", browserContextId=context)
            host = address.split("/devtools/")[0]
            async with connect(f"{host}/devtools/page/{made['targetId']}", max_size=None, proxy=None) as socket:
                found = Page(socket)
                for domain in ("Runtime", "Log", "Page"):
                    await found.call(f"{domain}.enable")
                await found.call("Emulation.setFocusEmulationEnabled", enabled=True)
                yield found
        finally:
            with contextlib.suppress(TimeoutError, ConnectionClosed):  # else it hides what failed in the test
                await browser.call("Target.disposeBrowserContext", browserContextId=context)
