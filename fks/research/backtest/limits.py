"""Pre-trade checks on a tape: the functions that live runs, on a view of the tape at the deciding bar (G6).

What a tape cannot know (sessions, clocks, feeds, rates of orders) is taken as good. Limits are in the account's
currency, as live. A tape has no price of it, so they are converted into quote once, before the run (`in_quote`). The
loss of the trading day is looked at on every close of the day up to the decision, as the order manager looks at it all
the time, so that LOSS_DAY holds until the day's end here too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Protocol

import numpy as np

from fks.config.risk import Risk
from fks.model.account import Account, Balance
from fks.model.bar import Bars
from fks.model.calendars import Bools
from fks.model.codes import Code, Denial
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import OrderType, Role, Side, TimeInForce
from fks.model.parent import ParentPlan
from fks.model.ports import VenueCapabilities
from fks.model.timeframe import NS
from fks.research.backtest.cash_flows import overnight_bars
from fks.research.backtest.rows import FillRow, Setup
from fks.trading.matching import collar, is_accepted
from fks.trading.portfolio.position import net_quantity
from fks.trading.risk.check import CHECKS
from fks.trading.risk.intent import Intent
from fks.trading.risk.limits import balance
from fks.trading.risk.sizing import Sizing, affordable_quantity
from fks.trading.risk.valuation import DayFlows, day_profit, day_start_ns
from fks.trading.risk.view import RiskView, VenueView

_ZERO, _PERCENT = Decimal(0), Decimal(100)
_HUGE = Decimal(10) ** 30
_VENUE = "tape"
_NEXT_DAY_NS = 26 * 3600 * NS  # after a day's start it is the next day, summer time or not
_NEAR = 0.999  # the share of a limit from which on a float is not trusted
#: the checks that a tape can answer, in live's order
_CHECKS = tuple(
    function
    for code, function in CHECKS
    if code
    in (
        Code.PRICE_MISSING,
        Code.TYPE_UNSUPPORTED,
        Code.PRICE_TICK,
        Code.PRICE_BAND,
        Code.STOP_WRONG_SIDE,
        Code.QTY_STEP,
        Code.QTY_MIN,
        Code.QTY_MAX,
        Code.NOTIONAL_MIN,
        Code.NOTIONAL_MAX_ORDER,
        Code.BALANCE,
        Code.EXPOSURE_INSTRUMENT,
        Code.EXPOSURE_ACCOUNT,
        Code.EXPOSURE_CORRELATED,
        Code.ORDER_COUNT,
        Code.NO_PROTECTION,
        Code.LOSS_DAY,
        Code.PYRAMIDING,
        Code.SHORT_FORBIDDEN,
    )
)
#: our own limits, switched off: a backtest that asks what a strategy would do without them
UNLIMITED = Risk(
    notional_max_order=_HUGE,
    exposure_max_instrument=_HUGE,
    exposure_max_account=_HUGE,
    price_band_pct=_HUGE,
    loss_day_max=_HUGE,
)


_SUMS = (
    "notional_max_order",
    "exposure_max_instrument",
    "exposure_max_account",
    "exposure_max_correlated",
    "loss_day_max",
)


def in_quote(limits: Risk, rate: Decimal) -> Risk:
    """Return limits whose sums are in another currency as limits in quote. `rate`: quote for one unit of it."""
    sums = {name: value * rate for name in _SUMS if (value := getattr(limits, name)) is not None}
    return limits.model_copy(update=sums)


@dataclass(frozen=True, slots=True)
class AccountHolding:
    """The account's holding at a decision: base (signed), quote, every fill and cash flow so far with the index of its
    bar (a cash flow is a fill of no quantity with a negative fee), and the number of entries in the position."""

    position: Decimal
    cash: Decimal
    fills: Sequence[FillRow]
    fill_index: Sequence[int]
    entries: int = 0


@dataclass(frozen=True, slots=True)
class Funds:
    """The account's means at a decision, and the loss (quote) of its trading day when that reached the limit.

    The rest is of accounts that several strategies share: `own` is the strategy's part of `position` (None: all of it),
    `coins_of_others` base that others hold, `exposures` absolute values (quote) of positions by symbol, `shorts` the
    symbols among them that are short, and `correlations` those of their returns with the entry's (None = unknown).
    `margin_free` is the account's equity less the margin of all its positions (None: that of `cash` and `position`
    alone counts).
    """

    position: Decimal
    cash: Decimal
    loss: Decimal
    own: Decimal | None = None
    coins_of_others: Decimal = _ZERO
    exposures: Mapping[str, Decimal] = field(default_factory=dict)
    shorts: frozenset[str] = frozenset()
    correlations: Mapping[str, float | None] = field(default_factory=dict)
    entries: int = 0
    margin_free: Decimal | None = None


def collar_of(
    setup: Setup, side: Side, close: Decimal, levels: tuple[Decimal | None, Decimal | None]
) -> Decimal | None:
    """Return the worst price at which a market entry decided at `close` may fill; None where it has no collar."""
    item, (stop, profit) = setup.instrument, levels
    is_listed = item.takes_entry_list(
        side=side.value, has_stop_loss=stop is not None, has_take_profit=profit is not None
    )
    if setup.collar_pct is None or not is_listed:
        return None
    return collar(close, setup.collar_pct, _PERCENT, side.sign, item.tick)


def _collar_of_entry(setup: Setup, entry: DecidedEntry) -> Decimal | None:
    has_targets = entry.plan is not None and bool(entry.plan.targets)
    return None if entry.order is not None or has_targets else collar_of(setup, entry.side, entry.close, entry.levels)


def affordable(setup: Setup, entry: DecidedEntry, cash: Decimal | None) -> DecidedEntry:
    """Return an entry, of a buy in percent of the equity at most the quantity that `cash` pays for. None: positions are
    held on margin."""
    if cash is None or entry.side is Side.SELL or not Sizing.parse(setup.sizing).needs_equity:
        return entry
    order = entry.order
    price, most = entry.close, _collar_of_entry(setup, entry) if order is None else order.limit
    if order is not None and order.stop is not None:
        price = order.stop
    quantity = affordable_quantity(entry.quantity, cash, price, setup.costs, setup.instrument, most=most)
    return replace(entry, quantity=quantity)


def unpaid(setup: Setup, cost: Decimal, cash: Decimal) -> Denial:
    """Return the denial of an entry whose fill would cost more than the account's cash. Both in quote."""
    observed, quote = f"{cost.normalize():f} needed for the fill", setup.instrument.quote
    return Denial(Code.BALANCE, f"{cash.normalize():f} {quote} free of reservations", observed, "", "lower the size")


def expiry(
    setup: Setup,
    side: Side,
    close: Decimal,
    levels: tuple[Decimal | None, Decimal | None],
    open_: Decimal,
    span: Decimal,
) -> Denial | None:
    """Return why a market entry decided at `close` expires at the next bar's open, or None. `span`: high less low of
    that bar."""
    worst = collar_of(setup, side, close, levels)
    price = setup.costs.slippage.apply(side, open_, span, setup.instrument.tick)
    if worst is None or is_accepted(price, worst, side.sign):
        return None
    observed, remedy = f"expired at {price.normalize():f}", "raise risk.slippage_max_pct"
    return Denial(Code.SLIPPAGE_GUARD, f"{worst.normalize():f}", observed, setup.instrument.symbol, remedy)


def denial_text(denial: Denial) -> str:
    """Return a denial in short: the observed value, and the limit."""
    return f"{denial.observed}, limit {denial.limit}"


@dataclass(frozen=True, slots=True)
class EntryPrices:
    """Limit and stop of an entry's order that rests, on the tick grid; one of them at least."""

    limit: Decimal | None
    stop: Decimal | None

    @property
    def type(self) -> OrderType:
        if self.limit is None:
            return OrderType.STOP
        return OrderType.LIMIT if self.stop is None else OrderType.STOP_LIMIT


@dataclass(frozen=True, slots=True)
class DecidedEntry:
    """An entry decided at the close of bar `index`. `levels`: stop loss and take profit; `order`: the prices of one
    that rests (None: a market order); `plan`: its targets."""

    index: int
    side: Side
    quantity: Decimal
    close: Decimal
    levels: tuple[Decimal | None, Decimal | None]
    order: EntryPrices | None = None
    plan: ParentPlan | None = None


class EntryChecks(Protocol):
    """The checks of an account, for one tape of it."""

    def look(self, index: int, holding: AccountHolding) -> None:
        """See the account at the close of bar `index`, on which an entry is decided, whether it can be sized or not.
        The day's loss is the first one seen that reaches the limit, so both engines have to look at the same closes."""

    def reaches_loss(self, start: int, through: int, holding: AccountHolding) -> bool:
        """Return whether one of the closes from `start` through `through`, with the present holding, shows a loss of
        its day that reaches the limit: live ends entries that rest then (`ENDS_RESTING`)."""

    def refusal(self, entry: DecidedEntry, holding: AccountHolding) -> Denial | None:
        """Return why live would deny an entry, or None."""


@dataclass(slots=True)
class TapeChecks:
    """The checks of one backtest. Decisions are asked about in order of time."""

    bars: Bars
    setup: Setup
    _instrument: Instrument = field(init=False)
    _multiplier: float = field(init=False)
    _venue: VenueView = field(init=False)
    _account: Account = field(init=False)
    _nights: Bools | None = None  # by bar, whether the overnight margin is in force
    _fee_in_base: Decimal = _ZERO
    _day_end_ns: int = -1
    _first: int = 0  # the bar with the day's first close
    _seen: int = -1  # closes up to this index were looked at
    _used: int = 0  # fills that are in the sums below
    _first_fill: int = 0  # the day's first fill
    _held: float = 0.0  # base
    _cash: float = 0.0  # quote that the day brought in, less what was held at its start
    _reached: Decimal = _ZERO  # the loss that reached the limit today

    def __post_init__(self) -> None:
        item = self.setup.instrument
        self._multiplier = float(item.multiplier)
        self._instrument = replace(item, is_trading=True, updated_ns=0)  # as it was then, not as it is listed now
        can = VenueCapabilities(
            frozenset(OrderType), frozenset(TimeInForce), has_oco=True, can_short=self.setup.can_short
        )
        self._venue = VenueView(capabilities=can)
        self._nights = overnight_bars(self.bars, self.setup.margin_kept)
        costs = self.setup.costs
        if costs.fee_in == "received":
            self._fee_in_base = costs.rate_most
        self._account = Account(0, _VENUE, "personal", _VENUE, "", item.quote, self.setup.cash)

    def look(self, index: int, holding: AccountHolding) -> None:
        """See the account at the close of bar `index`, on which an entry is decided."""
        self._loss(index, self._end_ns(index), holding)

    def reaches_loss(self, start: int, through: int, holding: AccountHolding) -> bool:
        """Return whether one of the closes, with the present holding, shows a loss that reaches the limit."""
        limit = self.setup.limits.loss_day_max
        while start <= through and limit < _HUGE:
            if self._loss(start, self._end_ns(start), holding):
                return True
            # of the day's other closes, but for its last one, those that are not near the limit are passed over
            start, end = start + 1, int(np.searchsorted(self.bars.time_ns, self._day_end_ns)) - 1
            closes = self.bars.close[start : min(end, through + 1)]
            near = self._held * closes * self._multiplier + self._cash < -float(limit) * _NEAR
            start += int(near.argmax()) if near.any() else len(closes)
        return False

    def refusal(self, entry: DecidedEntry, holding: AccountHolding) -> Denial | None:
        """Return why live would deny an entry, or None."""
        loss = self._loss(entry.index, self._end_ns(entry.index), holding)
        return self.denial(entry, Funds(holding.position, holding.cash, loss, entries=holding.entries))

    def denial(self, entry: DecidedEntry, funds: Funds) -> Denial | None:
        """Return `refusal` for an account whose funds are known."""
        item, order, plan, margin = self._instrument, entry.order, entry.plan, self.margin_after(entry.index)
        position, cash = funds.position.normalize(), funds.cash.normalize()  # the words show no trailing zeros
        stop, profit = (None if level is None else level.normalize() for level in entry.levels)
        intent = Intent(
            intent_id=uuid.UUID(int=0),
            signal_id=None,
            account_id=0,
            venue=_VENUE,
            exchange=item.exchange,
            symbol=item.symbol,
            instance="" if self.setup.pyramiding is None else _VENUE,
            role=Role.ENTRY,
            side=entry.side,
            type=OrderType.MARKET if order is None else order.type,
            time_in_force=TimeInForce.GTC,
            quantity=entry.quantity.normalize(),
            price=None if order is None or order.limit is None else order.limit.normalize(),
            stop_price=None if order is None or order.stop is None else order.stop.normalize(),
            stop_loss=stop,
            take_profit=profit,
            reference_price=entry.close.normalize(),
            plan=plan,
        )
        view = RiskView(
            now_ns=self._end_ns(entry.index),
            limits=self.setup.limits,
            account=self._account,
            instrument=item,
            venue=self._venue,
            mark=entry.close.normalize(),
            position=position,
            held=position,
            own=position if funds.own is None else funds.own.normalize(),
            exposures=funds.exposures,
            shorts=funds.shorts,
            correlations=funds.correlations,
            coins_of_others=funds.coins_of_others,
            balances={
                item.quote: Balance(item.quote, cash, _ZERO),
                item.base: Balance(item.base, max(position, _ZERO), _ZERO),
            },
            costs=self.setup.costs,
            fee_in_base=self._fee_in_base,
            loss_today=funds.loss,
            entries=funds.entries,
            pyramiding=self.setup.pyramiding or funds.entries + 1,
            margin=margin or (None if funds.margin_free is None else Margin()),
            margin_free=self._margin_free(margin, entry.close, funds),
        )
        denied = next((found for known in _CHECKS if isinstance(found := known(intent, view), Denial)), None)
        worst = None if denied is not None else _collar_of_entry(self.setup, entry)
        if worst is not None:  # as live: the venue locks what the entry may cost
            found = balance(replace(intent, type=OrderType.LIMIT, price=worst.normalize()), view)
            denied = found if isinstance(found, Denial) else None
        return denied

    def margin_after(self, index: int) -> Margin | None:
        """Return the margin in force in the bar after `index`, in which its decisions fill."""
        margin, nights = self.setup.margin_kept, self._nights
        return margin if margin is None or nights is None else margin.at(bool(nights[index + 1 : index + 2].any()))

    def _margin_free(self, margin: Margin | None, close: Decimal, funds: Funds) -> Decimal:
        item = self._instrument
        if margin is None or funds.margin_free is not None:
            return funds.margin_free or _ZERO
        worth = funds.position * close * item.multiplier
        return funds.cash + worth - margin.needed(abs(funds.position), close, item)

    def _end_ns(self, index: int) -> int:
        return self.bars.ended_ns(index)

    def _loss(self, index: int, now_ns: int, holding: AccountHolding) -> Decimal:
        """Return the day's loss at a bar's close when it reached the limit on any close of the day so far, else 0."""
        if now_ns >= self._day_end_ns:
            self._begin(now_ns, holding)
        while self._used < len(holding.fills) and holding.fill_index[self._used] <= index:
            self._look(holding.fill_index[self._used] - 1, holding)
            self._take(holding.fills[self._used])
        self._look(index, holding)
        return self._reached

    def _begin(self, now_ns: int, holding: AccountHolding) -> None:
        """Start the day of a moment: fills of bars before it only say what is held then."""
        limits = self.setup.limits
        day_ns = day_start_ns(now_ns, limits.day_zone, limits.day_start_hour)
        self._day_end_ns = day_start_ns(day_ns + _NEXT_DAY_NS, limits.day_zone, limits.day_start_hour)
        self._first = int(np.searchsorted(self.bars.time_ns, day_ns))
        while self._used < len(holding.fills) and holding.fill_index[self._used] < self._first:
            self._take(holding.fills[self._used])
        self._seen, self._reached, self._first_fill = self._first - 1, _ZERO, self._used
        self._cash = -self._held * float(self.bars.close[max(self._first - 1, 0)]) * self._multiplier

    def _take(self, fill: FillRow) -> None:
        quantity, fee, is_base = float(fill.quantity), float(fill.fee), fill.fee_currency == self._instrument.base
        self._held += fill.side.sign * quantity - (fee if is_base else 0.0)
        self._cash -= fill.side.sign * quantity * float(fill.price) * self._multiplier + (0.0 if is_base else fee)
        self._used += 1

    def _look(self, through: int, holding: AccountHolding) -> None:
        """Look at the closes up to one, with the present holding: the least favourable of them shows the greatest loss.

        In float64 first; a value near the limit is worked out exactly.
        """
        if through <= self._seen or self._reached:
            return
        closes = self.bars.close[self._seen + 1 : through + 1]
        at = self._seen + 1 + int(closes.argmin() if self._held >= 0 else closes.argmax())
        self._seen = through
        limit = self.setup.limits.loss_day_max
        worth = self._held * float(self.bars.close[at]) * self._multiplier + self._cash
        if -worth > float(limit) * _NEAR and (loss := self._exact(at, holding)) >= limit:
            self._reached = loss

    def _exact(self, index: int, holding: AccountHolding) -> Decimal:
        """Return the day's loss at a bar's close by the function that live uses."""
        item, symbol, flows, held = self._instrument, self._instrument.symbol, DayFlows(), _ZERO
        for number, fill in enumerate(holding.fills[: self._used]):
            held += net_quantity(fill.side, fill.quantity, fill.fee, fill.fee_currency, item)
            if number >= self._first_fill:
                value = fill.quantity * fill.price
                flows = flows.with_turnover(item, fill.side, fill.quantity, value, fill.fee, fill.fee_currency)
        start = {} if self._first == 0 else {symbol: self._close(self._first - 1)}
        profit = day_profit({symbol: held}, flows, {symbol: item}, {symbol: self._close(index)}, start)
        return -sum(profit.by_currency.values(), _ZERO)

    def _close(self, index: int) -> Decimal:
        return Decimal(repr(float(self.bars.close[index])))
