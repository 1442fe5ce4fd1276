"""REST through ccxt's implicit methods: its hosts, paths, throttle and error tables; our numbers, budget and errors.

ccxt would parse 1762795433.9717445 to a float and lose the last digits. Here every number with a point stays the text
that the exchange wrote, and `exact` makes a decimal of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import aiohttp

from fks.clock import Clock
from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.market.exchanges.base.exchange import WireExchange
from fks.market.exchanges.base.rows import rows_of
from fks.market.exchanges.base.values import TOO_MUCH, ExchangeAddresses, retry_after_s
from fks.model.errors import FksError, OutageError, PeerError, not_found
from fks.model.ports import Budget, Log
from fks.model.timeframe import to_ns

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT - {"binance"}):  # its errors are all that is needed here
    import ccxt

TIMEOUT_MS = 10_000


class _Reading:
    """Mixed into a ccxt class that only reads market data: numbers with a point stay text, and the status comes first.

    ccxt asks some exchanges' bodies before the HTTP status, and takes an overload for a refusal.
    """

    def on_json_response(self, body: str) -> Any:
        """Return the JSON value of an answer. Errors: ValueError, which ccxt takes for an answer that is no JSON."""
        return json.loads(body, parse_float=str)

    def handle_errors(self, code: int, reason: str, *rest: Any) -> Any:
        """Raise ccxt's error for a rate limit or server error status; else use the error tables of the exchange."""
        if code in TOO_MUCH:
            raise ccxt.RateLimitExceeded(f"{code} {reason}")
        if code >= 500:
            raise ccxt.ExchangeNotAvailable(f"{code} {reason}")
        return super().handle_errors(code, reason, *rest)  # type: ignore[misc]


class CcxtExchange(WireExchange):
    """Base of the exchange modules whose REST ccxt knows. `kind` is its class there.

    `rest_paths`: ccxt's names of the addresses that are asked, and what follows the endpoint's own in them. `config`:
    further options of ccxt. `weights`: methods that cost more than one of the budget. `used_header`: the header with
    the weight used in the present window.
    """

    kind: ClassVar[type[Any]]
    rest_paths: ClassVar[Mapping[str, str]]
    config: ClassVar[Mapping[str, Any]] = {}
    weights: ClassVar[Mapping[str, int]] = {}
    used_header: ClassVar[str] = ""

    def __init__(self, endpoint: ExchangeAddresses, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        super().__init__(endpoint, clock, log, budget)
        self._client: Any = None

    async def open(self) -> None:
        """Make the client. It connects to nothing yet."""
        if self._client is not None:
            return
        config = {"enableRateLimit": self._budget is None, "timeout": TIMEOUT_MS, **self.config}
        if self._endpoint.rest is not None:
            base = self._endpoint.rest.rstrip("/")
            config["urls"] = {"api": {name: base + path for name, path in self.rest_paths.items()}}
        self._client = type(f"Reading{self.kind.__name__}", (_Reading, self.kind), {})(config)
        for table in ("exact", "broad"):  # ccxt picks Binance's error tables by host name; ours may be another one
            spot = self._client.exceptions.get("spot")
            if isinstance(spot, dict):
                self._client.exceptions[table] = {**self._client.exceptions.get(table, {}), **spot.get(table, {})}

    async def close(self) -> None:
        """Close sockets and sessions, waiting at most a second for the peer."""
        await super().close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ask(self, method: str, request: Mapping[str, Any]) -> Any:
        """Return the answer of one implicit method. Errors: OutageError, PeerError, InputError (unknown symbol)."""
        assert self._client is not None, "open() comes first"
        if self._budget is not None:
            await self._budget.take(self.weights.get(method, 1))
        try:
            answer = await getattr(self._client, method)(dict(request))
        except (ccxt.BaseError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded) and self._budget is not None:
                self._budget.pause(retry_after_s(self._header("retry-after")))
            if isinstance(error, ccxt.ExchangeError):  # refused, and counted all the same
                self._note_used()
            raise blamed(self.name, error) from error
        self._note_used()
        return answer

    def _note_used(self) -> None:
        """Give the used weight in the last answer's header to the budget, if there is one."""
        if self._budget is not None and (used := self._header(self.used_header)).isdigit():
            self._budget.seen(int(used))

    async def rows(self, method: str, request: Mapping[str, Any], *path: str) -> list[Any]:
        """Return the list under `path` of an answer. Errors: as `ask`."""
        return rows_of(self.name, await self.ask(method, request), *path)

    def over_by(self, end_ns: int) -> int:
        """Return until when bars of the last answer are over: `end_ns`, or the answer's own date where that is earlier.

        Our clock may be ahead: a bar that still forms must not pass for a closed one.
        """
        try:
            date = parsedate_to_datetime(self._header("date"))
        except ValueError:
            return end_ns
        return min(end_ns, to_ns(date if date.tzinfo else date.replace(tzinfo=UTC)))

    def _header(self, name: str) -> str:
        headers = self._client.last_response_headers or {}
        return next((str(value) for key, value in headers.items() if key.lower() == name), "") if name else ""


def blamed(name: str, error: BaseException) -> FksError:
    """Return the FksError that an error of ccxt or of the network stands for."""
    if isinstance(error, FksError):
        return error
    text = str(error)[:300]
    if isinstance(error, ccxt.BadSymbol):
        return not_found("SYMBOL_UNKNOWN", f"{name}: {text}", "see 'fks assets list --all'")
    if isinstance(error, ccxt.ExchangeError | ValueError) and not isinstance(error, ccxt.NetworkError):
        return PeerError(f"{name}: {text}")
    return OutageError(f"{name} does not answer: {text}")
