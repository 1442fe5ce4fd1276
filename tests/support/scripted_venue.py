"""A venue in memory that does to the order manager what real ones do: lose answers, lie by silence, fill late."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.model import ids
from fks.model.account import Balance, Environment, Transfer, VenueIdentity
from fks.model.bar import Bar
from fks.model.errors import OutageError
from fks.model.order import (
    Answer,
    Fill,
    Lookup,
    Order,
    OrderType,
    Outcome,
    Presence,
    Refusal,
    Report,
    Side,
    State,
    TimeInForce,
)
from fks.model.ports import Priority, SessionBack, SessionLost, VenueCapabilities, VenueEvent
from fks.trading.matching import is_accepted
from tests.support.invariants import InvariantError

D = Decimal
ZERO, FEE_RATE = D(0), D("0.001")
NOT_SENT = Answer(Outcome.REFUSED, code="ACCOUNT_UNKNOWN", detail="the session is refused", refusal=Refusal.NOT_SENT)
SIM = VenueIdentity(Environment.SIM, "1", "first")
OPEN = (State.ACCEPTED, State.WORKING, State.PARTIAL)
#: what a scripted code means when the script does not name the refusal
REFUSALS: dict[str, Refusal] = {
    "-1003": Refusal.RATE_LIMITED, "-1015": Refusal.RATE_LIMITED, "429": Refusal.RATE_LIMITED,
    "RATE_VENUE": Refusal.RATE_LIMITED, "418": Refusal.BANNED, "-1021": Refusal.CLOCK_SKEW,
    "VENUE_DOWN": Refusal.UNAVAILABLE, "NOT_LEADER": Refusal.NOT_SENT, "KILLED": Refusal.NOT_SENT,
    "INSUFFICIENT": Refusal.INSUFFICIENT_BALANCE, "insufficient": Refusal.INSUFFICIENT_BALANCE,
    "BALANCE": Refusal.INSUFFICIENT_BALANCE, "-2011": Refusal.UNKNOWN_ORDER, "UNKNOWN_ORDER": Refusal.UNKNOWN_ORDER,
    "-1022": Refusal.PERMISSION, "-2014": Refusal.PERMISSION, "-2015": Refusal.PERMISSION,
}  # fmt: skip
_PASSED = "Stop price would trigger immediately."


def refused(step: str) -> Answer:
    """Return the answer to a scripted `refuse:CODE` or `refuse:CODE:refusal`."""
    _, code, *named = step.split(":")
    refusal = Refusal(named[0]) if named else REFUSALS.get(code, Refusal.OTHER)
    wait_s = 1.0 if refusal in (Refusal.RATE_LIMITED, Refusal.BANNED) else None
    return Answer(Outcome.REFUSED, code=code, detail="refused by script", refusal=refusal, retry_after_s=wait_s)


@dataclass
class Held:
    """An order as the venue has it."""

    order: Order
    number: str
    state: State
    filled: Decimal = ZERO
    time_ns: int = 0
    sibling: str | None = None
    reason: tuple[str, Refusal] | None = None  # of its expiry


@dataclass
class ScriptedVenue:
    """Fills market orders at `prices`, and limits that fill at once or expire (FOK); rests the others. What goes wrong next is said by `script` (submits), `cancels`.

    Words of `script`: ok · rest (a market order that does not fill) · refuse:CODE or refuse:CODE:refusal · lost (never
    arrives, no answer) · unheard (arrives, no answer) · hang (arrives, answers never) · raise (arrives, then raises) ·
    exists · expire (a market order: by the price range rule) · slow (arrives, answers after the stream) · passed:PRICE (an OCO refused, since the market is at PRICE) ·
    late:CODE (an OCO that never arrives, refused once `answer_late` is called) · late:lost (its answer is lost by then).
    Words of `amends`: ok · refuse:CODE · lost · unheard (reduced, no answer).
    Words of `reprices`: ok · refuse:CODE · lost · unheard (moved, no answer).
    Words of `replaces`: ok · refuse:CODE (neither half was tried) · halfway:CODE (the old order ended, the new one is
    refused) · lost · unheard · raise (never arrives, then raises) · gone (the old order is refused as unknown, the new one is not tried).
    Words of `cancels`: ok · refuse:CODE · lost · unheard · gone (refused as unknown, though it is open).
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
    amends: deque[str] = field(default_factory=deque)
    replaces: deque[str] = field(default_factory=deque)
    reprices: deque[str] = field(default_factory=deque)
    outages: dict[str, int] = field(default_factory=dict)  # method -> how many calls still fail
    hidden: dict[str, int] = field(default_factory=dict)  # client id -> queries that still do not see it
    history_hidden: bool = False
    received: list[str] = field(default_factory=list)  # the witness: every client id whose bytes arrived or were lost
    cancelled: list[str] = field(default_factory=list)
    amended: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)  # the orders that requests were to replace
    repriced: list[tuple[str, Decimal]] = field(default_factory=list)
    queried: list[str] = field(default_factory=list)
    orders: dict[str, Held] = field(default_factory=dict)
    trades: list[Fill] = field(default_factory=list)
    has_oco: bool = True
    can_amend: bool = False
    can_replace: bool = False
    can_reprice: bool = False
    busy_s: float = 0.0  # how long an entry would wait for the venue's rate limit
    locks_base: bool = False  # as spot does: live sells may not exceed what is held
    who: VenueIdentity = SIM
    transfers: list[Transfer] = field(default_factory=list)
    starts_ns: int = 1_767_225_600_000_000_000  # its first event's time
    refusal: str = ""
    admitted: VenueIdentity | None = None  # the account that executions are named after, else `who`
    capabilities: VenueCapabilities = field(init=False)

    def __post_init__(self) -> None:
        types = frozenset(OrderType)
        self.capabilities = VenueCapabilities(
            types,
            frozenset(TimeInForce),
            has_oco=self.has_oco,
            can_amend=self.can_amend,
            can_replace=self.can_replace,
            can_reprice=self.can_reprice,
        )
        self._events: asyncio.Queue[VenueEvent] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._clock = itertools.count(self.starts_ns, 1_000_000)
        self._hold, self._late = asyncio.Event(), asyncio.Event()

    # ── the port ─────────────────────────────────────────────────────────────────────────────────
    async def open(self) -> None:
        self._maybe_fail("open")
        self._events.put_nowait(SessionBack())

    async def close(self) -> None:
        self._hold.set()

    def answer_late(self) -> None:
        """Let the answers of `late` come."""
        self._late.set()

    async def submit(self, order: Order) -> Answer:
        if self.refusal:
            return NOT_SENT
        self.received.append(order.client_order_id)
        step = self.script.popleft() if self.script else "ok"
        await asyncio.sleep(0)
        if step.startswith("refuse:"):
            return refused(step)
        if step == "lost":
            return Answer(Outcome.AMBIGUOUS, detail="lost by script")
        if step == "exists":
            return Answer(Outcome.EXISTS, detail="Duplicate order sent.")
        if self.locks_base and order.side is Side.SELL:
            locked = sum((held.order.quantity for held in self.live() if held.order.side is Side.SELL), D(0))
            if locked + order.quantity > self.totals.get(order.symbol.removesuffix("USDT"), D(0)):
                return Answer(
                    Outcome.REFUSED, code="-2010", detail="insufficient balance", refusal=Refusal.INSUFFICIENT_BALANCE
                )
        held = self._take(order)
        if step == "expire":
            self.end(held, State.EXPIRED, ("EXECUTION_RULE_PRICE_RANGE_EXCEEDED", Refusal.PRICE))
        fills = self._match(held) if step not in ("rest", "expire") else ()
        if step == "unheard":
            return Answer(Outcome.AMBIGUOUS, detail="unheard by script")
        if step == "raise":
            raise RuntimeError("raised by script")
        if step == "hang":
            await self._hold.wait()
        if step == "slow":
            await asyncio.sleep(0.1)
        return Answer(Outcome.ACK, self.report(held), fills if self.fills_in_answer else ())

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        if self.refusal:
            return NOT_SENT, NOT_SENT
        step = self.script.popleft() if self.script else "ok"
        self.received += [stop.client_order_id, limit.client_order_id]
        await asyncio.sleep(0)
        if step.startswith("passed:"):
            self.prices[stop.symbol] = D(step[7:])
        if step.startswith(("refuse:", "passed:")):
            passed = Answer(Outcome.REFUSED, code="-2010", detail=_PASSED, refusal=Refusal.WOULD_TRIGGER)
            no = passed if step.startswith("passed:") else refused(step)
            return no, no
        if step.startswith("late:"):
            await self._late.wait()
            late = Answer(Outcome.AMBIGUOUS) if step == "late:lost" else refused(step)
            return late, late
        if step == "lost":
            unclear = Answer(Outcome.AMBIGUOUS)
            return unclear, unclear
        first, second = self._take(stop), self._take(limit)
        first.sibling, second.sibling = limit.client_order_id, stop.client_order_id
        if step == "unheard":
            unclear = Answer(Outcome.AMBIGUOUS)
            return unclear, unclear
        return Answer(Outcome.ACK, self.report(first)), Answer(Outcome.ACK, self.report(second))

    async def cancel(self, order: Order) -> Answer:
        if self.refusal:
            return NOT_SENT
        self.cancelled.append(order.client_order_id)
        step = self.cancels.popleft() if self.cancels else "ok"
        await asyncio.sleep(0)
        held = self.orders.get(order.client_order_id)
        if step.startswith("refuse:"):
            return refused(step)
        if step == "lost":
            return Answer(Outcome.AMBIGUOUS)
        if held is None or held.state not in OPEN or step == "gone":
            return Answer(Outcome.REFUSED, code="UNKNOWN_ORDER", detail="-2011", refusal=Refusal.UNKNOWN_ORDER)
        self.end(held, State.CANCELLED)
        if step == "unheard":
            return Answer(Outcome.AMBIGUOUS)
        return Answer(Outcome.ACK, self.report(held))

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        if self.refusal:
            return NOT_SENT
        self.amended.append(order.client_order_id)
        step = self.amends.popleft() if self.amends else "ok"
        await asyncio.sleep(0)
        if step.startswith("refuse:"):
            return refused(step)
        held = self.orders[order.client_order_id]
        if step == "lost":
            return Answer(Outcome.AMBIGUOUS)
        if held.state not in OPEN or not held.filled < quantity < held.order.quantity:
            return Answer(Outcome.REFUSED, code="-2038", detail="not reduced", refusal=Refusal.OTHER)
        for one in (held, self.orders.get(held.sibling or "")):
            if one is not None:
                one.order, one.time_ns = replace(one.order, quantity=quantity), next(self._clock)
                self.push(replace(self.report(one), source="stream"))
        return Answer(Outcome.AMBIGUOUS) if step == "unheard" else Answer(Outcome.ACK)

    async def replace(self, old: Order, new: Order) -> tuple[Answer, Answer]:
        if self.refusal:
            return NOT_SENT, NOT_SENT
        self.received.append(new.client_order_id)
        self.replaced.append(old.client_order_id)
        step = self.replaces.popleft() if self.replaces else "ok"
        await asyncio.sleep(0)
        unclear, held = Answer(Outcome.AMBIGUOUS), self.orders[old.client_order_id]
        if step.startswith("refuse:"):
            return refused(step), refused(step)
        if step == "raise":
            raise RuntimeError("raised by script")
        if step == "lost":
            return unclear, unclear
        if held.state not in OPEN or step == "gone":
            no = Answer(Outcome.REFUSED, code="UNKNOWN_ORDER", detail="-2022", refusal=Refusal.UNKNOWN_ORDER)
            return no, replace(no, code="NOT_ATTEMPTED")
        self.end(held, State.CANCELLED)
        ended = Answer(Outcome.ACK, self.report(held))
        if step.startswith("halfway:"):
            return ended, refused(step.replace("halfway", "refuse"))
        taken = self._take(new)
        return (unclear, unclear) if step == "unheard" else (ended, Answer(Outcome.ACK, self.report(taken)))

    async def reprice(self, order: Order, price: Decimal) -> Answer:
        if self.refusal:
            return NOT_SENT
        self.repriced.append((order.client_order_id, price))
        step = self.reprices.popleft() if self.reprices else "ok"
        await asyncio.sleep(0)
        if step.startswith("refuse:"):
            return refused(step)
        if step == "lost":
            return Answer(Outcome.AMBIGUOUS)
        held = self.orders[order.client_order_id]
        if held.state not in OPEN:
            return Answer(Outcome.REFUSED, code="UNKNOWN_ORDER", detail="-2011", refusal=Refusal.UNKNOWN_ORDER)
        field = "price" if held.order.stop_price is None else "stop_price"
        held.order, held.time_ns = replace(held.order, **{field: price}), next(self._clock)
        return Answer(Outcome.AMBIGUOUS) if step == "unheard" else Answer(Outcome.ACK)

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        return self.busy_s if priority is Priority.ENTRY else 0.0

    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        if self.refusal:
            return Lookup(Presence.NO_ANSWER, detail=self.refusal)
        self.queried.append(client_order_id)
        self._maybe_fail("query")
        held = self.orders.get(client_order_id)
        if self.hidden.get(client_order_id, 0) > 0:
            self.hidden[client_order_id] -= 1
            return Lookup(Presence.NOT_FOUND)
        return Lookup(Presence.NOT_FOUND) if held is None else Lookup(Presence.FOUND, self.report(held))

    async def open_orders(self) -> list[Report]:
        self._check_refusal()
        self._maybe_fail("open_orders")
        return [
            self.report(held) for id, held in self.orders.items() if held.state in OPEN and not self.hidden.get(id, 0)
        ]

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        self._check_refusal()
        self._maybe_fail("fills_since")
        if self.history_hidden:
            return []
        return [replace(f, source="rest") for f in self.trades if f.symbol == symbol]

    async def balances(self) -> dict[str, Balance]:
        self._maybe_fail("balances")
        return {currency: Balance(currency, total, D(0)) for currency, total in self.totals.items()}

    async def identity(self) -> VenueIdentity:
        self._maybe_fail("identity")
        return self.who

    def refuse(self, reason: str) -> None:
        self.refusal = reason

    def admit(self, identity: VenueIdentity) -> None:
        self.refusal, self.admitted = "", identity

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        self._check_refusal()
        self._maybe_fail("transfers_since")
        return [item for item in self.transfers if item.time_ns >= since_ns]

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

    def trade_elsewhere(self, symbol: str, quantity: Decimal) -> None:
        """Let another program buy on the account: history and stream show its execution."""
        order = replace(
            next(iter(self.orders.values())).order, client_order_id="web_1", symbol=symbol, quantity=quantity
        )
        order = replace(order, side=Side.BUY, type=OrderType.MARKET)
        held = Held(order, str(next(self._numbers)), State.WORKING, time_ns=next(self._clock))
        self.push(replace(self._execute(held, quantity, self.prices[symbol]), source="stream"))

    def end(self, held: Held, state: State, reason: tuple[str, Refusal] | None = None) -> None:
        """End an order (an expiry for a reason) and its sibling, and say so."""
        held.reason = reason
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
            client_order_id=held.order.client_order_id,
            venue_order_id=held.number,
            symbol=held.order.symbol,
            state=held.state,
            filled=held.filled,
            time_ns=held.time_ns,
            side=held.order.side,
            quantity=held.order.quantity,
            price=held.order.price,
            stop_price=held.order.stop_price,
            code=None if held.reason is None else held.reason[0],
            refusal=None if held.reason is None else held.reason[1],
        )

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    def _check_refusal(self) -> None:
        if self.refusal:
            raise OutageError(self.refusal)

    def _maybe_fail(self, method: str) -> None:
        if self.outages.get(method, 0) > 0:
            self.outages[method] -= 1
            raise OutageError(f"{method} fails by script")

    def _take(self, order: Order) -> Held:
        if order.client_order_id in self.orders:
            raise InvariantError(f"the client order id {order.client_order_id} arrived twice")
        state = State.ACCEPTED if order.type is OrderType.STOP else State.WORKING
        held = Held(order, str(next(self._numbers)), state, time_ns=next(self._clock))
        self.orders[order.client_order_id] = held
        return held

    def _match(self, held: Held) -> tuple[Fill, ...]:
        order, price = held.order, self.prices[held.order.symbol]
        if order.type is OrderType.LIMIT and order.time_in_force is TimeInForce.FOK:
            assert order.price is not None
            if not is_accepted(price, order.price, order.side.sign):
                self.end(held, State.EXPIRED)
                return ()
        elif order.type is not OrderType.MARKET:
            return ()
        fill = self._execute(held, order.quantity, price)
        if self.streams_fills:
            self.push(replace(fill, source="stream"))
        return (replace(fill, source="rest"),)

    def _execute(self, held: Held, quantity: Decimal, price: Decimal) -> Fill:
        order = held.order
        quote = "USDT" if order.symbol.endswith("USDT") else "BTC"
        base = order.symbol.removesuffix(quote)
        is_buy = order.side is Side.BUY
        fee = (quantity if is_buy else quantity * price) * self.fee_rate
        trade_id = str(len(self.trades) + 1)
        who = self.admitted or self.who
        fill = Fill(
            fill_id=ids.fill_id_v2(who.uid, who.environment.value, who.network_epoch, order.symbol, trade_id),
            client_order_id=order.client_order_id,
            venue_order_id=held.number,
            venue_trade_id=trade_id,
            account_id=self.account_id,
            venue=self.name,
            symbol=order.symbol,
            side=order.side,
            quantity=quantity,
            price=price,
            fee=fee,
            fee_currency=base if is_buy else quote,
            time_ns=next(self._clock),
        )
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
