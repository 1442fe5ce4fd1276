"""The WebSocket API: its sessions and its user data streams."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from fks.lab.sim.auth import socket_payloads
from fks.lab.sim.calls import Call, Reply, answer
from fks.lab.sim.endpoints import ORDER_METHODS, SOCKET, Endpoint
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.handlers import Handlers
from fks.lab.sim.params import Params
from fks.lab.sim.sockets import Socket

_LISTEN_KEY_METHODS = ("userDataStream.start", "userDataStream.ping", "userDataStream.stop")


class SocketCalls:
    """Handlers of /ws-api/v3. Connections are registered with those of `handlers`."""

    def __init__(self, exchange: LocalExchange, handlers: Handlers) -> None:
        self._exchange = exchange
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection."""
        socket = Socket("/ws-api/v3")
        await socket.open(request, self._exchange.clock.monotonic())
        self._handlers.sockets[socket] = self._exchange.clock.monotonic()
        try:
            await self._handlers.read(socket, lambda text: self._start(socket, text))
        finally:
            self._handlers.sockets.pop(socket, None)
            self._exchange.users.gone(socket)
            await socket.end()
        return socket.ws

    def _start(self, socket: Socket, text: str) -> None:
        """Handle a request concurrently with the others of the connection: a waiting answer delays no other."""
        task = asyncio.create_task(self._request(socket, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, socket: Socket, text: str) -> None:
        try:
            message = orjson.loads(text)
        except ValueError:
            message = None
        raw = message.get("params") or {} if isinstance(message, dict) else None
        if not isinstance(raw, dict):
            error = {"code": -1135, "msg": "This is not a valid JSON request."}
            socket.send(orjson.dumps({"id": None, "status": 400, "error": error}))
            return
        method, values = str(message.get("method", "")), {str(name): _plain(value) for name, value in raw.items()}
        reply = await self._call(socket, method, Params(values))
        if reply.how in ("cut", "reset"):
            socket.abort()
            return
        body: dict[str, Any] = {"id": message.get("id"), "status": reply.status}
        if reply.raw is not None:  # faults that are HTML over REST
            body["error"] = refusal("unexpected").body()
        else:
            body["result" if reply.status == 200 else "error"] = (
                self._waiting(reply) if "Retry-After" in reply.headers else reply.body
            )
        if values.get("returnRateLimits") != "false":
            body["rateLimits"] = self._exchange.limits.counts(with_orders=method in ORDER_METHODS)
        frame = orjson.dumps(body)
        socket.send(frame[: len(frame) // 2] if reply.how == "truncate" else frame)

    def _waiting(self, reply: Reply) -> object:
        """Return the error of a 429 or 418: what REST has in Retry-After is a time in `data` here."""
        now_ms = self._exchange.wall_ms()
        data = {"serverTime": now_ms, "retryAfter": now_ms + int(float(reply.headers["Retry-After"]) * 1000)}
        return {**reply.body, "data": data} if isinstance(reply.body, dict) else reply.body

    async def _call(self, socket: Socket, method: str, params: Params) -> Reply:
        endpoint = SOCKET.get(method) or self._own_methods(socket).get(method)
        if endpoint is None:
            gone = method in _LISTEN_KEY_METHODS
            text = "This endpoint is no longer available." if gone else f"Unknown method '{method}'."
            return Reply(410 if gone else 400, {"code": -1000 if gone else -1020, "msg": text})
        key = dict(params.items()).get("apiKey", "")
        if socket.session_key and not key:
            call = Call("WS", method, params, endpoint, socket.session_key, lambda: None)
        else:
            call = Call("WS", method, params, endpoint, key, lambda: self._check_signature(params, key))
        return await answer(self._exchange, call)

    def _check_signature(self, params: Params, key: str) -> None:
        signature, error = params.text("signature"), refusal("bad_signature")
        for payload in socket_payloads(params):
            try:
                return self._exchange.keyring.check_signature(payload, signature, key)
            except ApiError as refused:
                error = refused
        raise error

    def _own_methods(self, socket: Socket) -> Mapping[str, Endpoint]:
        """Return the methods that are about this connection."""
        users = self._exchange.users

        def subscribe(_exchange: LocalExchange, _params: Params) -> object:
            return {"subscriptionId": users.subscribe(socket)}

        def unsubscribe(_exchange: LocalExchange, params: Params) -> object:
            users.unsubscribe(socket, params.number("subscriptionId"))
            return {}

        def listing(_exchange: LocalExchange, _params: Params) -> object:
            return [{"subscriptionId": number} for number in users.numbers(socket)]

        found = {
            "userDataStream.subscribe.signature": Endpoint(subscribe, 2, "signed"),
            "userDataStream.unsubscribe": Endpoint(unsubscribe, 2),
            "session.subscriptions": Endpoint(listing, 2),
            "session.logon": Endpoint(lambda _, params: self._log_on(socket, params), 2, "signed"),
            "session.status": Endpoint(lambda _e, _p: self._status(socket), 2),
            "session.logout": Endpoint(lambda _e, _p: self._log_out(socket), 2),
        }
        if socket.session_key:
            found["userDataStream.subscribe"] = Endpoint(subscribe, 2)
        if self._exchange.options.has_listen_keys:
            key = Endpoint(lambda _e, _p: {"listenKey": users.listen_key}, 2, "key")
            found |= dict.fromkeys(_LISTEN_KEY_METHODS, key)
        return found

    def _log_on(self, socket: Socket, params: Params) -> object:
        """Log the connection on: its requests need no key and no signature any more. Errors: −4056 for HMAC keys."""
        key = params.text("apiKey")
        if not self._exchange.keyring.is_ed25519(key):
            raise ApiError(-4056, "HMAC_SHA256 API key is not supported.")
        socket.session_key = key
        return self._status(socket)

    def _log_out(self, socket: Socket) -> object:
        socket.session_key = ""
        return self._status(socket)

    def _status(self, socket: Socket) -> object:
        now = self._exchange.wall_ms()
        return {
            "apiKey": socket.session_key or None,
            "authorizedSince": now if socket.session_key else None,
            "connectedSince": now,
            "returnRateLimits": True,
            "serverTime": now,
            "userDataStream": bool(self._exchange.users.numbers(socket)),
        }


def _plain(value: object) -> str:
    """Return a JSON value as the text that REST would carry."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode()
