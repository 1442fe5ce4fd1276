"""The latest of a symbol: price, quote, book, newest bars; from Redis, or from PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Exchange, Gate, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import LatestView
from fks.model.errors import InputError, OutageError, not_found
from fks.model.instrument import folded
from fks.model.timeframe import bar_end, iso, to_ns
from fks.store.latest import Latest, Message, Seen
from fks.store.reading import Listed, ReadingStore

router = Router(tags=["market data"])


@router.get("/market-data/{symbol:path}", response_model=LatestView)
async def latest(gate: Gate, caller: Reader, symbol: str, exchange: Exchange = None) -> ExactJson:
    """Return the latest price of a symbol and its age, quote and book where they are collected, and the newest sealed
    bars.

    The price is Redis's (`source: redis`), or the stored one (`postgresql`), or, for a symbol that is not collected,
    the
    close of its newest bar (`bars`). `age_ms` is the age of the exchange's last message on the symbol. While PostgreSQL
    is
    away, `state` is null.
    """
    item, outage = await _located(gate, symbol, exchange)
    seen = await Latest(gate.bus).read(item.exchange, item.symbol)
    feed, bars = None, []
    if outage is None:
        try:
            feed = await gate.db.fetchrow("reading.feed", item.exchange, item.symbol)
            bars = await gate.db.fetch("reading.sealed_bars", item.exchange, item.symbol)
        except OutageError as error:
            outage = error
    now_ns = gate.deps.clock.now_ns()
    price = _of_redis(seen, feed, now_ns) or _of_feed(feed, bars) or _of_bars(bars, now_ns)
    if price is None:
        if outage is not None:
            raise outage
        raise not_found("NO_DATA", f"no market data of {name_of(item)} yet", "POST /assets/enable has it collected")
    state = None if outage is not None else feed["state"] if feed is not None else "OFF"
    sealed = {row["timeframe"]: {k: v for k, v in dict(row).items() if k != "timeframe"} for row in bars}
    extras = {"quote": _exact(seen.quote, now_ns), "book": _exact(seen.book, now_ns)}
    return ExactJson({**identity(item), **price, "state": state, **extras, "bars": sealed})


async def _located(gate: Replica, symbol: str, exchange: str | None) -> tuple[Listed, OutageError | None]:
    """Return the meaning of a symbol; while PostgreSQL is away, the symbol at the exchange that is named, or
    collected."""
    try:
        return await ReadingStore(gate.db).find(symbol, exchange), None
    except OutageError as error:
        prefix, _, rest = symbol.rpartition(":")
        at = exchange or prefix or gate.deps.settings.data.exchange
        return Listed(at.lower(), folded(rest), "", "", Decimal(1), has_bars=False, is_collected=False), error


def _of_redis(seen: Seen, feed: Any, now_ns: int) -> dict[str, Any] | None:
    """Return Redis's price, unless the stored one is of a later trade (Redis was flushed, or away when it came).

    Its age is that of the newest message of the feed: in a quiet market an old price is still valid.
    """
    price = _exact(seen.price, now_ns)
    if price is None or "price" not in price:
        return None
    age_ms = price["age_ms"]
    if feed is not None and feed["last_message_at"] is not None:
        stored, known = feed["last_trade_id"], price.get("trade_id")
        has_ids = isinstance(stored, int) and isinstance(known, int)
        if known < stored if has_ids else price["received"] < feed["last_message_at"]:
            return None
        age_ms = min(age_ms, max(0, feed["age_ms"]))
    return {"price": price["price"], "time": price["time"], "age_ms": age_ms, "source": "redis"}


def _of_feed(feed: Any, bars: Any) -> dict[str, Any] | None:
    if feed is None or (feed["last_price"] is None and bars):
        return None
    return {
        "price": feed["last_price"],
        "time": feed["last_trade_at"],
        "age_ms": feed["age_ms"],
        "source": "postgresql",
    }


def _of_bars(bars: Any, now_ns: int) -> dict[str, Any] | None:
    ends = [(bar_end(to_ns(row["time"]), row["timeframe"]), row["close"]) for row in bars]
    if not ends:
        return None
    end_ns, close = max(ends)
    return {"price": Decimal(repr(close)), "time": iso(end_ns), "age_ms": _age_ms(end_ns, now_ns), "source": "bars"}


def _exact(message: Message | None, now_ns: int) -> dict[str, Any] | None:
    """Return a stored message with exact numbers, times and its age; None when a collector did not write it."""
    if message is None:
        return None
    try:
        values = {
            key: _number(key, value) for key, value in message.items() if key not in ("type", "exchange", "symbol")
        }
        received = datetime.fromisoformat(message["received"])
        return {**values, "received": received, "age_ms": _age_ms(to_ns(received), now_ns)}
    except (InputError, ValueError, TypeError, InvalidOperation):
        return None


def _number(key: str, value: Any) -> Any:
    if key in ("bids", "asks"):
        return [[Decimal(price), Decimal(size)] for price, size in value]
    return Decimal(value) if key in ("price", "quantity", "bid", "bid_size", "ask", "ask_size") else value


def _age_ms(time_ns: int, now_ns: int) -> int:
    return max(0, now_ns - time_ns) // 1_000_000


def identity(item: Listed) -> dict[str, str]:
    """Return the first members of every answer about a symbol."""
    return {"symbol": item.symbol, "name": name_of(item), "exchange": item.exchange}


def name_of(item: Listed) -> str:
    """Return the unified name, or the exchange's for an unlisted symbol."""
    return f"{item.base}/{item.quote}" if item.base else item.symbol
