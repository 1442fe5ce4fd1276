"""WS /ws: market data, signals, orders and fills as they happen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Annotated

from fastapi import Query, WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from fks.interfaces.api.auth import (
    SESSION_OVER,
    TOKEN_WRONG,
    asks_inside,
    authenticate,
    check_scope,
    make_ticket,
    unauthorized,
    use_ticket,
)
from fks.interfaces.api.client import SocketClient
from fks.interfaces.api.exact import ExactJson, dump
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.hub import DEFAULT, EVERY, HEARTBEAT_S
from fks.interfaces.api.problems import of_error
from fks.interfaces.api.query import Gate, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.subscriptions import handle, is_checked, wide
from fks.interfaces.api.topics import topics_of
from fks.interfaces.api.window import ClientWindow
from fks.model.errors import FksError, OutageError, Problem, invalid, unprocessable
from fks.model.timeframe import TIMEFRAMES, check_timeframe, iso
from fks.store.tokens import Principal
from fks.system.process.callers import is_own_origin

router = Router(tags=["stream"])
GOING_AWAY, POLICY, TRY_LATER = 1001, 1008, 1013
SEND_S = 10.0  # for a client that does not read, or leaves a check unanswered
RECHECK_S = 10.0  # a socket outlives its token by no more
MESSAGE_MAX = 16_384
LATE_S = 10.0  # for the last message to a client that does not read
STALL_S = 1.0  # to read messages that arrived while this process itself stood still


@router.post("/ws/ticket", status_code=201)
async def ticket(gate: Gate, caller: Reader) -> ExactJson:
    """Return a ticket that opens one socket within 30 s, for browsers, which cannot send the header."""
    return ExactJson({"ticket": await make_ticket(gate.bus, caller), "expires_in_s": 30}, status_code=201)


@router.websocket("/ws", dependencies=[asks_inside("read")])
async def stream(
    socket: WebSocket,
    channels: Annotated[str | None, Query(description="comma list; default bars,signals,orders,fills; none: -")] = None,
    symbol: Annotated[str | None, Query(description="comma list of symbols in any spelling")] = None,
    exchange: Annotated[str | None, Query(description="of this one alone, where several have a symbol")] = None,
    timeframe: Annotated[str | None, Query(description="comma list; bars of these only")] = None,
    ticket: Annotated[str | None, Query(description="from POST /ws/ticket, instead of the header")] = None,
) -> None:
    """Send messages until either side ends; subscriptions may change meanwhile. Refused before the handshake: 401, 403
    (scope or Origin), 400, 503."""
    gate: Replica = socket.app.state.gateway
    try:
        principal = await _admit(socket, gate, ticket)
        client = await _client(gate, channels, symbol, timeframe, exchange)
        most = gate.deps.settings.auth.sockets_max
        if gate.hub.held_by(principal.key) >= most:
            raise Problem(
                429,
                "SOCKETS_MANY",
                f"{principal.name} has {most} sockets at this replica",
                remedy="close some; one socket takes many channels and symbols",
            )
        if not gate.hub.join(client, principal.key):
            raise Problem(
                503, "SOCKETS_FULL", "this gateway serves as many sockets as it may", headers={"Retry-After": "5"}
            )
    except FksError as error:
        await socket.send_denial_response(of_error(error, "/ws"))
        return
    try:
        await socket.accept()
        symbols = sorted({topic.symbol for topic in client.topics if topic.symbol})
        greeting: dict[str, object] = {"type": "hello", "channels": sorted(client.channels), "symbols": symbols}
        greeting |= {"stream": gate.hub.stream, "seq": gate.hub.seq}
        await _send(socket, dump({**greeting, "time": iso(gate.deps.clock.now_ns()), "gateway": gate.deps.name}))
        await _serve(socket, gate, client, principal)
    except TimeoutError:  # it does not read: the close may lie in its buffers until it does
        gate.hub.leave(client)
        _note_slow(gate, client)
        with contextlib.suppress(WebSocketDisconnect, TimeoutError, RuntimeError):
            await _close(socket, TRY_LATER, "too slow: nothing was read for 10 s", LATE_S)
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client is gone
    finally:
        gate.hub.leave(client)


async def _admit(socket: WebSocket, gate: Replica, ticket: str | None) -> Principal:
    """Authenticate a reader and return the principal. Errors: Problem 401, 403."""
    if not is_own_origin(socket, gate.deps.settings.http.cors_origins):
        raise Problem(
            403, "ORIGIN_FORBIDDEN", "this page's origin may not open sockets here", remedy="set http.cors_origins"
        )
    if ticket is None:
        return await authenticate(socket, "read")
    principal = await use_ticket(gate.bus, ticket)
    if principal is None:
        raise unauthorized("the ticket is unknown, used or older than 30 s")
    if not await gate.tokens.is_alive(principal):
        raise unauthorized(TOKEN_WRONG if principal.session_id is None else SESSION_OVER)
    return check_scope(principal, "read")


async def _client(
    gate: Replica, channels: str | None, symbol: str | None, timeframe: str | None, exchange: str | None
) -> SocketClient:
    """Return the client with the subscriptions of its address; `-` is no channel: it subscribes by message only."""
    wanted = [] if channels == "-" else _listed(channels) or list(DEFAULT)
    if unknown := sorted(set(wanted) - EVERY.keys()):
        raise invalid("CHANNEL_UNKNOWN", f"unknown channel {unknown[0]!r}", f"use {', '.join(EVERY)}")
    places: list[tuple[str, str]] = []
    for text in _listed(symbol):
        symbols, at = await gate.narrowed(text, exchange)
        places += [(at or "", name) for name in symbols or ()]
    if exchange and not places:
        raise unprocessable("INVALID", "exchange: of which symbol?", "name symbols along with it")
    topics = wide(topics_of(wanted, places, [check_timeframe(text) for text in _listed(timeframe)]))
    return SocketClient(topics, ClientWindow(gate.deps.clock.monotonic))


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()][: len(TIMEFRAMES) * 8]


async def _serve(socket: WebSocket, gate: Replica, client: SocketClient, principal: Principal) -> None:
    """Send and receive until the client, the gateway or the token ends; then end the other tasks."""
    tasks = {
        asyncio.create_task(work)
        for work in (
            _send_all(socket, gate, client),
            _receive_all(socket, client),
            _answer_all(gate, client),
            _until_revoked(socket, gate, principal),
        )
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_revoked(socket: WebSocket, gate: Replica, principal: Principal) -> None:
    """Close the socket when its token is revoked. While the database is away the token counts as valid."""
    while True:
        await gate.deps.clock.sleep(RECHECK_S)
        with contextlib.suppress(OutageError):
            if not await gate.tokens.is_alive(principal):
                over = "the token is revoked" if principal.session_id is None else SESSION_OVER + ": log in again"
                await _close(socket, POLICY, over)
                return


async def _send_all(socket: WebSocket, gate: Replica, client: SocketClient) -> None:
    """Send waiting messages, one at a time: new ones still find the rest in the queue."""
    window, clock = client.window, gate.deps.clock
    beat_s = clock.monotonic() + HEARTBEAT_S
    while True:
        found = await client.take(min(window.wait_s(SEND_S), max(beat_s - clock.monotonic(), 0.0)), most=1)
        for queued in found:
            if queued.channel == "dropped":
                _count_dropped(gate, queued.message["counts"])
        if client.is_overrun or await _is_late(gate, client):
            _note_slow(gate, client)
            _count_dropped(gate, client.take_dropped())
            await _close(socket, TRY_LATER, "too slow: read again over REST and reconnect")
            return
        for queued in found:
            await _send(socket, queued.data)
            window.note_sent(len(queued.data))
        if client.is_closing and not found:
            await _close(socket, GOING_AWAY, "the gateway restarts: reconnect")
            return
        if found or clock.monotonic() >= beat_s:
            if not (found or window.is_full):
                await _send(socket, dump({"type": "heartbeat", "time": iso(clock.now_ns())}))
            beat_s = clock.monotonic() + HEARTBEAT_S
        if window.is_due:
            await _send(socket, dump({"type": "check", "n": window.check()}))


async def _is_late(gate: Replica, client: SocketClient) -> bool:
    """Return whether it left a check unanswered for SEND_S, and this process was reading meanwhile."""
    if client.window.is_late(SEND_S):
        await gate.deps.clock.sleep(STALL_S)
    return client.window.is_late(SEND_S)


def _count_dropped(gate: Replica, counts: Mapping[str, int]) -> None:
    for channel, count in counts.items():
        gate.meter.count("fks_market_dropped_total", count, channel=channel)


def _note_slow(gate: Replica, client: SocketClient) -> None:
    gate.deps.log.warning("gateway.slow_listener", channels=sorted(client.channels))


async def _receive_all(socket: WebSocket, client: SocketClient) -> None:
    """Receive the client's messages until it leaves. Answers to checks count at once: its requests may wait for
    them."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text") or ""
        if len(text) > MESSAGE_MAX:
            await _close(socket, POLICY, "message too long")
            return
        if not is_checked(client, text):
            await client.requests.put(text)


async def _answer_all(gate: Replica, client: SocketClient) -> None:
    """Handle the client's requests, one after another and no faster than it reads the answers; an invalid one is
    answered with an error."""
    while True:
        text = await client.requests.get()
        await client.wait_drained()
        client.window.is_deaf = True
        await handle(gate, client, text)
        client.window.is_deaf = False


async def _send(socket: WebSocket, data: bytes) -> None:
    """Send a message. Errors: TimeoutError, where the server waits until the peer reads (Serve's does not)."""
    async with asyncio.timeout(SEND_S):  # a peer that stopped reading must not hold its slot for ever
        await socket.send_text(data.decode())


async def _close(socket: WebSocket, code: int, reason: str, timeout_s: float = SEND_S) -> None:
    if socket.application_state is WebSocketState.CONNECTED:
        async with asyncio.timeout(timeout_s):
            await socket.close(code, reason)
