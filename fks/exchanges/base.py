"""What every exchange module shares: exact numbers, whole trades and bars, and whose fault an error is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.model.bar import Bar, PublicTrade
from fks.model.errors import PeerError
from fks.model.instrument import Instrument

MS = 1_000_000  # nanoseconds in a millisecond


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an exchange is found. None means its public address."""

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


def check_trade(trade: PublicTrade) -> PublicTrade:
    """Return `trade` when it can be one. Errors: PeerError naming what is wrong."""
    if trade.price <= 0 or trade.quantity < 0 or trade.trade_id < 0 or trade.time_ns <= 0 or trade.count < 1:
        raise PeerError(
            f"{trade.exchange} {trade.symbol} trade {trade.trade_id}: price {trade.price}, quantity {trade.quantity}, "
            f"time {trade.time_ns}, count {trade.count} cannot be"
        )
    return trade


def check_bar(bar: Bar) -> Bar:
    """Return `bar` when low <= open, close <= high and volume >= 0. Errors: PeerError."""
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
            raise PeerError(f"{after.exchange} {after.symbol}: trade {after.trade_id} follows {before.trade_id} in a page")
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
        )
    except KeyError as error:
        raise PeerError(f"{exchange} {row.get('symbol')}: the listing has no {error}") from error
