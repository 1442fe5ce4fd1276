"""Strategies that are called once a bar, for logic that needs state: orders, position and indicators at hand.

`BarStrategy.decide` walks the bars and turns what `on_bar` orders into the columns that every strategy gives, so that
backtest, paper and live treat both forms alike. The walk is a pure function of the bars: each evaluation starts from
the first bar with an empty state.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import replace
from keyword import iskeyword
from types import SimpleNamespace
from typing import Any

import numpy as np

from fks.model.bar import Bars, Floats
from fks.model.parent import TARGETS_MAX, BreakEven
from fks.strategies.base.strategy import Decisions, EntryOrder, Strategy, StrategyError, trailed

_FLOAT_ERROR = 1e-12  # of a price, far below a tick
_NAN = float("nan")
_NO_MOVE = (_NAN, _NAN)
_LEAST = 1e-9  # of a part of the size: less is a rest of floats


#: the columns of a bar: prices in quote, volume in base, `time_ns` its open time (ns UTC)
BAR_COLUMNS = ("time_ns", "open", "high", "low", "close", "volume")


class Context:
    """The argument of `on_bar`: the bars and position that it sees, and the calls with which it orders.

    `position`: 1 long, 0 flat, -1 short, as the bars fill it: an entry is filled at the open of the bar after its
    order, or where its limit or stop is reached, and a stop loss or take profit when a bar's range reaches it (both in
    one bar: the stop). What a limit denies or a venue fills otherwise is not in it. `entry_price` (NaN while flat) and
    `bars_held` are of the open position, and `entries` is how many made it (`add`); of several the price is the average
    one of amounts of quote in proportion to their `size_share`, as the sizing `notional` buys. `index` is the bar's
    number. `is_waiting`: an entry's limit or stop order rests (`reprice`). `kept`: the share of the entered quantity
    that is held (`reduce`), `stop_loss` and `take_profit` where they are (NaN: it has none, several targets, or is
    flat). `profit` is that of all closed positions, as a share of an entry of the full size and without costs: 0.02 is
    2 % of that size; `drawdown` how far it is below its highest. `equity`: the committed capital (`entries_max` full
    sizes, so 1 for most strategies), that profit, and what the open position has gained at this bar's close, in full
    sizes of an entry; `equity_drawdown` how far it is below its highest at a close. `state` is the strategy's own: set
    any attribute; it is empty at each evaluation's start.
    """

    __slots__ = (
        "_bars",
        "_break_even",
        "_columns",
        "_cut",
        "_entered",
        "_entry_move",
        "_is_adding",
        "_life",
        "_loss",
        "_most",
        "_move",
        "_order",
        "_paid",
        "_parts",
        "_peak",
        "_risk",
        "_share",
        "_stop_loss",
        "_target_move",
        "_targets",
        "_top",
        "_trail",
        "_wanted",
        "bars_held",
        "entries",
        "entry_price",
        "equity",
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
        self._entry_move = _NO_MOVE  # where limit and stop of the order that rests are moved
        self._move = self._target_move = _NAN  # where stop and take profit are moved at this bar's close
        self.stop_loss = _NAN
        self.profit = self._peak = 0.0
        self.equity = self._top = float(entries_max)
        self._loss = self._stop_loss = self._trail = self._risk = _NAN
        self._targets: list[tuple[float, float]] = []  # of the entry that was ordered last: price and share
        self._break_even: BreakEven | None = None
        self._parts: list[tuple[int, float, float]] = []  # left of the open position: number, target and full sizes
        self._share = 1.0  # of the size, of the entry that was ordered last
        self._paid = self._entered = 1.0  # in full sizes: held, and entered in all, of the open position
        self._order: EntryOrder | None = None  # of the entry that was ordered last; None = at the market
        self._life = 0  # bars that it rests at most; 0 = without end

    @property
    def kept(self) -> float:
        """Return the share of the entered quantity that is held: 1 while no part was closed; NaN while flat."""
        return self._paid / self._entered if self.position else _NAN

    @property
    def take_profit(self) -> float:
        """Return where the take profit of the position is; NaN while flat, without one and with several targets."""
        return self._parts[0][1] if self.position and len(self._targets) == 1 else _NAN

    @property
    def drawdown(self) -> float:
        """Return how far `profit` is below the highest that it was, 0 at first."""
        return self._peak - self.profit

    @property
    def cash(self) -> float:
        """Return `equity` without the worth of the open position: less the cost of a long one, plus the proceeds of a
        short one."""
        return self._most + self.profit - self.position * self._paid

    @property
    def equity_drawdown(self) -> float:
        """Return how far `equity` is below the highest that it was at a close, 0 at first."""
        return self._top - self.equity

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
                remedy="ask for 0 to `index` bars ago",
            )
        try:
            return float(self._columns[name][place])
        except KeyError:
            known = " ".join(self._columns) or "none"
            raise StrategyError(
                f"there is no indicator {name!r}", remedy=f"return it from indicators(); known: {known}"
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
        targets: Sequence[tuple[float, float]] = (),
        break_even: BreakEven | None = None,
    ) -> bool:
        """Be long from the next bar's open on, with these protections (absolute prices) when that is an entry.

        `trail`: the distance, in units of the price, at which the stop follows the closes: at the end of each bar to
        the close less it, never back. Without `stop_loss` the stop begins that far from the price of the entry.
        `limit`, `stop`: enter by such an order, with both by a stop-limit; it rests until it fills, `close` or another
        side is ordered, or `bars` bars have passed. `size_share`: the share of the configured size that it has, above 0
        and at most 1.
        `targets`: up to five pairs of a price and the share of the entry that takes profit there, nearest first, the
        shares 1 together; instead of `take_profit`, beside a `stop_loss`. `break_even`: the stop moves to the entry's
        average price from the bar on after the one in which that target is executed, or whose close has come that many
        times the risk; without an offset, since bars have no tick (`move_stop` takes any price).
        Return False and do nothing in the bar whose range closed the position, or in which the order expired: order
        again on the next one.
        """
        prices = (stop_loss, take_profit, trail, limit, stop)
        return self._wanted > 0 or self._enter(1, *prices, bars, size_share, targets, break_even)

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
        targets: Sequence[tuple[float, float]] = (),
        break_even: BreakEven | None = None,
    ) -> bool:
        """Be short from the next bar's open on; like `buy`. Where nothing may be short it is denied."""
        prices = (stop_loss, take_profit, trail, limit, stop)
        return self._wanted < 0 or self._enter(-1, *prices, bars, size_share, targets, break_even)

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
            raise StrategyError(f"move_stop({price!r}) at bar {self.index} is no price", remedy="give one above 0")
        if self._wanted * self.position <= 0 or self.stop_loss != self.stop_loss:
            return False
        self._move = price
        return True

    def move_target(self, price: float) -> bool:
        """Move the take profit of the position that is held to a price, nearer to the market or farther, from the next
        bar on.

        Return False and do nothing while flat, when it closes or turns, for a position without a take profit or with
        several targets, and for a price that the close has reached already (`close`).
        """
        if not 0.0 < price < float("inf"):
            raise StrategyError(f"move_target({price!r}) at bar {self.index} is no price", remedy="give one above 0")
        is_held = self._wanted * self.position > 0 and self.take_profit == self.take_profit
        if not is_held or (price - float(self._bars.close[self.index])) * self.position <= 0:
            return False
        self._target_move = price
        return True

    def reprice(self, *, limit: float | None = None, stop: float | None = None) -> bool:
        """Move the entry's order that rests to another limit, stop, or both, from the next bar on, for the bars that
        are left to it. Its quantity and its protections stay.

        Return False and do nothing while none rests, and when it ends or turns. Errors: StrategyError for a price that
        is none, and for one that the order does not have.
        """
        order = self._order if self.is_waiting else None
        for name, price in (("limit", limit), ("stop", stop)):
            if price is None:
                continue
            if not 0.0 < price < float("inf"):
                raise StrategyError(
                    f"reprice({name}={price!r}) at bar {self.index} is no price", remedy="give one above 0"
                )
            if order is not None and np.isnan(getattr(order, name)):
                raise StrategyError(
                    f"reprice({name}={price!r}) at bar {self.index}: the order that rests has no {name}",
                    remedy="move the prices that it has, or close() and enter again",
                )
        if order is None or self._wanted * order.side <= 0:
            return False
        self._entry_move = (_NAN if limit is None else limit, _NAN if stop is None else stop)
        return True

    def _valid(self, share: float | None) -> float:
        if share is None:
            return 1.0
        if 0.0 < share <= 1.0:
            return share
        raise StrategyError(
            f"size_share={share!r} at bar {self.index} is no share of the size", remedy="give one above 0 and at most 1"
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
        targets: Sequence[tuple[float, float]],
        break_even: BreakEven | None,
    ) -> bool:
        if self.is_stopped or self.is_expired:
            return False
        wrong, remedy = "", ""
        if take_profit is not None and targets:
            wrong, remedy = "targets and a take_profit", "give one of the two"
        elif len(targets) > TARGETS_MAX:
            wrong, remedy = f"{len(targets)} targets", f"give at most {TARGETS_MAX}"
        elif break_even is not None and break_even.offset_ticks:
            wrong, remedy = "break-even with an offset, and bars have no tick", "leave it out, or use move_stop"
        if wrong:
            raise StrategyError(f"the entry ordered at bar {self.index} takes {wrong}", remedy=remedy)
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
        self._targets = [(take_profit, 1.0)] if take_profit is not None else list(targets)
        self._break_even = break_even
        return True

    def _open(self, side: int, price: float) -> None:
        """Take in that the entry that was ordered last has filled at a price."""
        self.position, self.entries, self.bars_held, self.entry_price = side, 1, 0, price
        self._paid = self._entered = self._share
        self.stop_loss, self._risk = self._loss, _NAN
        targets = self._targets or [(_NAN, 1.0)]
        self._parts = [(number, at, share * self._share) for number, (at, share) in enumerate(targets, 1)]
        rule = self._break_even
        if rule is not None and rule.at_risk is not None:
            # differences of floats are not the decimals that the engines compare: a close exactly there counts
            self._risk = float(rule.at_risk) * abs(price - self._loss) - _FLOAT_ERROR * price

    def _close_parts(self, bar: Any, stop: float, met: float, *, is_late: bool) -> bool:
        """Close the parts of the position whose protections a bar reaches; return whether nothing is left.

        `stop`: the stop loss, NaN where the bar does not count for it; `met`: the first price that they meet;
        `is_late`: of the bar's prices only the close surely came after the entry."""
        side, left, kept = self.position, self._paid, []
        is_moved, rule = False, self._break_even
        last = self._parts[-1][0]
        for number, target, share in self._parts:
            part = left if number == last else min(share, left)
            profit = _NAN if is_late and (bar.close - target) * side < 0 else target
            left -= part
            if part < _LEAST:
                continue
            down, up = (stop, profit) if side > 0 else (profit, stop)
            if not (bar.low <= down or bar.high >= up):
                kept.append((number, target, part))
                continue
            price = _closed_at(bar, down, up, side, met)
            self._left(price, part / self._paid)
            self._paid -= part
            after = None if rule is None else rule.after_target
            is_moved |= after is not None and number >= after and (price - profit) * side >= 0
        self._parts = kept or self._parts
        if is_moved:
            self._to_break_even()
        return not kept

    def _to_break_even(self) -> None:
        self.stop_loss = (max if self.position > 0 else min)(self.stop_loss, self.entry_price)


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
        profit = trail = risk = _NAN  # of the open position
        follows = False  # its stop follows the closes
        plans: dict[int, tuple[list[tuple[float, float]], BreakEven | None]] = {}
        moves, has_moves = np.full(count, np.nan), False
        target_moves, has_target_moves = np.full(count, np.nan), False
        entry_moves, has_entry_moves = np.full((2, count), np.nan), False
        before, start = 0.0, 0  # the target of the bar before, and since which bar it has been the same
        for ctx.index, bar in enumerate(map(make, rows), first):
            if ctx.position and ctx.position * before <= 0:  # it was left, or turned, on the bar before
                ctx._left(bar.open)
            if before:
                side = 1 if before > 0 else -1
                is_late = False  # a limit filled inside this bar: only its close surely came later
                opened = _NAN  # the open of this bar, where the entry's stop triggered inside it
                if ctx.is_waiting:
                    order = ctx._order
                    assert order is not None, "an order waits"
                    ctx.position, ctx.entries, ctx.bars_held, ctx.entry_price, ctx.stop_loss = 0, 0, 0, _NAN, _NAN
                    had_rested = order.is_limit
                    price = order.reach(bar.open, bar.high, bar.low, bar.close)
                    if price is not None:
                        ctx.is_waiting = False
                        ctx._open(side, price)
                        profit, trail, risk = ctx._parts[0][1], ctx._trail, ctx._risk
                        follows = trail == trail or risk == risk
                        is_late = order.is_limit and (price != bar.open or not had_rested)
                        opened = bar.open if not had_rested and (order.stop - bar.open) * side > 0 else _NAN
                    elif ctx._life and ctx.index >= start + ctx._life:
                        ctx.is_waiting, ctx.is_expired, ctx._wanted = False, True, 0.0
                elif ctx.position != side:  # what was ordered on the bar before fills at this one's open
                    ctx._open(side, bar.open)
                    profit, trail, risk = ctx._parts[0][1], ctx._trail, ctx._risk
                    follows = trail == trail or risk == risk
                else:
                    ctx.bars_held += 1
                    if ctx._cut != 1.0:
                        ctx._left(bar.open, 1.0 - ctx._cut)
                        ctx._paid *= ctx._cut
                    if ctx._is_adding:
                        paid = ctx._paid + ctx._share
                        ctx.entry_price = paid / (ctx._paid / ctx.entry_price + ctx._share / bar.open)
                        ctx.entries, ctx._paid, ctx._entered = ctx.entries + 1, paid, ctx._entered + ctx._share
                target_profit = _NAN if is_late and (bar.close - profit) * side < 0 else profit
                stop, met = ctx.stop_loss, bar.open if ctx.bars_held else ctx.entry_price
                if (stop - opened) * side >= 0 > (stop - met) * side:  # the bar reaches the stop in any case
                    is_closed = (stop - bar.close) * side >= 0
                    stop, met = (stop, bar.close) if is_closed else (_NAN, met)
                down, up = (stop, target_profit) if before > 0 else (target_profit, stop)
                if ctx.position and (bar.low <= down or bar.high >= up):
                    if ctx._close_parts(bar, stop, met, is_late=is_late):
                        ctx.is_stopped = True
                        ctx.position = ctx.entries = ctx.bars_held = 0
                        ctx._wanted, ctx.entry_price, ctx.stop_loss = 0.0, _NAN, _NAN
                    else:
                        profit = ctx._parts[0][1]
                if follows and ctx.position:
                    if trail == trail:  # not NaN
                        level = trailed(bar.close, trail, side)
                        ctx.stop_loss = max(ctx.stop_loss, level) if before > 0 else min(ctx.stop_loss, level)
                    if (bar.close - ctx.entry_price) * side >= risk:
                        ctx._to_break_even()
            elif ctx.position:
                ctx.position, ctx.entries, ctx.bars_held, ctx.entry_price, ctx.stop_loss = 0, 0, 0, _NAN, _NAN
            gain = ctx.position * ctx._paid * (bar.close / ctx.entry_price - 1.0) if ctx.position else 0.0
            ctx.equity = ctx._most + ctx.profit + gain
            if ctx.equity > ctx._top:
                ctx._top = ctx.equity
            ctx._is_adding, ctx._cut, ctx._move, ctx._target_move = False, 1.0, _NAN, _NAN
            ctx._entry_move = _NO_MOVE
            on_bar(ctx, bar)
            if ctx._move == ctx._move and ctx._wanted * ctx.position > 0:
                moves[ctx.index], has_moves = ctx._move, True
                ctx.stop_loss = (max if ctx.position > 0 else min)(ctx.stop_loss, ctx._move)
            if ctx._target_move == ctx._target_move and ctx._wanted * ctx.position > 0:
                target_moves[ctx.index], has_target_moves = ctx._target_move, True
                profit = ctx._target_move
                ctx._parts = [(1, profit, ctx._parts[0][2])]
            if ctx._entry_move is not _NO_MOVE and ctx._wanted == before and ctx._order is not None:
                entry_moves[:, ctx.index], has_entry_moves = ctx._entry_move, True
                ctx._order = ctx._order.moved(*ctx._entry_move)
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
                    losses[start], trails[start] = ctx._stop_loss, ctx._trail
                    is_single = len(ctx._targets) == 1 and ctx._targets[0][1] == 1.0
                    if is_single:
                        profits[start] = ctx._targets[0][0]
                    if ctx._break_even is not None or (ctx._targets and not is_single):
                        plans[start] = [] if is_single else ctx._targets, ctx._break_even
                    has_trails |= ctx._trail == ctx._trail
                    if ctx._order is not None:
                        entry_limits[start], entry_stops[start] = ctx._order.limit, ctx._order.stop
                        lives[start] = ctx._life or _NAN
                        has_orders = True
        target[start:] = before
        found = Decisions(target, losses, profits, trail=trails if has_trails else None)
        if plans:
            found = replace(found, **_plan_columns(plans, count))
        if has_shares:
            found = replace(found, size_share=shares)
        if has_moves:
            found = replace(found, stop_move=moves)
        if has_target_moves:
            found = replace(found, take_profit_move=target_moves)
        if has_entry_moves:
            found = replace(found, entry_limit_move=entry_moves[0], entry_stop_move=entry_moves[1])
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
            raise StrategyError(f"strategy {self.name}: {what}", remedy="correct indicators()")
        return found


def _plan_columns(
    plans: Mapping[int, tuple[Sequence[tuple[float, float]], BreakEven | None]], count: int
) -> dict[str, Any]:
    """Return the columns of targets and break-even of entries, by the bars that decided them."""
    columns = np.full((2 * max(len(targets) for targets, _ in plans.values()), count), np.nan)
    after, risk = np.full(count, np.nan), np.full(count, np.nan)
    for row, (targets, rule) in plans.items():
        for number, one in enumerate(targets):
            columns[2 * number : 2 * number + 2, row] = one
        if rule is not None:
            after[row] = _NAN if rule.after_target is None else rule.after_target
            risk[row] = _NAN if rule.at_risk is None else float(rule.at_risk)
    pairs = zip(columns[::2], columns[1::2], strict=True)
    return {"targets": tuple(pairs), "break_even_after": after, "break_even_risk": risk}


def _closed_at(bar: Any, down: float, up: float, side: int, met: float) -> float:
    """Return the price at which the protections of a position on `side` close it in a bar that reaches one of them:
    those below and above the market. Of both the stop, unless `met`, the first price that they meet, is beyond the take
    profit alone."""
    stop, profit = (down, up) if side > 0 else (up, down)
    is_stopped = bar.low <= down if side > 0 else bar.high >= up
    is_met_stopped, is_through = (stop - met) * side >= 0, (met - profit) * side >= 0
    if is_stopped and (is_met_stopped or not is_through):
        return met if is_met_stopped else stop
    return met if is_through else profit


def _bar_type(names: tuple[str, ...]) -> Any:
    """Return the tuple type of a bar with these fields; they are known at run time only."""
    return namedtuple("Bar", names)
