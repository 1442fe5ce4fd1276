"""The newest price, quote and book of each symbol: stored in Redis for reads, published for subscribers.

A message has the same form when stored and when published. The writer conflates the messages of a symbol: a reader
sees the newest, never all. Redis may be flushed at any moment; PostgreSQL has the price as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fks.model.bar import PublicTrade
from fks.model.instrument import folded
from fks.model.market import Book, Quote
from fks.model.timeframe import iso
from fks.store.bus import Bus

PRICES = "fks.prices"
QUOTES = "fks.quotes"
BOOKS = "fks.books"
#: kind of message -> the channel it is published on
CHANNELS = {"price": PRICES, "quote": QUOTES, "book": BOOKS}
KEPT_S = 3600.0  # a symbol that is no longer collected expires; the stored message carries its age before

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """Messages of a symbol in Redis, None where there is none (or Redis is away)."""

    price: Message | None = None
    quote: Message | None = None
    book: Message | None = None


class Latest:
    """Writes and reads the newest of each symbol. Never raises for an outage."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, events: Iterable[PublicTrade | Quote | Book]) -> bool:
        """Store and publish the newest of each symbol among `events` (in order), in one round trip; False when Redis is
        away."""
        newest: dict[tuple[str, str, str], Message] = {}
        for event in events:
            message = message_of(event)
            newest[message["type"], message["exchange"], message["symbol"]] = message
        return await self._bus.put_and_publish(
            [
                (key_of(exchange, symbol), kind, CHANNELS[kind], message)
                for (kind, exchange, symbol), message in newest.items()
            ],
            KEPT_S,
        )

    async def read(self, exchange: str, symbol: str) -> Seen:
        """Return the stored messages of a symbol; entries in another form are left out."""
        fields = await self._bus.fields(key_of(exchange, symbol))
        return Seen(**{kind: _parsed(fields.get(kind), kind) for kind in CHANNELS})


def key_of(exchange: str, symbol: str) -> str:
    """Return the name of the hash that holds a symbol's newest messages, by kind: one for all its spellings."""
    return f"fks.latest.{exchange}.{folded(symbol)}"


def message_of(event: PublicTrade | Quote | Book) -> Message:
    """Return the message of an event: prices and sizes as the exchange's text, `time` the exchange's, `received`
    ours."""
    common = {
        "exchange": event.exchange,
        "symbol": event.symbol,
        "time": iso(event.time_ns),
        "received": iso(event.received_ns or event.time_ns),
    }
    if isinstance(event, PublicTrade):
        side = None if event.is_buyer_maker is None else "sell" if event.is_buyer_maker else "buy"
        return {
            "type": "price",
            **common,
            "price": _text(event.price),
            "quantity": _text(event.quantity),
            "side": side,
            "trade_id": event.trade_id,
        }
    if isinstance(event, Quote):
        sizes = {name: _text(getattr(event, name)) for name in ("bid", "bid_size", "ask", "ask_size")}
        return {"type": "quote", **common, **sizes}
    sides = {name: [[_text(price), _text(size)] for price, size in getattr(event, name)] for name in ("bids", "asks")}
    return {"type": "book", **common, **sides, "sequence": event.sequence}


def _text(value: Any) -> str:
    return format(value, "f")


def _parsed(data: bytes | None, kind: str) -> Message | None:
    if data is None:
        return None
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    needed = ("exchange", "symbol", "time", "received")
    is_whole = (
        isinstance(found, Mapping) and found.get("type") == kind and all(isinstance(found.get(n), str) for n in needed)
    )
    return dict(found) if is_whole else None
