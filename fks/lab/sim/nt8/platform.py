"""The simulated NinjaTrader 8: accounts, orders, executions, positions, connections and prices on a virtual clock.

Names and states are those of NinjaTrader's `Account` class. The platform calls its handlers synchronously, as
NinjaTrader raises events on a thread of its own choosing; a handler must only copy and enqueue.

With `broker` on, orders are accepted and filled against a seeded random walk. With it off nothing happens by itself:
a script gives each state and each fill.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import partial
from zoneinfo import ZoneInfo

from fks.bridge.peer.platform import (
    CONNECTED,
    LOST,
    ConnectionUpdate,
    Event,
    LastTrade,
    PlatformAccount,
    PlatformBar,
    PlatformError,
    PlatformExecution,
    PlatformOrder,
    PlatformPosition,
    PlatformQuote,
    Quantity,
)
from fks.lab.sim.nt8.contracts import SimulatedContract, find_contract
from fks.lab.sim.nt8.unkindness import KIND, KINDS, Unkindness

_ZERO = Decimal(0)
_AVERAGE_STEP = Decimal("0.0000001")  # averages are cut here: the wire has at most ten decimals
_TICK_MS = 250  # pace of the simulated market
_LATENCY_MS = 20  # of the simulated broker


@dataclass(frozen=True, slots=True)
class PlatformCall:
    """One call that the bridge made: submit, change, cancel or flatten. `order` is a copy as it was submitted."""

    kind: str
    account: str
    name: str
    instruments: tuple[str, ...] = ()
    qty: Quantity = 0
    order: PlatformOrder | None = None


@dataclass(slots=True)
class SimulatedAccount(PlatformAccount):
    """One account of the simulated broker. `hidden`: orders that it does not list for a while, by identity."""

    cash: Decimal = Decimal(50_000)
    realized: Decimal = _ZERO
    orders: list[PlatformOrder] = field(default_factory=list)
    executions: list[PlatformExecution] = field(default_factory=list)
    positions: dict[str, PlatformPosition] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)


class SimulatedNinjaTrader:
    """One NinjaTrader process and the broker behind it. `advance` moves its clock; everything else happens at once."""

    label = "simulated NinjaTrader 8"
    bridge_version = "fks-nt8/1.0.0"
    has_lots = False
    holds_exits = False

    def __init__(self, now_ms: int, *, seed: int = 1, unkind: Unkindness = KIND, broker: bool = False) -> None:
        self.now_ms = now_ms
        self.unkind = unkind
        self.broker = broker
        self.calls: list[PlatformCall] = []
        self.scripts: dict[str, Callable[[PlatformOrder], None]] = {}  # by order name: called inside Submit
        self.reject_next: dict[str, int] = {}  # by role: how many of the next orders are rejected after Submit
        self._accounts: dict[str, SimulatedAccount] = {}
        self._handlers: list[Callable[[Event], None]] = []
        self._dice = random.Random(seed)  # noqa: S311
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._trades: dict[str, LastTrade] = {}
        self._minutes: dict[str, dict[int, PlatformBar]] = {}
        self._history: dict[tuple[str, str], list[PlatformBar]] = {}
        self.zone: tzinfo = ZoneInfo("UTC")  # of the platform: bars are stamped in it
        self._market_ms = now_ms
        self._flatten_rejects = 1 if "flatten_rejected_once" in unkind.on else 0
        self._carried_over: set[str] = set()

    # ── what the bridge sees ──────────────────────────────────────────────────────────────────────

    @property
    def accounts(self) -> dict[str, SimulatedAccount]:
        return self._accounts

    @property
    def handlers(self) -> int:
        """Return how many handlers are attached: 1 while one bridge runs, 0 after it ended."""
        return len(self._handlers)

    def subscribe(self, handler: Callable[[Event], None]) -> Callable[[], None]:
        """Attach `handler` to every event and return what detaches it."""
        self._handlers.append(handler)

        def detach() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return detach

    def refresh(self, account: str) -> bool:
        """Do nothing: the platform reports each change at once."""
        return True

    def orders(self, account: str) -> list[PlatformOrder]:
        """Return the account's orders as the platform lists them now."""
        found = self._accounts.get(account)
        if found is None or not found.hidden:
            return list(found.orders) if found is not None else []
        return [order for order in found.orders if id(order) not in found.hidden]

    def executions(self, account: str) -> list[PlatformExecution]:
        return list(self._accounts[account].executions) if account in self._accounts else []

    def positions(self, account: str) -> list[PlatformPosition]:
        found = self._accounts.get(account)
        return [one for one in found.positions.values() if one.qty] if found else []

    def held(self, account: str, instrument: str, *, is_buy: bool) -> Quantity:
        qty = sum(one.qty for one in self.positions(account) if one.instrument == instrument)
        return max(qty if is_buy else -qty, 0)

    def introduce(self, signal_id: str) -> None:
        """Do nothing: an order's name holds the id."""

    def trading_disabled(self) -> str:
        return ""

    def refusal(self, order: PlatformOrder) -> None:
        """Refuse nothing: the broker answers."""

    def instruments(self) -> list[dict[str, object]]:
        return []

    def status_fields(self) -> dict[str, object]:
        return {}

    def account_fields(self, account: str) -> dict[str, object]:
        return {}

    def contract(self, name: str) -> SimulatedContract | None:
        """Return `Instrument.GetInstrument(name)`."""
        return find_contract(name)

    def last_trade(self, instrument: str) -> LastTrade | None:
        return self._trades.get(instrument)

    def price_status(self) -> str:
        """Return the state of the price feed: of the connection of the first account."""
        return next((one.price_status for one in self._accounts.values()), "Disconnected")

    def bars(self, instrument: str, period: str, begin_ms: int, end_ms: int) -> list[PlatformBar]:
        """Return what BarsRequest finds, oldest first: a script's bars, else the minutes that were traded here."""
        if (instrument, period) in self._history:
            return self._history[instrument, period]
        minutes = self._minutes.get(instrument, {})
        return [minutes[at] for at in sorted(minutes)] if period == "1m" else []

    def set_bars(self, instrument: str, period: str, bars: list[PlatformBar]) -> None:
        self._history[instrument, period] = bars

    def values(self, account: str) -> dict[str, Decimal | None]:
        """Return the account items that the broker reports; None where it reports none."""
        found = self._accounts[account]
        unrealized = sum((self._open_profit(one) for one in found.positions.values()), _ZERO)
        return {
            "CashValue": found.cash + found.realized,
            "NetLiquidation": found.cash + found.realized + unrealized,
            "RealizedProfitLoss": found.realized,
            "UnrealizedProfitLoss": unrealized,
            "BuyingPower": None,
        }

    def create(self, order: PlatformOrder) -> bool:
        """Make an order as `Account.CreateOrder` does; False stands for null. Errors: PlatformError."""
        if len(order.name) > 50:
            raise PlatformError(f"order name {order.name!r} is longer than 50 characters")
        if self._strikes("create_returns_null"):
            return False
        if self._strikes("create_throws"):
            raise PlatformError("CreateOrder failed")
        order.created_ms = self.now_ms
        return True

    def submit(self, order: PlatformOrder) -> None:
        """Send a created order. Errors: PlatformError, which leaves open whether the broker has it."""
        if self._strikes("submit_throws_before"):
            raise PlatformError("Submit failed")
        self.calls.append(
            PlatformCall("submit", order.account, order.name, (order.instrument,), order.qty, replace(order))
        )
        self._accounts[order.account].orders.append(order)
        order.order_id = "" if self._is("order_id_replaced") else self._id("N")
        order.state = "Submitted"
        if (script := self.scripts.pop(order.name, None)) is not None:
            script(order)
        elif self.broker:
            if self._is("update_inside_submit"):
                self._raise_order(order)
            else:
                update = replace(order)
                self._after(2_000 if self._strikes("update_late") else 1, lambda: self._raise(update))
            self._after(_LATENCY_MS, lambda: self._accept(order))
        role = order.name.rpartition(":")[2][:1]
        if self.reject_next.get(role, 0):
            self.reject_next[role] -= 1
            self._end(order, "Rejected", "OrderRejected", "rejected by a script")
        if self._strikes("submit_throws_after"):
            raise PlatformError("Submit failed late")

    def change(self, order: PlatformOrder, *, qty: Quantity, limit: Decimal | None, stop: Decimal | None) -> None:
        """Ask for another quantity or price of a live order."""
        self.calls.append(PlatformCall("change", order.account, order.name, (order.instrument,), qty))
        if not self.broker:
            order.qty, order.limit, order.stop = qty, limit, stop
            return
        self._after(_LATENCY_MS, lambda: self._changed(order, qty, limit, stop))

    def cancel(self, order: PlatformOrder) -> None:
        """Ask for the cancellation of a live order."""
        self.calls.append(PlatformCall("cancel", order.account, order.name, (order.instrument,)))
        if self.broker:
            self._after(_LATENCY_MS, lambda: self._cancelled(order))

    def flatten(self, account: str, instruments: Iterable[str]) -> None:
        """Cancel the orders and close the positions of `instruments`; returns before either is done."""
        names = tuple(instruments)
        self.calls.append(PlatformCall("flatten", account, "", names))
        if self.broker:
            self._after(3_000 if self._is("flatten_slow") else _LATENCY_MS, lambda: self._flatten(account, names))

    # ── what a script does ────────────────────────────────────────────────────────────────────────

    def add_account(self, name: str, *, is_sim: bool = True, status: str = CONNECTED) -> SimulatedAccount:
        """Add an account, connected unless `status` is another."""
        account = SimulatedAccount(name, is_sim, status, status, self.now_ms)
        self._accounts[name] = account
        if status == CONNECTED:
            self._raise(ConnectionUpdate(name, status, status, "Connecting"))
        return account

    def connect(self, account: str) -> None:
        """Bring both feeds of an account up; orders come back as new objects, perhaps late or without a name."""
        found = self._accounts[account]
        if found.status != CONNECTED:
            found.connected_ms = self.now_ms
            found.orders = [replace(order) for order in found.orders]
            self._mistreat(found)
        self.set_status(account, CONNECTED, CONNECTED)
        if self._is("executions_replayed"):
            for execution in list(found.executions):
                self._raise(execution)

    def set_status(self, account: str, status: str, price_status: str) -> None:
        """Set the order feed's and the price feed's status and raise the event when either changed."""
        found = self._accounts[account]
        before, found.status = found.status, status
        price_before, found.price_status = found.price_status, price_status
        if status == CONNECTED != before:
            found.connected_ms = self.now_ms
        if (before, price_before) != (status, price_status):
            self._raise(ConnectionUpdate(account, status, price_status, before))

    def restart(self) -> None:
        """End the process and start it again: no handler is left, nothing is connected, the broker goes on."""
        self._handlers.clear()
        self.scripts.clear()
        for account in self._accounts.values():
            account.status = account.price_status = "Disconnected"

    def find_order(self, name: str) -> PlatformOrder:
        """Return the newest order called `name`. Errors: KeyError."""
        for account in self._accounts.values():
            for order in reversed(account.orders):
                if order.name == name:
                    return order
        raise KeyError(f"no order {name}")

    def set_state(
        self, name: str, state: str, *, error: str = "NoError", comment: str = "", order_id: str = ""
    ) -> None:
        """Give an order another state and raise OrderUpdate."""
        order = self.find_order(name)
        order.order_id = order_id or order.order_id
        if state == "Filled":
            order.filled = order.qty
        order.state = state
        self._raise_order(order, error, comment)

    def fill(self, name: str, qty: int, price: Decimal, exec_id: str = "", *, events: str = "") -> PlatformExecution:
        """Fill an order and raise the events: order, execution, position, or as `events` ("oep") orders them."""
        return self._fill(self.find_order(name), qty, price, exec_id or self._id("X"), events)

    def amend(self, execution: PlatformExecution, op: str) -> None:
        """Raise an execution again as `update` or `remove`."""
        self._raise(replace(execution, op=op))

    def renew_orders(self) -> None:
        """Replace every order by a new object with a new OrderId, as a reconnect may."""
        for account in self._accounts.values():
            account.orders = [replace(order, order_id=self._id("B")) for order in account.orders]

    def set_position(self, account: str, instrument: str, qty: int, avg_price: Decimal = _ZERO) -> None:
        """Set a position (signed) and raise PositionUpdate."""
        position = PlatformPosition(account, instrument, qty, avg_price)
        self._accounts[account].positions[instrument] = position
        self._raise(position)

    def trade(self, instrument: str, price: Decimal, qty: int = 1, *, side: str = "", at_ms: int | None = None) -> None:
        """Print a trade: the last price, its bar, and with the broker on the fills that it causes."""
        trade = LastTrade(instrument, self.now_ms if at_ms is None else at_ms, price, qty, side)
        self._trades[instrument] = trade
        self._count_trade(trade)
        self._raise(trade)
        if self.broker:
            self._match(instrument, price)

    def show_quote(self, quote: PlatformQuote) -> None:
        self._raise(quote)

    def keep_quotes(self) -> None:
        """Renew the time of each last price, as a market does that trades at an unchanged price."""
        for name, trade in self._trades.items():
            self._trades[name] = replace(trade, at_ms=self.now_ms)

    def open_orders(self, account: str, instrument: str) -> list[PlatformOrder]:
        """Return the live orders of an instrument, hidden ones included: the broker's truth."""
        return [one for one in self._accounts[account].orders if one.instrument == instrument and one.is_live]

    def submits_of(self, name: str) -> int:
        return sum(call.kind == "submit" and call.name == name for call in self.calls)

    def advance(self, now_ms: int) -> None:
        """Move the clock to `now_ms`; what is due happens in its order."""
        while self._due and self._due[0][0] <= now_ms:
            due_ms, _, action = heapq.heappop(self._due)
            self._walk(due_ms)
            self.now_ms = max(self.now_ms, due_ms)
            action()
        self._walk(now_ms)
        self.now_ms = max(self.now_ms, now_ms)

    def strike(self) -> None:
        """Do one of the bad things that come by themselves: a feed lost, an execution amended, a clock jump."""
        for account in self._accounts.values():
            if self._strikes("price_feed_lost") and account.status == CONNECTED:
                self.set_status(account.name, CONNECTED, LOST)
                self._after(1_500, partial(self.connect, account.name))
            elif self._strikes("order_feed_lost"):
                self.set_status(account.name, LOST, account.price_status)
                self._after(2_500, partial(self.connect, account.name))
            elif self._strikes("connection_flaps"):
                for n in range(5):
                    self._after(200 * n + 1, partial(self.set_status, account.name, LOST, LOST))
                    self._after(200 * n + 100, partial(self.connect, account.name))
            if account.executions and self._strikes("execution_amended"):
                self.amend(self._dice.choice(account.executions), "update")
            if self._is("position_carried_over") and account.name not in self._carried_over:
                self._carried_over.add(account.name)
                self._raise(
                    PlatformExecution(
                        account.name,
                        "NQ 03-25",
                        self._id("SOD"),
                        "",
                        "",
                        True,
                        1,
                        Decimal(16_000),
                        self.now_ms,
                        is_sod=True,
                    )
                )

    # ── the broker ────────────────────────────────────────────────────────────────────────────────

    def _strikes(self, behaviour: str) -> bool:
        """Return whether a behaviour is on and happens this time."""
        return self._is(behaviour) and self._dice.random() < self.unkind.chance

    def _is(self, behaviour: str) -> bool:
        assert behaviour in KINDS, behaviour
        return behaviour in self.unkind.on

    def _id(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    def _after(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_ms + delay_ms, next(self._numbers), action))

    def _raise(self, event: Event) -> None:
        for handler in list(self._handlers):
            handler(event)

    def _count_trade(self, trade: LastTrade) -> None:
        minute = trade.at_ms // 60_000
        minutes = self._minutes.setdefault(trade.instrument, {})
        price, known = trade.price, minutes.get(minute)
        if known is None:
            end = datetime.fromtimestamp((minute + 1) * 60, self.zone).replace(tzinfo=None)
            minutes[minute] = PlatformBar(end, price, price, price, price, trade.qty)
        else:
            high, low = max(known.h, price), min(known.l, price)
            minutes[minute] = PlatformBar(known.close, known.o, high, low, price, known.v + trade.qty)

    def _raise_order(self, order: PlatformOrder, error: str = "NoError", comment: str = "") -> None:
        update = replace(order, error=error, comment=comment)
        if self._accounts[order.account].status != CONNECTED and self.broker:
            return  # nobody reports it: the platform learns it at the reconnect
        self._raise(update)
        if self._strikes("updates_doubled"):
            self._raise(update)

    def _accept(self, order: PlatformOrder) -> None:
        if not order.is_live:
            return
        if self._is("order_id_replaced"):
            order.order_id = order.order_id or self._id("local-")
            self._raise_order(order)
            order.order_id = self._id("B")
        is_stop = order.type == "StopMarket"
        if (is_stop and self._strikes("stop_rejected")) or (
            order.name.endswith(":E") and self._strikes("submit_rejected")
        ):
            self._end(order, "Rejected", "OrderRejected", "rejected by the simulated broker")
            return
        if self._strikes("state_unknown"):
            order.state = "Unknown"
            self._raise_order(order)
            self._after(1_000, lambda: self._accept_now(order))
            return
        self._accept_now(order)

    def _accept_now(self, order: PlatformOrder) -> None:
        if not order.is_live:
            return
        is_stop = order.type == "StopMarket"
        if is_stop and self._strikes("stop_held_on_pc"):
            order.state = "TriggerPending"
            self._raise_order(order)
            return
        order.state = "Accepted"
        accepted = replace(order)
        if not (self._is("stop_only_accepted") and is_stop):
            order.state = "Working"
        if self._is("order_ahead_of_event"):
            self._raise(accepted)  # `order` is Working already
        else:
            order.state = "Accepted"
            self._raise_order(order)
        if not (self._is("stop_only_accepted") and is_stop):
            order.state = "Working"
            self._raise_order(order)
        trade = self._trades.get(order.instrument)
        if trade is not None:
            self._try_to_fill(order, trade.price)

    def _changed(self, order: PlatformOrder, qty: Quantity, limit: Decimal | None, stop: Decimal | None) -> None:
        if not order.is_live:
            return
        if self._strikes("change_rejected"):
            self._raise_order(order, "UnableToChangeOrder", "change rejected")
            return
        order.qty, order.limit, order.stop = max(qty, order.filled), limit, stop
        if self._is("order_id_unstable"):
            order.order_id = self._id("B")
        if order.left == 0:
            self._end(order, "Filled")
            return
        self._raise_order(order)

    def _cancelled(self, order: PlatformOrder) -> None:
        if not order.is_live:
            return
        if self._strikes("cancel_rejected"):
            self._raise_order(order, "UnableToCancelOrder", "cancel rejected")
            return
        trade = self._trades.get(order.instrument)
        if trade is not None and order.left and self._strikes("fill_during_cancel"):
            order.state = "CancelPending"
            self._raise_order(order)
            qty = self._dice.randint(1, int(order.left))
            self._fill(order, qty, order.limit or trade.price, self._id("X"), "")
            if not order.is_live:
                return
        self._end(order, "Cancelled")

    def _end(self, order: PlatformOrder, state: str, error: str = "NoError", comment: str = "") -> None:
        order.state = state
        self._raise_order(order, error, comment)

    def _flatten(self, account: str, instruments: tuple[str, ...]) -> None:
        for instrument in instruments:
            for order in self.open_orders(account, instrument):
                if not (self._is("flatten_leaves_entry") and order.name.endswith(":E")):
                    self._end(order, "Cancelled")
            position = self._accounts[account].positions.get(instrument)
            if position is None or position.qty == 0:
                continue
            action = "Sell" if position.qty > 0 else "BuyToCover"
            qty = max(position.qty, -position.qty)
            close = PlatformOrder(
                "Close", account, instrument, action, "Market", "Day", qty, None, None, "",
                self._id("N"), "Submitted", created_ms=self.now_ms,
            )  # fmt: skip
            self._accounts[account].orders.append(close)
            if self._flatten_rejects:
                self._flatten_rejects -= 1
                self._end(close, "Rejected", "OrderRejected", "closing order rejected")
                continue
            close.state = "Working"
            price = self._last(instrument)
            self._fill(close, close.qty, price, self._id("X"), "")

    def _last(self, instrument: str) -> Decimal:
        trade = self._trades.get(instrument)
        contract = find_contract(instrument)
        assert contract is not None, instrument
        return trade.price if trade is not None else contract.first_price

    def _match(self, instrument: str, price: Decimal) -> None:
        for account in self._accounts.values():
            for order in list(account.orders):
                if order.instrument == instrument and order.is_live:
                    self._try_to_fill(order, price)

    def _try_to_fill(self, order: PlatformOrder, price: Decimal) -> None:
        if order.state not in ("Working", "Accepted", "PartFilled", "Suspended", "TriggerPending", "Unknown"):
            return
        at = _fill_price(order, price)
        if at is None:
            return
        while order.is_live and order.left:
            qty: Quantity = self._dice.randint(1, int(order.left)) if self._is("partial_fills") else order.left
            if qty == order.left and order.name.endswith(":E") and self._strikes("overfill"):
                qty += 1
            self._fill(order, qty, at, self._id("X"), "")
            if order.type == "Limit" and self._strikes("partial_fills"):
                return  # the rest waits for the next trade

    def _fill(
        self, order: PlatformOrder, qty: Quantity, price: Decimal, exec_id: str, events: str
    ) -> PlatformExecution:
        account = self._accounts[order.account]
        total = order.avg_price * order.filled + price * qty
        order.filled += qty
        order.avg_price = (total / order.filled).quantize(_AVERAGE_STEP)
        order.state = "Filled" if order.filled >= order.qty else "PartFilled"
        name = "" if self.broker and self._strikes("execution_without_order") else order.name
        execution = PlatformExecution(
            account.name, order.instrument, exec_id, name, order.order_id, order.is_buy, qty, price, self.now_ms,
            commission=Decimal("2.04") * qty,
        )  # fmt: skip
        account.executions.append(execution)
        self._move_position(account, execution)
        self._report_fill(order, execution, events or self._order_of_events())
        if self.broker:
            self._end_partners(order)
            if order.state == "Filled" and self._strikes("working_after_filled"):
                late = replace(replace(order), state="Working", filled=0)
                self._after(50, lambda: self._raise(late))
        return execution

    def _order_of_events(self) -> str:
        if self._strikes("positions_first"):
            return "peo"
        return "eop" if self._strikes("executions_first") else "oep"

    def _report_fill(self, order: PlatformOrder, execution: PlatformExecution, events: str) -> None:
        account = self._accounts[order.account]
        if self.broker and account.status != CONNECTED:
            return  # the execution is listed; its event is lost with the connection
        for letter in events:
            if letter == "o":
                self._raise_order(order)
            elif letter == "e":
                self._raise(execution)
            else:
                self._raise(account.positions[order.instrument])

    def _end_partners(self, order: PlatformOrder) -> None:
        if not order.oco or (order.state != "Filled" and not self._is("oco_cancels_on_partial")):
            return
        if self._strikes("oco_partner_kept"):
            return
        for partner in self.open_orders(order.account, order.instrument):
            if partner.oco == order.oco and partner is not order:
                self._end(partner, "Cancelled")

    def _move_position(self, account: SimulatedAccount, execution: PlatformExecution) -> None:
        before = account.positions.get(execution.instrument)
        had: Quantity = before.qty if before else 0
        avg = before.avg_price if before else _ZERO
        signed = execution.qty if execution.is_buy else -execution.qty
        closed = min(max(had, -had), execution.qty) if had * signed < 0 else 0
        contract = find_contract(execution.instrument)
        value = contract.point_value if contract is not None else Decimal(1)
        account.realized += (execution.price - avg) * closed * (1 if had > 0 else -1) * value - execution.commission
        now = had + signed
        if now == 0:
            avg = _ZERO
        elif had * signed >= 0:
            avg = ((avg * had + execution.price * signed) / now).quantize(_AVERAGE_STEP)
        elif had * now < 0:
            avg = execution.price
        account.positions[execution.instrument] = PlatformPosition(account.name, execution.instrument, now, avg)

    def _open_profit(self, position: PlatformPosition) -> Decimal:
        contract = find_contract(position.instrument)
        if contract is None or not position.qty:
            return _ZERO
        return (self._last(position.instrument) - position.avg_price) * position.qty * contract.point_value

    # ── connections and prices ────────────────────────────────────────────────────────────────────

    def _mistreat(self, account: SimulatedAccount) -> None:
        """Hide one order for 3 s, or take the name from one: what a reconnect may do."""
        live = [order for order in account.orders if order.is_live and order.name.startswith("FKS:")]
        if live and self._strikes("order_missing"):
            hidden = self._dice.choice(live)
            account.hidden.add(id(hidden))
            self._after(3_000, lambda: account.hidden.discard(id(hidden)))
        if live and self._strikes("names_lost"):
            self._dice.choice(live).name = ""

    def _walk(self, until_ms: int) -> None:
        """Let the market trade each quarter of a second up to `until_ms`; instruments move that had a first price."""
        if not self.broker:
            return
        while self._market_ms + _TICK_MS <= until_ms:
            self._market_ms += _TICK_MS
            self.now_ms = max(self.now_ms, self._market_ms)
            for name, trade in sorted(self._trades.items()):
                contract = find_contract(name)
                assert contract is not None, name
                step = self._dice.choice((-2, -1, 0, 0, 1, 2)) * contract.tick
                side = "buy" if step > 0 else "sell" if step < 0 else ""
                price = max(trade.price + step, contract.tick)
                self.trade(name, price, self._dice.randint(1, 5), side=side)
                sizes = self._dice.randint(1, 20), self._dice.randint(1, 20)
                self.show_quote(PlatformQuote(name, self.now_ms, price, sizes[0], price + contract.tick, sizes[1]))


def _fill_price(order: PlatformOrder, last: Decimal) -> Decimal | None:
    """Return the price at which `order` fills when the market trades at `last`, or None."""
    if order.type == "Market":
        return last
    if order.type == "Limit":
        assert order.limit is not None
        return order.limit if (last <= order.limit if order.is_buy else last >= order.limit) else None
    assert order.stop is not None
    if not (last >= order.stop if order.is_buy else last <= order.stop):
        return None
    if order.type == "StopLimit" and order.limit is not None:
        return order.limit if (last <= order.limit if order.is_buy else last >= order.limit) else None
    return last
