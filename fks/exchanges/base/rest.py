"""REST through ccxt's implicit methods: its hosts, paths, throttle and error tables; our numbers, budget and blame.

ccxt would parse 1762795433.9717445 to a float and lose the last digits. Here every number with a point stays the text
that the exchange wrote, and `exact` makes a decimal of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only
from fks.exchanges.base.values import TOO_MUCH, seconds_told
from fks.model.errors import FksError, InputError, OutageError, PeerError
from fks.model.ports import Budget
from fks.model.timeframe import to_ns

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT - {"binance"}):  # its errors are all that is needed here
    import ccxt

TIMEOUT_MS = 10_000
T = TypeVar("T")


class _Reading:
    """Mixed into a ccxt class that only reads market data: numbers with a point stay text, and the status comes first.

    ccxt asks some exchanges' bodies before the HTTP status, and takes an overload for a refusal.
    """

    def on_json_response(self, body: str) -> Any:
        """Return the JSON value of an answer. Errors: ValueError, which ccxt takes for an answer that is no JSON."""
        return json.loads(body, parse_float=str)

    def handle_errors(self, code: int, reason: str, *rest: Any) -> Any:
        """Raise ccxt's error for a status of asking too much or of trouble on their side; else ask the exchange's own tables."""
        if code in TOO_MUCH:
            raise ccxt.RateLimitExceeded(f"{code} {reason}")
        if code >= 500:
            raise ccxt.ExchangeNotAvailable(f"{code} {reason}")
        return super().handle_errors(code, reason, *rest)  # type: ignore[misc]


class Rest:
    """One exchange's public REST. `kind` is its ccxt class; `used_header` says how much of the window is spent."""

    def __init__(
        self, name: str, kind: type[Any], config: Mapping[str, Any], *, budget: Budget | None, used_header: str = ""
    ) -> None:
        self.name = name
        self._kind = type(f"Reading{kind.__name__}", (_Reading, kind), {})
        self._config = {"enableRateLimit": budget is None, "timeout": TIMEOUT_MS, **config}
        self._budget = budget
        self._used_header = used_header.lower()
        self._client: Any = None

    def open(self) -> None:
        """Make the client. Dials nothing yet."""
        if self._client is None:
            self._client = self._kind(self._config)
            for table in ("exact", "broad"):  # ccxt picks Binance's error tables by host name; ours may be another one
                spot = self._client.exceptions.get("spot")
                if isinstance(spot, dict):
                    self._client.exceptions[table] = {**self._client.exceptions.get(table, {}), **spot.get(table, {})}

    async def close(self) -> None:
        """Close the HTTP session."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def call(self, method: str, request: Mapping[str, Any], *, weight: int = 1) -> Any:
        """Return the answer of one implicit method. Errors: OutageError, PeerError, InputError (unknown symbol)."""
        assert self._client is not None, "open() comes first"
        if self._budget is not None:
            await self._budget.take(weight)
        try:
            answer = await getattr(self._client, method)(dict(request))
        except (ccxt.BaseError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded) and self._budget is not None:
                self._budget.pause(seconds_told(self._header("retry-after")))
            raise blamed(self.name, error) from error
        if self._budget is not None and (used := self._header(self._used_header)).isdigit():
            self._budget.seen(int(used))
        return answer

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


def rows_of(name: str, answer: Any, *path: str) -> list[Any]:
    """Return the list under `path` of a REST answer. Errors: PeerError when there is none (an HTML page with status 200)."""
    found = answer
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, list):
        raise PeerError(f"{name} answered {str(answer)[:200]!r} where a list was due")
    return found


def read_rows(name: str, one: Callable[[Any], T], rows: Sequence[Any]) -> list[T]:
    """Return `one` of each row. Errors: PeerError when a row has not the exchange's own form."""
    try:
        return [one(row) for row in rows]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PeerError(f"{name} sent a row that cannot be read: {error!r}") from error


def blamed(name: str, error: BaseException) -> FksError:
    """Return whose fault an error of ccxt or of the network is."""
    if isinstance(error, FksError):
        return error
    text = str(error)[:300]
    if isinstance(error, ccxt.BadSymbol):
        return InputError(f"{name}: {text}", code="SYMBOL_UNKNOWN", status=404, remedy="see 'fks assets list --all'")
    if isinstance(error, ccxt.ExchangeError | ValueError) and not isinstance(error, ccxt.NetworkError):
        return PeerError(f"{name}: {text}")
    return OutageError(f"{name} does not answer: {text}")
