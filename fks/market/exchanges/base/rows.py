"""Validated values of an exchange's rows; a malformed row does not affect the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec

from fks.market.exchanges.base.reader import BROKEN, MessageReader
from fks.market.exchanges.base.values import HUGE, ID_MAX, MS, NS_MAX, ZERO, check_trade, exact
from fks.market.exchanges.base.wire import suspect_message
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import PeerError
from fks.model.market import Channel, ConnectionCounters, MarketEvent
from fks.model.timeframe import bar_end, bar_start, iso

T = TypeVar("T")

BOOK_LEVELS = 20  # levels of a book that are handed on
_MS_MAX = NS_MAX // MS

#: errors of a malformed message or row
UNREADABLE = (*BROKEN, PeerError, KeyError, IndexError, TypeError)


class RowReader(Generic[T]):
    """Reads the list of rows in a message. Unknown fields are counted as `name.field`."""

    def __init__(self, name: str, kind: type[T], counters: ConnectionCounters) -> None:
        many: Any = list[kind]  # type: ignore[valid-type]
        self._many: MessageReader[list[T]] = MessageReader(name, many, counters)
        self._one: MessageReader[T] = MessageReader(name, kind, counters)

    def read(
        self,
        rows: msgspec.Raw,
        make: Callable[[T], MarketEvent | None],
        channel: Channel,
        symbol: str,
        received_ns: int,
    ) -> list[MarketEvent]:
        """Return `make` of every row, without None; malformed rows are Suspects, with one Discontinuity at the end."""
        try:
            return [event for row in self._many(rows) if (event := make(row)) is not None]
        except UNREADABLE as error:
            why: Exception = error
        try:
            parts = msgspec.json.decode(rows, type=list[msgspec.Raw])
        except msgspec.MsgspecError:
            return suspect_message(channel, symbol, why, bytes(rows), received_ns)
        made: list[MarketEvent] = []
        gone: list[MarketEvent] = []
        for part in parts:
            try:
                event = make(self._one(part))
            except UNREADABLE as error:
                suspect, *gone = suspect_message(channel, symbol, error, bytes(part), received_ns)
                made.append(suspect)
            else:
                made += [] if event is None else [event]
        return made + gone


def rows_of(name: str, answer: Any, *path: str) -> list[Any]:
    """Return the list under `path` of a REST answer. Errors: PeerError when there is none (an HTML page with status
    200)."""
    found = answer
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, list):
        raise PeerError(f"{name} answered {str(answer)[:200]!r} where a list was due")
    return found


def read_rows(name: str, one: Callable[[Any], T], rows: Iterable[Any]) -> list[T]:
    """Return `one` of each row. Errors: PeerError when a row has not the exchange's own form."""
    try:
        return [one(row) for row in rows]
    except PeerError:
        raise
    except (*UNREADABLE, AttributeError) as error:
        raise PeerError(f"{name} sent a row that cannot be read: {error!r}") from error


def time_of(time_ms: int) -> int:
    """Return ns of an exchange's milliseconds. Errors: PeerError when it is out of range."""
    if not 0 < time_ms < _MS_MAX:
        raise PeerError(f"{time_ms} is no time in ms")
    return time_ms * MS


def amount_of(value: object, what: str) -> Decimal:
    """Return an exchange's price or quantity, digit for digit. Errors: PeerError when it is negative or beyond any
    market."""
    found = value if type(value) is Decimal else exact(value, what)
    if not ZERO <= found < HUGE:
        raise PeerError(f"{what} is {value!r}, which cannot be")
    return found


def number_of(trade_id: str) -> int:
    """Return a trade's id as the number that the store keeps: its digits, or 63 bits of a hash where it is no number.

    Errors: PeerError when there is none.
    """
    if not trade_id:
        raise PeerError("a trade has no id")
    if trade_id.isascii() and trade_id.isdigit() and int(trade_id) <= ID_MAX:
        return int(trade_id)
    return int.from_bytes(hashlib.blake2b(trade_id.encode(), digest_size=8).digest(), "big") >> 1


def trade_of(
    exchange: str,
    symbol: str,
    trade_id: str,
    time_ms: int,
    price: object,
    quantity: object,
    taker: str,
    received_ns: int = 0,
) -> PublicTrade:
    """Return a public trade of a message or of REST; `taker` bought or sold. Errors: PeerError when it is invalid."""
    if taker not in ("buy", "sell", "Buy", "Sell"):
        raise PeerError(f"a trade has the side {taker!r}")
    number, time_ns = number_of(trade_id), time_of(time_ms)
    price, quantity = amount_of(price, "price"), amount_of(quantity, "quantity")
    is_buyer_maker = taker in ("sell", "Sell")
    return check_trade(PublicTrade(exchange, symbol, number, time_ns, price, quantity, is_buyer_maker, 1, received_ns))


def bar_of(
    exchange: str, symbol: str, timeframe: str, time_ms: int, ohlcv: Sequence[str | Decimal], *, trades: int = 0
) -> Bar:
    """Return a bar with the numbers of the exchange; one without volume and trades is empty. Errors: PeerError when it
    is malformed, or when bars of its timeframe do not begin there in UTC.

    The numbers are validated elsewhere: a bad bar of REST goes to the quarantine and the rest of its page is stored; a
    wire, whose bars are not stored, uses `check_bar`.
    """
    start_ns = time_of(time_ms)
    if bar_start(start_ns, timeframe) != start_ns:
        raise PeerError(f"{exchange} {symbol}: no {timeframe} bar begins at {iso(start_ns)}")
    # float() of the exchange's text is the nearest float, whose shortest decimal is that text again (up to 15 digits)
    open_, high, low, close, volume = (float(_number(value)) for value in ohlcv)
    is_empty = volume == 0 and trades == 0
    return Bar(exchange, symbol, timeframe, start_ns, open_, high, low, close, volume, trades, is_empty=is_empty)


def _number(value: str | Decimal) -> Decimal:
    """Return a number of a bar, not validated further. Errors: PeerError when it is no number, or out of range."""
    found = value if type(value) is Decimal else exact(value, "bar")
    if not -HUGE < found < HUGE:
        raise PeerError(f"bar is {value!r}, which cannot be")
    return found


def closed(bars: Iterable[Bar | None], over_ns: int | None) -> list[Bar]:
    """Return the bars that end at or before a moment (None: all), oldest first; a value of None is left out."""
    found = [bar for bar in bars if bar is not None]
    if over_ns is not None:
        found = [bar for bar in found if bar_end(bar.time_ns, bar.timeframe) <= over_ns]
    return sorted(found, key=lambda bar: bar.time_ns)


def check_sides(bids: Iterable[tuple[Decimal, Decimal]], asks: Iterable[tuple[Decimal, Decimal]]) -> None:
    """Raise PeerError when a book's levels, best first, cannot be: not positive, out of order, or the sides cross."""
    best_bid = _check_side(bids, is_bid=True)
    best_ask = _check_side(asks, is_bid=False)
    if best_bid is not None and best_ask is not None and best_bid >= best_ask:
        raise PeerError(f"the best bid {best_bid} is not below the best ask {best_ask}")


def _check_side(levels: Iterable[tuple[Decimal, Decimal]], *, is_bid: bool) -> Decimal | None:
    best = last = None
    for price, size in levels:
        if not (ZERO < price < HUGE and ZERO < size < HUGE):
            raise PeerError(f"a level of {size} at {price} cannot be")
        if last is not None and (price >= last if is_bid else price <= last):
            raise PeerError(f"{'bids' if is_bid else 'asks'} are out of order: {price} follows {last}")
        best, last = best if best is not None else price, price
    return best
