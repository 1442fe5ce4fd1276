"""A session of a dialect: ccxt's class of the exchange with our HTTP connection, nonce and evidence of sent bytes.

Guarantees: no signed call is repeated, no redirect is followed, each call knows whether its bytes left.

Where the nonces of a key must grow (`Dialect.is_key_exclusive`), signed requests of one session leave in their order: a
nonce is made when the one before it has left. The exchange refuses a nonce that arrives behind a later one, and thereby
proves that it did nothing. So a read waits for the answers of earlier reads, orders and cancels; an order and a cancel
wait for each other, at most OVERTAKE_S, and never for a read. Elsewhere no request waits for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, Protocol

import aiohttp
import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fks.clock import Clock
from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.http import WIRE, on_wire, tls_of, trace
from fks.trading.venues.ccxt.dialect import CcxtCall, Dialect

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT - {"binance"}):
    import ccxt

OVERTAKE_S = 1.0  # an exit does not wait longer for an order whose answer hangs
_HEADERS: ContextVar[Mapping[str, str]] = ContextVar("fks_headers", default={})  # noqa: B039  never changed


class _CcxtExchange(Protocol):
    """The part of a ccxt exchange that a session uses."""

    session: Any
    own_session: bool
    timeout_on_exit: int
    urls: dict[str, Any]
    apiKey: str
    secret: str

    async def close(self) -> None: ...


def _class_of(name: str) -> Any:
    """Return ccxt's class of one exchange, without the others."""
    with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT - {"binance"} | {name}):
        return getattr(importlib.import_module(f"ccxt.async_support.{name}"), name)


def _secret(config: SessionConfig) -> str:
    """Return the secret; a PEM text of one line, as it is in an exchange's JSON file, gets its lines back."""
    return config.api_secret.replace("\\n", "\n")


class DialectSession:
    """Calls of one API key. One per (venue, account, role); `open` before use, `close` after.

    `skew_ns`: exchange clock minus ours, as last measured.
    """

    errors: tuple[type[Exception], ...] = (ccxt.BaseError,)

    def __init__(self, dialect: Dialect, config: SessionConfig, clock: Clock) -> None:
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None
        self._nonce = 0
        self._signing, self._reading, self._writing = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._writes = 0
        self._no_writes = asyncio.Event()
        self._no_writes.set()
        self.skew_ns = 0
        self._is_ordered = dialect.is_key_exclusive
        self._exchange = self._make(dialect, config)

    def _make(self, dialect: Dialect, config: SessionConfig) -> _CcxtExchange:
        next_nonce, unit_ns = self._next_nonce, 1_000 if dialect.is_key_exclusive else 1_000_000
        base = _class_of(dialect.name) if dialect.client is None else dialect.client()

        read_key: Any = lru_cache(1)(partial(load_pem_private_key, password=None))  # a key that was changed is dropped

        class _Exchange(base):  # type: ignore[misc,valid-type]  # ccxt is untyped
            def nonce(self) -> int:
                return next_nonce(unit_ns)

            def jwt(self, request: dict[str, Any], secret: bytes, *rest: Any) -> Any:
                """Return a signed token. ccxt reads the key for each one, and computes a recovery id that ES256 has
                not: 6 times as slow."""
                options = rest[-1] if rest else {}
                if options.get("alg") != "ES256":
                    return super().jwt(request, secret, *rest)
                headers = {name: options[name] for name in ("kid", "nonce")}
                return jwt.encode(request, read_key(secret), algorithm="ES256", headers=headers)

            def sign(self, *args: Any, **named: Any) -> Any:
                request = super().sign(*args, **named)
                if _HEADERS.get():
                    request["headers"] = {**(request.get("headers") or {}), **_HEADERS.get()}
                return request

            def on_rest_response(
                self, code: int, reason: str, url: str, method: str, headers: Mapping[str, str], body: str, *sent: Any
            ) -> str:
                if (wire := WIRE.get()) is not None:
                    wire.note(code, body, headers)
                return str(super().on_rest_response(code, reason, url, method, headers, body, *sent))

        made: _CcxtExchange = _Exchange(
            {
                "apiKey": config.api_key,
                "secret": _secret(config),
                "enableRateLimit": False,  # we have a budget of our own; a queue in the library would delay an exit
                "timeout": int(config.order_timeout_s * 1000),
                "enableLastHttpResponse": False,
                "enableLastJsonResponse": False,
                "options": {"adjustForTimeDifference": False, "maxRetriesOnFailure": 0},
            }
        )
        if config.rest_url is not None:  # every address: a call that is not offered here must fail here
            base_url = config.rest_url.rstrip("/")
            made.urls["api"] = {name: base_url for name, url in made.urls["api"].items() if isinstance(url, str)}
        return made

    def _next_nonce(self, unit_ns: int) -> int:
        """Return a time in units that grows with each request, whatever the clock does."""
        self._nonce = max(self._nonce + 1, self._clock.now_ns() // unit_ns)
        return self._nonce

    async def open(self) -> None:
        """Make the HTTP session in the running loop. Sends nothing."""
        if self._http is None:
            secure = any(str(url).startswith("https") for url in self._exchange.urls["api"].values())
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=64, happy_eyeballs_delay=0.1, ssl=tls_of("https://" if secure else "http://")
                ),
                trace_configs=[trace()],
                trust_env=False,
            )
            self._exchange.own_session = False
            self._exchange.session = self._http

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._exchange.timeout_on_exit = 0
        await self._exchange.close()
        if self._http is not None:
            await self._http.close()
            self._http = None

    def use_key(self, config: SessionConfig) -> None:
        """Sign with another key from now on. A request that is signed already keeps the one before."""
        self._exchange.apiKey, self._exchange.secret = config.api_key, _secret(config)

    def begin(self, call: CcxtCall, wire: CallCourse) -> asyncio.Future[Any]:
        """Send the call once, in a task of its own; return its future. `wire` gets what is seen."""
        return asyncio.create_task(self._run(call, wire))

    def is_network(self, error: BaseException | None) -> bool:
        """Return whether the network was at fault for a call of which no byte left."""
        return isinstance(error, ccxt.NetworkError | OSError | TimeoutError)

    async def _run(self, call: CcxtCall, wire: CallCourse) -> Any:
        method: Callable[[dict[str, Any]], Any] = getattr(self._exchange, call.endpoint)
        _HEADERS.set(call.headers)
        if not (call.is_signed and self._is_ordered):
            return await on_wire(wire, lambda: method(dict(call.params)))
        if not call.is_write:
            async with self._reading:
                await self._no_writes.wait()
                return await self._signed(method, call, wire)
        self._writes += 1
        self._no_writes.clear()
        try:
            async with AsyncExitStack() as stack:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(OVERTAKE_S):
                        await stack.enter_async_context(self._writing)
                return await self._signed(method, call, wire)
        finally:
            self._writes -= 1
            if not self._writes:
                self._no_writes.set()

    async def _signed(self, method: Callable[[dict[str, Any]], Any], call: CcxtCall, wire: CallCourse) -> Any:
        """Sign and send; the next request is signed once this one's first byte has left or it has ended."""
        left, may_leave = asyncio.Event(), wire.may_leave

        def leave() -> bool:
            left.set()
            return may_leave is None or may_leave()

        wire.may_leave = leave
        async with self._signing:
            answer = asyncio.create_task(on_wire(wire, lambda: method(dict(call.params))))
            answer.add_done_callback(lambda _: left.set())
            try:
                await left.wait()
            except asyncio.CancelledError:
                answer.cancel()
                raise
        try:
            return await answer
        except asyncio.CancelledError:
            answer.cancel()
            raise
