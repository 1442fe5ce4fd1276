"""Audit of backtest results against the path of the prices and the cash.

It shares no code with the fill rule: from the bars, the decisions and the fills it computes again the orders that rested,
the prices that each bar allowed them, the quantity that follows from the deciding close, and the equity at each close.
Every level of the decisions has to lie on the tick grid, and only market entries may be added to a position.

A protection meets, in the bar in which its entry filled, P instead of the open: the price of that entry before
slippage. Prices whose order inside a bar is not known are read as `fks.trading.matching` documents: of two legs that a bar
reaches the stop counts, and a target counts in the bar inside which a limit entry filled only if the
close is at it or beyond.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import cached_property

from fks.model.bar import Bars
from fks.model.order import Role
from fks.research.backtest import FillRow, Result, Setup
from tests.support.given import Given

_ZERO, _ONE, _E8 = Decimal(0), Decimal(1), Decimal("1E-8")
_WHOLE = 1_000_000
_PROTECTIVE = (Role.STOP_LOSS, Role.TAKE_PROFIT)


@dataclass(frozen=True)
class AuditedRun:
    """A finished run. `refused`: the open times of the bars whose entry was denied or expired. `equity`: quote at each
    close, empty where the mode keeps none; `cash`: quote at the end, None likewise; `profit`: of all trades."""

    bars: Bars
    setup: Setup
    decided: Given
    fills: tuple[FillRow, ...]
    refused: frozenset[int]
    equity: tuple[float, ...] = ()
    cash: Decimal | None = None
    profit: Decimal | None = None

    @classmethod
    def of(cls, result: Result, decided: Given) -> AuditedRun:
        """Return a backtest as the auditor reads it."""
        rows = (*result.denied, *result.expired)
        refused = frozenset(row.time_ns for row in rows if not row.detail.startswith("exit of"))
        profit = sum((trade.pnl for trade in result.trades), _ZERO)
        equity = tuple(result.equity.tolist())
        return cls(result.bars, result.setup, decided, result.fills, refused, equity, result.cash, profit)


def audit(run: AuditedRun, seen: Counter[str] | None = None) -> list[str]:
    """Return the contradictions to prices, decisions and cash, one line each, in order of time. A line begins
    with its check: `range`, `price`, `win`, `missing`, `unexpected`, `quantity`, `fee`, `cash`, `equity` or `profit`.
    `seen`: how often each situation was judged, added to."""
    return list(dict.fromkeys(_Walk(run, Counter() if seen is None else seen).lines()))


def checks_of(lines: Sequence[str]) -> set[str]:
    """Return the checks that failed."""
    return {line.partition(":")[0] for line in lines}


@dataclass(frozen=True)
class _Price:
    """A price of the tape or of an order at which a fill may be, before slippage. `limit`: slippage does not exceed
    it."""

    role: Role
    gross: Decimal
    is_maker: bool = False
    limit: Decimal | None = None


@dataclass
class _Order:
    """The order of an entry: it rests where it has a limit or a stop."""

    side: int
    quantity: Decimal
    decided: int
    limit: Decimal | None
    stop: Decimal | None
    bars_max: int | None
    stop_loss: Decimal | None
    target: Decimal | None
    trail: Decimal | None
    is_refused: bool  # it never fills, and its bars pass all the same
    collar: Decimal | None  # the worst price at which it fills
    is_triggered: bool = False


@dataclass
class _Guard:
    """The protection of a position, with the bar and the price before slippage of the entry that it came with. `way`:
    open, limit or stop, how that entry filled; `is_late`: by a limit in the bar that triggered its stop."""

    side: int
    since: int
    paid: Decimal
    way: str
    stop: Decimal | None
    target: Decimal | None
    trail: Decimal | None
    is_late: bool = False
    is_moved: bool = False
    newest: int = -1  # the bar in which a further entry filled


@dataclass
class _Walk:
    """The walk of a run, bar by bar: the account and the orders as the decisions and the fills so far make them."""

    run: AuditedRun
    seen: Counter[str]
    found: list[str] = field(default_factory=list)
    cash: Decimal = _ZERO
    position: Decimal = _ZERO
    entries: list[Decimal] = field(default_factory=list)  # prices before slippage
    guard: _Guard | None = None
    waiting: _Order | None = None
    leaves: Decimal | None = None  # the share of the position that the next open closes
    enters: _Order | None = None  # the market entry of the next open
    queue: list[FillRow] = field(default_factory=list)  # fills of this bar that are not explained yet
    at: int = 0
    before: float = 0.0  # the target at the close before, 0 where an order has expired
    is_over: bool = False
    opened: int = 0

    def lines(self) -> Iterator[str]:
        run, self.cash = self.run, self.run.setup.cash
        by_bar: dict[int, list[FillRow]] = {}
        for fill in run.fills:
            by_bar.setdefault(fill.time_ns, []).append(fill)
        if [fill.time_ns for fill in run.fills] != sorted(fill.time_ns for fill in run.fills):
            self._note("unexpected", "fills are not in order of time")
        for self.at, time_ns in enumerate(run.bars.time_ns.tolist()):
            self.queue = by_bar.pop(time_ns, [])
            self._begin()
            self._match_order()
            self._match_force()
            self._match_guard()
            for fill in self.queue:
                self._note("unexpected", f"{fill.role} of {fill.quantity} at {fill.price}")
                self._book(fill)
            self._end()
        if by_bar:
            self._note("unexpected", f"fills outside the tape: {sorted(by_bar)}")
        if run.cash is not None and run.cash != self.cash:
            self._note("cash", f"{run.cash} at the end, not {self.cash}")
        if run.profit is not None and not self.position and run.profit != self.cash - run.setup.cash:
            self._note("profit", f"trades earned {run.profit}, the account {self.cash - run.setup.cash}")
        return iter(self.found)

    # ── the tape and the decisions ──
    def _note(self, check: str, text: str) -> None:
        self.found.append(f"{check}: bar {self.at}: {text}")

    @cached_property
    def _columns(self) -> list[list[Decimal]]:
        bars = self.run.bars
        return [[Decimal(repr(x)) for x in c.tolist()] for c in (bars.open, bars.high, bars.low, bars.close)]

    @property
    def _bar(self) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        open_, high, low, close = (column[self.at] for column in self._columns)
        return open_, high, low, close

    def _value(self, column: tuple[float, ...] | None, at: int) -> Decimal | None:
        return None if column is None or not math.isfinite(column[at]) else Decimal(repr(float(column[at])))

    # ── money ──
    def _slipped(self, side: int, price: Decimal, limit: Decimal | None, span: Decimal) -> Decimal:
        slippage, tick = self.run.setup.costs.slippage, self.run.setup.instrument.tick
        away = {"ticks": slippage.value * tick, "bps": price * slippage.value / 10_000, "range": span * slippage.value}
        steps = (away.get(slippage.unit, _ZERO) / tick).to_integral_value(ROUND_CEILING)
        worse = price + side * steps * tick
        worse = worse if worse >= tick else min(price, tick)
        if limit is None:
            return worse
        return min(worse, max(limit, price)) if side > 0 else max(worse, min(limit, price))

    def _net(self, side: int, price: _Price) -> Decimal:
        _, high, low, _ = self._bar
        return price.gross if price.is_maker else self._slipped(side, price.gross, price.limit, high - low)

    def _fee(self, side: int, quantity: Decimal, price: Decimal, is_maker: bool) -> tuple[Decimal, str]:
        costs, item = self.run.setup.costs, self.run.setup.instrument
        rate = costs.fee_rate if not is_maker or costs.fee_rate_maker is None else costs.fee_rate_maker
        if side > 0 and costs.fee_in == "received" and not costs.commission:
            return (quantity * rate).quantize(_E8, ROUND_HALF_EVEN), item.base
        fee = (quantity * price * rate).quantize(_E8, ROUND_HALF_EVEN)
        if costs.commission:
            each = (quantity * costs.commission.each).quantize(_E8, ROUND_HALF_EVEN)
            fee += max(each, costs.commission.least)
        return fee, item.quote

    def _cost(self, quantity: Decimal, price: Decimal) -> Decimal:
        """Return the most that a buy takes from the cash."""
        fees = [self._fee(1, quantity, price, is_maker) for is_maker in (False, True)]
        return quantity * price + max(fee if unit == self.run.setup.instrument.quote else _ZERO for fee, unit in fees)

    def _lots(self, quantity: Decimal) -> Decimal:
        step = self.run.setup.instrument.lot_step
        return (abs(quantity) / step).to_integral_value(ROUND_FLOOR) * step

    @property
    def _held(self) -> Decimal:
        """Return the quantity that one order closes; 0 where it is below the smallest lot."""
        held, item = self._lots(self.position), self.run.setup.instrument
        return held if held >= max(item.qty_min, item.lot_step) else _ZERO

    def _book(self, fill: FillRow) -> None:
        """Book a fill as it is; its price has to lie in its bar, but for slippage."""
        _, high, low, _ = self._bar
        side, span = fill.side.sign, high - low
        is_taker = fill.role is not Role.TAKE_PROFIT
        least = low if side > 0 or not is_taker else self._slipped(side, low, None, span)
        most = high if side < 0 or not is_taker else self._slipped(side, high, None, span)
        if not least <= fill.price <= most:
            self._note("range", f"{fill.role} at {fill.price}, outside {low} to {high}")
        in_base = fill.fee_currency == self.run.setup.instrument.base
        self.cash -= side * fill.quantity * fill.price + (_ZERO if in_base else fill.fee)
        self.position += side * fill.quantity - (fill.fee if in_base else _ZERO)
        if self.run.setup.margin_kept is None and self.cash < 0:
            self._note("cash", f"{self.cash} after the {fill.role}, without margin")
        if self.run.setup.margin_kept is None and self.position < 0:
            self._note("cash", f"{self.position} are held, without margin")

    def _take(self, side: int, quantity: Decimal | None, prices: Sequence[_Price], *, may_miss: bool) -> _Price | None:
        """Book the next fill where it is of the role of one of `prices`, which it has to have; return that one."""
        fill = next(iter(self.queue), None)
        fits = [] if fill is None else [p for p in prices if p.role is fill.role and fill.side.sign == side]
        if fill is None or not fits:
            if not may_miss:
                self._note("missing", f"no {' or '.join(f'{p.role} at {p.gross}' for p in prices)}")
            return None
        self.queue.pop(0)
        same = [p for p in fits if self._net(side, p) == fill.price]
        if not same:
            nets = " or ".join(str(self._net(side, p)) for p in fits)
            self._note("price", f"{fill.role} at {fill.price}, not {nets}")
        if quantity is not None and fill.quantity != quantity:
            self._note("quantity", f"{fill.role} of {fill.quantity}, not {quantity}")
        fees = [self._fee(side, fill.quantity, fill.price, p.is_maker) for p in same or fits]
        if (fill.fee, fill.fee_currency) not in fees:
            self._note("fee", f"{fill.role} pays {fill.fee} {fill.fee_currency}, not {fees[0]}")
        self._book(fill)
        return (same or fits)[0]

    # ── one bar ──
    def _begin(self) -> None:
        """Fill the market orders of the close before at the open."""
        open_, share, entry = self._bar[0], self.leaves, self.enters
        self.leaves, self.enters = None, None
        if share is not None:
            self._leave(share, open_)
        if entry is None or entry.is_refused:
            return
        worst, price = entry.collar, _Price(Role.ENTRY, open_)
        if worst is not None and self._net(entry.side, price) > worst:
            self._note("missing", f"no expiry at {self._net(entry.side, price)}, beyond {worst}")
        taken = self._take(entry.side, entry.quantity, [price], may_miss=False)
        if taken is not None:
            self._entered(entry, open_, "open")

    def _collar(self, side: int, *levels: Decimal | None) -> Decimal | None:
        """Return the worst price of a market entry whose exits the venue holds; None where it has no collar."""
        setup, close = self.run.setup, self._bar[3]
        if setup.collar_pct is None or not setup.instrument.has_oto or side < 0 or levels == (None, None):
            return None
        tick = setup.instrument.tick
        return (close * (1 + setup.collar_pct / 100) / tick).to_integral_value(ROUND_FLOOR) * tick

    def _leave(self, share: Decimal, open_: Decimal) -> None:
        item, is_all = self.run.setup.instrument, share == 1
        if is_all:
            self.entries.clear()
        closed = self._lots(self._lots(self.position) * share)
        if not closed:
            return
        side, known = -1 if self.position > 0 else 1, self._columns[3][self.at - 1]
        if closed < item.qty_min or closed * known < item.notional_min:  # dust: no market order may close it
            return
        self._take(side, closed, [_Price(Role.EXIT, open_)], may_miss=False)
        if is_all:
            self.guard = None
        else:
            self._shrink()

    def _shrink(self) -> None:
        """End the protection of a rest that no order may close: nothing that small can rest at a venue."""
        item, guard = self.run.setup.instrument, self.guard
        levels = [] if guard is None else [level for level in (guard.stop, guard.target) if level is not None]
        if levels and (not self._held or self._held * min(levels) < item.notional_min):
            self.guard = None

    def _entered(self, order: _Order, paid: Decimal, way: str, *, is_late: bool = False) -> None:
        self.entries.append(paid)
        self.seen["entry by a limit after its stop" if is_late else f"entry: {way}"] += 1
        if self.guard is not None and len(self.entries) > 1:
            self.guard.newest = self.at
            return
        if (order.stop_loss is not None or order.target is not None) and self._held:
            levels = (order.stop_loss, order.target, order.trail)
            self.guard = _Guard(order.side, self.at, paid, way, *levels, is_late=is_late)

    def _match_order(self) -> None:
        """Fill the entry's order that rests where the bar reaches it."""
        order = self.waiting
        if order is None:
            return
        (open_, high, low, close), side = self._bar, order.side
        prices: list[_Price] = []
        is_sure, is_late, triggers = True, False, False
        best, worst = (low, high) if side > 0 else (high, low)

        def is_at(price: Decimal, level: Decimal) -> bool:
            """Return whether a price is at the level, or better for the order."""
            return (level - price) * side >= 0

        if order.stop is not None and not order.is_triggered:
            triggers = (worst - order.stop) * side >= 0
            trigger = open_ if (open_ - order.stop) * side >= 0 else order.stop
            if triggers and (order.limit is None or is_at(trigger, order.limit)):
                prices = [_Price(Role.ENTRY, trigger, limit=order.limit)]
            elif triggers and order.limit is not None and is_at(best, order.limit):
                is_sure, is_late = is_at(close, order.limit), True
                if is_sure or trigger == open_:  # after a trigger at the open the whole range came later
                    prices = [_Price(Role.ENTRY, order.limit, is_maker=True)]
                    prices.append(_Price(Role.ENTRY, order.limit, limit=order.limit))
        elif order.limit is not None and is_at(open_, order.limit):
            is_new = order.stop is None and self.at == order.decided + 1
            prices = [_Price(Role.ENTRY, open_, is_maker=not is_new, limit=order.limit)]
            if order.stop is not None:
                prices.append(_Price(Role.ENTRY, open_, is_maker=False, limit=order.limit))
        elif order.limit is not None and is_at(best, order.limit):
            prices = [_Price(Role.ENTRY, order.limit, is_maker=True)]
        order.is_triggered |= triggers
        if not prices:
            return
        if order.is_refused:
            self.waiting = None if is_sure else order
            return
        taken = self._take(side, order.quantity, prices, may_miss=not is_sure)
        if taken is None:
            self.waiting = None if is_sure else order
            return
        self.waiting = None
        way = "limit" if is_late else "open" if taken.gross == open_ else "stop" if triggers else "limit"
        self._entered(order, taken.gross, way, is_late=is_late)

    def _match_force(self) -> None:
        """Book a forced close, which needs an equity that does not keep its margin at that price."""
        fill, margin = next(iter(self.queue), None), self.run.setup.margin_kept
        if fill is None or fill.role is not Role.LIQUIDATION:
            return
        self.queue.pop(0)
        slack = abs(self.position) * self.run.setup.instrument.tick
        equity = self.cash + self.position * fill.price
        if margin is None or equity > margin.maintenance * abs(self.position) * fill.price + slack:
            self._note("price", f"forced close at {fill.price} with an equity of {equity}")
        if fill.quantity != self._held:
            self._note("quantity", f"forced close of {fill.quantity}, not {self._held}")
        self._book(fill)
        self.guard = self.waiting = None
        self.entries.clear()

    def _match_guard(self) -> None:
        """Fill the leg of the protection that the bar reaches; both: the stop."""
        guard = self.guard
        if guard is None:
            return
        side, held = -guard.side, self._held if self.position * guard.side > 0 else _ZERO
        for fill in self.queue:
            beaten = [paid for paid in self.entries if (fill.price - paid) * guard.side > 0]
            if fill.role is Role.STOP_LOSS and beaten and not guard.is_moved:
                self._note("win", f"a stop at {fill.price} beats an entry at {beaten[0]}, and was never moved")
        prices, is_sure = self._reached(guard)
        if not prices:
            return
        self.guard = None if is_sure or (self.queue and self.queue[0].role in _PROTECTIVE) else guard
        if not held:
            return
        left = held
        while left > 0:
            size = next((fill.quantity for fill in self.queue[:1]), _ZERO) if len(self.entries) > 1 else left
            taken = self._take(side, min(size, left) if size else left, prices, may_miss=not is_sure)
            if taken is None:
                return
            left -= min(size, left) if size else left
        self.entries.clear()

    def _reached(self, guard: _Guard) -> tuple[list[_Price], bool]:
        """Return the prices that a bar allows the legs of a protection, and whether one of them has to fill."""
        (open_, high, low, close), sign = self._bar, guard.side
        adverse, favourable = (low, high) if sign > 0 else (high, low)
        is_own = self.at == guard.since
        met = guard.paid if is_own else open_
        stop, target = guard.stop, guard.target

        def stopped(price: Decimal) -> bool:
            return stop is not None and (stop - price) * sign >= 0

        def taken(price: Decimal) -> bool:
            return target is not None and (price - target) * sign >= 0

        def at_stop(price: Decimal) -> list[_Price]:
            return [_Price(Role.STOP_LOSS, price)]

        where = "own bar" if is_own else "later"
        if stopped(met):
            self.seen[f"{where}: the stop is passed"] += 1
            return at_stop(met), True
        if taken(met):
            self.seen[f"{where}: the target is passed"] += 1
            makers = [_Price(Role.TAKE_PROFIT, met, is_maker=True)]
            is_new = is_own or self.at == guard.newest  # a limit that is passed when it comes may take
            return [*makers, *[_Price(Role.TAKE_PROFIT, met, limit=target)] * is_new], True
        is_inside = is_own and guard.way != "open"
        where = f"{where} after {guard.way}" if is_own else where
        self.seen[f"{where}: both legs"] += stopped(adverse) and taken(favourable)
        if is_inside and guard.way == "stop" and stopped(open_):  # the open is no sign of a price after the entry
            self.seen["own bar: opened beyond the stop"] += 1
            if stopped(close):
                return at_stop(close), True
        elif is_inside and guard.is_late:  # the range before the limit was reached is none either
            if stopped(close):
                assert stop is not None
                return [*at_stop(stop), *at_stop(close)], True
            if stopped(adverse):
                assert stop is not None
                return at_stop(stop), False
        elif stopped(adverse):
            assert stop is not None
            self.seen[f"{where}: the stop"] += 1
            return at_stop(stop), True
        if target is not None and taken(close if is_inside and guard.way == "limit" else favourable):
            self.seen[f"{where}: the target"] += 1
            return [_Price(Role.TAKE_PROFIT, target, is_maker=True)], True
        return [], True

    # ── the close ──
    def _end(self) -> None:
        self._follow()
        close = self._bar[3]
        worth = self.cash + self.position * close
        if self.run.equity and abs(self.run.equity[self.at] - float(worth)) > 1e-9 * max(1.0, abs(float(worth))):
            self._note("equity", f"{self.run.equity[self.at]}, not {worth}")
        if self.run.setup.margin_kept is not None and self._held and worth < 0:
            self._note("missing", f"no forced close with an equity of {worth}")
        now = self._target()
        order, rests = self.waiting, math.inf
        if order is not None and order.bars_max is not None:
            rests = order.decided + order.bars_max
        if self.at >= rests and now == self.before:
            now, self.is_over = 0.0, True
        before, self.before = self.before, now
        if now != before and self.at + 1 < len(self.run.bars):
            self._decide(before, now, close)

    def _target(self) -> float:
        """Return the target, 0 while it is that of an order which has expired."""
        target = self.run.decided.target
        falls = self.at > 0 and target[self.at] * target[self.at - 1] > 0
        falls = falls and abs(target[self.at]) < abs(target[self.at - 1])
        if self.at and target[self.at] != target[self.at - 1] and not falls:
            self.is_over = False
        return 0.0 if self.is_over else float(target[self.at])

    def _follow(self) -> None:
        """Move the stop by the close, only nearer to the market."""
        guard, close = self.guard, self._bar[3]
        if guard is None or guard.stop is None:
            return
        levels = [] if guard.trail is None else [close - guard.side * guard.trail]
        move = self._value(self.run.decided.move, self.at)
        if move is not None and move > 0 and self._target() * self.before > 0 and self.before * guard.side > 0:
            levels.append(move)
        for level in levels:
            if (level - guard.stop) * guard.side > 0:
                guard.stop, guard.is_moved = level, True

    def _decide(self, before: float, now: float, close: Decimal) -> None:
        """Note the exit and the entry that the close decides, with the quantity that it shows."""
        is_other = before * now <= 0
        parts = _WHOLE if is_other and before else 0
        if not is_other and abs(now) < abs(before):
            parts = min(round((abs(before) - abs(now)) / abs(before) * _WHOLE), _WHOLE - 1)
        if parts:
            self.leaves, self.waiting = Decimal(parts) / _WHOLE, None
        if is_other:
            self.opened = self.at
        if not now or not (is_other or (abs(now) > abs(before) and self.entries)):
            return
        given, side, opened = self.run.decided, 1 if now > 0 else -1, self.opened
        stop, target = self._value(given.stop, opened), self._value(given.limit, opened)
        trail, life = self._value(given.trail, opened), self._value(given.entry_bars, self.at)
        limit, trigger = self._value(given.entry_limit, self.at), self._value(given.entry_stop, self.at)
        if not is_other and self.guard is not None:
            stop, target = self.guard.stop, self.guard.target
        price = next(level for level in (limit, trigger, close) if level is not None)
        if stop is None and trail is not None:
            stop = price - side * trail
        collar = None if limit is not None or trigger is not None else self._collar(side, stop, target)
        quantity = self._quantity(side, price, stop, limit or collar, trigger)
        is_refused = int(self.run.bars.time_ns[self.at]) in self.run.refused
        if quantity is None and not is_refused:
            self._note("missing", "no refusal of an entry without a size")
        bars_max = None if life is None else max(int(life), 1)
        levels = (limit, trigger, bars_max, stop, target, trail, is_refused or quantity is None, collar)
        order = _Order(side, quantity or _ZERO, self.at, *levels)
        if limit is None and trigger is None:
            self.enters = order
        else:
            self.waiting = order

    def _quantity(
        self, side: int, price: Decimal, stop: Decimal | None, most: Decimal | None, trigger: Decimal | None
    ) -> Decimal | None:
        """Return the quantity of an entry, as its deciding close shows it; None where it has none.
        `most`: its limit or collar."""
        setup, step = self.run.setup, self.run.setup.instrument.lot_step
        worth = self.cash + self.position * self._bar[3]
        if setup.sizing == "notional":
            full = setup.size / price
        elif setup.sizing == "quantity":
            full = setup.size
        elif setup.sizing == "equity_pct":
            full = worth * setup.size / 100 / price
        else:
            assert setup.sizing == "risk_pct", setup.sizing
            if stop is None or stop == price:
                return None
            full = worth * setup.size / 100 / abs(price - stop)
        steps = max(full / step, _ZERO).to_integral_value(ROUND_FLOOR)
        share = self._value(self.run.decided.share, self.at)
        if share is not None:
            steps = steps * round(share * _WHOLE) // _WHOLE
        if setup.sizing in ("equity_pct", "risk_pct") and side > 0 and setup.margin_kept is None:
            worst = most or self._slipped(1, trigger or price, None, _ZERO)
            if self._cost(steps * step, worst) > self.cash:
                least, above = _ZERO, steps + 1
                while above - least > 1:
                    middle = (least + above) // 2
                    least, above = (middle, above) if self._cost(middle * step, worst) <= self.cash else (least, middle)
                steps = least or steps
        return steps * step
