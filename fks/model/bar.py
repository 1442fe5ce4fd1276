"""Bars and public trades: single ones as values, many as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

import msgspec
import numpy as np
import numpy.typing as npt

from fks.model.errors import InputError
from fks.model.instrument import folded
from fks.model.ticks import Ticks, ticks_of
from fks.model.timeframe import NS, TIMEFRAMES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bar:
    """Open, high, low, close and volume over [time_ns, end). `time_ns` is the OPEN time, UTC.

    OHLCV are float64 holding the shortest decimal of the venue's string (docs/storage.md).
    `is_complete` is false when the bar was built over a gap: it then never reaches a strategy. `is_empty`: no trade
    happened in it, and open, high, low and close are the close before. `trades` is 0 also where the exchange does not
    count them.
    """

    exchange: str
    symbol: str
    timeframe: str
    time_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int = 0
    is_complete: bool = True
    is_empty: bool = False

    @property
    def is_counted(self) -> bool:
        """Return whether `trades` is a count: a volume with 0 trades has no count. A stored bar keeps its count when
        the same bar comes without one."""
        return self.trades > 0 or self.volume == 0


class PublicTrade(msgspec.Struct, frozen=True, gc=False):
    """One public trade. `trade_id` is the venue's number in the range the collector uses (aggregate ids on Binance).

    `is_buyer_maker`: the taker sold; None: the exchange does not say which side took.
    `count` is the number of single trades in an aggregate, as klines count them. `time_ns` is the venue's clock,
    `received_ns` ours when the message came (0 = not from a live message). A struct, as there are tens of thousands a
    second and making a dataclass takes ten times as long.
    """

    exchange: str
    symbol: str
    trade_id: int
    time_ns: int
    price: Decimal
    quantity: Decimal
    is_buyer_maker: bool | None
    count: int = 1
    received_ns: int = 0


@dataclass(frozen=True, slots=True)
class BarClosed:
    """The end of the bar of `timeframe` opening at `time_ns`, reported by the exchange, with its number of single
    trades."""

    exchange: str
    symbol: str
    timeframe: str
    time_ns: int
    trades: int


@dataclass(frozen=True, slots=True)
class ShareSplit:
    """A split of shares: from `time_ns` on there are `new` shares for each `old` one before; 1 for 1 = the price moved,
    and nothing was split."""

    time_ns: int
    new: int
    old: int = 1

    @property
    def factor(self) -> float:
        return self.new / self.old


#: of a price before a split, in shares of the bars' end; and of one in its own day's shares, made from that again
SPLIT_PLACES, KNOWN_PLACES = 8, 4


@dataclass(frozen=True, slots=True)
class Bars:
    """Columns of one (symbol, timeframe), oldest first. Shapes: all (n,). Times ns UTC int64, the rest float64.

    What is derived from the columns (`ticks`, `breaks`) is kept: from then on they are read-only.
    `inputs`: bars of further symbols by folded symbol, aligned row by row by `joined`. `calendar`: the market's trading
    calendar, `24/7` or a name of exchange_calendars (`fks.bars.calendars`); missing bars and trading days follow from
    it. `exchange`: where they are from, "" when that is not known. `splits`, oldest first: the columns are in shares of
    after the last one (`fks.bars.splits`); strategies see those of each decision's own day (`known`).
    """

    symbol: str
    timeframe: str
    time_ns: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    inputs: Mapping[str, Bars] = field(default_factory=dict, repr=False, compare=False, kw_only=True)
    calendar: str = field(default="24/7", compare=False, kw_only=True)
    exchange: str = field(default="", compare=False, kw_only=True)
    splits: tuple[ShareSplit, ...] = field(default=(), compare=False, kw_only=True)
    _ticks: Ticks | None = field(default=None, init=False, repr=False, compare=False)
    _breaks: Ints | None = field(default=None, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return int(self.time_ns.shape[0])

    def __getitem__(self, part: slice) -> Bars:
        """Return a view of some rows (no copy)."""
        view = Bars(
            self.symbol,
            self.timeframe,
            self.time_ns[part],
            self.open[part],
            self.high[part],
            self.low[part],
            self.close[part],
            self.volume[part],
            inputs={symbol: bars[part] for symbol, bars in self.inputs.items()} if self.inputs else {},
            calendar=self.calendar,
            exchange=self.exchange,
            splits=self.splits,
        )
        if self._ticks is not None:
            object.__setattr__(view, "_ticks", self._ticks[part])
        start, stop, step = part.indices(len(self))
        if self._breaks is not None and step == 1:
            first, last = np.searchsorted(self._breaks, (start, stop - 1))
            object.__setattr__(view, "_breaks", self._breaks[first:last] - start)
        return view

    def joined(self, others: Mapping[str, Bars]) -> Bars:
        """Return these bars with those of further symbols, by name, beside them: row i has what opened and ended at the
        same time, and NaN where the other one has no bar then. Nothing is filled in.

        Errors: InputError INPUT_TIMEFRAME when a timeframe is another.
        """
        found: dict[str, Bars] = {}
        for symbol, other in others.items():
            if other.timeframe != self.timeframe:
                raise InputError(
                    f"{symbol} has bars of {other.timeframe}, {self.symbol} of {self.timeframe}",
                    code="INPUT_TIMEFRAME",
                    status=422,
                    remedy="resample one of them",
                )
            place = np.searchsorted(other.time_ns, self.time_ns)
            is_there = np.concatenate([other.time_ns, [-1]])[place] == self.time_ns
            columns = []
            for name in ("open", "high", "low", "close", "volume"):
                column = np.full(len(self), np.nan)
                column[is_there] = getattr(other, name)[place[is_there]]
                columns.append(column)
            found[folded(symbol)] = Bars(
                other.symbol,
                other.timeframe,
                self.time_ns,
                *columns,
                calendar=other.calendar,
                splits=other.splits,
            )
        return replace(self, inputs=found)

    @property
    def split_rows(self) -> list[int]:
        """Return the rows, after the first, from which on these bars or their inputs are of other shares; ascending."""
        times = {split.time_ns for part in (self, *self.inputs.values()) for split in part.splits if split.factor != 1}
        rows = np.searchsorted(self.time_ns, sorted(times))
        return sorted({row for row in rows.tolist() if 0 < row < len(self)})

    def split_factor(self, index: int) -> float:
        """Return how many shares of the columns one share of row `index` became."""
        return math.prod(split.factor for split in self.splits if split.time_ns > self.time_ns[index])

    def known(self, end: int) -> Bars:
        """Return the rows before `end` as they were known then: in shares of the last of them, as are their inputs.
        Prices are rounded to 4 decimal places, which those of shares have at most."""
        part, factor = self[:end], self.split_factor(end - 1)
        inputs = {symbol: bars.known(end) for symbol, bars in self.inputs.items()}
        if factor == 1.0:
            return replace(part, inputs=inputs, splits=())
        return replace(
            part,
            open=np.round(part.open * factor, KNOWN_PLACES),
            high=np.round(part.high * factor, KNOWN_PLACES),
            low=np.round(part.low * factor, KNOWN_PLACES),
            close=np.round(part.close * factor, KNOWN_PLACES),
            volume=part.volume / factor,
            inputs=inputs,
            splits=(),
        )

    @property
    def ticks(self) -> Ticks:
        """Return the prices as exact integers, on a grid that holds all of them. Made once; a view has its part."""
        if self._ticks is None:
            self._freeze()
            object.__setattr__(self, "_ticks", ticks_of(self.open, self.high, self.low, self.close))
        assert self._ticks is not None
        return self._ticks

    @property
    def breaks(self) -> Ints:
        """Return the indices of bars that the next one does not follow at once: ascending. Every bar but the last for
        months, which have no one length. Made once; a view has its part."""
        if self._breaks is None:
            self._freeze()
            length = TIMEFRAMES[self.timeframe] * NS
            object.__setattr__(self, "_breaks", np.flatnonzero(np.diff(self.time_ns) != length))
        assert self._breaks is not None
        return self._breaks

    def _freeze(self) -> None:
        for column in (self.time_ns, self.open, self.high, self.low, self.close, self.volume):
            column.setflags(write=False)

    def bar(self, index: int, exchange: str = "") -> Bar:
        """Return row `index` as a value."""
        return Bar(
            exchange,
            self.symbol,
            self.timeframe,
            int(self.time_ns[index]),
            float(self.open[index]),
            float(self.high[index]),
            float(self.low[index]),
            float(self.close[index]),
            float(self.volume[index]),
        )

    @staticmethod
    def of(symbol: str, timeframe: str, bars: Iterable[Bar]) -> Bars:
        """Return columns made from single bars, in the order given."""
        rows = list(bars)
        return Bars(
            symbol,
            timeframe,
            np.array([b.time_ns for b in rows], dtype=np.int64),
            *(
                np.array([getattr(b, name) for b in rows], dtype=np.float64)
                for name in ("open", "high", "low", "close", "volume")
            ),
        )
