"""The paper venue: orders filled by `fks.trading.matching`, in memory, deterministic in what it is fed.

It lives in the order manager's process. Mode `last` (live demo): a market order fills at once at the last price, the
rest is matched per bar. Mode `bar` (G6): a market order waits for the next bar's open, and protections of an entry are
matched from the entry's own bar on, also when they arrive after that bar completed. Its state is no truth of its own:
it is rebuilt from the journal by `restore`. Fill ids follow from the client order id, so a replay books nothing twice.

An account with a margin closes a position by force as a backtest does (docs/backtest.md): of several positions in one
quote currency each at the price at which the equity, the others at their last prices, is the margin that all of them
keep.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from fks.clock import Clock
from fks.model import ids
from fks.model.account import Balance, Environment, Transfer, VenueIdentity
from fks.model.bar import Bar
from fks.model.codes import Code
from fks.model.instrument import Instrument, money
from fks.model.margin import Margin
from fks.model.order import (
    LIVE,
    Answer,
    ExecutedOrder,
    Fill,
    Lookup,
    Order,
    OrderType,
    Outcome,
    Presence,
    Refusal,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
)
from fks.model.parent import TARGET_ATTEMPTS
from fks.model.ports import Priority, SessionBack, VenueCapabilities, VenueEvent
from fks.model.timeframe import TIMEFRAMES
from fks.trading.matching import (
    BarRange,
    CostModel,
    Leg,
    Resting,
    after_entry,
    comes_inside,
    is_accepted,
    match_legs,
    match_market,
    match_oco,
    match_resting,
    range_of,
    rests_as_limit,
    stop_after_trigger,
)
from fks.trading.venues.base import EventQueue, mistake_in, refused

_KEPT_ORDERS, _KEPT_FILLS, _KEPT_BARS = 20_000, 20_000, 256
_STOPS = (OrderType.STOP, OrderType.STOP_LIMIT)
_PROTECTIVE = (Role.STOP_LOSS, Role.TAKE_PROFIT)


@dataclass(slots=True)
class _Held:
    """An order as the venue sees it. `sibling` is the other leg of its OCO."""

    order: Order
    state: State
    filled: Decimal = Decimal(0)
    sibling: str | None = None
    has_triggered: bool = False
    has_rested: bool = False  # a price or a bar that came after it did not fill it: a limit makes from then on
    time_ns: int = 0
    after_ns: int = 0  # the bar it was decided on, when that may be fed again
    met: Decimal | None = None  # what it met when it came (mode `last`)
    code: str | None = None  # why it expired

    @property
    def is_at_once(self) -> bool:
        """Return whether it takes the first price that it meets or expires, and never rests."""
        return self.order.type is OrderType.LIMIT and self.order.time_in_force is TimeInForce.FOK

    @property
    def resting(self) -> Resting[Decimal]:
        kind = OrderType.LIMIT if self.has_triggered else self.order.type
        return Resting(self.order.side, kind, self.order.price, self.order.stop_price)


@dataclass(frozen=True, slots=True)
class _EntryBar:
    """A bar as the protections of an entry meet it: its prices, where it filled the entry from that one's price on.
    `is_late`: the entry was a limit that filled inside it; `opened`: its open, where the entry's stop triggered inside
    it."""

    prices: BarRange[Decimal]
    is_late: bool = False
    opened: Decimal | None = None

    def match(self, stop: _Held | None, limit: _Held | None) -> tuple[Leg, Decimal] | None:
        """Return which leg fills, and its price."""
        at_stop, at_limit = (None if leg is None else leg.resting for leg in (stop, limit))
        return match_legs(at_stop, at_limit, self.prices, is_late=self.is_late, opened=self.opened)


def _as_filled(row: ExecutedOrder) -> Resting[Decimal]:
    """Return an executed order as the bar that filled it met it. A stop-limit that filled better than at its stop and
    its limit rested as a limit: its trigger was in a bar before."""
    kind, sign = row.type, row.side.sign
    if kind is OrderType.STOP_LIMIT and row.filled_at is not None:
        levels = (row.price, row.stop_price)
        is_better = all(level is not None and (level - row.filled_at) * sign > 0 for level in levels)
        kind = OrderType.LIMIT if is_better else kind
    return Resting(row.side, kind, row.price, row.stop_price)


class PaperVenue:
    """One paper account. Every order fills whole or not at all, at the costs of `fks.trading.matching`; there is no
    book.

    `balances`: totals by currency. `timeframe`: the bars it matches on; None = the shortest it has been fed per symbol.
    `margin`: None = what is bought is paid for.
    """

    capabilities = VenueCapabilities(
        types=frozenset(OrderType),
        times_in_force=frozenset(TimeInForce),
        has_oco=True,
        can_short=False,
        fee_in_received_asset=True,
        has_collar=True,
        is_in_process=True,
    )

    def __init__(
        self,
        instruments: Iterable[Instrument],
        costs: CostModel,
        balances: Mapping[str, Decimal],
        clock: Clock,
        *,
        name: str = "paper",
        account_id: int = 0,
        mode: Literal["bar", "last"] = "last",
        timeframe: str | None = None,
        price_age_max_s: float | None = None,
        margin: Margin | None = None,
        can_short: bool = False,
    ) -> None:
        self.name = name
        self.capabilities = replace(
            self.capabilities, fee_in_received_asset=costs.fee_in == "received", can_short=can_short
        )
        self._margin = margin
        self._is_overnight: dict[str, bool] = {}  # by symbol, whether the overnight margin is in force
        self._positions: dict[str, Decimal] = {}  # base by symbol, signed
        self._moved_ns: dict[str, int] = {}  # symbol -> when it was executed last
        self._forced_ns: dict[str, int] = {}  # and when it was closed by force
        self._instruments = {item.symbol: item for item in instruments}
        self._costs = costs
        self._clock = clock
        self._account_id = account_id
        self._mode = mode
        self._timeframe = timeframe
        self._price_age_max_s = price_age_max_s  # a market order meets no price older than this; None = of any age
        self._priced_ns: dict[str, int] = {}
        self._quotes: dict[str, tuple[Decimal, Decimal]] = {}  # bid and ask
        self._totals: dict[str, Decimal] = dict(balances)
        self._orders: OrderedDict[str, _Held] = OrderedDict()
        self._live: dict[str, _Held] = {}  # in the order they came
        self._fills: deque[Fill] = deque(maxlen=_KEPT_FILLS)
        self._filled_in: OrderedDict[str, int] = OrderedDict()  # client id -> open time of the bar that filled it
        self._closed_in: dict[tuple[str, str], int] = {}  # symbol and instance -> that of its last exit's fill
        #: entry and number of the target -> that in which their legs were placed again
        self._caught_up: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._restored: dict[str, int] = {}  # restored entry without legs -> that from which on the next meet bars
        self._filled: OrderedDict[str, Resting[Decimal]] = OrderedDict()  # client id -> the order that it filled as
        self._bars: dict[str, deque[Bar]] = {}
        self._last: dict[str, Decimal] = {}
        self._decided: dict[str, int] = {}  # client id -> the bar up to which nothing fills an order or its legs
        self._queue = EventQueue()
        self._refusal = ""

    def learn(self, instruments: Iterable[Instrument]) -> None:
        """Add or replace instruments: orders in unknown ones are refused."""
        self._instruments.update({item.symbol: item for item in instruments})

    def restore(
        self,
        orders: Iterable[Order],
        fills: Iterable[Fill],
        balances: Mapping[str, Decimal],
        decided: Mapping[str, int] | None = None,
        executed: Iterable[ExecutedOrder] = (),
        positions: Mapping[str, Decimal] | None = None,
        moved: Mapping[str, int] | None = None,
    ) -> None:
        """Rebuild the state from the journal. `balances`, `positions`: the account's at its start, by currency and by
        symbol; `moved`: when each position was executed last; `fills`: all since, applied on top; `orders`: those to
        know again, the live ones rest again, OCO legs paired by `group_id`; `decided`: client id -> open time of the
        bar an order was decided on, or its stop moved on: that bar and those before it fill neither it (in mode `last`:
        no protection) nor the legs that come for it; `executed` (mode `bar`): the entries and last exits of positions
        that have legs, or whose legs were to be placed again: a bar that executed them may be fed again, and legs that
        come for them meet the bars since."""
        self._totals, self._positions = dict(balances), dict(positions or {})
        self._moved_ns = dict(moved or {})
        self._decided = dict(decided or {})
        self._filled_in = OrderedDict((row.client_order_id, row.time_ns) for row in executed)
        self._filled = OrderedDict((row.client_order_id, _as_filled(row)) for row in executed)
        self._closed_in = {(row.symbol, row.instance): row.time_ns for row in executed if row.role is Role.EXIT}
        self._restored = {
            row.client_order_id: max(row.time_ns, self._closed_in.get((row.symbol, row.instance), 0))
            for row in executed
            if row.is_unprotected
        }
        self._caught_up.clear()
        self._orders.clear()
        self._live.clear()
        for fill in sorted(fills, key=lambda item: item.time_ns):
            self._book(fill)
        for order in orders:
            held = _Held(order, order.state, order.filled, time_ns=order.updated_ns)
            is_dated = self._mode == "bar" or order.role in _PROTECTIVE
            held.after_ns = self._decided.get(order.client_order_id, 0) if is_dated else 0
            held.has_rested = self._mode != "bar" or not held.after_ns
            self._keep(held)
            if order.state in LIVE:
                self._live[order.client_order_id] = held
        for held in self._live.values():
            group = held.order.group_id
            others = (o for o in self._live.values() if group and o is not held and o.order.group_id == group)
            held.sibling = next((other.order.client_order_id for other in others), None)

    async def open(self) -> None:
        """Nothing to connect; the event stream is there at once."""
        self._queue.put(SessionBack())

    async def close(self) -> None:
        """Nothing to close."""

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        """Take an order. In mode `last` a market or marketable order is filled in the answer."""
        if (no := self._refuse(order)) is not None:
            return no
        held = _Held(order, State.ACCEPTED if order.type in _STOPS else State.WORKING, time_ns=self._clock.now_ns())
        held.after_ns, held.met = self._after_ns(order), self._price(order.symbol, order.side)
        self._keep(held)
        self._live[order.client_order_id] = held
        fills = () if self._is_ended(held) else self._match_now(held)
        return Answer(Outcome.ACK, self._report(held), fills)

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Take both legs or neither."""
        for leg in (stop, limit):
            if (no := self._refuse(leg)) is not None:
                return no, no
        last = self._price(limit.symbol, limit.side) if self._mode == "last" else None
        if last is not None and limit.price is not None and is_accepted(last, limit.price, limit.side.sign):
            no = refused(Code.STOP_WRONG_SIDE, Refusal.WOULD_MATCH, f"limit {limit.price} would fill at once at {last}")
            return no, no
        now = self._clock.now_ns()
        pair = (_Held(stop, State.ACCEPTED, time_ns=now), _Held(limit, State.WORKING, time_ns=now))
        pair[0].sibling, pair[1].sibling = limit.client_order_id, stop.client_order_id
        for held in pair:
            held.after_ns, held.met = self._after_ns(held.order), self._price(held.order.symbol, held.order.side)
            self._keep(held)
            self._live[held.order.client_order_id] = held
        is_ended = [self._is_ended(held) for held in pair]
        fills = self._catch_up(pair[0]) if self._mode == "bar" and not any(is_ended) else ()
        first, second = (
            Answer(
                Outcome.ACK,
                self._report(held),
                tuple(f for f in fills if f.client_order_id == held.order.client_order_id),
            )
            for held in pair
        )
        return first, second

    def _is_ended(self, held: _Held) -> bool:
        """End a leg of an entry whose position was closed by force meanwhile; return whether it is one."""
        order = held.order
        filled_ns = self._filled_in.get(order.parent_id or "") if order.role in _PROTECTIVE else None
        is_ended = filled_ns is not None and filled_ns <= self._forced_ns.get(order.symbol, -1)
        if is_ended:
            self._end(held, State.EXPIRED)
        return is_ended

    async def cancel(self, order: Order) -> Answer:
        """End an order; the other leg of an OCO ends with it, as on a real exchange."""
        held = self._live.get(order.client_order_id)
        if held is None:
            return refused("UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER, "not open")
        self._end(held, State.CANCELLED)
        if held.sibling and (other := self._live.get(held.sibling)):
            self._end(other, State.CANCELLED)
            self._queue.put(self._report(other))
        return Answer(Outcome.ACK, self._report(held))

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        """Refuse: legs of paper are replaced, as in a backtest."""
        return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, "paper amends no order")

    def _after_ns(self, order: Order) -> int:
        """Return the bar up to which nothing fills a protection that comes now: that of its or its entry's restored
        decision, or of the last move of its stop. Such bars may be fed again."""
        known = (order.client_order_id, order.parent_id or "")
        return max(self._decided.get(key, 0) for key in known) if order.role in _PROTECTIVE else 0

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        """Return 0: paper has no rate limit."""
        return 0.0

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        held = self._orders.get(client_order_id)
        if held is None or held.order.symbol != symbol:
            return Lookup(Presence.NOT_FOUND)
        return Lookup(Presence.FOUND, self._report(held))

    async def open_orders(self) -> list[Report]:
        return [self._report(held) for held in self._live.values()]

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        """Return fills in `symbol` with an event time from `since_ns` on; in mode `bar` that is tape time."""
        return [fill for fill in self._fills if fill.symbol == symbol and fill.time_ns >= since_ns]

    async def balances(self) -> dict[str, Balance]:
        locked = self._locked()
        return {
            currency: Balance(currency, total - locked.get(currency, Decimal(0)), locked.get(currency, Decimal(0)))
            for currency, total in self._totals.items()
        }

    async def identity(self) -> VenueIdentity:
        return VenueIdentity(Environment.PAPER, self.name)

    def refuse(self, reason: str) -> None:
        """Take nothing until `admit`."""
        self._refusal = reason

    def admit(self, identity: VenueIdentity) -> None:
        """End a refusal. Paper fills are named after their orders."""
        self._refusal = ""

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        return []

    async def skew_ms(self) -> float:
        return 0.0

    async def last_price(self, symbol: str) -> Decimal | None:
        return self._last.get(symbol)

    async def events(self) -> AsyncIterator[VenueEvent]:
        async for event in self._queue.read():
            yield event

    # ── market data ──────────────────────────────────────────────────────────────────────────────
    def margin_of(self, symbol: str) -> Margin | None:
        """Return the margin in force for a symbol; None where what is bought is paid for."""
        return None if self._margin is None else self._margin.at(self._is_overnight.get(symbol, False))

    def position(self, symbol: str) -> Decimal:
        """Return the base held in a symbol, signed."""
        return self._positions.get(symbol, Decimal(0))

    @property
    def overnight_minutes(self) -> int:
        """Return how long before the end of a session the overnight margin begins; 0 = there is none."""
        return 0 if self._margin is None else self._margin.overnight_minutes

    def set_overnight(self, symbol: str, is_overnight: bool) -> None:
        """Put the margin of the night, or of the day, in force from the next bar or price on."""
        self._is_overnight[symbol] = is_overnight

    def on_price(self, symbol: str, price: Decimal, *, at_ns: int = 0) -> None:
        """Take a newer last price than the last bar's close (mode `last`); `at_ns`: when it came. Triggers no order."""
        if at_ns >= self._priced_ns.get(symbol, 0):
            self._last[symbol], self._priced_ns[symbol] = price, at_ns
            self._quotes.pop(symbol, None)
            self._close_by_force(symbol, BarRange(price, price, price, price))

    def on_quote(self, symbol: str, bid: Decimal, ask: Decimal, *, at_ns: int) -> None:
        """Match resting orders with a quote, or with a trade (`bid` = `ask`): buys meet the ask, sells the bid (mode
        `last`).

        An order meets only what came after it. Fills and ends go to `events()`.
        """
        if at_ns >= self._priced_ns.get(symbol, 0):
            self._last[symbol], self._priced_ns[symbol] = (bid + ask) / 2, at_ns
            self._quotes[symbol] = (bid, ask)
            price = bid if self.position(symbol) > 0 else ask
            self._close_by_force(symbol, BarRange(price, price, price, price))
        waiting = [h for h in self._live.values() if h.order.symbol == symbol and h.time_ns <= at_ns]
        for held in waiting:
            if held.order.client_order_id in self._live:
                price = ask if held.order.side is Side.BUY else bid
                for fill in self._match(held, None, BarRange(price, price, price, price)):
                    self._publish(fill)

    def _price(self, symbol: str, side: Side) -> Decimal | None:
        """Return what a market order meets now; None when nothing is known, or it is too old."""
        last, at_ns = self._last.get(symbol), self._priced_ns.get(symbol)
        if last is None or self._price_age_max_s is None:
            return last
        if at_ns is None or (self._clock.now_ns() - at_ns) / 1e9 > self._price_age_max_s:
            return None
        bid, ask = self._quotes.get(symbol, (last, last))
        return ask if side is Side.BUY else bid

    def split(self, symbol: str, change: Decimal) -> None:
        """Add the shares that a split brings, or take those that it takes (negative). Prices of before are
        forgotten, and not taken again."""
        base = self._instruments[symbol].base
        self._totals[base] = self._totals.get(base, Decimal(0)) + change
        self._positions[symbol] = self.position(symbol) + change
        for known in (self._bars, self._last, self._quotes):
            known.pop(symbol, None)
        self._priced_ns[symbol] = self._clock.now_ns()

    def on_bar(self, bar: Bar) -> None:
        """Match a completed bar; fills and ends go to `events()`. Bars must come in order; an old one is ignored."""
        if not self._takes(bar):
            return
        self._last[bar.symbol] = Decimal(repr(bar.close))
        self._bars.setdefault(bar.symbol, deque(maxlen=_KEPT_BARS)).append(bar)
        waiting, prices = (
            [h for h in self._live.values() if h.order.symbol == bar.symbol and bar.time_ns > h.after_ns],
            range_of(bar),
        )
        # on margin a position is closed by force after the entries of a bar, and before its legs
        legs = [h for h in waiting if self._margin is not None and h.order.role in _PROTECTIVE]
        for batch in ([h for h in waiting if h not in legs], legs):
            # what fills at the open first, then what the range decides: so it happened
            for held in sorted(batch, key=lambda item: item.order.type is not OrderType.MARKET and not item.is_at_once):
                if held.order.client_order_id in self._live:
                    for fill in self._match_bar(held, bar, prices):
                        self._publish(fill)
            entered = [h.order for h in waiting if h.state is State.FILLED]
            self._close_by_force(bar.symbol, prices, bar, entered)

    def _close_by_force(
        self, symbol: str, prices: BarRange[Decimal], bar: Bar | None = None, entered: Iterable[Order] = ()
    ) -> None:
        """Close a position, and end all orders in it, where prices reach the one at which the account does not cover it
        any more; not where a leg comes first. `entered`: the orders that the bar filled, whose legs come after it."""
        held, margin = self.position(symbol), self.margin_of(symbol)
        instrument = self._instruments.get(symbol)
        if margin is None or instrument is None or not held:
            return
        quantity, is_long = instrument.round_quantity(abs(held)), held > 0
        if quantity < max(instrument.qty_min, instrument.lot_step):
            return
        if bar is not None and self._mode == "last" and bar.time_ns < self._moved_ns.get(symbol, 0):
            # of the rest of the bar it is not known whether it came before the position
            close = Decimal(repr(bar.close))
            prices = BarRange(close, close, close, close)
        if (cash := self._cash_beside(symbol, instrument.quote)) is None:
            return
        level = margin.liquidation_price(held, cash, instrument)
        if not (prices.low <= level if is_long else prices.high >= level):
            return
        own_ns = -1 if bar is None else bar.time_ns
        legs = [h.order for h in self._live.values() if h.order.symbol == symbol and h.order.role in _PROTECTIVE]
        legs = [leg for leg in legs if leg.side.sign * held < 0]
        stops = [leg.stop_price for leg in legs] + [o.stop_loss for o in entered if o.side.sign * held > 0]
        if any(stop is not None and (stop >= level if is_long else stop <= level) for stop in stops):
            return
        takes = [(leg.parent_id or "", leg.price) for leg in legs if leg.type not in _STOPS]
        takes += [(o.client_order_id, o.take_profit) for o in entered if o.side.sign * held > 0]
        for entry, take in takes:
            met = self._entry_bar(entry, own_ns, prices).prices.open
            if take is not None and (met >= take if is_long else met <= take):
                return
        met = prices.open
        # a position that this bar opened meets the bar from its entry's price on, as its protections do
        opened = [o for o in entered if o.side.sign * held > 0 and abs(held) - o.quantity < instrument.lot_step]
        if opened:
            own = self._entry_bar(opened[0].client_order_id, own_ns, prices)
            met = own.prices.open
            if own.opened is not None:
                may_close, met = stop_after_trigger(level, met, own.opened, prices.close, 1 if is_long else -1)
                if not may_close:
                    return
        price = min(met, level) if is_long else max(met, level)
        self._book_forced(instrument, Side.SELL if is_long else Side.BUY, quantity, price, bar, margin)

    def _cash_beside(self, symbol: str, quote: str) -> Decimal | None:
        """Return the cash in a quote currency that counts for one position: with the others' worth at their last
        prices, less the margin that they keep; None while one of them has no price (after a start or a split)."""
        cash = self._totals.get(quote, Decimal(0))
        for other, held in self._positions.items():
            item, margin = self._instruments.get(other), self.margin_of(other)
            if other != symbol and held and item is not None and item.quote == quote and margin:
                if (price := self._last.get(other)) is None:
                    return None
                cash += held * price * item.multiplier - margin.kept(held, price, item)
        return cash

    def _book_forced(
        self, item: Instrument, side: Side, quantity: Decimal, price: Decimal, bar: Bar | None, margin: Margin
    ) -> None:
        price = self._worse(item, side, price, bar, None)
        fee = self._costs.fee(side, quantity, price, item, is_maker=False)
        time_ns = bar.time_ns if self._mode == "bar" and bar is not None else self._clock.now_ns()
        trade_id = f"{Role.LIQUIDATION}-{time_ns}"
        fill = Fill(
            fill_id=ids.fill_id(self.name, str(self._account_id), item.symbol, trade_id),
            client_order_id=None,
            venue_order_id=None,
            venue_trade_id=trade_id,
            account_id=self._account_id,
            venue=self.name,
            symbol=item.symbol,
            side=side,
            quantity=quantity,
            price=price,
            fee=fee.amount + money(quantity * price * item.multiplier * margin.fee_rate),
            fee_currency=fee.currency,
            time_ns=time_ns,
            source=Role.LIQUIDATION.value,
        )
        self._book(fill)
        self._forced_ns[item.symbol] = time_ns
        self._queue.put(fill)  # before the ends: legs of a position that is held would be placed again
        for held in [h for h in self._live.values() if h.order.symbol == item.symbol]:
            self._end(held, State.EXPIRED, time_ns)
            self._queue.put(self._report(held))

    def _takes(self, bar: Bar) -> bool:
        known = self._bars.get(bar.symbol)
        if self._timeframe is not None and bar.timeframe != self._timeframe:
            return False
        if not known:
            return True
        last = known[-1]
        if bar.timeframe != last.timeframe:
            shorter = (TIMEFRAMES[bar.timeframe] or 10**9) < (TIMEFRAMES[last.timeframe] or 10**9)
            if shorter:
                known.clear()
            return shorter
        return bar.time_ns > last.time_ns

    def _publish(self, fill: Fill) -> None:
        held = self._orders[fill.client_order_id or ""]
        self._queue.put(fill)
        self._queue.put(self._report(held))

    # ── matching ─────────────────────────────────────────────────────────────────────────────────
    def _match_now(self, held: _Held) -> tuple[Fill, ...]:
        """Return the fills an order gets on arrival."""
        if self._mode == "bar":
            return self._catch_up(held)
        last = self._price(held.order.symbol, held.order.side)
        if last is not None and held.is_at_once:
            return self._at_once(held, last, self._clock.now_ns(), None)
        if last is not None and held.order.type not in _STOPS:
            limit = held.order.price
            is_market = held.order.type is OrderType.MARKET or limit is None
            if is_market or (last <= limit if held.order.side is Side.BUY else last >= limit):  # type: ignore[operator]
                return self._fill(held, last, self._clock.now_ns(), None)
        held.has_rested = True
        if held.order.time_in_force is not TimeInForce.GTC and held.order.type is OrderType.LIMIT:
            self._end(held, State.EXPIRED)
        return ()

    def _match_bar(self, held: _Held, bar: Bar, prices: BarRange[Decimal]) -> tuple[Fill, ...]:
        """Return what a completed bar fills of an order. In mode `bar` a leg meets no bar before that of its
        entry's execution, and the first legs are live in that one only if it is fed again: they came within it."""
        if self._mode == "last":
            if bar.time_ns < held.time_ns and held.met is not None:  # it came inside the bar
                prices = after_entry(prices, held.met)
            return self._match(held, bar, prices)
        order, parent = held.order, held.order.parent_id or ""
        if order.role not in _PROTECTIVE:
            return self._match(held, bar, prices)
        if bar.time_ns < self._filled_in.get(parent, 0):
            return ()
        own = self._entry_bar(parent, bar.time_ns, prices)
        return self._match(held, bar, own.prices, own)

    def _entry_bar(self, entry: str, time_ns: int, prices: BarRange[Decimal]) -> _EntryBar:
        """Return the bar of `time_ns` as the protections of an entry meet it."""
        filled = self._filled.get(entry)
        if filled is None or self._filled_in.get(entry) != time_ns:
            return _EntryBar(prices)
        price = match_resting(filled, prices)
        if price is None and filled.type is OrderType.STOP_LIMIT:  # it had triggered in a bar before
            filled = Resting(filled.side, OrderType.LIMIT, filled.price)
            price = match_resting(filled, prices)
        if price is None:
            return _EntryBar(prices)
        is_late, is_inside = comes_inside(filled, prices, price)
        return _EntryBar(after_entry(prices, price), is_late, prices.open if is_inside else None)

    def _catch_up(self, held: _Held) -> tuple[Fill, ...]:
        """Match a protection against the bars since it was wanted, when only our own latency brought it later: one of
        the first attempt since its entry filled, the next one of each entry, or target, in the newest bar where a part
        of the position was closed in it; after a restart since the last close, or the move of its stop, where none of
        them was live. The entry's bar is one that the first attempt was placed in."""
        order, known = held.order, self._bars.get(held.order.symbol)
        if known and self._waited_for_exit(order, known):
            fills = self._match_bar(held, known[-1], range_of(known[-1]))
            self._close_by_force(order.symbol, range_of(known[-1]), known[-1], [order] if fills else ())
            return fills
        if order.role not in _PROTECTIVE or not known:
            return ()
        list_ = order.parent_id or "", order.attempt // TARGET_ATTEMPTS
        since = self._filled_in.get(list_[0])
        if order.attempt % TARGET_ATTEMPTS:
            closed = self._closed_in.get((order.symbol, order.instance))
            since = closed if closed == known[-1].time_ns else self._restored.get(list_[0])
            if since is None or self._caught_up.get(list_, -1) >= since:
                return ()
            self._caught_up[list_] = since
            while len(self._caught_up) > _KEPT_ORDERS:
                self._caught_up.popitem(last=False)
        if since is None:
            return ()
        for bar in list(known):
            if bar.time_ns >= since and bar.time_ns > held.after_ns:
                fills = self._match_bar(held, bar, range_of(bar))
                if fills or order.client_order_id not in self._live:
                    return fills
        return ()

    def _waited_for_exit(self, order: Order, known: deque[Bar]) -> bool:
        """Return whether an entry was decided on the bar before the newest one, with the exit that filled in that: it
        meets the newest bar, too."""
        last, is_entry = known[-1], order.role is Role.ENTRY and len(known) > 1
        return (
            is_entry
            and self._closed_in.get((order.symbol, order.instance)) == last.time_ns
            and order.trace_id == ids.trace_id(order.symbol, last.timeframe, known[-2].time_ns)
        )

    def _match(
        self, held: _Held, bar: Bar | None, prices: BarRange[Decimal], own: _EntryBar | None = None
    ) -> tuple[Fill, ...]:
        """Return what a bar (None: a trade or quote) fills of an order, or of the OCO it belongs to. IOC and FOK end
        when they do not fill. A protection rests when its entry fills, and makes; `own`: the bar as it meets it."""
        stamp = bar.time_ns if self._mode == "bar" and bar is not None else self._clock.now_ns()
        other = self._live.get(held.sibling) if held.sibling else None
        if other is not None:
            stop, limit = (held, other) if held.order.type in _STOPS else (other, held)
            hit = match_oco(stop.resting, limit.resting, prices) if own is None else own.match(stop, limit)
            if hit is None:
                self._note_trigger(stop, prices)
                return ()
            return self._fill(stop if hit[0] is Leg.STOP else limit, hit[1], stamp, bar)
        if held.is_at_once:
            fills = self._at_once(held, match_market(prices), stamp, bar)
            if not fills:
                self._queue.put(self._report(held))
            return fills
        resting, role = held.resting, held.order.role
        if own is None:
            price = match_resting(resting, prices)
        else:
            hit = own.match(held, None) if held.order.type in _STOPS else own.match(None, held)
            price = None if hit is None else hit[1]
        if price is not None:
            self._note_trigger(held, prices)
            held.has_rested |= role in _PROTECTIVE or price != prices.open or held.has_triggered
            self._filled[held.order.client_order_id] = resting
            fills = self._fill(held, price, stamp, bar)
            if not fills:
                self._queue.put(self._report(held))
            return fills
        self._note_trigger(held, prices)
        held.has_rested = True
        if held.order.time_in_force is not TimeInForce.GTC and held.order.type is OrderType.LIMIT:
            self._end(held, State.EXPIRED)
            self._queue.put(self._report(held))
        return ()

    def _at_once(self, held: _Held, price: Decimal, time_ns: int, bar: Bar | None) -> tuple[Fill, ...]:
        """Return the fill at `price` of an order that fills at once or expires: it expires where that price, slipped,
        is beyond its limit."""
        order = held.order
        assert order.price is not None, "it has a limit"
        if is_accepted(self._slipped(held, price, bar), order.price, order.side.sign):
            return self._fill(held, price, time_ns, bar)
        held.code = Code.SLIPPAGE_GUARD.value
        self._end(held, State.EXPIRED)
        return ()

    def _note_trigger(self, held: _Held, prices: BarRange[Decimal]) -> None:
        if held.order.type is OrderType.STOP_LIMIT and not held.has_triggered:
            held.has_triggered = rests_as_limit(held.resting, prices)
            held.state = State.WORKING if held.has_triggered else held.state

    def _fill(self, held: _Held, price: Decimal, time_ns: int, bar: Bar | None) -> tuple[Fill, ...]:
        """Fill an order whole at the price of the fill rule, with the slippage and the fee of a taker or a maker; a buy
        that costs more than is free expires. `bar` None: a trade, a quote or the last price fills it."""
        order, instrument = held.order, self._instruments[held.order.symbol]
        is_limit = held.resting.type not in (OrderType.MARKET, *_STOPS)
        is_maker = is_limit and (held.has_rested or held.sibling is not None)
        if not is_maker:
            price = self._slipped(held, price, bar)
        fee = self._costs.fee(order.side, order.quantity, price, instrument, is_maker=is_maker)
        if order.side is Side.BUY and not self._is_on_margin(order):
            cost = order.quantity * price * instrument.multiplier
            cost += fee.amount if fee.currency == instrument.quote else Decimal(0)
            if cost > self._free(instrument.quote, beside=held):
                held.code = Code.BALANCE.value
                self._end(held, State.EXPIRED)
                return ()
        trade_id = f"{order.client_order_id}-1"
        fill = Fill(
            fill_id=ids.fill_id(self.name, str(self._account_id), order.symbol, trade_id),
            client_order_id=order.client_order_id,
            venue_order_id=_venue_id(order),
            venue_trade_id=trade_id,
            account_id=self._account_id,
            venue=self.name,
            symbol=order.symbol,
            side=order.side,
            quantity=order.quantity,
            price=price,
            fee=fee.amount,
            fee_currency=fee.currency,
            time_ns=time_ns,
            is_maker=is_maker,
            source="paper",
        )
        held.filled = order.quantity
        self._book(fill)
        self._filled_in[order.client_order_id] = time_ns
        if order.role is Role.EXIT:
            self._closed_in[order.symbol, order.instance] = time_ns
        for known in (self._filled_in, self._filled):
            while len(known) > _KEPT_ORDERS:
                known.popitem(last=False)
        self._end(held, State.FILLED, time_ns)
        if held.sibling and (other := self._live.get(held.sibling)):
            self._end(other, State.EXPIRED, time_ns)
            self._queue.put(self._report(other))
        return (fill,)

    def _slipped(self, held: _Held, price: Decimal, bar: Bar | None) -> Decimal:
        """Return a taker's price, no worse than the limit of an order that may rest. Without a bar the range is that of
        the newest whole bar."""
        order = held.order
        limit = None if order.type is OrderType.MARKET or held.is_at_once else order.price
        return self._worse(self._instruments[order.symbol], order.side, price, bar, limit)

    def _worse(self, item: Instrument, side: Side, price: Decimal, bar: Bar | None, limit: Decimal | None) -> Decimal:
        known = self._bars.get(item.symbol)
        bar = known[-1] if bar is None and known else bar
        span = Decimal(0) if bar is None else Decimal(repr(bar.high)) - Decimal(repr(bar.low))
        return self._costs.slippage.apply(side, price, span, item.tick, limit=limit)

    # ── books ────────────────────────────────────────────────────────────────────────────────────
    def _refuse(self, order: Order) -> Answer | None:
        if self._refusal:
            return refused(Code.ACCOUNT_UNKNOWN, Refusal.NOT_SENT, f"nothing was sent: {self._refusal}")
        if wrong := mistake_in(order, self.capabilities.types):
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong)
        instrument = self._instruments.get(order.symbol)
        if instrument is None:
            return refused(Code.INSTRUMENT_UNKNOWN, Refusal.OTHER, f"no instrument {order.symbol}")
        if order.client_order_id in self._orders:
            return Answer(Outcome.EXISTS, code=Code.DUPLICATE_INTENT.value, detail="the id was seen before")
        last = self._price(order.symbol, order.side)
        price = order.price or order.stop_price or last
        is_at_once = order.type is OrderType.MARKET or _Held(order, order.state).is_at_once
        if self._mode == "last" and last is None and is_at_once:
            return refused(Code.PRICE_MISSING, Refusal.UNAVAILABLE, f"no price of {order.symbol} that is young enough")
        if self._mode == "last" and order.type in _STOPS and last is not None and order.stop_price is not None:
            is_through = last <= order.stop_price if order.side is Side.SELL else last >= order.stop_price
            if is_through:
                return refused(
                    Code.STOP_WRONG_SIDE, Refusal.WOULD_TRIGGER, f"stop {order.stop_price} triggers at {last}"
                )
        if self._is_on_margin(order):
            return None  # risk has looked at the margin
        is_sell = order.side is Side.SELL
        currency = instrument.base if is_sell else instrument.quote
        needed, free = order.quantity, self._free(currency)
        if not is_sell:
            needed = self._costs.buy_cost(order.quantity, price or Decimal(0), instrument)
        if needed > free:
            return refused(Code.BALANCE, Refusal.INSUFFICIENT_BALANCE, f"needs {needed} {currency}, free {free}")
        return None

    def _is_on_margin(self, order: Order) -> bool:
        return self._margin is not None and (order.side is Side.BUY or self.capabilities.can_short)

    def _free(self, currency: str, *, beside: _Held | None = None) -> Decimal:
        """Return what no open order holds back, `beside` one that is filled now."""
        return self._totals.get(currency, Decimal(0)) - self._locked(beside).get(currency, Decimal(0))

    def _locked(self, beside: _Held | None = None) -> dict[str, Decimal]:
        """Return what open orders but `beside` hold back, an OCO once."""
        locked: dict[str, Decimal] = {}
        counted: set[str] = set()
        for held in self._live.values():
            order, instrument = held.order, self._instruments.get(held.order.symbol)
            if instrument is None or order.client_order_id in counted or self._is_on_margin(order) or held is beside:
                continue
            counted.add(held.sibling or "")
            if order.side is Side.SELL:
                currency, amount = instrument.base, order.quantity
            else:
                price = order.price or order.stop_price or self._last.get(order.symbol, Decimal(0))
                currency, amount = instrument.quote, self._costs.buy_cost(order.quantity, price, instrument)
            locked[currency] = locked.get(currency, Decimal(0)) + amount
        return locked

    def _book(self, fill: Fill) -> None:
        self._fills.append(fill)
        instrument = self._instruments.get(fill.symbol)
        if instrument is None:
            return
        value = fill.quantity * fill.price * instrument.multiplier
        changes = ((instrument.base, fill.side.sign * fill.quantity), (instrument.quote, -fill.side.sign * value))
        for currency, change in (*changes, (fill.fee_currency, -fill.fee)):
            self._totals[currency] = self._totals.get(currency, Decimal(0)) + change
        in_base = fill.fee if fill.fee_currency == instrument.base else Decimal(0)
        moved = fill.side.sign * fill.quantity - in_base
        self._positions[fill.symbol] = self.position(fill.symbol) + moved
        self._moved_ns[fill.symbol] = fill.time_ns

    def _keep(self, held: _Held) -> None:
        self._orders[held.order.client_order_id] = held
        while len(self._orders) > _KEPT_ORDERS:
            oldest = next(iter(self._orders))
            if oldest in self._live:
                break
            del self._orders[oldest]

    def _end(self, held: _Held, state: State, time_ns: int | None = None) -> None:
        held.state = state
        held.time_ns = self._clock.now_ns() if time_ns is None else time_ns
        self._live.pop(held.order.client_order_id, None)

    def _report(self, held: _Held) -> Report:
        order = held.order
        return Report(
            client_order_id=order.client_order_id,
            venue_order_id=_venue_id(order),
            symbol=order.symbol,
            state=held.state,
            filled=held.filled,
            time_ns=held.time_ns,
            side=order.side,
            quantity=order.quantity,
            price=order.price,
            code=held.code,
            source="paper",
        )


def _venue_id(order: Order) -> str:
    return f"paper-{order.client_order_id}"
