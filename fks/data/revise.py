"""Bars of trades that come in any order, twice, late or not at all, and what the exchange itself says of them.

Where an exchange's trade ids prove no order (RISING, OPAQUE), bars cannot wait for certainty. They seal when their time is
over, and are corrected: each correction is a Revision with the next number, of the bar and of every larger bar it is part
of, and goes to the store and to everybody who was told the bar. The outcome does not depend on the order in which live
trades, backfill, the exchange's own bars and restarts come in: a bar is a function of what is known of it, and of two
things known the fuller one holds.

    the exchange's own bar, said SETTLED_NS or more after its end > the larger volume of (its own bar said sooner, our trades)

Trades of a bar that sealed longer than `window_ns` ago change nothing by themselves: the bar is put on the list of those
the exchange is asked for (`take_asks`). What is in no order is not lost: each number is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from fks.data.aggregate import OpenBar, exact_decimal, place_of
from fks.data.buckets import by_length, divides, length_of
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import BugError
from fks.model.market import BarSeen, TradeIds
from fks.model.timeframe import NS, bar_end, bar_start

SETTLED_NS = 60 * NS  # so long after its end an exchange's own bar is its last word
WINDOW_NS = 300 * NS


class Cause(StrEnum):
    """Why a bar is given out: it is over, a trade of it came late, a hole in it was filled, the exchange said otherwise."""

    SEALED = "sealed"
    LATE_TRADE = "late_trade"
    FILLED = "filled"
    EXCHANGE = "exchange"


@dataclass(frozen=True, slots=True)
class Revision:
    """A bar as it is now known. 0 when it is given out first, one more at each change; the store counts by itself."""

    bar: Bar
    revision: int
    cause: Cause


@dataclass(slots=True)
class _Bucket:
    """What is known of one bar. `value` is what that amounts to, once it is sealed; `shown` what was given out of it."""

    tally: OpenBar | None = None
    ids: list[int] = field(default_factory=list)
    own: Bar | None = None
    said_ns: int = 0
    value: Bar | None = None
    shown: Bar | None = None
    revision: int = -1


class Reviser:
    """The bars of one symbol, all timeframes. One loop drives it; no method waits.

    `start_ns` is the first base bar that is not sealed yet; `replay_ns` (default: the same) the one from which on all known
    trades will be added again after a restart. `emits_empty`: bars in which nobody traded are given out, flat and flagged.
    """

    def __init__(
        self, exchange: str, symbol: str, timeframes: Sequence[str], start_ns: int, *, ids: TradeIds,
        window_ns: int = WINDOW_NS, emits_empty: bool = True, replay_ns: int | None = None, previous: Decimal | None = None,
    ) -> None:  # fmt: skip
        self.base, *self._larger = by_length(timeframes)
        if bar_start(start_ns, self.base) != start_ns:
            raise BugError(f"{start_ns} is not where a {self.base} bar begins")
        self.duplicates = self.late = self.corrected = 0
        self._exchange, self._symbol = exchange, symbol
        self._window_ns, self._emits_empty, self._ids = window_ns, emits_empty, ids
        self._open_ns = start_ns
        self._from_ns = start_ns if replay_ns is None else bar_start(replay_ns, self.base)
        self._known_ns = self._from_ns
        self._prune_ns = 0
        #: the first base bar whose trades still count
        self._horizon_ns = self._from_ns
        self._previous = previous
        self._kept: dict[str, dict[int, _Bucket]] = {frame: {} for frame in (self.base, *self._larger)}
        self._child = {frame: _child_of(frame, self._kept) for frame in self._larger}
        self._parents = {frame: [large for large in self._larger if self._child[large] == frame] for frame in self._kept}
        self._seen: dict[int, PublicTrade] = {}
        self._conflicts: list[PublicTrade] = []
        self._doubts: list[tuple[int, int]] = []
        self._asks: set[tuple[str, int]] = set()

    # ── what is known ────────────────────────────────────────────────────────────────────────────
    @property
    def open_ns(self) -> int:
        """Return where the unfinished base bar begins: everything before is sealed."""
        return self._open_ns

    def needs(self) -> list[tuple[str, int, int]]:
        """Return (timeframe, from, to) of the stored bars to be given to `resume`: those that may change, and the parts of
        larger bars that are not over."""
        wanted = []
        for frame, parents in self._parents.items():
            start_ns = min(bar_start(self._from_ns, larger) for larger in (frame, *parents))
            end_ns = self._open_ns if frame == self.base else bar_start(self._open_ns, frame)
            if start_ns < end_ns:
                wanted.append((frame, start_ns, end_ns))
        return wanted

    def resume(self, bars: Iterable[Bar], *, known_ns: int) -> None:
        """Go on from stored bars, which tell everything since `known_ns`. Then add the trades since `replay_ns` again."""
        self._known_ns = min(self._known_ns, known_ns)
        for bar in sorted(bars, key=lambda b: b.time_ns):
            end_ns = bar_end(bar.time_ns, bar.timeframe)
            if bar.timeframe not in self._kept or end_ns > self._open_ns:
                continue
            own = bar if bar.is_complete else None
            self._kept[bar.timeframe][bar.time_ns] = _Bucket(own=own, value=bar, shown=bar, revision=0)
            if bar.timeframe == self.base:
                if bar.time_ns < self._from_ns:
                    self._previous = exact_decimal(bar.close)
                if not bar.is_complete:
                    self.doubt(bar.time_ns, end_ns)

    def add(self, trades: Iterable[PublicTrade]) -> list[Revision]:
        """Count trades in, whenever they come; return the sealed bars they change. Seals nothing by itself."""
        touched: set[int] = set()
        start_ns = end_ns = 0
        bucket, tally = _Bucket(), OpenBar(0, 0)
        for trade in trades:
            is_here = start_ns <= trade.time_ns < end_ns
            at = start_ns if is_here else bar_start(trade.time_ns, self.base)
            if not self._is_new(trade, at):
                continue
            if not is_here:
                start_ns, end_ns = at, bar_end(at, self.base)
                bucket = self._kept[self.base].setdefault(start_ns, _Bucket())
                tally = bucket.tally = bucket.tally or OpenBar(start_ns, end_ns)
            self._seen[trade.trade_id] = trade
            tally.add(trade, place_of(trade, self._ids))
            bucket.ids.append(trade.trade_id)
            if start_ns < self._open_ns:
                touched.add(start_ns)
        return self._changed(touched, Cause.LATE_TRADE) if touched else []

    def _is_new(self, trade: PublicTrade, start_ns: int) -> bool:
        """Return whether a trade counts: it did not come before, and its bar may still change."""
        before = self._seen.get(trade.trade_id)
        if before is not None:
            self.duplicates += 1
            if (before.price, before.quantity) != (trade.price, trade.quantity):
                self._conflicts.append(trade)
            return False
        if start_ns >= self._horizon_ns:
            return True
        self.late += 1
        self._asks.add((self.base, start_ns))
        return False

    def own(self, bar: Bar, said_ns: int) -> list[Revision]:
        """Take the exchange's own closed bar, said at `said_ns`; return the bars it changes."""
        end_ns = bar_end(bar.time_ns, bar.timeframe)
        if end_ns > said_ns:
            raise BugError(f"the {bar.timeframe} bar that ends at {end_ns} was not over at {said_ns}")
        self._asks.discard((bar.timeframe, bar.time_ns))
        bucket = self._kept[bar.timeframe].get(bar.time_ns)
        if bucket is None and end_ns <= self._floor(bar.timeframe):
            for large in self._above(bar.timeframe):
                start_ns = bar_start(bar.time_ns, large)
                if bar_end(start_ns, large) <= self._open_ns:
                    self._asks.add((large, start_ns))
            return [Revision(bar, 0, Cause.EXCHANGE)]
        bucket = bucket or self._kept[bar.timeframe].setdefault(bar.time_ns, _Bucket())
        if bucket.own is not None and (bucket.said_ns, *_numbers(bucket.own)) > (said_ns, *_numbers(bar)):
            return []
        bucket.own, bucket.said_ns = bar, said_ns
        if end_ns > self._open_ns:
            return []
        if bar.timeframe == self.base:
            return self._changed({bar.time_ns}, Cause.EXCHANGE)
        return self._changed_above({(bar.timeframe, bar.time_ns)}, Cause.EXCHANGE)

    def doubt(self, from_ns: int, to_ns: int) -> None:
        """Say that trades between two times may be missing: bars there are incomplete until they are filled."""
        self._doubts.append((from_ns, to_ns))

    def filled(self, from_ns: int, to_ns: int) -> list[Revision]:
        """Say that all trades between two times are here now; return the bars that are complete by that."""
        rest = [piece for a, b in self._doubts for piece in ((a, min(b, from_ns)), (max(a, to_ns), b)) if piece[0] < piece[1]]
        self._doubts = rest
        end_ns = min(to_ns, self._open_ns)
        touched = {start for start in self._kept[self.base] if start < end_ns and bar_end(start, self.base) > from_ns}
        return self._changed(touched, Cause.FILLED)

    def take_asks(self) -> list[tuple[str, int]]:
        """Return (timeframe, open time) of the bars the exchange is to be asked for, and forget them."""
        asks, self._asks = sorted(self._asks), set()
        return asks

    def take_conflicts(self) -> list[PublicTrade]:
        """Return trades whose id came before with another price or quantity: the first one counts, they go to quarantine."""
        found, self._conflicts = self._conflicts, []
        return found

    # ── what comes of it ─────────────────────────────────────────────────────────────────────────
    def seal_through(self, time_ns: int) -> list[Revision]:
        """Seal every bar that ends at or before `time_ns`; return them in order, smaller before larger at one end."""
        sealed: list[Revision] = []
        while (end_ns := bar_end(self._open_ns, self.base)) <= time_ns:
            start_ns, self._open_ns = self._open_ns, end_ns
            self._show(self.base, start_ns, Cause.SEALED, sealed)
            for frame in self._larger:
                if bar_start(end_ns, frame) == end_ns:
                    self._show(frame, bar_start(start_ns, frame), Cause.SEALED, sealed)
        self._horizon_ns = max(self._from_ns, bar_start(self._open_ns - self._window_ns, self.base))
        if self._open_ns >= self._prune_ns:
            self._prune_ns = self._open_ns + self._window_ns // 8
            self._prune()
        return sealed

    def forming(self, timeframe: str) -> BarSeen | None:
        """Return the unfinished bar as far as it is known, never closed; None before anybody traded in it."""
        start_ns = bar_start(self._open_ns, timeframe)
        made = OpenBar.at(start_ns, timeframe)
        for bar in self._parts(timeframe, start_ns) if timeframe != self.base else ():
            made.fold_bar(bar)
        open_base = self._kept[self.base].get(self._open_ns)
        if open_base is not None and open_base.tally is not None:
            made.fold(open_base.tally)
        seen = made.seal(self._exchange, self._symbol, timeframe, None)
        return None if seen is None or seen.is_empty else BarSeen(seen, is_closed=False)

    def _parts(self, frame: str, start_ns: int) -> Iterator[Bar]:
        """Yield the sealed parts of a larger bar that is not over, in order, each as large as can be."""
        child, at = self._child[frame], start_ns
        while bar_end(at, child) <= self._open_ns:
            if (bar := self._known(child, at)) is not None:
                yield bar
            at = bar_end(at, child)
        if child != self.base and at < self._open_ns:
            yield from self._parts(child, at)

    def _changed(self, starts: set[int], cause: Cause) -> list[Revision]:
        """Sealed base bars are known better: give out what that changes, silent bars after them and larger bars included."""
        made: list[Revision] = []
        dirty: set[tuple[str, int]] = set()
        for start_ns in sorted(starts):
            at, is_first = start_ns, True
            while at < self._open_ns and (is_first or not self._is_spoken(at)):
                if not self._show(self.base, at, cause, made) and not is_first:
                    break
                dirty |= {(large, bar_start(at, large)) for large in self._parents[self.base]}
                at, is_first = bar_end(at, self.base), False
        made += self._changed_above(dirty, cause)
        self.corrected += len(made)
        return made

    def _changed_above(self, dirty: set[tuple[str, int]], cause: Cause) -> list[Revision]:
        made: list[Revision] = []
        for frame in self._larger:
            for start_ns in sorted(start for known, start in dirty if known == frame):
                if bar_end(start_ns, frame) <= self._open_ns and self._show(frame, start_ns, cause, made):
                    dirty |= {(large, bar_start(start_ns, large)) for large in self._parents[frame]}
        return made

    def _show(self, frame: str, start_ns: int, cause: Cause, made: list[Revision]) -> bool:
        """Work a sealed bar out again, give it out when it is new or other than it was; return whether it is."""
        bucket = self._kept[frame].setdefault(start_ns, _Bucket())
        bar = self._value(frame, start_ns, bucket)
        is_other, bucket.value = bar != bucket.value, bar
        if bar is not None and bar != bucket.shown and (self._emits_empty or not bar.is_empty or bucket.shown is not None):
            bucket.shown, bucket.revision = bar, bucket.revision + 1
            made.append(Revision(bar, bucket.revision, cause))
        return is_other

    def _value(self, frame: str, start_ns: int, bucket: _Bucket) -> Bar | None:
        """Return what is known of a sealed bar, of two things the fuller; None when there is no price at all."""
        own = bucket.own if bucket.own is not None and not bucket.own.is_empty else None
        if own is not None and self._is_settled(own, bucket):
            if bucket.tally is not None and float(bucket.tally.volume) > own.volume:
                self._asks.add((frame, start_ns))
            return own
        if frame == self.base:
            bar = self._of_trades(start_ns, bucket).seal(self._exchange, self._symbol, frame, self._close_before(start_ns))
        else:
            bar = self._of_parts(frame, start_ns).seal(self._exchange, self._symbol, frame, None)
        if own is not None and (bar is None or own.volume >= bar.volume):
            return own
        return bar or bucket.own

    def _of_trades(self, start_ns: int, bucket: _Bucket) -> OpenBar:
        end_ns = bar_end(start_ns, self.base)
        is_whole = start_ns >= self._known_ns and not any(a < end_ns and b > start_ns for a, b in self._doubts)
        if bucket.tally is None:
            return OpenBar(start_ns, end_ns, is_complete=is_whole or bucket.own is not None)
        bucket.tally.is_complete = is_whole
        return bucket.tally

    def _of_parts(self, frame: str, start_ns: int) -> OpenBar:
        made = OpenBar.at(start_ns, frame)
        child, at = self._child[frame], start_ns
        while at < made.end_ns:
            bar = self._known(child, at)
            if bar is not None:
                made.fold_bar(bar)
            at = bar_end(at, child)
        made.is_complete = made.is_complete and start_ns >= self._known_ns
        return made

    def _known(self, frame: str, start_ns: int) -> Bar | None:
        bucket = self._kept[frame].get(start_ns)
        return None if bucket is None else bucket.value

    def _close_before(self, start_ns: int) -> Decimal | None:
        """Return the last price before a base bar: a silent bar before it is flat at it."""
        bar = self._known(self.base, bar_start(start_ns - 1, self.base))
        return self._previous if bar is None else exact_decimal(bar.close)

    def _is_spoken(self, start_ns: int) -> bool:
        bucket = self._kept[self.base].get(start_ns)
        return bucket is not None and (bucket.tally is not None or (bucket.own is not None and not bucket.own.is_empty))

    # ── what is kept ─────────────────────────────────────────────────────────────────────────────
    def _floor(self, frame: str) -> int:
        """Return the open time of the first bar that is kept: what it and the larger bars that may change are made of."""
        return min(bar_start(self._horizon_ns, larger) for larger in (frame, *self._parents[frame]))

    def _prune(self) -> None:
        for frame, buckets in self._kept.items():
            floor = self._floor(frame)
            for start_ns in sorted(start for start in buckets if start < floor):
                bucket = buckets.pop(start_ns)
                if frame == self.base and bucket.value is not None:
                    self._previous = exact_decimal(bucket.value.close)
                for number in bucket.ids:
                    self._seen.pop(number, None)
        self._doubts = [(a, b) for a, b in self._doubts if b > self._horizon_ns]

    def _above(self, frame: str) -> list[str]:
        return [large for large in self._larger if length_of(large) > length_of(frame)]

    def _is_settled(self, own: Bar, bucket: _Bucket) -> bool:
        return bucket.said_ns >= bar_end(own.time_ns, own.timeframe) + SETTLED_NS


def _child_of(frame: str, frames: Iterable[str]) -> str:
    """Return the largest timeframe that whole ones of make one of `frame`."""
    fits = [small for small in by_length(frames) if divides(small, frame)]
    if not fits:
        raise BugError(f"no timeframe given makes {frame}")
    return fits[-1]


def _numbers(bar: Bar) -> tuple[float, ...]:
    return (bar.volume, bar.trades, bar.open, bar.high, bar.low, bar.close)
