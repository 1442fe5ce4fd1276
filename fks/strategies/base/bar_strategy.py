"""Strategies that are called once a bar, for logic that needs state: orders, position and indicators at hand.

`BarStrategy.decide` walks the bars and turns what `on_bar` orders into the columns that every strategy gives, so that
backtest, paper and live treat both forms alike. The walk is a pure function of the bars: each evaluation starts from
the first bar with an empty state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from keyword import iskeyword
from types import SimpleNamespace
from typing import Any

import numpy as np

from fks.model.bar import Bars, Floats
from fks.strategies.base.strategy import Decisions, EntryOrder, Strategy, StrategyError, trailed

_NAN = float("nan")


#: the columns of a bar: prices in quote, volume in base, `time_ns` its open time (ns UTC)
BAR_COLUMNS = ("time_ns", "open", "high", "low", "close", "volume")


class Context:
    """The argument of `on_bar`: the bars and position that it sees, and the calls with which it orders.

    `position`: 1 long, 0 flat, -1 short, as the bars fill it: an entry is filled at the open of the bar after its
    order, or where its limit or stop is reached, and a stop loss or take profit when a bar's range reaches it (both in
    one bar: the stop). What a limit denies or a venue fills otherwise is not in it. `entry_price` (NaN while flat) and
    `bars_held` are of the open position, and `entries` is how many made it (`add`); of several the price is the average
    one of amounts of quote in proportion to their `size_share`, as the sizing `notional` buys. `index` is the bar's
    number. `is_waiting`: an entry's limit or stop order rests. `kept`: the share of the entered quantity that is held
    (`reduce`), `stop_loss` where its stop is (NaN: it has none, or is flat). `profit` is that of all closed positions,
    as a share of an entry of the full size and without costs: 0.02 is 2 % of that size; `drawdown` how far it is below
    its highest. `state` is the strategy's own: set any attribute; it is empty at each evaluation's start.
    """

    __slots__ = (
        "_bars",
        "_columns",
        "_cut",
        "_entered",
        "_is_adding",
        "_life",
        "_loss",
        "_most",
        "_move",
        "_order",
        "_paid",
        "_peak",
        "_profit",
        "_share",
        "_stop_loss",
        "_trail",
        "_wanted",
        "bars_held",
        "entries",
        "entry_price",
        "index",
        "is_expired",
        "is_stopped",
        "is_waiting",
        "position",
        "profit",
        "state",
        "stop_loss",
    )

    def __init__(self, bars: Bars, columns: Mapping[str, Floats], entries_max: int = 1) -> None:
        self.index = 0
        self.position = 0
        self.entries = 0
        self._most = entries_max
        self.entry_price = _NAN
        self.bars_held = 0
        self.is_stopped = False  # a protection closed the position in this bar
        self.is_expired = False  # the entry's order ended unfilled in this bar
        self.is_waiting = False
        self.state = SimpleNamespace()
        self._bars = bars
        self._columns = columns
        self._wanted = 0.0  # the target
        self._is_adding = False  # an entry more was ordered in this bar
        self._cut = 1.0  # the share that a part closed in this bar leaves
        self._move = _NAN  # where the stop is moved at this bar's close
        self.stop_loss = _NAN
        self.profit = self._peak = 0.0
        self._loss = self._stop_loss = self._profit = self._trail = _NAN
        self._share = 1.0  # of the size, of the entry that was ordered last
        self._paid = self._entered = 1.0  # in full sizes: held, and entered in all, of the open position
        self._order: EntryOrder | None = None  # of the entry that was ordered last; None = at the market
        self._life = 0  # bars that it rests at most; 0 = without end

    @property
    def kept(self) -> float:
        """Return the share of the entered quantity that is held: 1 while no part was closed; NaN while flat."""
        return self._paid / self._entered if self.position else _NAN

    @property
    def drawdown(self) -> float:
        """Return how far `profit` is below the highest that it was, 0 at first."""
        return self._peak - self.profit

    def _left(self, price: float, share: float = 1.0) -> None:
        """Take in that a share of the position was closed at a price."""
        self.profit += self.position * share * self._paid * (price / self.entry_price - 1.0)
        self._peak = max(self._peak, self.profit)

    def value(self, name: str, ago: int = 0) -> float:
        """Return an indicator's value at this bar, or `ago` bars before it. Errors: StrategyError for an unknown name,
        or a bar before the first."""
        place = self.index - ago
        if ago < 0 or place < 0:
            raise StrategyError(
                f"value({name!r}, {ago}) at bar {self.index} asks for bar {place}, which is not known then",
                code="STRATEGY_WRONG",
                status=422,
                remedy="ask for 0 to `index` bars ago",
            )
        try:
            return float(self._columns[name][place])
        except KeyError:
            known = " ".join(self._columns) or "none"
            raise StrategyError(
                f"there is no indicator {name!r}",
                code="STRATEGY_WRONG",
                status=422,
                remedy=f"return it from indicators(); known: {known}",
            ) from None

    def last(self, column: str, count: int) -> Floats:
        """Return the last `count` values, this bar's included, of open, high, low, close, volume or an indicator; fewer
        at the start."""
        values = self._columns.get(column)
        if values is None:
            values = getattr(self._bars, column)
        found: Floats = values[max(0, self.index + 1 - count) : self.index + 1]
        return found

    def buy(
        self,
        *,
        stop_loss: float | None = None,
        take_profit: float | None = None,
        trail: float | None = None,
        limit: float | None = None,
        stop: float | None = None,
        bars: int | None = None,
        size_share: float | None = None,
    ) -> bool:
        """Be long from the next bar's open on, with these protections (absolute prices) when that is an entry.

        `trail`: the distance, in units of the price, at which the stop follows the closes: at the end of each bar to
        the close less it, never back. Without `stop_loss` the stop begins that far from the price of the entry.
        `limit`, `stop`: enter by such an order, with both by a stop-limit; it rests until it fills, `close` or another
        side is ordered, or `bars` bars have passed. `size_share`: the share of the configured size that it has, above 0
        and at most 1.
        Return False and do nothing in the bar whose range closed the position, or in which the order expired: order
        again on the next one.
        """
        return self._wanted > 0 or self._enter(1, stop_loss, take_profit, trail, limit, stop, bars, size_share)

    def sell(
        self,
        *,
        stop_loss: float | None = None,
        take_profit: float | None = None,
        trail: float | None = None,
        limit: float | None = None,
        stop: float | None = None,
        bars: int | None = None,
        size_share: float | None = None,
    ) -> bool:
        """Be short from the next bar's open on; like `buy`. Where nothing may be short it is denied."""
        return self._wanted < 0 or self._enter(-1, stop_loss, take_profit, trail, limit, stop, bars, size_share)

    def add(self, *, size_share: float | None = None) -> bool:
        """Enter once more at the next bar's open, on the side that is held, by the same sizing and under the same
        protections; `size_share` is this entry's own.

        Return False and do nothing while flat, when it closes (a part, too) or turns, and when the position has the
        entries that `entries_max` of the strategy allows, one that was ordered in this bar included.
        """
        is_changing = self._is_adding or self._cut != 1.0
        if self._wanted * self.position <= 0 or is_changing or self.entries >= self._most:
            return False
        self._share = self._valid(size_share)
        self._wanted += self.position
        self._is_adding = True
        return True

    def reduce(self, share: float) -> bool:
        """Close a share of the position, above 0 and below 1, at the next bar's open; the rest keeps its protections.

        Return False and do nothing while flat, and when it closes, turns or adds. Called twice in a bar, the second
        share is one of the rest.
        """
        if not 0.0 < share < 1.0:
            raise StrategyError(
                f"reduce({share!r}) at bar {self.index} is no share of what is held",
                code="STRATEGY_WRONG",
                status=422,
                remedy="give one above 0 and below 1; close() closes all",
            )
        if self._wanted * self.position <= 0 or self._is_adding:
            return False
        self._wanted *= 1.0 - share
        self._cut *= 1.0 - share
        return True

    def move_stop(self, price: float) -> bool:
        """Move the stop loss of the position that is held to a price, from the next bar on; one that is no nearer to
        the market than it is now leaves it. To `entry_price` is break-even, without fees.

        Return False and do nothing while flat, when it closes or turns, and for a position without a stop.
        """
        if not 0.0 < price < float("inf"):
            raise StrategyError(
                f"move_stop({price!r}) at bar {self.index} is no price",
                code="STRATEGY_WRONG",
                status=422,
                remedy="give one above 0",
            )
        if self._wanted * self.position <= 0 or self.stop_loss != self.stop_loss:
            return False
        self._move = price
        return True

    def _valid(self, share: float | None) -> float:
        if share is None:
            return 1.0
        if 0.0 < share <= 1.0:
            return share
        raise StrategyError(
            f"size_share={share!r} at bar {self.index} is no share of the size",
            code="STRATEGY_WRONG",
            status=422,
            remedy="give one above 0 and at most 1",
        )

    def close(self) -> None:
        """Be flat from the next bar's open on, and end an entry's order that rests; nothing when it is flat."""
        self._wanted = 0.0

    def _enter(
        self,
        side: int,
        stop_loss: float | None,
        take_profit: float | None,
        trail: float | None,
        limit: float | None,
        stop: float | None,
        bars: int | None,
        size_share: float | None,
    ) -> bool:
        if self.is_stopped or self.is_expired:
            return False
        self._share = self._valid(size_share)
        self._wanted = float(side)
        self._cut = 1.0
        self._is_adding = False
        self._order = None
        if limit is not None or stop is not None:
            self._order = EntryOrder(side, _NAN if limit is None else limit, _NAN if stop is None else stop)
            self._life = bars or 0
        self._stop_loss = _NAN if stop_loss is None else stop_loss
        self._trail = _NAN if trail is None else trail
        self._loss = self._stop_loss
        if trail is not None and stop_loss is None:
            self._loss = trailed(limit or stop or float(self._bars.close[self.index]), trail, side)
        self._profit = _NAN if take_profit is None else take_profit
        return True


class BarStrategy(Strategy):
    """Base class of strategies with a method per bar. A subclass declares parameters, `warmup` and `on_bar`.

    `indicators` returns columns computed once over all bars; row i may depend on rows 0 to i only.
    """

    def indicators(self, bars: Bars) -> Mapping[str, Floats]:
        """Return the columns that the bars of `on_bar` have besides their own, by name; none by default."""
        return {}

    @abstractmethod
    def on_bar(self, ctx: Context, bar: Any) -> None:
        """React to a bar that just closed, with `ctx.buy`, `ctx.sell` and `ctx.close`.

        `bar` has time_ns, open, high, low, close, volume, and each indicator by its name. No clock and no randomness;
        what is remembered goes into `ctx.state`.
        """

    def decide(self, bars: Bars) -> Decisions:
        """Return the decisions that `on_bar` makes over all bars. Errors: StrategyError for a wrong indicator; what
        `on_bar` raises goes through."""
        count, first = len(bars), self.warmup()
        columns = self._checked(self.indicators(bars), count)
        target, losses, profits = np.zeros(count), np.full(count, np.nan), np.full(count, np.nan)
        entry_limits, entry_stops = np.full(count, np.nan), np.full(count, np.nan)
        lives, shares, has_shares = np.full(count, np.nan), np.full(count, np.nan), False
        has_orders = False
        ctx, on_bar = Context(bars, columns, self.entries_max()), self.on_bar
        lists = [getattr(bars, name)[first:].tolist() for name in BAR_COLUMNS]
        make = _bar_type((*BAR_COLUMNS, *columns))._make
        rows = zip(*lists, *(column[first:].tolist() for column in columns.values()), strict=True)
        trails, has_trails = np.full(count, np.nan), False
        profit = trail = _NAN  # of the open position
        moves, has_moves = np.full(count, np.nan), False
        before, start = 0.0, 0  # the target of the bar before, and since which bar it has been the same
        for ctx.index, bar in enumerate(map(make, rows), first):
            if ctx.position and ctx.position * before <= 0:  # it was left, or turned, on the bar before
                ctx._left(bar.open)
            if before:
                side = 1 if before > 0 else -1
                is_late = False  # a limit filled inside this bar: its take profit counts from the next one on
                if ctx.is_waiting:
                    order = ctx._order
                    assert order is not None, "an order waits"
                    ctx.position, ctx.entries, ctx.bars_held, ctx.entry_price, ctx.stop_loss = 0, 0, 0, _NAN, _NAN
                    is_limit = order.is_triggered
                    price = order.reach(bar.open, bar.high, bar.low)
                    if price is not None:
                        ctx.is_waiting = False
                        ctx.position, ctx.entries, ctx.bars_held, ctx.entry_price = side, 1, 0, price
                        ctx._paid = ctx._entered = ctx._share
                        ctx.stop_loss, profit, trail = ctx._loss, ctx._profit, ctx._trail
                        is_late = is_limit and price != bar.open
                    elif ctx._life and ctx.index >= start + ctx._life:
                        ctx.is_waiting, ctx.is_expired, ctx._wanted = False, True, 0.0
                elif ctx.position != side:  # what was ordered on the bar before fills at this one's open
                    ctx.position, ctx.entries, ctx.bars_held, ctx.entry_price = side, 1, 0, bar.open
                    ctx._paid = ctx._entered = ctx._share
                    ctx.stop_loss, profit, trail = ctx._loss, ctx._profit, ctx._trail
                else:
                    ctx.bars_held += 1
                    if ctx._cut != 1.0:
                        ctx._left(bar.open, 1.0 - ctx._cut)
                        ctx._paid *= ctx._cut
                    if ctx._is_adding:
                        paid = ctx._paid + ctx._share
                        ctx.entry_price = paid / (ctx._paid / ctx.entry_price + ctx._share / bar.open)
                        ctx.entries, ctx._paid, ctx._entered = ctx.entries + 1, paid, ctx._entered + ctx._share
                target_profit = _NAN if is_late else profit
                stop = ctx.stop_loss
                down, up = (stop, target_profit) if before > 0 else (target_profit, stop)
                if ctx.position and (bar.low <= down or bar.high >= up):
                    ctx._left(_closed_at(bar, down, up, side, has_open=ctx.bars_held > 0))
                    ctx.is_stopped = True
                    ctx.position = ctx.entries = ctx.bars_held = 0
                    ctx._wanted, ctx.entry_price, ctx.stop_loss = 0.0, _NAN, _NAN
                elif ctx.position and trail == trail:  # not NaN
                    level = trailed(bar.close, trail, side)
                    ctx.stop_loss = max(stop, level) if before > 0 else min(stop, level)
            elif ctx.position:
                ctx.position, ctx.entries, ctx.bars_held, ctx.entry_price, ctx.stop_loss = 0, 0, 0, _NAN, _NAN
            ctx._is_adding, ctx._cut, ctx._move = False, 1.0, _NAN
            on_bar(ctx, bar)
            if ctx._move == ctx._move and ctx._wanted * ctx.position > 0:
                moves[ctx.index], has_moves = ctx._move, True
                ctx.stop_loss = (max if ctx.position > 0 else min)(ctx.stop_loss, ctx._move)
            ctx.is_stopped = ctx.is_expired = False
            if ctx._wanted != before:
                target[start : ctx.index] = before
                is_further, is_less = before * ctx._wanted > 0, ctx._cut != 1.0
                before, start = ctx._wanted, ctx.index
                if before and ctx._share != 1.0 and not is_less:
                    shares[start], has_shares = ctx._share, True
                if is_further:
                    continue
                ctx.is_waiting = bool(before) and ctx._order is not None
                if before:
                    losses[start], profits[start], trails[start] = ctx._stop_loss, ctx._profit, ctx._trail
                    has_trails |= ctx._trail == ctx._trail
                    if ctx._order is not None:
                        entry_limits[start], entry_stops[start] = ctx._order.limit, ctx._order.stop
                        lives[start] = ctx._life or _NAN
                        has_orders = True
        target[start:] = before
        found = Decisions(target, losses, profits, trail=trails if has_trails else None)
        if has_shares:
            found = replace(found, size_share=shares)
        if has_moves:
            found = replace(found, stop_move=moves)
        if not has_orders:
            return found
        return replace(found, entry_limit=entry_limits, entry_stop=entry_stops, entry_bars=lives)

    def _checked(self, columns: Mapping[str, Floats], count: int) -> dict[str, Floats]:
        """Return the indicators as float columns. Errors: StrategyError naming the one that is wrong."""
        found: dict[str, Floats] = {}
        for name, column in columns.items():
            values = np.asarray(column, dtype=np.float64)
            if not name.isidentifier() or name in BAR_COLUMNS or name.startswith("_") or iskeyword(name):
                what = f"the indicator name {name!r} is taken, or no name of Python"
            elif values.shape != (count,):
                what = f"indicator {name} has shape {values.shape} for {count} bars"
            else:
                found[name] = values
                continue
            raise StrategyError(
                f"strategy {self.name}: {what}", code="STRATEGY_WRONG", status=422, remedy="correct indicators()"
            )
        return found


def _closed_at(bar: Any, down: float, up: float, side: int, *, has_open: bool) -> float:
    """Return the price at which the protections of a position on `side` close it in a bar that reaches one of them:
    those below and above the market. Of both the stop, unless the open is beyond the take profit."""
    stop, profit = (down, up) if side > 0 else (up, down)
    is_stopped = bar.low <= down if side > 0 else bar.high >= up
    is_through = has_open and (bar.open - profit) * side >= 0
    if is_stopped and not is_through:
        return bar.open if has_open and (stop - bar.open) * side >= 0 else stop
    return bar.open if is_through else profit


def _bar_type(names: tuple[str, ...]) -> Any:
    """Return the tuple type of a bar with these fields; they are known at run time only."""
    return namedtuple("Bar", names)
