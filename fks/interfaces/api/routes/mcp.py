"""The Model Context Protocol over HTTP: the tools of `fks mcp`, each called in this replica with the caller's token."""

from __future__ import annotations

import re
from typing import Final

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message

from fks.interfaces.api.query import Reader, read_body
from fks.interfaces.api.routing import Router
from fks.interfaces.mcp import TIMEOUT_S, McpTools, check_installed
from fks.model.errors import Problem

router = Router(tags=["mcp"])
#: Headers of a request that the calls of its tools carry, too: its credentials, and what shows where it comes from.
_PASSED: Final = (
    "authorization", "x-api-key", "host", "x-forwarded-for", "x-forwarded-proto", "forwarded", "traceparent",
)  # fmt: skip


@router.post("/mcp")
async def serve(caller: Reader, request: Request) -> Response:
    """Serve one message of the Model Context Protocol (streamable HTTP, JSON answers, no session): the tools of
    `fks mcp`, with the scopes, limits and audit of this token. Without the extra `ai`: 501."""
    check_installed()
    import httpx
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    body = await read_body(request)
    peer = (request.client.host, request.client.port) if request.client else ("127.0.0.1", 0)
    headers = {name: value for name in _PASSED if (value := request.headers.get(name)) is not None}
    status, parts = 0, list[bytes]()
    types = ((b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"))
    kept = [(name, value) for name, value in request.scope["headers"] if name not in dict(types)]

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    inside = httpx.ASGITransport(app=request.app, client=peer)
    async with httpx.AsyncClient(
        transport=inside, base_url="http://gateway", headers=headers, timeout=TIMEOUT_S
    ) as client:
        manager = StreamableHTTPSessionManager(McpTools(client).server(), json_response=True, stateless=True)
        async with manager.run():  # no session is kept, so that any replica takes the next message
            await manager.handle_request({**request.scope, "headers": [*kept, *types]}, receive, send)
    found = b"".join(parts)
    if status >= 400 and not re.match(rb'{"jsonrpc":"2.0","id":(?!null)', found):  # that is an answer to a request
        text = found.decode(errors="replace")[:300]
        raise Problem(400, "MCP_WRONG", f"this is no message of the protocol: {text}", remedy="use a client of MCP")
    return Response(found, status_code=status, media_type="application/json" if found else None)
