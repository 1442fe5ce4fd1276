"""The middleware of Serve's HTTP proxy, around an application that has its routes after a while."""

from __future__ import annotations

from typing import Any

import pytest

from fks.interfaces.api import serve_proxy
from fks.interfaces.api.serve_proxy import GuardedProxy
from fks.interfaces.api.tracing import CheckedRequestId


class Proxy:
    """An ASGI application as Serve's proxy is: 503 to health and 404 to the rest until it has its routes."""

    def __init__(self, looks: int) -> None:
        self.looks_left = looks
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer; each look at its health is one step nearer to the routes."""
        self.paths.append(scope["path"])
        if scope["path"] == "/-/healthz":
            self.looks_left -= 1
            status = 200 if self.looks_left < 0 else 503
        else:
            status = 200 if self.looks_left < 0 else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _ask(app: GuardedProxy, path: str, **scope: Any) -> int:
    return int((await _answer(app, path, **scope))["status"])


async def _answer(app: GuardedProxy, path: str, **scope: Any) -> Any:
    starts = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            starts.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    await app({"type": "http", "path": path} | scope, receive, send)
    assert len(starts) == 1
    return starts[0]


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ([b"order-7.a_B"], True),
        ([b"a" * 64], True),
        ([b"a" * 65], False),
        ([b""], False),
        ([b"a b"], False),
        ([b"a\r\nX-Evil: 1"], False),
        ([b'{"level": "error"}'], False),
        ([b"\xff\xfe"], False),  # Serve decodes it as UTF-8, and its proxy answered 500
        ([b"one", b"two"], False),  # Serve takes the one, the gateway the other
        ([], False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_request_id_reaches_serve_only_when_it_is_usable(given: list[bytes], is_kept: bool, kind: str) -> None:
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    other = (b"host", b"localhost")
    scope = {"type": kind, "headers": [other, *((b"x-request-id", value) for value in given)]}
    await CheckedRequestId(serve)(scope, None, None)  # type: ignore[arg-type]
    assert seen == ([other, (b"x-request-id", given[0])] if is_kept else [other])


async def test_request_waits_until_the_proxy_has_its_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "LOOK_S", 0.0)
    proxy = Proxy(looks=3)
    app = GuardedProxy(proxy)
    assert await _ask(app, "/orders") == 200
    asked = len(proxy.paths)
    assert await _ask(app, "/orders") == 200
    assert proxy.paths[asked:] == ["/orders"], "once it has its routes nothing is asked any more"


async def test_proxy_without_routes_is_unavailable_and_never_404(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_proxy, "LOOK_S", 0.0)
    monkeypatch.setattr(serve_proxy, "ROUTES_S", 0.01)
    found = await _answer(GuardedProxy(Proxy(looks=10**9)), "/orders")
    assert (found["status"], dict(found["headers"])[b"retry-after"]) == (503, b"1")


@pytest.mark.parametrize("path", ["/-/routes", "/-/healthz"])
@pytest.mark.parametrize(
    ("peer", "header", "status"),
    [
        ("127.0.0.1", (b"host", b"localhost:8000"), 200),
        ("::1", (b"host", b"[::1]:8000"), 200),
        ("192.0.2.1", (b"host", b"localhost:8000"), 404),
        ("127.0.0.1", (b"x-forwarded-for", b"127.0.0.1"), 404),
        ("127.0.0.1", (b"host", b"rebound.example"), 404),
    ],
)
async def test_own_paths_of_serve_answer_this_host_alone(
    path: str, peer: str, header: tuple[bytes, bytes], status: int
) -> None:
    scope = {
        "client": (peer, 5),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
        "query_string": b"",
        "headers": [header],
    }
    assert await _ask(GuardedProxy(Proxy(looks=0)), path, **scope) == status
