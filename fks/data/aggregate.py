"""Trades into bars, small bars into large ones: pure, exact, in UTC.

The smallest timeframe (the base) is built from trades; base bars are contiguous in time, silent ones flat at the close
before them with volume 0, as Binance writes them. Every larger bar is the fold of its base bars and seals with the base
bar that ends where it ends. A silent bar adds nothing to a fold but time, so a bar's open is its first trade's price.
Prices are compared and volumes summed as Decimal; the float of a bar is made once, when it seals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from fks.model.bar import Bar, Bars, Floats, Ints, PublicTrade
from fks.model.errors import BugError, InputError
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start

ZERO = Decimal(0)
_MONDAY_NS = 4 * 86400 * NS


def length_of(timeframe: str) -> int:
    """Return the length used to order timeframes, seconds; a month counts as its longest, and so does what is unknown."""
    return TIMEFRAMES.get(timeframe, 0) or 31 * 86400


def by_length(timeframes: Iterable[str]) -> tuple[str, ...]:
    """Return timeframes, smallest first."""
    return tuple(sorted(set(timeframes), key=length_of))


def exact_decimal(value: float) -> Decimal:
    """Return the shortest decimal of a float: the venue's own text again, up to 15 digits."""
    return Decimal(repr(value))


@dataclass(slots=True)
class OpenBar:
    """A bar that is still being made. `trades` 0 means nothing but silence so far, and then there is no price."""

    start_ns: int
    end_ns: int
    open: Decimal = ZERO
    high: Decimal = ZERO
    low: Decimal = ZERO
    close: Decimal = ZERO
    volume: Decimal = ZERO
    trades: int = 0
    is_complete: bool = True

    @staticmethod
    def at(time_ns: int, timeframe: str) -> OpenBar:
        """Return the empty bar that holds `time_ns`."""
        start = bar_start(time_ns, timeframe)
        return OpenBar(start, bar_end(start, timeframe))

    def add(self, trade: PublicTrade) -> None:
        """Count a trade in."""
        price = trade.price
        if self.trades == 0:
            self.open = self.high = self.low = price
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.volume += trade.quantity
        self.trades += trade.count

    def fold(self, later: OpenBar) -> None:
        """Count in a smaller bar that follows all that was counted before."""
        self.is_complete = self.is_complete and later.is_complete
        if later.trades == 0:
            return
        if self.trades == 0:
            self.open, self.high, self.low = later.open, later.high, later.low
        else:
            self.high, self.low = max(self.high, later.high), min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.trades += later.trades

    def fold_bar(self, bar: Bar) -> None:
        """Count in a sealed smaller bar that follows all that was counted before."""
        self.fold(
            OpenBar(
                bar.time_ns, bar.time_ns, exact_decimal(bar.open), exact_decimal(bar.high), exact_decimal(bar.low),
                exact_decimal(bar.close), exact_decimal(bar.volume), bar.trades, bar.is_complete,
            )
        )  # fmt: skip

    def seal(self, exchange: str, symbol: str, timeframe: str, previous: Decimal | None) -> Bar | None:
        """Return the finished bar, flat at `previous` when nothing traded; None when there is no price at all.

        A number that float64 cannot hold as written makes the bar incomplete: it never reaches a strategy.
        """
        if self.trades == 0:
            if previous is None:
                return None
            self.open = self.high = self.low = self.close = previous
        numbers = [self.open, self.high, self.low, self.close, self.volume]
        floats = [float(number) for number in numbers]
        is_exact = all(exact_decimal(f) == d for f, d in zip(floats, numbers, strict=True))
        return Bar(
            exchange, symbol, timeframe, self.start_ns, floats[0], floats[1], floats[2], floats[3], floats[4],
            self.trades, self.is_complete and is_exact,
        )  # fmt: skip


class BarBuilder:
    """Builds every timeframe of one symbol from trades in order.

    `start_ns` is a boundary of the base timeframe; `seeds` hold what the larger bars had gathered before it (absent: the
    larger bar that began earlier is marked incomplete). `previous` is the last price before `start_ns`.
    """

    def __init__(
        self,
        exchange: str,
        symbol: str,
        timeframes: Sequence[str],
        start_ns: int,
        *,
        seeds: Mapping[str, OpenBar] | None = None,
        previous: Decimal | None = None,
    ) -> None:
        self._exchange = exchange
        self._symbol = symbol
        self.base, *self._larger = by_length(timeframes)
        self._step_ns = length_of(self.base) * NS
        self._previous = previous
        if bar_start(start_ns, self.base) != start_ns:
            raise BugError(f"{start_ns} is not where a {self.base} bar begins")
        self._bar = OpenBar.at(start_ns, self.base)
        self._open = {frame: self._seeded(frame, start_ns, seeds or {}) for frame in self._larger}

    @property
    def open_ns(self) -> int:
        """Return where the unfinished base bar begins: everything before is sealed."""
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
        """Count a trade in; return the bars it seals. None: too late, its bar is sealed and it counts nowhere."""
        if trade.time_ns < self._bar.start_ns:
            return None
        sealed = self.seal_through(bar_start(trade.time_ns, self.base)) if trade.time_ns >= self._bar.end_ns else []
        self._bar.add(trade)
        return sealed

    def seal_through(self, time_ns: int) -> list[Bar]:
        """Seal every bar that ends at or before `time_ns`; return them in order, smaller before larger at one end."""
        sealed: list[Bar] = []
        while self._bar.end_ns <= time_ns:
            self._seal_base(sealed)
        return sealed

    def _seal_base(self, sealed: list[Bar]) -> None:
        done = self._bar
        if done.trades:
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
        made = bar.seal(self._exchange, self._symbol, timeframe, self._previous)
        if made is not None:
            sealed.append(made)

    def _seeded(self, timeframe: str, start_ns: int, seeds: Mapping[str, OpenBar]) -> OpenBar:
        seed = seeds.get(timeframe)
        bar = OpenBar.at(start_ns, timeframe)
        if seed is None:
            bar.is_complete = bar.start_ns == start_ns
            return bar
        assert seed.start_ns == bar.start_ns
        return seed


def fold_bars(bars: Iterable[Bar], timeframe: str, until_ns: int) -> list[Bar]:
    """Return `timeframe` bars folded from smaller ones in order, only those that end at or before `until_ns`.

    The first is left out when the smaller bars do not begin where it begins.
    """
    made: list[Bar] = []
    current: OpenBar | None = None
    last: Bar | None = None
    begins_whole = False

    def finish() -> None:
        if current is None or last is None or not begins_whole or current.end_ns > until_ns:
            return
        bar = current.seal(last.exchange, last.symbol, timeframe, exact_decimal(last.close))
        assert bar is not None
        made.append(bar)

    for bar in bars:
        if current is None or bar.time_ns >= current.end_ns:
            finish()
            begins_whole = current is not None or bar_start(bar.time_ns, timeframe) == bar.time_ns
            current = OpenBar.at(bar.time_ns, timeframe)
        current.fold_bar(bar)
        last = bar
    finish()
    return made


def starts_of(time_ns: Ints, timeframe: str) -> Ints:
    """Return the open time of the bar that holds each time. Shapes: (n,) → (n,)."""
    if timeframe == "1M":
        months = time_ns.astype("datetime64[ns]").astype("datetime64[M]")
        return months.astype("datetime64[ns]").astype(np.int64)
    offset = _MONDAY_NS if timeframe == "1w" else 0
    step = TIMEFRAMES[timeframe] * NS
    return time_ns - (time_ns - offset) % step


def resample(bars: Bars, timeframe: str) -> Bars:
    """Return `bars` in a larger timeframe; bars at either end that the data does not cover whole are left out.

    Volumes are summed as whole numbers of the smallest place in the column, so sums are exact. A row of volume 0 is a
    silent bar. Errors: InputError when the timeframe is not a multiple, or a volume has more than 12 places.
    """
    if TIMEFRAMES[bars.timeframe] == 0 or length_of(timeframe) % TIMEFRAMES[bars.timeframe] != 0:
        raise InputError(f"{timeframe} bars cannot be made of {bars.timeframe} bars", code="TIMEFRAME_MISMATCH")
    if not len(bars):
        return Bars(bars.symbol, timeframe, *(column[:0] for column in _columns(bars)))  # type: ignore[arg-type]
    starts = starts_of(bars.time_ns, timeframe)
    edge = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    places, volumes = _whole(bars.volume)
    open_, high, low = bars.open.copy(), bars.high.copy(), bars.low.copy()
    _hide_silence(bars, starts, open_, high, low)
    last = np.append(edge[1:], len(starts)) - 1
    first = _first_spoken(bars, starts, edge)
    made = Bars(
        bars.symbol, timeframe, starts[edge], open_[first], np.maximum.reduceat(high, edge),
        np.minimum.reduceat(low, edge), bars.close[last], np.add.reduceat(volumes, edge) / 10.0**places,
    )  # fmt: skip
    end_ns = bar_end(int(bars.time_ns[-1]), bars.timeframe)
    begin = int(made.time_ns[0] < bars.time_ns[0])
    stop = len(made) - int(bar_end(int(made.time_ns[-1]), timeframe) > end_ns)
    return made[begin : max(begin, stop)]


def _columns(bars: Bars) -> tuple[Ints | Floats, ...]:
    return (bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume)


def _hide_silence(bars: Bars, starts: Ints, open_: Floats, high: Floats, low: Floats) -> None:
    """Make silent rows of groups that also trade neutral for max and min."""
    spoken = bars.volume > 0
    groups = np.unique(starts[spoken])
    mute = ~spoken & np.isin(starts, groups)
    high[mute], low[mute] = -np.inf, np.inf


def _first_spoken(bars: Bars, starts: Ints, edge: Ints) -> Ints:
    """Return the row of each group's first trade; its first row when the whole group is silent."""
    rows = np.where(bars.volume > 0, np.arange(len(starts)), len(starts))
    first = np.minimum.reduceat(rows, edge)
    return np.where(first == len(starts), edge, first)


def _whole(volume: Floats) -> tuple[int, Ints]:
    """Return (places, volume as whole numbers of 10^-places). Errors: InputError beyond 12 places."""
    for places in range(13):
        scaled = np.rint(volume * 10.0**places)
        if np.array_equal(scaled / 10.0**places, volume) and scaled.sum() < 2**62:
            return places, scaled.astype(np.int64)
    raise InputError("a volume has more than 12 decimal places", code="VOLUME_TOO_FINE", remedy="round the source")
