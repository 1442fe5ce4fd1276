"""A venue in memory that does to the order manager what real ones do: lose answers, lie by silence, fill late."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.model import ids
from fks.model.account import Balance
from fks.model.bar import Bar
from fks.model.errors import OutageError
from fks.model.order import Answer, Fill, Lookup, Order, OrderType, Outcome, Presence, Report, Side, State, TimeInForce
from fks.model.ports import Capabilities, SessionBack, SessionLost, VenueEvent

D = Decimal
ZERO, FEE_RATE = D(0), D("0.001")
OPEN = (State.ACCEPTED, State.WORKING, State.PARTIAL)


@dataclass
class Held:
    """An order as the venue has it."""

    order: Order
    number: str
    state: State
    filled: Decimal = ZERO
    time_ns: int = 0
    sibling: str | None = None


@dataclass
class ScriptedVenue:
    """Fills market orders at `prices`, rests the others. What goes wrong next is said by `script` (submits), `cancels`.

    Words of `script`: ok · rest (a market order that does not fill) · refuse:CODE · lost (never arrives, no answer) ·
    unheard (arrives, no answer) · hang (arrives, answers never) · raise (arrives, then raises) · exists · slow (arrives,
    answers after the stream) · passed:PRICE (an OCO refused, since the market is at PRICE). Words of `cancels`: ok · lost · unheard · gone (refused as unknown, though it is open).
    """

    name: str = "ccxt"
    account_id: int = 1
    prices: dict[str, Decimal] = field(default_factory=lambda: {"BTCUSDT": D(100), "ETHUSDT": D(10)})
    totals: dict[str, Decimal] = field(default_factory=lambda: {"USDT": D(100000)})
    fee_rate: Decimal = FEE_RATE
    fills_in_answer: bool = True
    streams_fills: bool = True
    script: deque[str] = field(default_factory=deque)
    cancels: deque[str] = field(default_factory=deque)
    outages: dict[str, int] = field(default_factory=dict)  # method -> how many calls still fail
    hidden: dict[str, int] = field(default_factory=dict)  # client id -> queries that still do not see it
    history_hidden: bool = False
    received: list[str] = field(default_factory=list)  # the witness: every client id whose bytes arrived or were lost
    cancelled: list[str] = field(default_factory=list)
    queried: list[str] = field(default_factory=list)
    orders: dict[str, Held] = field(default_factory=dict)
    trades: list[Fill] = field(default_factory=list)
    has_oco: bool = True
    locks_base: bool = False  # as spot does: live sells may not exceed what is held
    capabilities: Capabilities = field(init=False)

    def __post_init__(self) -> None:
        types = frozenset(OrderType)
        self.capabilities = Capabilities(types, frozenset(TimeInForce), has_oco=self.has_oco)
        self._events: asyncio.Queue[VenueEvent] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._clock = itertools.count(1_767_225_600_000_000_000, 1_000_000)
        self._hold = asyncio.Event()

    # ── the port ─────────────────────────────────────────────────────────────────────────────────
    async def open(self) -> None:
        self._maybe_fail("open")
        self._events.put_nowait(SessionBack())

    async def close(self) -> None:
        self._hold.set()

    async def submit(self, order: Order) -> Answer:
        self.received.append(order.client_order_id)
        word = self.script.popleft() if self.script else "ok"
        await asyncio.sleep(0)
        if word.startswith("refuse:"):
            return Answer(Outcome.REFUSED, code=word[7:], detail="refused by script")
        if word == "lost":
            return Answer(Outcome.AMBIGUOUS, detail="lost by script")
        if word == "exists":
            return Answer(Outcome.EXISTS, detail="Duplicate order sent.")
        if self.locks_base and order.side is Side.SELL:
            locked = sum((held.order.quantity for held in self.live() if held.order.side is Side.SELL), D(0))
            if locked + order.quantity > self.totals.get(order.symbol.removesuffix("USDT"), D(0)):
                return Answer(Outcome.REFUSED, code="-2010", detail="insufficient balance")
        held = self._take(order)
        fills = self._match(held) if word != "rest" else ()
        if word == "unheard":
            return Answer(Outcome.AMBIGUOUS, detail="unheard by script")
        if word == "raise":
            raise RuntimeError("raised by script")
        if word == "hang":
            await self._hold.wait()
        if word == "slow":
            await asyncio.sleep(0.1)
        return Answer(Outcome.ACK, self.report(held), fills if self.fills_in_answer else ())

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        word = self.script.popleft() if self.script else "ok"
        self.received += [stop.client_order_id, limit.client_order_id]
        await asyncio.sleep(0)
        if word.startswith("passed:"):
            self.prices[stop.symbol] = D(word[7:])
        if word.startswith(("refuse:", "passed:")):
            no = Answer(Outcome.REFUSED, code=word[7:] if word.startswith("refuse:") else "-2010", detail="refused by script")
            return no, no
        if word == "lost":
            unclear = Answer(Outcome.AMBIGUOUS)
            return unclear, unclear
        first, second = self._take(stop), self._take(limit)
        first.sibling, second.sibling = limit.client_order_id, stop.client_order_id
        if word == "unheard":
            unclear = Answer(Outcome.AMBIGUOUS)
            return unclear, unclear
        return Answer(Outcome.ACK, self.report(first)), Answer(Outcome.ACK, self.report(second))

    async def cancel(self, order: Order) -> Answer:
        self.cancelled.append(order.client_order_id)
        word = self.cancels.popleft() if self.cancels else "ok"
        await asyncio.sleep(0)
        held = self.orders.get(order.client_order_id)
        if word == "lost":
            return Answer(Outcome.AMBIGUOUS)
        if held is None or held.state not in OPEN or word == "gone":
            return Answer(Outcome.REFUSED, code="UNKNOWN_ORDER", detail="-2011")
        self.end(held, State.CANCELLED)
        if word == "unheard":
            return Answer(Outcome.AMBIGUOUS)
        return Answer(Outcome.ACK, self.report(held))

    async def query(self, symbol: str, client_order_id: str) -> Lookup:
        self.queried.append(client_order_id)
        self._maybe_fail("query")
        held = self.orders.get(client_order_id)
        if self.hidden.get(client_order_id, 0) > 0:
            self.hidden[client_order_id] -= 1
            return Lookup(Presence.NOT_FOUND)
        return Lookup(Presence.NOT_FOUND) if held is None else Lookup(Presence.FOUND, self.report(held))

    async def open_orders(self) -> list[Report]:
        self._maybe_fail("open_orders")
        return [self.report(held) for held in self.orders.values() if held.state in OPEN]

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        self._maybe_fail("fills_since")
        if self.history_hidden:
            return []
        return [replace(f, source="rest") for f in self.trades if f.symbol == symbol]

    async def balances(self) -> dict[str, Balance]:
        self._maybe_fail("balances")
        return {currency: Balance(currency, total, D(0)) for currency, total in self.totals.items()}

    async def skew_ms(self) -> float:
        return 1.0

    async def events(self) -> AsyncIterator[VenueEvent]:
        while True:
            yield await self._events.get()

    def on_bar(self, bar: Bar) -> None:
        """Not fed by bars."""

    async def last_price(self, symbol: str) -> Decimal | None:
        return self.prices.get(symbol)

    # ── what tests do to it ──────────────────────────────────────────────────────────────────────
    def push(self, event: VenueEvent) -> None:
        """Let the stream say something."""
        self._events.put_nowait(event)

    def lose_session(self) -> None:
        self.push(SessionLost("by script"))

    def fill(self, client_order_id: str, quantity: Decimal, price: Decimal | None = None) -> Fill:
        """Execute part of an order, whatever its state, and say so on the stream (when that works)."""
        held = self.orders[client_order_id]
        fill = self._execute(held, quantity, price or self.prices[held.order.symbol])
        if self.streams_fills:
            self.push(replace(fill, source="stream"))
            self.push(replace(self.report(held), source="stream"))
        return fill

    def end(self, held: Held, state: State) -> None:
        """End an order and its sibling, and say so."""
        for one in (held, self.orders.get(held.sibling or "")):
            if one is not None and one.state in OPEN:
                one.state, one.time_ns = state, next(self._clock)
                self.push(replace(self.report(one), source="stream"))

    def by_role(self, role: str) -> list[Held]:
        return [held for held in self.orders.values() if held.order.role.value == role]

    def live(self) -> list[Held]:
        return [held for held in self.orders.values() if held.state in OPEN]

    def report(self, held: Held) -> Report:
        return Report(
            client_order_id=held.order.client_order_id, venue_order_id=held.number, symbol=held.order.symbol,
            state=held.state, filled=held.filled, time_ns=held.time_ns, side=held.order.side,
            quantity=held.order.quantity, price=held.order.price,
        )  # fmt: skip

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    def _maybe_fail(self, method: str) -> None:
        if self.outages.get(method, 0) > 0:
            self.outages[method] -= 1
            raise OutageError(f"{method} fails by script")

    def _take(self, order: Order) -> Held:
        assert order.client_order_id not in self.orders, "the same client order id arrived twice"
        state = State.ACCEPTED if order.type is OrderType.STOP else State.WORKING
        held = Held(order, str(next(self._numbers)), state, time_ns=next(self._clock))
        self.orders[order.client_order_id] = held
        return held

    def _match(self, held: Held) -> tuple[Fill, ...]:
        if held.order.type is not OrderType.MARKET:
            return ()
        fill = self._execute(held, held.order.quantity, self.prices[held.order.symbol])
        if self.streams_fills:
            self.push(replace(fill, source="stream"))
        return (replace(fill, source="rest"),)

    def _execute(self, held: Held, quantity: Decimal, price: Decimal) -> Fill:
        order = held.order
        base, quote = order.symbol.removesuffix("USDT"), "USDT"
        is_buy = order.side is Side.BUY
        fee = (quantity if is_buy else quantity * price) * self.fee_rate
        trade_id = str(len(self.trades) + 1)
        fill = Fill(
            fill_id=ids.fill_id(self.name, str(self.account_id), order.symbol, trade_id),
            client_order_id=order.client_order_id, venue_order_id=held.number, venue_trade_id=trade_id,
            account_id=self.account_id, venue=self.name, symbol=order.symbol, side=order.side, quantity=quantity,
            price=price, fee=fee, fee_currency=base if is_buy else quote, time_ns=next(self._clock),
        )  # fmt: skip
        self.trades.append(fill)
        sign = order.side.sign
        self.totals[base] = self.totals.get(base, D(0)) + sign * quantity - (fee if is_buy else 0)
        self.totals[quote] = self.totals[quote] - sign * quantity * price - (0 if is_buy else fee)
        held.filled += quantity
        held.time_ns = fill.time_ns
        held.state = State.FILLED if held.filled >= order.quantity else State.PARTIAL
        if held.state is State.FILLED and (other := self.orders.get(held.sibling or "")) and other.state in OPEN:
            other.state, other.time_ns = State.EXPIRED, next(self._clock)
            self.push(replace(self.report(other), source="stream"))
        return fill
