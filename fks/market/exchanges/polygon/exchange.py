"""Polygon US stocks behind the port: live by `wire`, markets and history by its own REST.

Bars are unadjusted (as traded), hold every session from 04:00 to 20:00 in New York, and are missing where no eligible
trade was. Days, weeks and months are New York's and begin at its midnight, so FKS makes every larger bar from minutes
itself. A plan with delayed data is a quarter of an hour behind: its last bars are not closed yet and are left out.

Source: polygon.io/docs/rest/stocks (tickers, aggregates, trades, dividends, splits), read 2026-11. Numbers are decimals
of the answer's own text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from pydantic import SecretStr

from fks.clock import Clock
from fks.market.exchanges.base import MS, ExchangeAddresses
from fks.market.exchanges.base.exchange import WireExchange
from fks.market.exchanges.base.rows import UNREADABLE, amount_of, bar_of, closed
from fks.market.exchanges.base.values import TOO_MUCH, offered, retry_after_s
from fks.market.exchanges.polygon.capabilities import CAPABILITIES, SPANS
from fks.market.exchanges.polygon.wire import PolygonWire, trade_of
from fks.model.bar import Bar, PublicTrade
from fks.model.cash_flows import Dividend, FetchedEvents, SplitDay
from fks.model.errors import ConfigError, FksError, InputError, OutageError, PeerError, not_found
from fks.model.instrument import Instrument
from fks.model.ports import Budget, Log
from fks.model.timeframe import NS, TIMEFRAMES, to_datetime

PUBLIC_REST = "https://api.polygon.io"
TIMEOUT_S = 20.0
PAUSE_S = 60.0  # after a 429 that does not say how long: limits are per minute
LISTING_MAX = 1_000  # tickers of one answer
PAGE_MAX = CAPABILITIES.bars_page_max  # rows of one answer, and aggregates looked at for it
PAGES_MAX = 50  # of a list: there are some twelve thousand tickers
SHARES_MAX = 999_999  # of a split, old and new ones
DELAY_NS = 15 * 60 * NS
LOOK_BACK = 5  # times the bars' own length; and two weeks: markets are closed most of the time
T = TypeVar("T")


class _Answer(msgspec.Struct):
    status: str = ""
    error: str = ""
    message: str = ""
    results: msgspec.Raw = msgspec.Raw(b"[]")
    next_url: str = ""


class _Aggregate(msgspec.Struct):
    t: int
    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741 - the exchange's own letter
    c: Decimal
    v: Decimal
    n: int = 0


class _Dividend(msgspec.Struct):
    ex_dividend_date: date
    cash_amount: Decimal
    currency: str = "USD"
    pay_date: date | None = None
    declaration_date: date | None = None
    dividend_type: str = ""


class _Split(msgspec.Struct):
    execution_date: date
    split_from: Decimal
    split_to: Decimal


class _Trade(msgspec.Struct):
    sip_timestamp: int
    sequence_number: int
    price: Decimal
    size: Decimal


class PolygonExchange(WireExchange):
    """Polygon US stocks; see `fks.model.ports.Exchange`. `key` is sent in headers and messages, never in addresses."""

    name = "polygon"
    capabilities = CAPABILITIES

    def __init__(
        self,
        endpoint: ExchangeAddresses,
        clock: Clock,
        log: Log,
        budget: Budget | None = None,
        *,
        key: SecretStr | None = None,
    ) -> None:
        super().__init__(endpoint, clock, log, budget)
        self._base = (endpoint.rest or PUBLIC_REST).rstrip("/")
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    def wire(self) -> PolygonWire:
        """Return the protocol of one connection. Errors: ConfigError without a key."""
        return PolygonWire(self._shown(), self._endpoint.ws, self.counters)

    async def open(self) -> None:
        """Prepare the session; no connection is opened yet. Errors: ConfigError without a key."""
        self._shown()
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def close(self) -> None:
        """Close connections and sessions, waiting at most a second for the peer."""
        await super().close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def listing(self) -> list[Any]:
        """Return every active US stock. Errors: as `_get`."""
        return await self._paged("tickers", {"market": "stocks", "active": "true", "limit": LISTING_MAX}, Any)

    async def fetch_events(self, symbol: str, since_ns: int) -> FetchedEvents:
        """Return the cash dividends and the splits of a ticker from a day on. Errors: as `_get`."""
        day = to_datetime(since_ns).date().isoformat()
        wanted: dict[str, Any] = {"ticker": symbol, "order": "asc", "limit": LISTING_MAX}
        of_dividends = {**wanted, "ex_dividend_date.gte": day, "sort": "ex_dividend_date"}
        of_splits = {**wanted, "execution_date.gte": day, "sort": "execution_date"}
        dividends = await self._paged("dividends", of_dividends, _Dividend)
        splits = await self._paged("splits", of_splits, _Split)
        return FetchedEvents(tuple(map(_split, splits)), tuple(map(_dividend, dividends)))

    async def _paged(self, name: str, params: dict[str, Any], kind: type[T]) -> list[T]:
        """Return all rows of a reference list, of at most PAGES_MAX pages. Errors: as `_get`."""
        url: str = f"{self._base}/v3/reference/{name}"
        found: list[T] = []
        for _ in range(PAGES_MAX):
            answer = await self._get(url, params)
            found += _decode(answer.results, list[kind])  # type: ignore[valid-type]
            if not answer.next_url:
                break
            following = urlsplit(answer.next_url)  # the key goes to the host that was set, wherever the answer points
            url, params = (
                f"{urlsplit(self._base).scheme}://{urlsplit(self._base).netloc}{following.path}?{following.query}",
                {},
            )
        return found

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars of all sessions, unadjusted; see the port. Errors: as `_get`, InputError
        TIMEFRAME_UNKNOWN."""
        span = SPANS[offered(self.name, SPANS, timeframe)]
        now_ns = self._clock.now_ns()
        end_ns = now_ns if until_ns is None else until_ns
        start_ns = since_ns
        if start_ns is None:
            start_ns = end_ns - limit * TIMEFRAMES[timeframe] * NS * LOOK_BACK - 14 * 86400 * NS
        if start_ns >= end_ns:
            return []
        url = f"{self._base}/v2/aggs/ticker/{symbol}/range/{span}/{-(-start_ns // MS)}/{-(-end_ns // MS) - 1}"
        order = "desc" if since_ns is None else "asc"
        answer = await self._get(url, {"adjusted": "false", "sort": order, "limit": PAGE_MAX})
        rows = _decode(answer.results, list[_Aggregate])
        present_ns = now_ns - (DELAY_NS if answer.status == "DELAYED" else 0)
        bars = [
            bar_of(self.name, symbol, timeframe, row.t, (row.o, row.h, row.l, row.c, row.v), trades=row.n)
            for row in rows
        ]
        found = closed(bars, min(end_ns, present_ns))
        return found[:limit] if since_ns is not None else found[-limit:]

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades oldest first from a time, else the newest; there is no request by id. Errors: as `_get`."""
        order = "desc" if since_ns is None else "asc"
        params: dict[str, Any] = {"order": order, "sort": "timestamp", "limit": min(limit, PAGE_MAX)}
        if since_ns is not None:
            params["timestamp.gte"] = since_ns
        answer = await self._get(f"{self._base}/v3/trades/{symbol}", params)
        # time in milliseconds, as live
        trades = [
            trade_of(symbol, row.sequence_number, row.sip_timestamp // MS * MS, row.price, row.size)
            for row in _decode(answer.results, list[_Trade])
        ]
        return sorted(trades, key=lambda trade: trade.trade_id)

    def _shown(self) -> str:
        key = self._key.get_secret_value() if self._key is not None else ""
        if not key:
            raise ConfigError("polygon needs a key and data.polygon_api_key is not set", remedy="set POLYGON_API_KEY")
        return key

    async def _get(self, url: str, params: dict[str, Any]) -> _Answer:
        """Return one answer. Errors: OutageError, PeerError, ConfigError (the key), InputError SYMBOL_UNKNOWN,
        NOT_IN_PLAN."""
        assert self._session is not None, "open() comes first"
        if self._budget is not None:
            await self._budget.take()
        headers = {"Authorization": f"Bearer {self._shown()}"}
        try:
            async with self._session.get(url, params=params, headers=headers, allow_redirects=False) as response:
                body = await response.read()
                if response.status in TOO_MUCH and self._budget is not None:
                    self._budget.pause(retry_after_s(response.headers.get("Retry-After", ""), PAUSE_S))
                if response.status != 200:
                    raise _refused(response.status, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # the error's text may hold the request
            raise OutageError(f"polygon does not answer: {type(error).__name__}") from error
        return _decode(body, _Answer)

    def instrument_of(self, row: Mapping[str, Any], now_ns: int) -> Instrument:
        """Return the instrument of one ticker's row."""
        return Instrument(
            exchange=self.name,
            symbol=str(row["ticker"]),
            base=str(row["ticker"]),
            quote=str(row.get("currency_name") or "usd").upper(),
            tick=Decimal("0.01"),  # of prices from a dollar on; trades may be between
            lot_step=Decimal(1),
            qty_min=Decimal(1),
            qty_max=Decimal(10**9),
            notional_min=Decimal(0),
            is_trading=row["active"] is True,
            updated_ns=now_ns,
        )


def _dividend(row: _Dividend) -> Dividend:
    amount = amount_of(row.cash_amount, "cash_amount")
    kind = "" if row.dividend_type == "CD" else row.dividend_type  # CD: one of a regular schedule
    return Dividend(row.ex_dividend_date, amount, row.currency.upper(), row.pay_date, kind, row.declaration_date)


def _split(row: _Split) -> SplitDay:
    """Return a split in whole shares: 1.5 new ones for an old one are 3 for 2. Errors: PeerError."""
    if min(row.split_from, row.split_to) > 0:
        ratio = Fraction(row.split_to) / Fraction(row.split_from)
        if max(ratio.numerator, ratio.denominator) <= SHARES_MAX:
            return SplitDay(row.execution_date, ratio.numerator, ratio.denominator)
    raise PeerError(f"polygon has a split of {row.split_to} for {row.split_from} on {row.execution_date}")


def _decode(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise PeerError(f"polygon answered {bytes(body)[:200]!r}: {error}") from error


def _refused(status: int, body: bytes) -> FksError:
    text = f"polygon answered {status}: {body[:200].decode(errors='replace')}"
    if status == 401:
        return ConfigError(text, remedy="check data.polygon_api_key")
    if status == 403:  # the key is taken, and its plan lacks this
        return InputError(
            text, code="NOT_IN_PLAN", status=403, remedy="see what the plan of data.polygon_api_key includes"
        )
    if status == 404:
        return not_found("SYMBOL_UNKNOWN", text, "see 'fks assets list --all'")
    if status in TOO_MUCH or status >= 500:
        return OutageError(text)
    return PeerError(text)
