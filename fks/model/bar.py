"""Bars and public trades: single ones as values, many as columns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import sha256

import msgspec
import numpy as np
import numpy.typing as npt

from fks.model.errors import unprocessable
from fks.model.instrument import folded
from fks.model.ticks import Ticks, ticks_of
from fks.model.timeframe import NS, TIMEFRAMES, bar_end

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


_PASSED_MAX = 200
ROLL_PLACES = 8  # decimals of the gap between two contracts


@dataclass(frozen=True, slots=True)
class ShareSplit:
    """A split of shares: from `time_ns` on there are `new` shares for each `old` one before; 1 for 1 = the price moved,
    and nothing was split. `places`: decimals of the raw prices."""

    time_ns: int
    new: int
    old: int = 1
    places: int = 2

    @property
    def factor(self) -> float:
        return self.new / self.old


@dataclass(frozen=True, slots=True)
class ContractRoll:
    """The change from one contract to the next: from the bar at `time_ns` on the series is `new`. The prices are the
    closes of the last bar before it that both contracts have."""

    time_ns: int
    old: str
    new: str
    old_price: float
    new_price: float

    @property
    def gap(self) -> float:
        """Return how much dearer the new contract was."""
        return round(self.new_price - self.old_price, ROLL_PLACES)


def split_digits(splits: Sequence[ShareSplit]) -> int:
    """Return how many decimals more prices have in the shares after the last split: as many as keep each of them
    apart."""
    factors = np.cumprod([split.factor for split in reversed(splits)])
    return max(0, math.ceil(math.log10(max(factors)) - 1e-9)) if len(factors) else 0


def _is_fixed(column: Floats | Ints) -> bool:
    """Return whether an array and the arrays that it is a view of are read-only."""
    owner: object = column
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)


@dataclass(frozen=True, slots=True)
class Feature:
    """A column beside bars: of each one the value that was known at its end. Shapes: both (n,).

    `values` is NaN where nothing was known; `time_ns` is the time that a value is of, -1 where there is none.
    """

    values: Floats
    time_ns: Ints

    def __getitem__(self, part: slice) -> Feature:
        return Feature(self.values[part], self.time_ns[part])


class PassedChecks(dict[Hashable, None]):
    """Keys of the checks that bars have passed, the newest ones. A copy of the bars, in another process too, has passed
    none: its columns may be changed."""

    __slots__ = ()

    def add(self, key: Hashable) -> None:
        self[key] = None
        if len(self) > _PASSED_MAX:
            del self[next(iter(self))]

    def __reduce__(self) -> tuple[type[PassedChecks], tuple[()]]:
        return PassedChecks, ()


@dataclass(frozen=True, slots=True)
class Bars:
    """Columns of one (symbol, timeframe), oldest first. Shapes: all (n,). Times ns UTC int64, the rest float64.

    What is derived from the columns (`ticks`, `breaks`) is kept: from then on they are read-only.
    `inputs`: bars of further symbols by folded symbol, aligned row by row by `joined`. `features`: own columns by name
    (`fks.model.features`). `calendar`: the market's trading
    calendar, `24/7` or a name of exchange_calendars (`fks.model.calendars`); missing bars and trading days follow from
    it. `exchange`: where they are from, "" when that is not known. `splits`, oldest first: the columns are in shares of
    after the last one (`fks.market.bars.splits`), made of those that were traded (`raw`); strategies see the shares of
    each decision's own day (`known`). `end_ns`: when each bar ended, of volume bars alone: the end of others follows
    from their timeframe. `rolls`, oldest first, of a continuous future: the columns are the prices of the contract of
    each bar; strategies see those of before a roll moved by its gap, as of each decision (`known`).
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
    features: Mapping[str, Feature] = field(default_factory=dict, repr=False, compare=False, kw_only=True)
    calendar: str = field(default="24/7", compare=False, kw_only=True)
    exchange: str = field(default="", compare=False, kw_only=True)
    splits: tuple[ShareSplit, ...] = field(default=(), compare=False, kw_only=True)
    raw: Bars | None = field(default=None, repr=False, compare=False, kw_only=True)
    end_ns: Ints | None = field(default=None, repr=False, compare=False, kw_only=True)
    rolls: tuple[ContractRoll, ...] = field(default=(), compare=False, kw_only=True)
    _ticks: Ticks | None = field(default=None, init=False, repr=False, compare=False)
    _breaks: Ints | None = field(default=None, init=False, repr=False, compare=False)
    _passed: PassedChecks | None = field(default=None, init=False, repr=False, compare=False)

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
            features={name: one[part] for name, one in self.features.items()} if self.features else {},
            calendar=self.calendar,
            exchange=self.exchange,
            splits=self.splits,
            raw=None if self.raw is None else self.raw[part],
            end_ns=None if self.end_ns is None else self.end_ns[part],
            rolls=self.rolls,
        )
        if self._ticks is not None:
            object.__setattr__(view, "_ticks", self._ticks[part])
        start, stop, step = part.indices(len(self))
        if self._breaks is not None and step == 1:
            first, last = np.searchsorted(self._breaks, (start, stop - 1))
            object.__setattr__(view, "_breaks", self._breaks[first:last] - start)
        return view

    def first(self, count: int, begin: int = 0) -> Bars:
        """Return a view of the first rows, from row `begin` on, as bars that end there: all that they keep, as
        the bounds of their ticks, comes from these rows alone. Some milliseconds for a million rows."""
        view = self[begin:count]
        object.__setattr__(view, "_ticks", self.ticks.first(count, begin))
        for other in (*view.inputs.values(), *([] if view.raw is None else [view.raw])):
            object.__setattr__(other, "_ticks", None)
        return view

    def joined(self, others: Mapping[str, Bars]) -> Bars:
        """Return these bars with those of further symbols, by name, beside them: row i has what opened and ended at the
        same time, and NaN where the other one has no bar then. Nothing is filled in.

        Errors: InputError INPUT_TIMEFRAME when a timeframe is another, or they are volume bars.
        """
        if others and self.end_ns is not None:
            raise unprocessable(
                "INPUT_TIMEFRAME",
                f"{self.timeframe} bars of two symbols that open at one time end at different ones",
                "choose bars of time for a strategy that reads further symbols",
            )
        found: dict[str, Bars] = {}
        for symbol, other in others.items():
            if other.timeframe != self.timeframe:
                raise unprocessable(
                    "INPUT_TIMEFRAME",
                    f"{symbol} has bars of {other.timeframe}, {self.symbol} of {self.timeframe}",
                    "resample one of them",
                )
            found[folded(symbol)] = other.at(self.time_ns)
        return replace(self, inputs=found)

    def with_features(self, features: Mapping[str, Feature]) -> Bars:
        """Return these bars with columns beside them, those that they have by other names included."""
        found = {**self.features, **features}
        raw = None if self.raw is None else self.raw.with_features(features)
        return replace(self, features=found, raw=raw)

    def at(self, time_ns: Ints) -> Bars:
        """Return the bars that open at these times, NaN where there is none. Errors: InputError CONTINUOUS_INPUT."""
        self.ensure_not_rolled()
        place = np.searchsorted(self.time_ns, time_ns)
        is_there = np.concatenate([self.time_ns, [-1]])[place] == time_ns
        columns = []
        for name in ("open", "high", "low", "close", "volume"):
            column = np.full(len(time_ns), np.nan)
            column[is_there] = getattr(self, name)[place[is_there]]
            columns.append(column)
        raw = None if self.raw is None else self.raw.at(time_ns)
        return Bars(self.symbol, self.timeframe, time_ns, *columns, calendar=self.calendar, splits=self.splits, raw=raw)

    def ensure_not_rolled(self) -> None:
        """Refuse a continuous future, where its bars would be taken as those of one contract. Errors: InputError
        CONTINUOUS_INPUT."""
        if self.rolls:
            raise unprocessable(
                "CONTINUOUS_INPUT",
                f"{self.symbol} is a continuous future: its prices jump at its rolls",
                "take a contract, or resample the contracts before they are joined",
            )

    # ── splits of shares ─────────────────────────────────────────────────────────────────────────
    def after(self, splits: tuple[ShareSplit, ...]) -> Bars:
        """Return these bars, as they were traded, in the shares after the last split: prices before one are divided by
        its ratio and rounded, volumes multiplied."""
        if not splits:
            return self
        factors = np.ones(len(self))
        for split, row in zip(splits, np.searchsorted(self.time_ns, [split.time_ns for split in splits]), strict=True):
            factors[:row] *= split.factor
        places = splits[0].places + split_digits(splits)
        is_same = factors == 1.0
        return replace(
            self,
            open=np.where(is_same, self.open, np.round(self.open / factors, places)),
            high=np.where(is_same, self.high, np.round(self.high / factors, places)),
            low=np.where(is_same, self.low, np.round(self.low / factors, places)),
            close=np.where(is_same, self.close, np.round(self.close / factors, places)),
            volume=self.volume * factors,
            splits=splits,
            raw=self,
        )

    @property
    def split_rows(self) -> list[int]:
        """Return the rows, after the first, from which on these bars or their inputs are of other shares, or of another
        contract; ascending."""
        times = {split.time_ns for part in (self, *self.inputs.values()) for split in part.splits if split.factor != 1}
        times |= {roll.time_ns for roll in self.rolls}
        rows = np.searchsorted(self.time_ns, sorted(times))
        return sorted({row for row in rows.tolist() if 0 < row < len(self)})

    def split_factor(self, index: int) -> float:
        """Return how many shares of the columns one share of row `index` became."""
        return math.prod(split.factor for split in self.splits if split.time_ns > self.time_ns[index])

    @property
    def as_traded(self) -> Bars:
        """Return the bars, and those of their inputs, before any split was applied."""
        part = self if self.raw is None else self.raw
        return replace(part, inputs={symbol: bars.as_traded for symbol, bars in self.inputs.items()})

    def known(self, end: int) -> Bars:
        """Return the rows before `end` as bars that ended there would be: in the shares, or on the contract, of the
        last of them, as are their inputs. Nothing of a later split or roll is in them."""
        if self.rolls:
            return self[:end]._on_last_contract()
        part = self[:end] if self.raw is None else self.raw[:end]
        found = part.after(tuple(split for split in self.splits if split.time_ns <= self.time_ns[end - 1]))
        inputs = {symbol: bars.known(end) for symbol, bars in self.inputs.items()}
        return replace(found, inputs=inputs, splits=(), raw=None)

    def _on_last_contract(self) -> Bars:
        plus = np.zeros(len(self))
        for roll in self.rolls:
            if roll.time_ns <= self.time_ns[-1]:
                plus[: int(np.searchsorted(self.time_ns, roll.time_ns))] += roll.gap
        prices = {name: getattr(self, name) for name in ("open", "high", "low", "close")}
        moved = {name: np.where(plus == 0, raw, np.round(raw + plus, ROLL_PLACES)) for name, raw in prices.items()}
        return replace(self, **moved, rolls=())

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
        months, which have no one length; of volume bars those that the next one is not after. Made once; a view has its
        part."""
        if self._breaks is None:
            self._freeze()
            steps = np.diff(self.time_ns)
            is_break = steps != TIMEFRAMES[self.timeframe] * NS if self.end_ns is None else steps <= 0
            object.__setattr__(self, "_breaks", np.flatnonzero(is_break))
        assert self._breaks is not None
        return self._breaks

    @property
    def passed(self) -> PassedChecks:
        """Return the checks that these very bars have passed: no view or copy of them has passed any."""
        if self._passed is None:
            self._freeze()
            object.__setattr__(self, "_passed", PassedChecks())
        assert self._passed is not None
        return self._passed

    def content_key(self) -> bytes:
        """Return a SHA-256 of all that may change in these bars: columns whose memory can be written to, and those of
        inputs, features and raw bars. Equal for equal content; without any it takes microseconds."""
        return self._content_key(is_whole=False)

    def _content_key(self, *, is_whole: bool) -> bytes:
        digest = sha256()
        columns: list[Floats | Ints] = [self.time_ns, self.open, self.high, self.low, self.close, self.volume]
        columns += [] if self.end_ns is None else [self.end_ns]
        columns = [column for column in columns if is_whole or not _is_fixed(column)]
        for name, one in self.features.items():
            digest.update(name.encode())
            columns += [one.values, one.time_ns]
        for column in columns:
            digest.update(f"{column.dtype.str}{column.shape}".encode())
            digest.update(np.ascontiguousarray(column).data)
        for symbol, bars in (*self.inputs.items(), *([] if self.raw is None else [("", self.raw)])):
            digest.update(symbol.encode() + bars._content_key(is_whole=True))
        return digest.digest()

    def ended_ns(self, index: int) -> int:
        """Return when a bar ended: its values were known from then on."""
        if self.end_ns is not None:
            return int(self.end_ns[index])
        return bar_end(int(self.time_ns[index]), self.timeframe)

    @property
    def ends_ns(self) -> Ints:
        """Return when each bar ended, which is when it is decided on."""
        if self.end_ns is not None:
            return self.end_ns
        if length := TIMEFRAMES[self.timeframe]:
            found: Ints = self.time_ns + length * NS
            return found
        return np.array([bar_end(start, self.timeframe) for start in self.time_ns.tolist()], dtype=np.int64)

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
