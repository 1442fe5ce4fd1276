"""Klines of one market: the exact aggregate of its trades up to now, however far back."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fks.lab.sim.atoms import show
from fks.lab.sim.intervals import INTERVALS, end_of, start_of, starts_of
from fks.lab.sim.market import CHUNK_ROWS, RAW_OFFSET, Market
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.source import Rows
from fks.model.bar import Ints

SUMS_KEPT = 9000  # chunks: a year of hours, 1.5 kB each
_STRETCH = 24  # chunks summed at once, a day: each change between thread and busy event loop costs some 5 ms
#: sums chunks for all symbols: the event loop answers meanwhile, and shares the interpreter with one thread only
_SUMMING = ThreadPoolExecutor(1, thread_name_prefix="klines")


@dataclass(slots=True)
class Kline:
    """One bar: prices in ticks, `volume` and `taker` (bought by takers) in lots, the two quotes in ticks times lots."""

    start_ms: int
    end_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote: int = 0
    count: int = 0
    taker: int = 0
    taker_quote: int = 0

    def add(self, trade: AggregateTrade) -> None:
        """Add a trade to the bar."""
        if self.count == 0:
            self.open = self.high = self.low = trade.price
        self.high = max(self.high, trade.price)
        self.low = min(self.low, trade.price)
        self.close = trade.price
        self.volume += trade.lots
        self.quote += trade.price * trade.lots
        self.count += 1
        if not trade.is_maker:
            self.taker += trade.lots
            self.taker_quote += trade.price * trade.lots

    def wire(self, market: Market) -> list[object]:
        """Return the twelve elements of REST."""
        factor = market.listing.quote_factor
        return [
            self.start_ms,
            market.price(self.open),
            market.price(self.high),
            market.price(self.low),
            market.price(self.close),
            market.quantity(self.volume),
            self.end_ms - 1,
            show(self.quote * factor),
            self.count,
            market.quantity(self.taker),
            show(self.taker_quote * factor),
            "0",
        ]

    def event(self, market: Market, interval: str, event_ms: int, *, is_closed: bool) -> dict[str, object]:
        """Return the kline event of the streams."""
        row = self.wire(market)
        first = market.id_at(self.start_ms) + RAW_OFFSET if self.count else -1
        last = first + self.count - 1 if self.count else -1
        return {
            "e": "kline",
            "E": event_ms,
            "s": market.symbol,
            "k": {
                "t": self.start_ms,
                "T": row[6],
                "s": market.symbol,
                "i": interval,
                "f": first,
                "L": last,
                "o": row[1],
                "c": row[4],
                "h": row[2],
                "l": row[3],
                "v": row[5],
                "n": self.count,
                "x": is_closed,
                "q": row[7],
                "V": row[9],
                "Q": row[10],
                "B": "0",
            },
        }


class Klines:
    """Answers kline questions of one market; keeps sums of past chunks."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._sums: OrderedDict[int, Ints] = OrderedDict()
        self._summing = asyncio.Lock()

    async def fetch(self, interval: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[Kline]:
        """Return up to `limit` bars ascending: from `start_ms`, else the last ones until `end_ms` or now.

        Sums that are not known yet are computed in a thread, once for all requests; the event loop goes on.
        """
        market = self._market
        begin, stop = self._window(interval, start_ms, end_ms, limit)
        if stop <= begin:
            return []
        if INTERVALS[interval] and INTERVALS[interval] < market.source.unit_ms:
            return self._from_trades(interval, begin, stop)[:limit]
        row_from = max(market.source.row_first, market.source.row_at(begin - 1) + 1)
        row_to = market.source.row_at(min(stop - 1, market.now_ms)) + 1
        found = self._from_rows(interval, row_from, row_to, await self._sums_in(_chunks(row_from, row_to)))
        return found[:limit] if start_ms is not None else found[-limit:]

    def current(self, interval: str) -> Kline:
        """Return the unfinished bar of `interval` at the market's now, built from its trades."""
        market = self._market
        start = start_of(market.now_ms, interval)
        bar = Kline(start, end_of(start, interval), *([market.last.price] * 4))
        unit = market.source.unit_ms
        row_from, row_to = market.source.row_at(start - 1) + 1, market.source.row_at(market.now_ms)
        row_from = max(row_from, market.source.row_first)
        if INTERVALS[interval] >= unit or not INTERVALS[interval]:
            whole = self._from_rows(interval, row_from, row_to + 1) if row_to >= row_from else []
            return whole[-1] if whole and whole[-1].start_ms == start else bar
        for trade in market.during(start, bar.end_ms):
            bar.add(trade)
        return bar

    def span(self, begin_ms: int, end_ms: int) -> Kline:
        """Return everything from the row that holds `begin_ms` until the market's now as one bar."""
        market = self._market
        row_from = max(market.source.row_first, market.source.row_at(begin_ms) + 1)
        rows = self._from_rows("1M", row_from, market.source.row_at(min(end_ms, market.now_ms)) + 1)
        if not rows:
            return Kline(end_ms, end_ms, *([market.last.price] * 4))
        rows[0].start_ms = max(begin_ms, rows[0].start_ms)
        whole = rows[0]
        for bar in rows[1:]:
            whole.high, whole.low, whole.close = max(whole.high, bar.high), min(whole.low, bar.low), bar.close
            whole.volume += bar.volume
            whole.quote += bar.quote
            whole.count += bar.count
        return whole

    def _window(self, interval: str, start_ms: int | None, end_ms: int | None, limit: int) -> tuple[int, int]:
        """Return [begin, stop) in ms that holds the wanted bars' open times."""
        now, length = self._market.now_ms, INTERVALS[interval] or 31 * 86_400_000
        stop = min(now, end_ms if end_ms is not None else now) + 1
        if start_ms is not None:
            begin = (
                start_ms if start_ms == start_of(start_ms, interval) else end_of(start_of(start_ms, interval), interval)
            )
            stop = min(stop, start_of(begin, interval) + (limit + 1) * length)
        else:
            begin = start_of(max(0, stop - 1 - (limit + 1) * length), interval)
            if length < self._market.source.unit_ms or INTERVALS[interval]:
                begin = max(begin, start_of(stop - 1, interval) - (limit - 1) * length)
        first = self._market.source.rows(self._market.source.row_first, self._market.source.row_first + 1)
        begin = max(begin, start_of(int(first.time_ms[0]), interval))
        last = start_of(stop - 1, interval)
        return begin, min(end_of(last, interval), max(begin, last) + (INTERVALS[interval] or 32 * 86_400_000))

    async def _sums_in(self, numbers: range) -> list[Ints]:
        """Return the sums of chunks. A request that needs some that are being computed waits for those."""
        loop, found = asyncio.get_running_loop(), list[Ints]()
        for start in range(0, len(numbers), _STRETCH):
            stretch = numbers[start : start + _STRETCH]
            async with self._summing:
                # held here: what is kept meanwhile may drop any of them
                known = {number: self._sums[number] for number in stretch if number in self._sums}
                missing = [number for number in stretch if number not in known]
                if missing:
                    rows = [self._market.chunk_rows(number) for number in missing]
                    made = await loop.run_in_executor(_SUMMING, list, map(self._sums_of, missing, rows))
                    for number, sums in zip(missing, made, strict=True):
                        known[number] = sums
                        self._keep(number, sums)
            found += [known[number] for number in stretch]
        return found

    def _sums_of(self, number: int, rows: Rows) -> Ints:
        """Return quote, taker and taker quote (the lines) of each row of a chunk. Any thread may call it."""
        trades = self._market.expanded(number, rows)
        taker = np.where(trades.is_maker, 0, trades.lots)
        total = np.zeros((3, len(trades) + 1), dtype=np.int64)
        np.cumsum([trades.price * trades.lots, taker, trades.price * taker], axis=1, out=total[:, 1:])
        found: Ints = total[:, trades.starts + rows.count] - total[:, trades.starts]
        return found

    def _keep(self, number: int, sums: Ints) -> None:
        self._sums[number] = sums
        if len(self._sums) > SUMS_KEPT:
            self._sums.popitem(last=False)

    def _chunk_sums(self, number: int) -> Ints:
        found = self._sums.get(number)
        if found is None:
            found = self._sums_of(number, self._market.chunk_rows(number))
            self._keep(number, found)
        return found

    def _from_rows(self, interval: str, row_from: int, row_to: int, sums: list[Ints] | None = None) -> list[Kline]:
        """Return the bars of some rows; `sums`: of their chunks, None: computed here."""
        if row_to <= row_from:
            return []
        market = self._market
        rows = market.source.rows(row_from, row_to)
        if sums is None:
            sums = [self._chunk_sums(number) for number in _chunks(row_from, row_to)]
        offset = row_from - row_from // CHUNK_ROWS * CHUNK_ROWS
        extra = np.concatenate(sums, axis=1)[:, offset : offset + len(rows)]
        grid = np.stack([rows.open, rows.high, rows.low, rows.close, rows.volume, extra[0], rows.count, *extra[1:]])
        if int(rows.first[-1] + rows.count[-1]) > market.shown:
            self._cut_last(grid, int(rows.first[-1]))
        self._lay_over(grid, rows.time_ms, rows.first)
        starts = starts_of(rows.time_ms, interval)
        edge = np.flatnonzero(np.diff(starts, prepend=-1))
        last = np.append(edge[1:], len(starts)) - 1
        columns = [
            grid[0][edge],
            np.maximum.reduceat(grid[1], edge),
            np.minimum.reduceat(grid[2], edge),
            grid[3][last],
            *(np.add.reduceat(grid[i], edge) for i in (4, 5, 6, 7, 8)),
        ]
        return [
            Kline(start, end_of(start, interval), *values)
            for start, *values in zip(starts[edge].tolist(), *(c.tolist() for c in columns), strict=True)
        ]

    def _cut_last(self, grid: Ints, first: int) -> None:
        """Replace the last row, whose trades are not all shown, by the aggregate of the shown ones."""
        found = self._market.columns(first, self._market.shown)
        if not len(found):
            grid[1:4, -1] = grid[0, -1]
            grid[4:, -1] = 0
            return
        taker = np.where(found.is_maker, 0, found.lots)
        grid[:, -1] = (
            found.price[0],
            found.price.max(),
            found.price.min(),
            found.price[-1],
            found.lots.sum(),
            (found.price * found.lots).sum(),
            len(found),
            taker.sum(),
            (found.price * taker).sum(),
        )

    def _lay_over(self, grid: Ints, time_ms: Ints, first: Ints) -> None:
        """Count our accounts' trades in. A row's first trade is at its open time, so they never change an open."""
        prints, market = self._market.prints, self._market
        begin = prints.before_time(int(time_ms[0]))
        for index in range(begin, prints.before_time(int(time_ms[-1]) + market.source.unit_ms)):
            trade, place = prints.trade(index), prints.place[index]
            row = int(np.searchsorted(time_ms, trade.time_ms, side="right")) - 1
            ends = int(first[row + 1]) if row + 1 < len(first) else market.shown
            quote = trade.price * trade.lots
            grid[1, row], grid[2, row] = max(grid[1, row], trade.price), min(grid[2, row], trade.price)
            if place >= min(ends, market.shown):
                grid[3, row] = trade.price
            grid[4, row] += trade.lots
            grid[5, row] += quote
            grid[6, row] += 1
            if not trade.is_maker:
                grid[7, row] += trade.lots
                grid[8, row] += quote

    def _from_trades(self, interval: str, begin: int, stop: int) -> list[Kline]:
        """Return bars shorter than the source's rows; no-trade bars repeat the close before them."""
        market, length = self._market, INTERVALS[interval]
        first = market.id_at(begin)
        trades = market.during(begin, stop)
        before = market.between(first - 1, first)
        close = before[0].price if before else trades[0].price if trades else market.last.price
        parts: dict[int, list[AggregateTrade]] = {}
        for trade in trades:
            parts.setdefault(trade.time_ms // length * length, []).append(trade)
        bars: list[Kline] = []
        for start in range(begin, stop, length):
            bar = Kline(start, start + length, close, close, close, close)
            for trade in parts.get(start, ()):
                bar.add(trade)
            close = bar.close
            bars.append(bar)
        return bars


def _chunks(row_from: int, row_to: int) -> range:
    """Return the numbers of the chunks that hold rows row_from..row_to-1."""
    return range(
        row_from // CHUNK_ROWS, (row_to - 1) // CHUNK_ROWS + 1 if row_to > row_from else row_from // CHUNK_ROWS
    )
