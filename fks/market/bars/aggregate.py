"""Aggregation of trades into bars and of small bars into larger ones: pure, exact, in UTC.

The smallest timeframe (the base) is built from trades. Base bars are contiguous in time; a no-trade bar is flat at the
previous close with volume 0, as Binance and Kraken send it (for an exchange that sends none, none is emitted). Every
larger bar is the fold of its base bars and is sealed together with the base bar that ends where it ends. A no-trade bar
adds only time to a fold, so a bar's open is its first trade's price. Prices are compared and volumes summed as Decimal;
the floats of a bar are computed once, when it is sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from fks.market.bars.columns import aggregate_bars as aggregate_bars
from fks.market.bars.columns import aggregate_trades as aggregate_trades
from fks.model.bar import Bar, PublicTrade
from fks.model.buckets import by_length as by_length
from fks.model.buckets import length_of as length_of
from fks.model.buckets import starts_of as starts_of
from fks.model.errors import BugError
from fks.model.market import TradeIds
from fks.model.timeframe import NS, bar_end, bar_start

ZERO = Decimal(0)
#: sort key of a trade among the trades of its bar
TradeKey = tuple[int, int]


def exact_decimal(value: float) -> Decimal:
    """Return the shortest decimal of a float, which is the exchange's own text up to 15 digits."""
    return Decimal(repr(value))


@dataclass(slots=True)
class OpenBar:
    """A bar that is not sealed yet.

    `has_trades`: it holds a trade. Before the first one its prices, if `has_price`, are those of smaller no-trade bars
    and are replaced by it. `is_empty`: it is certain that nothing was traded. `first` and `last` are the keys of the
    trades that set open and close.
    """

    start_ns: int
    end_ns: int
    open: Decimal = ZERO
    high: Decimal = ZERO
    low: Decimal = ZERO
    close: Decimal = ZERO
    volume: Decimal = ZERO
    trades: int = 0
    is_complete: bool = True
    has_trades: bool = False
    has_price: bool = False
    is_empty: bool = True
    first: TradeKey = (0, 0)
    last: TradeKey = (0, 0)

    @staticmethod
    def at(time_ns: int, timeframe: str) -> OpenBar:
        """Return an empty bar whose time range contains `time_ns`."""
        start = bar_start(time_ns, timeframe)
        return OpenBar(start, bar_end(start, timeframe))

    def add(self, trade: PublicTrade, key: TradeKey | None = None) -> None:
        """Add a trade. `key` orders it among the trades of the bar; None: it is later than all trades added before."""
        price = trade.price
        if not self.has_trades:
            self.open = self.high = self.low = price
            self.has_trades, self.is_empty = True, False
            self.first = key or self.first
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        if key is None:
            self.close = price
        elif key >= self.last:
            self.last, self.close = key, price
        elif key < self.first:
            self.first, self.open = key, price
        self.volume += trade.quantity
        self.trades += trade.count

    def fold(self, later: OpenBar) -> None:
        """Add a smaller bar that is later than everything added before.

        A no-trade bar adds only time, unless all bars are no-trade bars, as those of a source without volumes are.
        """
        self.is_complete = self.is_complete and later.is_complete
        self.is_empty = self.is_empty and later.is_empty
        if not (later.has_trades or (later.has_price and not self.has_trades)):
            return
        is_first = not self.has_trades if later.has_trades else not self.has_price
        if is_first:
            self.open, self.high, self.low = later.open, later.high, later.low
        else:
            self.high, self.low = max(self.high, later.high), min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.trades += later.trades
        self.has_trades = self.has_trades or later.has_trades
        self.has_price = True

    def fold_bar(self, bar: Bar) -> None:
        """Add a sealed smaller bar that is later than everything added before."""
        has_trades = bar.trades > 0 or bar.volume > 0
        self.fold(
            OpenBar(
                bar.time_ns,
                bar.time_ns,
                exact_decimal(bar.open),
                exact_decimal(bar.high),
                exact_decimal(bar.low),
                exact_decimal(bar.close),
                exact_decimal(bar.volume),
                bar.trades,
                bar.is_complete,
                has_trades,
                True,
                bar.is_empty or (not has_trades and bar.high == bar.low),
            )
        )

    def seal(self, exchange: str, symbol: str, timeframe: str, previous: Decimal | None) -> Bar | None:
        """Return the finished bar, flat at `previous` when nothing was traded; None when there is no price at all.

        A number that float64 cannot hold as written makes the bar incomplete: it never reaches a strategy.
        """
        if not self.has_trades and not self.has_price:
            if previous is None:
                return None
            self.open = self.high = self.low = self.close = previous
        numbers = [self.open, self.high, self.low, self.close, self.volume]
        floats = [float(number) for number in numbers]
        is_exact = all(exact_decimal(f) == d for f, d in zip(floats, numbers, strict=True))
        return Bar(
            exchange,
            symbol,
            timeframe,
            self.start_ns,
            floats[0],
            floats[1],
            floats[2],
            floats[3],
            floats[4],
            self.trades,
            self.is_complete and is_exact,
            self.is_empty,
        )


def trade_key(trade: PublicTrade, ids: TradeIds) -> TradeKey:
    """Return the sort key of a trade: its id first, or its time first where ids are opaque."""
    return (trade.time_ns, trade.trade_id) if ids is TradeIds.OPAQUE else (trade.trade_id, trade.time_ns)


@dataclass(frozen=True, slots=True)
class BarStart:
    """Start of a BarBuilder: its timeframes, and the boundary from which it builds.

    `start_ns` is a boundary of the base timeframe; `seeds` hold the open larger bars up to it (absent: a larger bar
    that began earlier is marked incomplete), and go over to the builder. `previous` is the last price before
    `start_ns`. `emits_empty`: no-trade bars are emitted (flat, flagged), as the exchange does; else they are left out.

    `ids` is the order that the exchange's ids prove: with it, trades of the open base bar may be added in any order
    (each once), and open and close are the prices of the first and the last by id or time. None: trades are added in
    order.
    """

    exchange: str
    symbol: str
    timeframes: Sequence[str]
    start_ns: int
    seeds: Mapping[str, OpenBar] = field(default_factory=dict)
    previous: Decimal | None = None
    emits_empty: bool = True
    ids: TradeIds | None = None


class BarBuilder:
    """Builds every timeframe of one symbol from trades."""

    def __init__(self, start: BarStart) -> None:
        self.start = start
        self.base, *self._larger = by_length(start.timeframes)
        self._step_ns = length_of(self.base) * NS
        self._previous = start.previous
        self._ids = start.ids
        if bar_start(start.start_ns, self.base) != start.start_ns:
            raise BugError(f"{start.start_ns} is not where a {self.base} bar begins")
        self._bar = OpenBar.at(start.start_ns, self.base)
        self._open = {frame: self._seeded(frame) for frame in self._larger}

    @property
    def open_ns(self) -> int:
        """Return the open time of the unfinished base bar: everything before it is sealed."""
        return self._bar.start_ns

    @property
    def timeframes(self) -> tuple[str, ...]:
        return (self.base, *self._larger)

    def trades_in(self, timeframe: str, start_ns: int) -> int | None:
        """Return how many trades the unfinished bar opening at `start_ns` holds; None when it is not that one."""
        if timeframe == self.base:
            return self._bar.trades if self._bar.start_ns == start_ns else None
        bar = self._open.get(timeframe)
        return bar.trades + self._bar.trades if bar is not None and bar.start_ns == start_ns else None

    def add(self, trade: PublicTrade) -> list[Bar] | None:
        """Add a trade; return the bars that it seals. None: it is too late, its bar is sealed, and it is not
        counted."""
        if trade.time_ns < self._bar.start_ns:
            return None
        sealed = self.seal_through(bar_start(trade.time_ns, self.base)) if trade.time_ns >= self._bar.end_ns else []
        self._bar.add(trade, None if self._ids is None else trade_key(trade, self._ids))
        return sealed

    def move_price(self, price: Decimal) -> None:
        """Set the price of the no-trade bars to come: a newest trade was too late for its bar."""
        self._previous = price

    def seal_through(self, time_ns: int) -> list[Bar]:
        """Seal every bar that ends at or before `time_ns`; return them in order, smaller before larger at one end."""
        sealed: list[Bar] = []
        while self._bar.end_ns <= time_ns:
            self._seal_base(sealed)
        return sealed

    def _seal_base(self, sealed: list[Bar]) -> None:
        done = self._bar
        if done.has_trades:
            self._previous = done.close
        for frame in self._larger:
            self._open[frame].fold(done)
        self._emit(done, self.base, sealed)
        self._bar = OpenBar(done.end_ns, done.end_ns + self._step_ns)
        if self.base in ("1w", "1M"):
            self._bar.end_ns = bar_end(done.end_ns, self.base)
        for frame in self._larger:
            bar = self._open[frame]
            if bar.end_ns == done.end_ns:
                self._emit(bar, frame, sealed)
                self._open[frame] = OpenBar(bar.end_ns, bar_end(bar.end_ns, frame))

    def _emit(self, bar: OpenBar, timeframe: str, sealed: list[Bar]) -> None:
        made = bar.seal(self.start.exchange, self.start.symbol, timeframe, self._previous)
        if made is not None and (self.start.emits_empty or not made.is_empty):
            sealed.append(made)

    def _seeded(self, timeframe: str) -> OpenBar:
        seed = self.start.seeds.get(timeframe)
        bar = OpenBar.at(self.start.start_ns, timeframe)
        if seed is None:
            bar.is_complete = bar.start_ns == self.start.start_ns
            return bar
        assert seed.start_ns == bar.start_ns
        return seed


def fold_bars(bars: Iterable[Bar], timeframe: str, until_ns: int, *, since_ns: int | None = None) -> list[Bar]:
    """Return `timeframe` bars folded from smaller ones in order, only those that end at or before `until_ns`.

    The bars cover all time from `since_ns` on (None: from the first one's open); larger bars that begin earlier are
    left out.
    """
    made: list[Bar] = []
    current: OpenBar | None = None
    last: Bar | None = None

    def finish() -> None:
        if current is None or last is None or current.end_ns > until_ns or current.start_ns < begin_ns:
            return
        bar = current.seal(last.exchange, last.symbol, timeframe, exact_decimal(last.close))
        assert bar is not None
        made.append(bar)

    begin_ns = since_ns if since_ns is not None else 0
    for bar in bars:
        if current is None or bar.time_ns >= current.end_ns:
            if current is None and since_ns is None:
                begin_ns = bar.time_ns
            finish()
            current = OpenBar.at(bar.time_ns, timeframe)
        current.fold_bar(bar)
        last = bar
    finish()
    return made
