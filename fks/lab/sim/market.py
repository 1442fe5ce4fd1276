"""One market: its trades up to now, by number and by time. The source's later rows are never shown.

The source gives the market's own trades, numbered from 0 in 2020 (or from the tape's first). Trades of our accounts
(`Prints`) are laid over them and take numbers in the same sequence, so numbers stay contiguous across restarts.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fks.lab.sim.atoms import show
from fks.lab.sim.prints import AggregateTrade, Prints
from fks.lab.sim.source import Rows, Source, dice
from fks.model.bar import Floats, Ints

# Expansion of bars to trades: a deterministic walk open → (one extreme → the other) → close whose aggregate is exactly
# the bar.

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trades:
    """Columns of trades in order: `time_ms`, `price` in ticks, `lots`, `is_maker` (the buyer was resting).

    `first` is the market's number of the first one; `starts[i]` is where row i of the expanded rows begins.
    """

    time_ms: Ints
    price: Ints
    lots: Ints
    is_maker: Bools
    first: int
    starts: Ints

    def __len__(self) -> int:
        return int(self.time_ms.shape[0])


def expand(rows: Rows, unit_ms: int, rng: np.random.Generator) -> Trades:
    """Return the trades of `rows`. Each row's first trade is at its open time and price, its last at its close.

    An up bar visits its low first, a down bar its high. Rows with `count` 0 have no trades.
    """
    count = rows.count
    total = int(count.sum())
    starts = np.cumsum(count) - count
    row = np.repeat(np.arange(len(rows)), count)
    place = np.arange(total) - starts[row]
    price = _prices(rows, row, place, rng, total)
    time_ms = rows.time_ms[row] + _times(row, place, starts, count, unit_ms, rng, total)
    lots = _lots(rows, row, starts, rng, total)
    moves = np.diff(price, prepend=price[:1] if total else 0)
    is_maker = np.where(moves == 0, rng.random(total) < 0.5, moves < 0)
    return Trades(time_ms, price, lots, is_maker, int(rows.first[0]) if len(rows) else 0, starts)


def _prices(rows: Rows, row: Ints, place: Ints, rng: np.random.Generator, total: int) -> Ints:
    """Return the prices in ticks: a walk over each row's three legs, from station to station."""
    last = rows.count - 1
    spare = np.maximum(rows.count - 3, 0)
    one = 1 + np.floor(rng.random(len(rows)) * spare).astype(np.int64)
    two = one + 1 + np.floor(rng.random(len(rows)) * np.maximum(rows.count - 2 - one, 0)).astype(np.int64)
    walk = np.cumsum(rng.standard_normal(total))
    if not total:
        return np.empty(0, dtype=np.int64)
    up = rows.close >= rows.open
    first_extreme, second_extreme = np.where(up, rows.low, rows.high), np.where(up, rows.high, rows.low)
    stations = np.stack([np.zeros_like(one), one, two, last], axis=1)
    values = np.stack([rows.open, first_extreme, second_extreme, rows.close], axis=1)
    base = np.cumsum(rows.count) - rows.count
    at = walk[np.minimum(base[:, None] + stations, total - 1)]
    leg = row * 3 + (place >= one[row]) + (place >= two[row])

    def of_leg(table: Floats | Ints) -> Floats:
        """Return for each trade what a table (row, leg) says of its leg."""
        found: Floats = table.astype(np.float64).ravel().take(leg)
        return found

    share = (place - of_leg(stations[:, :3])) / of_leg(np.maximum(np.diff(stations), 1))
    noise = walk - of_leg(at[:, :3]) - of_leg(np.diff(at)) * share
    reach = ((rows.high - rows.low) / np.sqrt(np.maximum(rows.count, 1)))[row]
    walked = np.rint(of_leg(values[:, :3]) + of_leg(np.diff(values)) * share + noise * reach)
    price: Ints = walked.astype(np.int64)
    low, high = rows.low[row], rows.high[row]
    beyond = np.flatnonzero((price < low) | (price > high))
    price[beyond] = _reflected(walked[beyond], low[beyond], high[beyond])
    for station, value in zip(stations.T, values.T, strict=True):
        is_there = (station >= 0) & (station < rows.count)
        price[(base + station)[is_there]] = value[is_there]  # after rounding and short rows: exact
    return price


def _reflected(price: Floats, low: Ints, high: Ints) -> Ints:
    """Return prices that turn back at the extremes of their bar: cut off there, a market would stand still for long."""
    span = np.maximum(high - low, 1)
    beyond = np.mod(price - low, 2 * span)
    found: Ints = np.minimum(low + span - np.abs(beyond - span), high).astype(np.int64)
    return found


def _times(
    row: Ints, place: Ints, starts: Ints, count: Ints, unit_ms: int, rng: np.random.Generator, total: int
) -> Ints:
    gaps: Floats = rng.exponential(1.0, total)
    gaps[place == 0] = 0.0
    passed = np.cumsum(gaps)
    rest = rng.exponential(1.0, len(count))  # the pause after the last trade
    begin = np.zeros(len(count))
    full = count > 0
    begin[full] = passed[starts[full]]
    whole = np.ones(len(count))
    whole[full] = passed[(starts + count - 1)[full]] - begin[full] + rest[full]
    found: Ints = np.floor((passed - begin[row]) / whole[row] * (unit_ms - 1)).astype(np.int64)
    return found


def _lots(rows: Rows, row: Ints, starts: Ints, rng: np.random.Generator, total: int) -> Ints:
    weight = rng.exponential(1.0, total) ** 1.5
    sums = np.bincount(row, weights=weight, minlength=len(rows))
    spare = np.maximum(rows.volume - rows.count, 0)
    lots: Ints = np.floor(weight / sums[row] * spare[row]).astype(np.int64) + 1
    short = rows.volume < rows.count
    if short.any():  # a tape's bar with fewer lots than points to visit: the last ones trade nothing
        place = np.arange(total) - starts[row]
        lots = np.where(short[row], (place < rows.volume[row]).astype(np.int64), lots)
    left = rows.volume - np.bincount(row, weights=lots, minlength=len(rows)).astype(np.int64)
    full = rows.count > 0
    lots[starts[full]] += left[full]
    return lots


CHUNK_ROWS = 60
_CHUNKS_KEPT = 4
_LEAP_MAX = 20_000  # trades: a market further behind (a suspended machine) skips them without publishing
RAW_OFFSET = 700_000_000  # raw trade ids are another number range than aggregate ids, as on the real wire


class Market:
    """The state of one symbol: `now_ms`, the number of the market's trades shown so far, the last trade."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source = source
        self.listing = source.listing
        self.symbol = source.listing.symbol
        self.seed = seed
        self.prints = Prints()
        self.now_ms = 0
        self.shown = 0
        self.last = AggregateTrade(0, 1, 0, 0, False)
        self._chunks: OrderedDict[int, Trades] = OrderedDict()
        self.id_first = int(source.rows(source.row_first, source.row_first + 1).first[0])

    def price(self, ticks: int) -> str:
        """Return `ticks` as the wire writes a price."""
        return show(ticks * self.listing.tick)

    def quantity(self, lots: int) -> str:
        """Return `lots` as the wire writes a quantity."""
        return show(lots * self.listing.step)

    @property
    def id_next(self) -> int:
        """Return the number of the next trade, the market's or ours."""
        return self.shown + len(self.prints)

    @property
    def last_price(self) -> int:
        """Return the last trade's price in atoms."""
        return self.last.price * self.listing.tick

    def chunk(self, number: int) -> Trades:
        """Return the trades of rows number*60 to number*60+59 (fewer at a tape's end)."""
        found = self._chunks.get(number)
        if found is None:
            found = self._chunks[number] = self.expanded(number, self.chunk_rows(number))
            if len(self._chunks) > _CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        else:
            self._chunks.move_to_end(number)
        return found

    def chunk_rows(self, number: int) -> Rows:
        """Return the source's rows of a chunk."""
        return self.source.rows(number * CHUNK_ROWS, (number + 1) * CHUNK_ROWS)

    def expanded(self, number: int, rows: Rows) -> Trades:
        """Return the trades of a chunk with these rows. Any thread may call it."""
        return expand(rows, self.source.unit_ms, dice(self.seed, self.symbol, "trades", number))

    def count_until(self, time_ms: int, *, inclusive: bool = True) -> int:
        """Return how many of the source's trades happened until `time_ms` (past or future)."""
        row = self.source.row_at(time_ms)
        end = self.source.row_end
        if row < 0:
            return self.id_first
        if end is not None and row >= end:
            row = end - 1
        trades = self.chunk(row // CHUNK_ROWS)
        side = "right" if inclusive else "left"
        return trades.first + int(np.searchsorted(trades.time_ms, time_ms, side=side))  # type: ignore[call-overload]

    def seek(self, time_ms: int) -> None:
        """Go to `time_ms` without publishing earlier trades."""
        self.now_ms = time_ms
        self.shown = max(self.count_until(time_ms), self.id_first)
        before = self.between(self.id_next - 1, self.id_next) if self.id_next > self.id_first else []
        if before:
            self.last = before[0]
        else:
            row = self.source.rows(self.source.row_first, self.source.row_first + 1)
            self.last = AggregateTrade(self.id_first - 1, int(row.open[0]), 0, time_ms, False)

    def due(self, time_ms: int) -> list[AggregateTrade]:
        """Go on to `time_ms` and return the source's trades since, in order. Time never goes back."""
        self.now_ms = max(self.now_ms, time_ms)
        target = self.count_until(self.now_ms)
        if target - self.shown > _LEAP_MAX:
            self.seek(self.now_ms)
            return []
        if target <= self.shown:
            return []
        fresh = self._base(self.shown, target, len(self.prints))
        self.shown = target
        self.last = fresh[-1]
        return fresh

    def print(self, price: int, lots: int, is_maker: bool, time_ms: int) -> AggregateTrade:
        """Make a trade of our accounts part of the market, now; return it with its number."""
        self.last = self.prints.add(self.shown, price, lots, time_ms, is_maker)
        return self.last

    def between(self, start: int, stop: int) -> list[AggregateTrade]:
        """Return trades number start..stop-1, as far as they are shown."""
        start, stop = max(start, self.id_first), min(stop, self.id_next)
        if stop <= start:
            return []
        own_from, own_to = self.prints.before_id(start), self.prints.before_id(stop)
        base = start - own_from
        found: list[AggregateTrade] = []
        for index in range(own_from, own_to):
            found += self._base(base, self.prints.place[index], index)
            base = max(base, self.prints.place[index])
            found.append(self.prints.trade(index))
        return found + self._base(base, base + stop - start - len(found), own_to)

    def id_at(self, time_ms: int) -> int:
        """Return the number of the first trade at or after `time_ms` (`id_next` when there is none yet).

        A fill by an earlier trade of a batch is numbered behind the batch: trades before the moment may follow it.
        """
        base = min(self.count_until(time_ms, inclusive=False), self.shown)
        number, own = base + self.prints.before_place(base), self.prints.before_time(time_ms)
        return max(self.id_first, min([number, *self.prints.ids[own : own + 1]]))

    def during(self, begin_ms: int, end_ms: int) -> list[AggregateTrade]:
        """Return the trades at or after `begin_ms` and before `end_ms`, by number."""
        last = self.prints.before_time(end_ms)
        stop = max([self.id_at(end_ms), *(number + 1 for number in self.prints.ids[max(last - 1, 0) : last])])
        return [t for t in self.between(self.id_at(begin_ms), stop) if begin_ms <= t.time_ms < end_ms]

    def columns(self, start: int, stop: int) -> Trades:
        """Return the source's trades start..stop-1 (its own numbers, our trades not counted) as columns."""
        parts: list[Trades] = []
        while start < stop:
            number = self.source.row_of(start) // CHUNK_ROWS
            trades = self.chunk(number)
            low, high = start - trades.first, min(stop - trades.first, len(trades))
            assert high > low, (self.symbol, start, stop, trades.first, len(trades))
            cut = slice(low, high)
            parts.append(
                Trades(
                    trades.time_ms[cut], trades.price[cut], trades.lots[cut], trades.is_maker[cut], start, trades.starts
                )
            )
            start += high - low
        if len(parts) == 1:
            return parts[0]
        none = np.zeros(0, dtype=np.int64)
        if not parts:
            return Trades(none, none, none, none.astype(np.bool_), start, none)
        return Trades(
            np.concatenate([p.time_ms for p in parts]),
            np.concatenate([p.price for p in parts]),
            np.concatenate([p.lots for p in parts]),
            np.concatenate([p.is_maker for p in parts]),
            parts[0].first,
            none,
        )

    def _base(self, start: int, stop: int, shift: int) -> list[AggregateTrade]:
        if stop <= start:
            return []
        found = self.columns(start, stop)
        return [
            AggregateTrade(*row)
            for row in zip(
                range(start + shift, stop + shift),
                found.price.tolist(),
                found.lots.tolist(),
                found.time_ms.tolist(),
                found.is_maker.tolist(),
                strict=True,
            )
        ]
