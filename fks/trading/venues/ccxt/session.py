"""Our subclass of ccxt.pro's Binance: what docs/venues.md demands of a session before it may carry orders.

Guarantees: every call knows whether its bytes left (`Wire`, filled by aiohttp's own trace of the request's headers);
no call is repeated by us, by ccxt or by aiohttp, and no redirect is followed; an exception while a socket's message is
handled closes that socket instead of silently ending its receive loop; user events never touch ccxt's caches: they go
raw to `on_user_event`; with base URLs given, no URL of the real exchange is left in the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from fks.clock import Clock
from fks.model.errors import PeerError
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.http import WIRE, tls_of, trace
from fks.trading.venues.ccxt.library import binance, ccxt

#: the message hash whose rejection says that the user stream's socket is gone
BROKEN = "fks:broken"
USER_EVENTS = frozenset(
    {
        "executionReport",
        "outboundAccountPosition",
        "balanceUpdate",
        "listStatus",
        "eventStreamTerminated",
        "externalLockUpdate",
    }
)


class BinanceSession(binance):  # type: ignore[misc]  # ccxt is untyped
    """One exchange object per (venue, account, role); `connect` before use, `disconnect` after."""

    def __init__(self, config: SessionConfig, clock: Clock) -> None:
        self._fks_clock = clock
        self._fks_http: aiohttp.ClientSession | None = None
        self.on_user_event: Callable[[Mapping[str, Any]], None] = lambda event: None
        super().__init__(
            {
                "apiKey": config.api_key,
                "secret": config.api_secret,
                "enableRateLimit": False,  # we have a budget of our own; a queue inside the library would delay an exit
                "timeout": int(config.order_timeout_s * 1000),
                "streaming": {"keepAlive": config.keepalive_ms},
                "enableLastHttpResponse": False,
                "enableLastJsonResponse": False,
                "options": {
                    "defaultType": "spot",
                    "fetchMarkets": {"types": ["spot"]},
                    "fetchCurrencies": False,
                    "fetchMargins": False,
                    "adjustForTimeDifference": False,
                    "timeDifference": 0,
                    "recvWindow": config.recv_window_ms,
                    "warnOnFetchOpenOrdersWithoutSymbol": False,
                    "fetchOpenOrders": {"warnWithoutSymbol": False},
                },
            }
        )
        if config.rest_url is not None:
            self._point_at(config.rest_url, config.ws_url or config.rest_url, config.ws_api_url)
        # ccxt picks error tables by URL prefix; merged, codes read the same at every address
        for part in ("exact", "broad"):
            self.exceptions[part] = self.deep_extend(
                self.exceptions.get(part, {}), self.exceptions["spot"].get(part, {})
            )

    def _point_at(self, rest: str, ws: str, ws_api: str | None) -> None:
        """Replace the address of every URL, those of other markets too: a call not offered here must fail here."""
        rest, ws = (
            rest.rstrip("/"),
            ws.rstrip("/").replace("http", "ws", 1) if ws.startswith("http") else ws.rstrip("/"),
        )
        socket_api = ws_api or f"{ws}/ws-api/v3"
        api = {name: _moved(url, rest) for name, url in self.urls["api"].items() if isinstance(url, str)}
        sockets: dict[str, Any] = {name: f"{ws}/stream/ws" for name in self.urls["api"]["ws"] if name != "ws-api"}
        sockets["ws-api"] = dict.fromkeys(self.urls["api"]["ws"]["ws-api"], socket_api)
        self.urls["api"] = {**api, "ws": sockets}

    @property
    def stream_url(self) -> str:
        """Return the address of the WebSocket API, where the user stream lives."""
        return str(self.urls["api"]["ws"]["ws-api"]["spot"])

    async def connect(self) -> None:
        """Make the HTTP session in the running loop. Sends nothing."""
        if self._fks_http is None:
            tls = tls_of(str(self.urls["api"]["private"]))
            self._fks_http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, happy_eyeballs_delay=0.1, ssl=tls),
                trace_configs=[trace()],
                trust_env=False,
            )
            self.own_session = False
            self.session = self._fks_http

    async def disconnect(self) -> None:
        """Close sockets and HTTP. Safe to call twice."""
        self.timeout_on_exit = 0
        await self.close()
        if self._fks_http is not None:
            await self._fks_http.close()
            self._fks_http = None

    def nonce(self) -> int:
        """Return our time in milliseconds, moved by the measured skew."""
        return self._fks_clock.now_ns() // 1_000_000 - int(self.options["timeDifference"])

    def on_rest_response(
        self,
        code: int,
        reason: str,
        url: str,
        method: str,
        response_headers: Mapping[str, str],
        response_body: str,
        request_headers: object,
        request_body: object,
    ) -> str:
        """Keep what came back before ccxt interprets it."""
        wire = WIRE.get()
        if wire is not None:
            wire.note(code, response_body, response_headers)
        return str(
            super().on_rest_response(
                code, reason, url, method, response_headers, response_body, request_headers, request_body
            )
        )

    def handle_message(self, client: Any, message: Any) -> None:
        """Tap user events, guard everything else: what raises here would end the receive loop without a word."""
        try:
            event = _user_event(message)
            if event is None:
                super().handle_message(client, message)
                return
            self.on_user_event(event)
            if event["e"] == "eventStreamTerminated":
                client.reject(ccxt.NetworkError("the venue ended the user stream"), BROKEN)
        except Exception as error:  # the boundary to their bytes: any fault ends this connection, aloud
            client.on_error(ccxt.NetworkError(f"a message could not be handled ({type(error).__name__}: {error})"))

    async def ask_socket(self, method: str, params: dict[str, Any], *, is_signed: bool = True) -> Any:
        """Send one request over the WebSocket API and return its message. Errors: ccxt's; never sent twice."""
        url = self.stream_url
        request = str(self.request_id(url))
        message = {"id": request, "method": method, "params": self.sign_params(params) if is_signed else params}
        subscription = {"id": request, "method": lambda client, answer: client.resolve(answer, request)}
        try:
            return await self.watch(url, request, message, request, subscription)
        finally:
            client = self.clients.get(url)
            if client is not None:  # ccxt keeps a subscription for ever; ours was one question
                client.subscriptions.pop(request, None)

    async def drop_socket(self) -> None:
        """Close the user stream's connection, so that the next use connects again."""
        client = self.clients.pop(self.stream_url, None)
        if client is not None:
            await client.close()


def _moved(url: str, base: str) -> str:
    """Return `url` with its scheme and host replaced by `base`."""
    path = url.split("://", 1)[1].partition("/")[2]
    return f"{base}/{path}"


def _user_event(message: Any) -> Mapping[str, Any] | None:
    """Return the user event in a frame, or None when it is something else. Errors: PeerError for a broken wrapper."""
    if not isinstance(message, dict):
        return None
    event = message.get("event", message)
    if not isinstance(event, dict):
        raise PeerError(f"a user event is no object: {str(message)[:200]}")
    return event if event.get("e") in USER_EVENTS else None
