"""G6's written rule again, slowly and from the text alone: bar by bar, Decimal only, decisions from prefixes.

It shares with the backtest only the strategies and the values; sizing, rounding, matching and fees are written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.strategies.base import Decisions, Strategy
from tests.support.fills import PlainFill, _time_of

E8 = Decimal("0.00000001")


@dataclass
class Leg:
    """The legs of one entry. `seq`: the order in which the venue has them."""

    bought: Decimal
    quantity: Decimal
    seq: int
    target: Decimal | None = None  # of an entry with several: the price of this one


@dataclass
class Planned:
    """Targets of an entry, nearest first, with their shares; the condition of break-even."""

    targets: list[tuple[float, Decimal]]
    after: int | None
    risk: Decimal | None
    ticks: int


@dataclass
class Guard:
    stop: Decimal | None
    limit: Decimal | None
    trail: Decimal | None
    legs: list[Leg]
    plan: Planned | None = None
    average: Decimal = Decimal(0)  # of the entry, and its first stop: what risk is measured by
    first_stop: Decimal = Decimal(0)


@dataclass(frozen=True)
class SlowMargin:
    """Initial and maintenance margin, shares of the value or amounts of each unit; brackets (floor, initial,
    maintenance); the maintenance margin of short positions; the fee of a position closed by force; the margin and the
    bars of the nights."""

    initial: Decimal
    kept: Decimal
    is_each: bool
    brackets: tuple[tuple[Decimal, Decimal, Decimal], ...] = ()
    kept_short: Decimal | None = None
    fee: Decimal = Decimal(0)
    overnight: SlowMargin | None = None
    nights: frozenset[int] = frozenset()

    def at(self, t: int) -> SlowMargin:
        return self.overnight if self.overnight is not None and t in self.nights else self

    def opens(self, quantity: Decimal, price: Decimal) -> Decimal:
        """The initial margin: of the whole value by the bracket that it is in."""
        rates = [initial for floor, initial, _ in self.brackets if quantity * price > floor]
        return quantity * self.initial if self.is_each else quantity * price * [self.initial, *rates][-1]

    def keeps(self, position: Decimal, price: Decimal) -> Decimal:
        """The maintenance margin: of each part of the value by the bracket that it is in."""
        quantity = abs(position)
        if self.is_each:
            return quantity * self.kept
        kept = self.kept if position > 0 or self.kept_short is None else self.kept_short
        rows = [(Decimal(0), kept), *((floor, rate) for floor, _, rate in self.brackets)]
        ends = [*(floor for floor, _ in rows[1:]), quantity * price]
        parts = zip(rows, ends, strict=True)
        return sum((max(min(end, ends[-1]) - floor, Decimal(0)) * rate for (floor, rate), end in parts), Decimal(0))


@dataclass
class SlowBook:
    instrument: Instrument
    rate: Decimal
    size: Decimal
    can_short: bool
    cash: Decimal = Decimal(10**9)
    margin: SlowMargin | None = None
    t: int = 0
    commission: tuple[Decimal, Decimal] | None = None  # of each unit, and the least of an order
    maker: Decimal | None = None  # the rate of take profits; None: as the others
    tiers: tuple[tuple[Decimal, Decimal], ...] = ()  # a month's volume, and the commission of each unit beyond it
    traded: dict[str, Decimal] = field(default_factory=dict)  # by month
    dividends: dict[int, Decimal] = field(default_factory=dict)  # cash a share, by the bar that begins the ex-day
    #: rate and mark price (None: the close before), by the first bar that begins at or after the funding time
    funding: dict[int, tuple[Decimal, Decimal | None]] = field(default_factory=dict)
    borrow: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))  # a year of a short position's value, and of a debit
    nights: dict[int, int] = field(default_factory=dict)  # before a bar, since the one before
    position: Decimal = Decimal(0)
    is_open: bool = False  # an entry filled, and neither an exit nor a protection closed the position since
    guard: Guard | None = None
    seq: int = 0
    fills: list[PlainFill] = field(default_factory=list)

    def step(self, quantity: Decimal) -> Decimal:
        return (quantity / self.instrument.lot_step).to_integral_value(ROUND_DOWN) * self.instrument.lot_step

    @property
    def has_base_fees(self) -> bool:
        return self.commission is None and not (self.margin is not None and self.margin.fee)

    def fill(
        self,
        time_ns: int,
        side: str,
        quantity: Decimal,
        price: Decimal,
        *,
        makes: bool = False,
        extra_rate: Decimal = Decimal(0),
    ) -> None:
        is_buy, is_base = side == "buy", side == "buy" and self.has_base_fees
        rate = self.maker if makes and self.maker is not None else self.rate
        fee = (quantity * rate if is_base else quantity * price * rate).quantize(E8, ROUND_HALF_EVEN)
        if self.commission is not None:
            month = datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m")
            before = self.traded.get(month, Decimal(0))
            self.traded[month] = before + quantity
            paid = self.of_month(before + quantity) - self.of_month(before)
            fee += max(paid.quantize(E8, ROUND_HALF_EVEN), self.commission[1])
        fee += (quantity * price * extra_rate).quantize(E8, ROUND_HALF_EVEN)
        self.position += quantity if is_buy else -quantity
        self.cash -= quantity * price if is_buy else -quantity * price
        if is_base:
            self.position -= fee
        else:
            self.cash -= fee
        currency = self.instrument.base if is_base else self.instrument.quote
        self.fills.append(
            PlainFill(_time_of(time_ns), side, quantity.normalize(), price.normalize(), fee.normalize(), currency)
        )

    def of_month(self, volume: Decimal) -> Decimal:
        """The commission of all units of a month, without minimums."""
        assert self.commission is not None
        start, each, total = Decimal(0), self.commission[0], Decimal(0)
        for end, next_each in self.tiers:
            total += (min(volume, end) - min(volume, start)) * each
            start, each = end, next_each
        return total + (volume - min(volume, start)) * each

    def pay(self, t: int, close: Decimal) -> None:
        """Pay the borrow, dividend and funding of a bar on what was held before it. `close`: of the bar before."""
        nights, (short, debit) = self.nights.get(t, 0), self.borrow
        self.cash += (min(self.position, Decimal(0)) * close * short * nights / 360).quantize(E8, ROUND_HALF_EVEN)
        self.cash += (min(self.cash, Decimal(0)) * debit * nights / 360).quantize(E8, ROUND_HALF_EVEN)
        dividend, (rate, mark) = self.dividends.get(t, Decimal(0)), self.funding.get(t, (Decimal(0), None))
        self.cash += (self.position * dividend).quantize(E8, ROUND_HALF_EVEN)
        self.cash -= (self.position * (close if mark is None else mark) * rate).quantize(E8, ROUND_HALF_EVEN)

    def lacks(self, quantity: Decimal, close: Decimal) -> bool:
        """Whether the equity at the deciding close does not cover the margin of the position and of this entry."""
        if self.margin is None:
            return False
        needed = self.margin.at(self.t).opens(abs(self.position) + quantity, close)
        return needed > self.cash + self.position * close

    def is_over(self, price: Decimal) -> bool:
        """Whether the equity is the maintenance margin or less at this price."""
        if self.margin is None or self.position == 0:
            return False
        return self.cash + self.position * price <= self.margin.at(self.t).keeps(self.position, price)


def _grid(price: float, tick: Decimal, rounding: str) -> Decimal:
    return (Decimal(repr(price)) / tick).to_integral_value(rounding) * tick


def slow_fills(
    strategy: Strategy,
    bars: Bars,
    instrument: Instrument,
    *,
    rate: Decimal,
    size: Decimal,
    can_short: bool = False,
    **account: Any,
) -> list[PlainFill]:
    """Return the fills of a strategy on a tape by walking it one bar at a time. Slow: the strategy sees every
    prefix. `account`: cash, margin, commission and cash flows of `SlowBook`; with a margin at most one entry a
    position."""
    return slow_book(strategy, bars, instrument, rate=rate, size=size, can_short=can_short, **account).fills


def slow_book(
    strategy: Strategy,
    bars: Bars,
    instrument: Instrument,
    *,
    rate: Decimal,
    size: Decimal,
    can_short: bool = False,
    **account: Any,
) -> SlowBook:
    """Return the account after the walk of `slow_fills`."""
    book = SlowBook(instrument, rate, size, can_short, **account)
    wanted: list[Wanted] = []
    before, first = 0.0, None
    for t in range(len(bars)):
        o, h, low = (Decimal(repr(float(c[t]))) for c in (bars.open, bars.high, bars.low))
        time_ns, book.t = int(bars.time_ns[t]), t
        book.pay(t, Decimal(repr(float(bars.close[t - 1]))))
        for order in wanted:  # decided on the bar before: filled at this open
            _market(book, order, time_ns, o)
        _protect(book, time_ns, o, h, low)
        _follow(book, Decimal(repr(float(bars.close[t]))))
        _resize(book)
        if t < strategy.warmup():
            wanted = []
            continue
        decisions = strategy.decide(bars[: t + 1])
        target = float(decisions.target[t])
        if decisions.stop_move is not None and before * target > 0:
            _move(book, float(decisions.stop_move[t]))
        if decisions.take_profit_move is not None and before * target > 0:
            _move_target(book, float(decisions.take_profit_move[t]), Decimal(repr(float(bars.close[t]))))
        wanted = []
        if target != before:
            close = Decimal(repr(float(bars.close[t])))
            if before and before * target <= 0:
                wanted.append(Wanted("exit", close))
            if before * target > 0 and abs(target) < abs(before):
                share = Decimal(repr(1.0 - abs(target / before))).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)
                wanted.append(Wanted("part", close, share=share))
            elif target and before * target > 0:
                assert first is not None
                wanted.append(replace(first, close=close, is_further=True, share=_share(decisions, t)))
            elif target:
                levels = (
                    None if c is None or np.isnan(c[t]) else float(c[t])
                    for c in (decisions.stop_loss, decisions.take_profit, decisions.trail)
                )
                plan = _plan(decisions, t)
                first = Wanted("buy" if target > 0 else "sell", close, *levels, share=_share(decisions, t), plan=plan)
                if plan is not None and len(plan.targets) == 1:  # an ordinary take profit
                    ((price, _),) = plan.targets
                    first = replace(first, limit=price, plan=replace(plan, targets=[]))
                wanted.append(first)
        before = target
    return book


@dataclass(frozen=True)
class Wanted:
    what: str  # exit, buy or sell
    close: Decimal
    stop: float | None = None
    limit: float | None = None
    trail: float | None = None
    is_further: bool = False
    share: Decimal = Decimal(1)
    plan: Planned | None = None


def _plan(decisions: Decisions, t: int) -> Planned | None:
    def value(column: Any) -> float | None:
        return None if column is None or np.isnan(column[t]) else float(column[t])

    targets = [
        (price, Decimal(repr(float(shares[t]))).quantize(Decimal("0.000001"), ROUND_HALF_EVEN))
        for prices, shares in decisions.targets
        if (price := value(prices)) is not None
    ]
    after, risk = value(decisions.break_even_after), value(decisions.break_even_risk)
    if not targets and after is None and risk is None:
        return None
    ticks = int(value(decisions.break_even_ticks) or 0)
    return Planned(targets, None if after is None else int(after), None if risk is None else Decimal(repr(risk)), ticks)


def _share(decisions: Decisions, t: int) -> Decimal:
    if decisions.size_share is None or np.isnan(decisions.size_share[t]):
        return Decimal(1)
    return Decimal(repr(float(decisions.size_share[t]))).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)


def _market(book: SlowBook, order: Wanted, time_ns: int, o: Decimal) -> None:
    what, reference, stop, limit = order.what, order.close, order.stop, order.limit
    if what == "exit":
        book.is_open = False
        quantity = book.step(abs(book.position))
        if quantity * reference >= book.instrument.notional_min:  # less is dust
            book.guard = None
            book.fill(time_ns, "sell" if book.position > 0 else "buy", quantity, o)
        return
    if what == "part":
        quantity = book.step(book.step(abs(book.position)) * order.share)
        if quantity and quantity * reference >= book.instrument.notional_min:
            book.fill(time_ns, "sell" if book.position > 0 else "buy", quantity, o)
            _part_closed(book)
        return
    if what == "sell" and not book.can_short:
        return
    if order.is_further and not book.is_open:
        return
    is_long, tick = what == "buy", book.instrument.tick
    # stops away from the market, targets away from it too: a long's stop down, its limit up
    stop_at = None if stop is None else _grid(stop, tick, ROUND_FLOOR if is_long else ROUND_CEILING)
    limit_at = None if limit is None else _grid(limit, tick, ROUND_CEILING if is_long else ROUND_FLOOR)
    distance = None if order.trail is None else _grid(order.trail, tick, ROUND_CEILING)
    guard = book.guard if order.is_further else None
    if guard is not None:
        stop_at, limit_at = guard.stop, guard.limit
    elif distance is not None and stop_at is None:
        stop_at = _behind(reference, distance, 1 if is_long else -1, tick)
    targets = [] if order.plan is None else order.plan.targets
    limits = [_grid(price, tick, ROUND_CEILING if is_long else ROUND_FLOOR) for price, _ in targets]
    for limit_of in limits or [limit_at]:
        below, above = (stop_at, limit_of) if is_long else (limit_of, stop_at)
        if (below is not None and below >= reference) or (above is not None and above <= reference):
            return
    quantity = book.step(book.step(book.size / reference) * order.share)
    if quantity * reference < book.instrument.notional_min or book.lacks(quantity, reference):
        return
    if limits and stop_at is not None:  # each part has to be one that the venue takes
        kept = book.step(quantity - (quantity * book.rate if is_long and book.has_base_fees else 0))
        parts = _shares(book, kept, [share for _, share in targets])
        for part, limit_of in zip(parts, limits, strict=True):
            if part < book.instrument.qty_min or part * min(limit_of, stop_at) < book.instrument.notional_min:
                return
    book.fill(time_ns, what, quantity, o)
    book.is_open = True
    book.seq += 1
    if guard is not None:
        guard.legs.append(Leg(quantity, quantity, book.seq))
    elif stop_at is not None or limit_at is not None:
        whole = book.step(abs(book.position))
        book.guard = Guard(stop_at, limit_at, distance, [Leg(whole, whole, book.seq)])
        if order.plan is not None and stop_at is not None:
            book.guard.plan, book.guard.average, book.guard.first_stop = order.plan, o, stop_at
            if limits:
                shares = _shares(book, quantity, [share for _, share in targets])
                book.guard.legs = [Leg(s, s, book.seq, p) for s, p in zip(shares, limits, strict=True)]
                _part_closed(book)


def _shares(book: SlowBook, quantity: Decimal, shares: list[Decimal]) -> list[Decimal]:
    """What each target closes of a quantity: whole lots, and the last one the rest."""
    parts = [book.step(quantity * share) for share in shares[:-1]]
    return [*parts, quantity - sum(parts)]


def _part_targets(book: SlowBook, guard: Guard) -> None:
    """Give the targets that are left what is held, the nearest first and the last one the rest. A part that the venue
    would not take goes to the next one that has some, else to the one before; alone it has no exit."""
    left, item = book.step(abs(book.position)), book.instrument
    for leg in guard.legs[:-1]:
        leg.quantity = min(leg.bought, left)
        left -= leg.quantity
    guard.legs[-1].quantity = left

    def is_small(leg: Leg) -> bool:
        assert leg.target is not None
        assert guard.stop is not None
        return leg.quantity < item.qty_min or leg.quantity * min(leg.target, guard.stop) < item.notional_min

    for place, leg in enumerate(guard.legs):
        others = [*guard.legs[place + 1 :], *reversed(guard.legs[:place])]
        host = next((other for other in others if other.quantity), None)
        if leg.quantity and host is not None and is_small(leg):
            host.quantity, leg.quantity = host.quantity + leg.quantity, Decimal(0)
    for leg in guard.legs:
        if is_small(leg):
            leg.quantity = Decimal(0)
    if not any(leg.quantity for leg in guard.legs):
        book.guard = None


def _part_closed(book: SlowBook) -> None:
    """Place the legs over the rest again, the oldest first; entries that are closed have none."""
    if book.guard is None:
        return
    if book.guard.legs[0].target is not None:
        _part_targets(book, book.guard)
        return
    left, item = book.step(abs(book.position)), book.instrument
    lowest = min(level for level in (book.guard.stop, book.guard.limit) if level is not None)
    if left < item.qty_min or left * lowest < item.notional_min:  # no venue takes orders that small
        book.guard = None
        return
    for leg in reversed(book.guard.legs):
        leg.quantity = min(left, leg.bought)
        left -= leg.quantity
    book.guard.legs = [leg for leg in book.guard.legs if leg.quantity]
    for leg in book.guard.legs:
        book.seq += 1
        leg.seq = book.seq


def _behind(price: Decimal, distance: Decimal, sign: int, tick: Decimal) -> Decimal:
    return ((price - sign * distance) / tick).to_integral_value(ROUND_FLOOR if sign > 0 else ROUND_CEILING) * tick


def _follow(book: SlowBook, close: Decimal) -> None:
    """Move a trailing stop to the close less its distance, unless it is nearer already."""
    guard = book.guard
    sign = 1 if book.position > 0 else -1
    if guard is None:
        return
    risk = None if guard.plan is None else guard.plan.risk
    if risk is not None and (close - guard.average) * sign >= risk * abs(guard.average - guard.first_stop):
        assert guard.plan is not None
        _break_even(book, guard, guard.plan, sign)
    if guard.trail is None or guard.stop is None:
        return
    level = _behind(close, guard.trail, sign, book.instrument.tick)
    guard.stop = max(guard.stop, level) if sign > 0 else min(guard.stop, level)


def _break_even(book: SlowBook, guard: Guard, plan: Planned, sign: int) -> None:
    level = guard.average + sign * plan.ticks * book.instrument.tick
    assert guard.stop is not None
    guard.stop = max(guard.stop, level) if sign > 0 else min(guard.stop, level)


def _move(book: SlowBook, price: float) -> None:
    """Move the stop to a price, rounded away from the market, unless it is nearer already."""
    guard, sign = book.guard, 1 if book.position > 0 else -1
    if guard is not None and guard.stop is not None and np.isfinite(price):
        level = _grid(price, book.instrument.tick, ROUND_FLOOR if sign > 0 else ROUND_CEILING)
        guard.stop = max(guard.stop, level) if sign > 0 else min(guard.stop, level)


def _move_target(book: SlowBook, price: float, close: Decimal) -> None:
    """Move the only take profit to a price that the close has not reached, rounded away from the market."""
    guard, sign = book.guard, 1 if book.position > 0 else -1
    if guard is None or guard.limit is None or not (np.isfinite(price) and price > 0):
        return
    if (Decimal(repr(price)) - close) * sign > 0:
        level = _grid(price, book.instrument.tick, ROUND_CEILING if sign > 0 else ROUND_FLOOR)
        if level != guard.limit:
            guard.limit = level
            for leg in guard.legs:  # all are placed again, the oldest first
                book.seq += 1
                leg.seq = book.seq


def _resize(book: SlowBook) -> None:
    """Give each entry its part of the position, the newest ones first; a leg that changes is placed again."""
    if book.guard is None or len(book.guard.legs) == 1 or book.guard.plan is not None:
        return
    left = book.step(abs(book.position))
    for leg in reversed(book.guard.legs):
        part = left if leg is book.guard.legs[0] else min(left, leg.bought)
        left -= part
        if part != leg.quantity:
            book.seq += 1
            leg.quantity, leg.seq = part, book.seq


def _protect(book: SlowBook, time_ns: int, o: Decimal, h: Decimal, low: Decimal) -> None:
    guard = book.guard
    forced = _forced(book, o, h, low)
    if forced is not None:
        book.guard, book.is_open = None, False
        extra_rate = Decimal(0) if book.margin is None else book.margin.fee
        book.fill(
            time_ns,
            "sell" if book.position > 0 else "buy",
            book.step(abs(book.position)),
            forced,
            extra_rate=extra_rate,
        )
        return
    if guard is None:
        return
    if guard.legs[0].target is not None:
        _protect_targets(book, guard, time_ns, o, h, low)
        return
    for leg in sorted(guard.legs, key=lambda leg: leg.seq):
        sign = 1 if book.position > 0 else -1
        price = _leg_price(guard, sign, o, h, low)
        quantity = min(leg.quantity, book.step(abs(book.position)))
        if price is not None and quantity:
            book.guard, book.is_open = None, False
            is_stopped = guard.stop is not None and (guard.stop - price) * sign >= 0
            makes = not is_stopped and guard.limit is not None and (price - guard.limit) * sign >= 0
            book.fill(time_ns, "sell" if sign > 0 else "buy", quantity, price, makes=makes)


def _protect_targets(book: SlowBook, guard: Guard, time_ns: int, o: Decimal, h: Decimal, low: Decimal) -> None:
    sign, stop, is_due = 1 if book.position > 0 else -1, guard.stop, False
    for number, leg in enumerate(guard.legs, 1):
        one = Guard(stop, leg.target, None, [])
        price = _leg_price(one, sign, o, h, low) if leg.quantity else None
        if price is None:
            continue
        book.fill(time_ns, "sell" if sign > 0 else "buy", leg.quantity, price)
        leg.quantity, leg.bought = Decimal(0), Decimal(0)
        after = None if guard.plan is None else guard.plan.after
        is_due |= after is not None and number >= after
    if not any(leg.quantity for leg in guard.legs):
        book.guard, book.is_open = None, False
    elif is_due and guard.plan is not None:
        _break_even(book, guard, guard.plan, sign)


def _forced(book: SlowBook, o: Decimal, h: Decimal, low: Decimal) -> Decimal | None:
    """The price at which the position is closed by force in a bar: the open, or the first on the tick grid at which the
    equity is the maintenance margin or less. None before a stop that is nearer, and a limit that the open reaches."""
    sign, tick = 1 if book.position > 0 else -1, book.instrument.tick
    if not book.step(abs(book.position)) or not book.is_over(low if sign > 0 else h):
        return None
    guard = book.guard
    if guard is not None:
        if guard.stop is not None and not book.is_over(guard.stop + sign * tick):
            return None
        if guard.limit is not None and (o - guard.limit) * sign >= 0:
            return None
    if book.is_over(o):
        return o
    near, far = 0, int(abs(o - (low if sign > 0 else h)) / tick)  # in ticks from the open: not yet, and surely
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (near, middle) if book.is_over(o - sign * middle * tick) else (middle, far)
    return o - sign * far * tick


def _leg_price(guard: Guard, sign: int, o: Decimal, h: Decimal, low: Decimal) -> Decimal | None:
    """Return the price at which a pair fills in a bar. Entries fill at opens, so that the open is the first price that
    it meets in each."""
    worst, best = (low, h) if sign > 0 else (h, low)

    def beyond(price: Decimal, level: Decimal) -> bool:
        return (price - level) * sign >= 0  # at or above for a long, at or below for a short

    is_through = (guard.limit is not None and beyond(o, guard.limit)) or (
        guard.stop is not None and beyond(guard.stop, o)
    )
    if is_through:
        return o
    if guard.stop is not None and beyond(guard.stop, worst):
        return guard.stop
    if guard.limit is not None and beyond(best, guard.limit):
        return guard.limit
    return None
