"""Rolling 24-hour statistics of a market."""

from __future__ import annotations

from fks.lab.sim.atoms import SCALE, show
from fks.lab.sim.market import RAW_OFFSET
from fks.lab.sim.symbol_state import SymbolState

_DAY_MS = 86_400_000


def day_ticker(state: SymbolState) -> dict[str, object]:
    """Return the `24hrTicker` event: whole rows of the last 24 hours, the open one included."""
    market, listing = state.market, state.market.listing
    bar = state.klines.span(market.now_ms - _DAY_MS, market.now_ms)
    first, last = market.id_at(bar.start_ms), market.id_next - 1
    bid, ask = state.book.best()
    change, open_ = (bar.close - bar.open) * listing.tick, bar.open * listing.tick
    percent = change * 100_000 // open_ if open_ else 0
    quote = bar.quote * listing.quote_factor
    volume = bar.volume * listing.step
    return {
        "e": "24hrTicker",
        "E": market.now_ms,
        "s": state.symbol,
        "p": show(change),
        "P": f"{'-' if percent < 0 else ''}{abs(percent) // 1000}.{abs(percent) % 1000:03d}",
        "w": show(quote * SCALE // volume if volume else 0),
        "x": market.price(bar.open),
        "c": market.price(bar.close),
        "Q": market.quantity(market.last.lots),
        "b": market.price(bid),
        "B": market.quantity(1),
        "a": market.price(ask),
        "A": market.quantity(1),
        "o": market.price(bar.open),
        "h": market.price(bar.high),
        "l": market.price(bar.low),
        "v": show(volume),
        "q": show(quote),
        "O": bar.start_ms,
        "C": market.now_ms,
        "F": first + RAW_OFFSET,
        "L": last + RAW_OFFSET,
        "n": bar.count,
    }


def mini_ticker(full: dict[str, object]) -> dict[str, object]:
    """Return the `24hrMiniTicker` event out of the full one."""
    return {"e": "24hrMiniTicker"} | {name: full[name] for name in ("E", "s", "c", "o", "h", "l", "v", "q")}


def rest_ticker(state: SymbolState) -> dict[str, object]:
    """Return the answer of `ticker/24hr`."""
    full = day_ticker(state)
    names = {
        "s": "symbol",
        "p": "priceChange",
        "P": "priceChangePercent",
        "w": "weightedAvgPrice",
        "x": "prevClosePrice",
        "c": "lastPrice",
        "Q": "lastQty",
        "b": "bidPrice",
        "B": "bidQty",
        "a": "askPrice",
        "A": "askQty",
        "o": "openPrice",
        "h": "highPrice",
        "l": "lowPrice",
        "v": "volume",
        "q": "quoteVolume",
        "O": "openTime",
        "C": "closeTime",
        "F": "firstId",
        "L": "lastId",
        "n": "count",
    }
    return {long: full[short] for short, long in names.items()}
