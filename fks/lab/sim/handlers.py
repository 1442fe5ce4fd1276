"""HTTP handlers of REST and of the market websockets: they parse the wire and call the exchange, without decisions."""

from __future__ import annotations

import socket as sockets
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import orjson
from aiohttp import WSMsgType, web

from fks.lab.sim.auth import rest_payload
from fks.lab.sim.calls import Call, Reply, answer
from fks.lab.sim.endpoints import REST
from fks.lab.sim.errors import ApiError
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.front import Arrived, Front
from fks.lab.sim.params import Params
from fks.lab.sim.sockets import Socket

_STREAMS_MAX = 1024
_MESSAGES_PER_S = 5
_GONE = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class Handlers:
    """Handlers of one exchange. `sockets` are the open websocket connections, `front` the wire beside Binance's."""

    def __init__(self, exchange: LocalExchange, front: Front | None = None) -> None:
        self._exchange = exchange
        self._front = front
        self.sockets: dict[Socket, float] = {}

    # -- REST --------------------------------------------------------------------------------------------------------

    async def rest(self, request: web.Request) -> web.StreamResponse:
        """Answer a REST request."""
        path, _, query = request.raw_path.partition("?")
        body = await request.read()
        if path == "/api/v3/userDataStream":
            return self._listen_key(request)
        if self._front is not None and path.startswith(self._front.prefixes):
            sent = Arrived(request.method, path, query, body, request.headers)
            return await self._front_answer(self._front, request, sent)
        endpoint = REST.get((request.method, path))
        if endpoint is None:
            return _no_page(is_known=any(path == other for _, other in REST))
        form = body if "json" not in request.headers.get("Content-Type", "") else b""
        values = dict(parse_qsl(form.decode("utf-8", "replace"), keep_blank_values=True))
        values |= dict(parse_qsl(query, keep_blank_values=True))
        payload, signature = rest_payload(query.encode(), form), values.get("signature", "")
        key = request.headers.get("X-MBX-APIKEY", "")
        params = Params(values | ({"apiKey": key} if endpoint.security else {}))  # as in the socket's requests
        call = Call(
            request.method,
            path,
            params,
            endpoint,
            key,
            lambda: self._exchange.keyring.check_signature(payload, signature, key),
        )
        return await self._send(request, await answer(self._exchange, call))

    async def _front_answer(self, front: Front, request: web.Request, sent: Arrived) -> web.StreamResponse:
        found = front.find(sent.method, sent.path)
        if found is not None:
            return await self._send(request, await answer(self._exchange, front.call(sent, *found)))
        if (unknown := front.unknown(sent.path)) is not None:
            return web.json_response(unknown)
        return _no_page(is_known=any(front.find(method, sent.path) for method, _ in front.endpoints))

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        transport = request.transport
        if reply.how in ("cut", "reset"):
            if transport is not None:
                if reply.how == "reset" and (link := transport.get_extra_info("socket")) is not None:
                    link.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort() if reply.how == "reset" else transport.close()
            return web.Response(status=500)  # never leaves: the connection is gone
        headers = {"Content-Type": "application/json;charset=UTF-8"} | reply.headers
        body = reply.bytes()
        if reply.how == "truncate":
            response = web.StreamResponse(status=reply.status, headers=headers | {"Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            if transport is not None:
                transport.close()
            return response
        return web.Response(status=reply.status, body=body, headers=headers)

    def _listen_key(self, request: web.Request) -> web.Response:
        """Answer the old listenKey endpoint: gone, unless switched on for old clients."""
        if not self._exchange.options.has_listen_keys:
            return web.json_response({"code": -1000, "msg": "This endpoint is no longer available."}, status=410)
        try:
            self._exchange.keyring.check_key(request.headers.get("X-MBX-APIKEY", ""))
        except ApiError as error:
            return web.json_response(error.body(), status=error.status)
        return web.json_response({"listenKey": self._exchange.users.listen_key} if request.method == "POST" else {})

    # -- market streams ----------------------------------------------------------------------------------------------

    async def streams(self, request: web.Request) -> web.StreamResponse:
        """Serve /ws…, /stream… with any suffix."""
        path, _, query = request.raw_path.partition("?")
        socket = Socket(path, is_combined=path.startswith("/stream"))
        await socket.open(request, self._exchange.clock.monotonic())
        self.sockets[socket] = self._exchange.clock.monotonic()
        parts = [unquote_plus(part) for part in path.split("/")[2:]]
        wanted = [part for part in parts if "@" in part or part.startswith("!")]
        for name, value in parse_qsl(query):
            wanted += value.split("/") if name == "streams" else []
        self._listen(socket, parts)
        self._exchange.publisher.subscribe(socket, wanted)
        try:
            await self.read(socket, lambda text: self._command(socket, text))
        finally:
            self.sockets.pop(socket, None)
            self._exchange.users.gone(socket)
            self._exchange.publisher.unsubscribe(socket, list(socket.streams))
            await socket.end()
        return socket.ws

    async def front_stream(self, request: web.Request) -> web.StreamResponse:
        """Serve a websocket connection of the front."""
        assert self._front is not None
        publisher, now = self._front.publisher, self._exchange.clock.monotonic()
        assert publisher is not None
        socket = Socket(request.path)
        await socket.open(request, now)
        self.sockets[socket] = now
        publisher.connected(socket)
        try:
            await self.read(socket, lambda text: publisher.command(socket, text))
        finally:
            self.sockets.pop(socket, None)
            publisher.gone(socket)
            await socket.end()
        return socket.ws

    def _listen(self, socket: Socket, names: list[str]) -> None:
        """Subscribe a connection to account events when it names the listen key (and listen keys are switched on)."""
        users = self._exchange.users
        if self._exchange.options.has_listen_keys and users.listen_key in names and not users.numbers(socket):
            users.subscribe(socket)

    async def read(self, socket: Socket, on_text: Callable[[str], object]) -> None:
        """Read messages until the connection ends. More than five a second end it, as on the real exchange."""
        second, count = 0, 0
        is_limited = self._exchange.options.has_rate_limits and socket.path.split("/")[1] in ("ws", "stream")
        while True:
            message = await socket.ws.receive()
            if message.type in _GONE:
                return
            now = self._exchange.clock.monotonic()
            if socket.is_dead:
                continue
            if message.type == WSMsgType.PONG:
                socket.last_pong = now
            elif message.type == WSMsgType.PING:
                await socket.ws.pong(message.data)
            elif message.type == WSMsgType.TEXT:
                second, count = (second, count + 1) if int(now) == second else (int(now), 1)
                if count > _MESSAGES_PER_S and is_limited:
                    await socket.ws.close(code=1008, message=b"Too many requests")
                    return
                result = on_text(message.data)
                if hasattr(result, "__await__"):
                    await result

    def _command(self, socket: Socket, text: str) -> None:
        """Answer SUBSCRIBE and the other stream commands."""
        try:
            message = orjson.loads(text)
        except ValueError:
            socket.send(orjson.dumps({"error": {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"}}))
            return
        found = self._obey(socket, message) if isinstance(message, dict) else {"error": _bad("expected an object")}
        number = message.get("id") if isinstance(message, dict) else None
        socket.send(orjson.dumps(found | {"id": number}))

    def _obey(self, socket: Socket, message: dict[str, Any]) -> dict[str, Any]:
        method, params = message.get("method"), message.get("params", [])
        publisher = self._exchange.publisher
        if method == "LIST_SUBSCRIPTIONS":
            return {"result": sorted(socket.streams)}
        if not isinstance(params, list):
            return {"error": _bad("invalid type, expected a list of params")}
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            if not params or not all(isinstance(name, str) for name in params):
                return {"error": _bad("expected stream names")}
            if method == "SUBSCRIBE" and len(socket.streams | set(params)) > _STREAMS_MAX:
                return {"error": {"code": 1, "msg": f"Invalid value type: at most {_STREAMS_MAX} streams"}}
            if method == "SUBSCRIBE":
                self._listen(socket, params)
                publisher.subscribe(socket, params)
            else:
                publisher.unsubscribe(socket, params)
            return {"result": None}
        if method == "SET_PROPERTY" and len(params) == 2 and params[0] == "combined":
            socket.is_combined = bool(params[1])
            return {"result": None}
        if method == "GET_PROPERTY" and params == ["combined"]:
            return {"result": socket.is_combined}
        return {
            "error": _bad(
                f"unknown variant `{method}`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`, "
                "`LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`"
            )
        }


def _no_page(*, is_known: bool) -> web.Response:
    """Return the page of a path without an endpoint, or without one for the method."""
    text = "<html><body><h2>404 Not found</h2></body></html>"
    return web.Response(status=405 if is_known else 404, text=text, content_type="text/html")


def _bad(what: str) -> dict[str, Any]:
    return {"code": 2, "msg": f"Invalid request: {what}"}
