"""Exact numbers and validated trades and bars of exchange messages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.model.bar import Bar, PublicTrade
from fks.model.errors import PeerError, invalid
from fks.model.instrument import Instrument, Lot, PercentPrice
from fks.model.order import OrderType

MS = 1_000_000  # nanoseconds in a millisecond
ZERO = Decimal(0)
HUGE = Decimal(10) ** 30  # no price or quantity is beyond it; infinity is
NS_MAX = 4_102_444_800 * 10**9  # the year 2100: no time of an exchange is beyond it
ID_MAX = 2**63 - 1  # the store's trade ids are 64 bits with a sign
TOO_MUCH = frozenset({418, 429})  # HTTP statuses of a broken rate limit
PAUSE_S = 30.0  # after a broken rate limit without a Retry-After
_PAUSE_MAX_S = 3 * 86400.0
_STARTS: dict[str, int] = {}  # whole seconds seen, as text
_STARTS_MAX = 4096
_NUMBERS_MAX = 20_000
_SCALES: tuple[int, ...] = tuple(10 ** (9 - digits) for digits in range(10))


@dataclass(frozen=True, slots=True)
class ExchangeAddresses:
    """Addresses of an exchange; None: the public one."""

    rest: str | None = None
    ws: str | None = None


def exact(value: object, what: str) -> Decimal:
    """Return the decimal a venue wrote as text, digit for digit. Errors: PeerError when it is none or not finite."""
    try:
        found = Decimal(value if isinstance(value, str) else str(value))
    except InvalidOperation as error:
        raise PeerError(f"{what} is {value!r}, not a number") from error
    if not found.is_finite():
        raise PeerError(f"{what} is {value!r}, not a finite number")
    return found


class Numbers(dict[str, Decimal]):
    """Text -> the decimal it is, checked once: prices and sizes repeat, and a lookup is a third of a conversion.

    `numbers[text]` is exact, finite and above zero (or zero where `is_zero_good`). Errors: PeerError. Bounded in size.
    """

    def __init__(self, what: str, *, is_zero_good: bool = False) -> None:
        super().__init__()
        self._what, self._is_zero_good = what, is_zero_good

    def __missing__(self, text: str) -> Decimal:
        found = exact(text, self._what)
        if found < 0 or found > HUGE or not (found or self._is_zero_good):
            raise PeerError(f"{self._what} {text} cannot be")
        if len(self) >= _NUMBERS_MAX:
            self.clear()
        self[text] = found
        return found


def offered(exchange: str, timeframes: Container[str], timeframe: str) -> str:
    """Return `timeframe` when it is one of the exchange's. Errors: InputError TIMEFRAME_UNKNOWN."""
    if timeframe not in timeframes:
        raise invalid("TIMEFRAME_UNKNOWN", f"{exchange} has no {timeframe} bars", "aggregate smaller ones")
    return timeframe


def retry_after_s(retry_after: str, otherwise: float = PAUSE_S) -> float:
    """Return the seconds of a Retry-After header, three days at most; `otherwise` where it has no number."""
    try:
        found = float(retry_after)
    except ValueError:
        return otherwise
    return otherwise if math.isnan(found) else min(max(found, 0.0), _PAUSE_MAX_S)


def check_trade(trade: PublicTrade) -> PublicTrade:
    """Return `trade` when it can be one. Errors: PeerError naming what is wrong."""
    is_small = trade.price < HUGE and trade.quantity < HUGE and trade.trade_id <= ID_MAX and trade.time_ns < NS_MAX
    if (
        trade.price <= 0
        or trade.quantity < 0
        or trade.trade_id < 0
        or trade.time_ns <= 0
        or trade.count < 1
        or not is_small
    ):
        raise PeerError(
            f"{trade.exchange} {trade.symbol} trade {trade.trade_id}: price {trade.price}, quantity {trade.quantity}, "
            f"time {trade.time_ns}, count {trade.count} cannot be"
        )
    return trade


def ns_of_iso(text: str) -> int:
    """Return ns since 1970 of RFC 3339 text in UTC ("2026-08-09T21:05:48.228568804Z"), all nine digits kept.

    Errors: PeerError when it is not such text, or no exchange was there then.
    """
    start_ns = _STARTS.get(text[:19])
    if start_ns is None:
        start_ns = _start_ns(text[:19])
    digits = text[20:-1]
    if text[19:20] == "." and text[-1] == "Z" and digits.isdecimal() and len(digits) <= 9:
        return start_ns + int(digits) * _SCALES[len(digits)]
    if text[19:] == "Z":
        return start_ns
    raise PeerError(f"{text!r} is not a time in UTC")


def _start_ns(text: str) -> int:
    """Return ns of a whole second, and remember it: messages of one second follow one another."""
    try:
        if len(text) != 19 or text[10] != "T":
            raise ValueError(text)
        start_ns = int(datetime.fromisoformat(text + "+00:00").timestamp()) * 1_000_000_000
        if not 0 < start_ns < NS_MAX:
            raise ValueError(text)
    except ValueError as error:
        raise PeerError(f"{text!r} is not a time in UTC") from error
    if len(_STARTS) >= _STARTS_MAX:
        _STARTS.clear()
    _STARTS[text] = start_ns
    return start_ns


def check_bar(bar: Bar) -> Bar:
    """Return a live `bar` when low <= open, close <= high and volume >= 0. Errors: PeerError."""
    is_whole = bar.low <= min(bar.open, bar.close) and bar.high >= max(bar.open, bar.close)
    if not is_whole or bar.low <= 0 or bar.volume < 0:
        raise PeerError(
            f"{bar.exchange} {bar.symbol} {bar.timeframe} bar at {bar.time_ns}: "
            f"{bar.open} {bar.high} {bar.low} {bar.close} {bar.volume} cannot be"
        )
    return bar


def check_ascending(trades: Sequence[PublicTrade]) -> list[PublicTrade]:
    """Return the trades of one page. Errors: PeerError when their ids do not rise one by one."""
    for before, after in itertools.pairwise(trades):
        if after.trade_id != before.trade_id + 1:
            raise PeerError(
                f"{after.exchange} {after.symbol}: trade {after.trade_id} follows {before.trade_id} in a page"
            )
    return list(trades)


def instrument_of_filters(
    exchange: str, row: Mapping[str, Any], filters: Mapping[str, Mapping[str, Any]], now_ns: int
) -> Instrument:
    """Return an instrument from Binance-style filters, exact as written. Errors: PeerError when one is missing."""
    try:
        lots, prices = filters["LOT_SIZE"], filters["PRICE_FILTER"]
        notional = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {"minNotional": "0"}
        return Instrument(
            exchange=exchange,
            symbol=str(row["symbol"]),
            base=str(row["baseAsset"]),
            quote=str(row["quoteAsset"]),
            tick=exact(prices["tickSize"], "tickSize").normalize(),
            lot_step=exact(lots["stepSize"], "stepSize").normalize(),
            qty_min=exact(lots["minQty"], "minQty").normalize(),
            qty_max=exact(lots["maxQty"], "maxQty").normalize(),
            notional_min=exact(notional["minNotional"], "minNotional").normalize(),
            is_trading=row.get("status") == "TRADING" and row.get("isSpotTradingAllowed", True) is True,
            updated_ns=now_ns,
            market_lot=_market_lot(filters.get("MARKET_LOT_SIZE")),
            is_notional_min_for_market=bool(notional.get("applyMinToMarket", notional.get("applyToMarket", True))),
            orders_max=_count(filters.get("MAX_NUM_ORDERS"), "maxNumOrders"),
            algo_orders_max=_count(filters.get("MAX_NUM_ALGO_ORDERS"), "maxNumAlgoOrders"),
            percent_price=_percent_price(filters),
            order_types=_order_types(row.get("orderTypes", ())),
            has_oco=row.get("ocoAllowed", True) is True,
            has_oto=row.get("otoAllowed") is True,
            has_opo=row.get("opoAllowed") is True,
        )
    except KeyError as error:
        raise PeerError(f"{exchange} {row.get('symbol')}: the listing has no {error}") from error


def _market_lot(values: Mapping[str, Any] | None) -> Lot | None:
    """Return the lot of market orders. A maximum or step of 0 means that there is none."""
    if values is None:
        return None
    least, most, step = (exact(values[name], name).normalize() for name in ("minQty", "maxQty", "stepSize"))
    return Lot(least, most, step)


def _count(values: Mapping[str, Any] | None, name: str) -> int | None:
    return None if values is None else int(values.get(name) or values["limit"])


def _percent_price(filters: Mapping[str, Mapping[str, Any]]) -> PercentPrice | None:
    """Return the band of prices around the average price. Exchanges have it for both sides or for each (a buy bids)."""
    by_side, both = filters.get("PERCENT_PRICE_BY_SIDE"), filters.get("PERCENT_PRICE")
    if by_side is not None:
        names = ("bidMultiplierDown", "bidMultiplierUp", "askMultiplierDown", "askMultiplierUp")
        return PercentPrice(*(exact(by_side[name], name).normalize() for name in names))
    if both is not None:
        names = ("multiplierDown", "multiplierUp") * 2
        return PercentPrice(*(exact(both[name], name).normalize() for name in names))
    return None


#: which type of ours an exchange's name allows
_ORDER_TYPES = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "STOP_LOSS": OrderType.STOP,
    "STOP_LOSS_LIMIT": OrderType.STOP_LIMIT,
}


def _order_types(names: Iterable[Any]) -> frozenset[str]:
    """Return the types that the exchange allows; a take-profit is sent as a limit order."""
    found = {_ORDER_TYPES[name].value for name in map(str, names) if name in _ORDER_TYPES}
    return frozenset(found | {OrderType.TAKE_PROFIT.value} if OrderType.LIMIT.value in found else found)
