"""The order manager's memory: soft state that is rebuilt from the journal, and the views that checks are given.

Everything here is synchronous: a decision made from a view and the reservation that follows it happen without an await
between them, so two signals cannot spend the same money.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.config.settings import Settings
from fks.execution.timing import Gate, Gated
from fks.model.account import Account, Balance, Position
from fks.model.instrument import Instrument
from fks.model.order import OPEN, Fill, Order, Role, Side, State
from fks.model.ports import Capabilities
from fks.portfolio.position import EXTERNAL
from fks.risk.intent import Intent
from fks.risk.view import VenueView, View
from fks.store.facts import Instance, Mark
from fks.store.signals import Waiting

_ZERO = Decimal(0)
_MINUTE_S = 60.0
_ENDED_MAX = 2000
#: (account id, venue, symbol): what one decision at a time is made about
Place = tuple[int, str, str]


@dataclass(slots=True)
class VenueStatus:
    """What is known of a venue. `state` is COLD, SYNCING, READY or STALE (C3)."""

    name: str
    account_id: int
    capabilities: Capabilities
    state: str = "COLD"
    detail: str = ""
    has_positions: bool = False  # read at least once: exits may go
    is_connected: bool = False
    skew_ms: float | None = None
    skew_at_s: float = 0.0
    ready_times: int = 0
    away_s: float | None = None  # monotonic time since when it is not READY; None while it is


def is_kept(order: Order) -> bool:
    """Return whether memory keeps the order: it may still fill, or its executions are not all here."""
    return order.state in OPEN or order.announced > order.filled


@dataclass(slots=True)
class Book:
    """Open orders, positions, balances and everything else a check looks at."""

    settings: Settings
    orders: dict[str, Order] = field(default_factory=dict)
    positions: dict[tuple[int, str, str, str], Position] = field(default_factory=dict)
    balances: dict[str, dict[str, Balance]] = field(default_factory=dict)
    instruments: dict[tuple[str, str], Instrument] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    marks: dict[tuple[str, str], Mark] = field(default_factory=dict)
    venues: dict[str, VenueStatus] = field(default_factory=dict)
    realized: dict[int, Decimal] = field(default_factory=dict)
    realized_day: int = 0
    is_killed: bool = False
    is_journal_up: bool = True
    ready: dict[str, Waiting] = field(default_factory=dict)  # signals that wait, by venue
    #: signals that were looked at and have to wait for something (a halt, the end of an order): how many, and when
    held: dict[Place, tuple[int, float]] = field(default_factory=dict)
    halted: set[str] = field(default_factory=set)
    exiting: set[tuple[Place, str]] = field(default_factory=set)  # instances on their way out: nothing is armed there
    gate: Gate = field(default_factory=Gate)
    _deciding: dict[Place, asyncio.Lock] = field(default_factory=dict)
    _ended: OrderedDict[str, Order] = field(default_factory=OrderedDict)
    _sent: dict[int, deque[float]] = field(default_factory=dict)
    _waiting: dict[str, list[asyncio.Future[None]]] = field(default_factory=dict)

    def deciding(self, place: Place) -> Gated:
        """Return what decisions about a place are made under: one at a time, and none once the gate is closed."""
        return Gated(self._deciding.setdefault(place, asyncio.Lock()), self.gate)

    # ── orders ───────────────────────────────────────────────────────────────────────────────────
    def put(self, order: Order) -> None:
        """Keep the order's newest state, or let it go when it is over; wake who waits for it."""
        if is_kept(order):
            self.orders[order.client_order_id] = order
        else:
            self.orders.pop(order.client_order_id, None)
            self._ended[order.client_order_id] = order
            while len(self._ended) > _ENDED_MAX:
                self._ended.popitem(last=False)
        for waiter in self._waiting.pop(order.client_order_id, []):
            if not waiter.done():
                waiter.set_result(None)

    def recall(self, client_order_id: str) -> Order | None:
        """Return an order that is kept, or that ended lately: the venue's stream speaks of it once more."""
        return self.orders.get(client_order_id) or self._ended.get(client_order_id)

    def forget(self, client_order_id: str) -> None:
        """Drop a reservation whose order never came to be."""
        self.orders.pop(client_order_id, None)

    async def wait_until(self, client_order_ids: Iterable[str], is_done: Callable[[Order], bool], timeout_s: float) -> bool:
        """Wait until every one of these orders has left memory or `is_done`; False when `timeout_s` passed first."""
        try:
            async with asyncio.timeout(timeout_s):
                for client_order_id in client_order_ids:
                    while (order := self.orders.get(client_order_id)) is not None and not is_done(order):
                        await self._change_of(client_order_id)
        except TimeoutError:
            return False
        return True

    async def _change_of(self, client_order_id: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(client_order_id, [])
        waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    def open_at(self, place: Place) -> list[Order]:
        """Return the orders memory keeps of one account, venue and symbol."""
        return [o for o in self.orders.values() if (o.account_id, o.venue, o.symbol) == place]

    def open_of(self, account_id: int) -> tuple[Order, ...]:
        """Return the orders memory keeps of one account."""
        return tuple(o for o in self.orders.values() if o.account_id == account_id)

    def note_sent(self, account_id: int, monotonic_s: float) -> None:
        """Count one order of the account in its minute."""
        times = self._sent.setdefault(account_id, deque(maxlen=100_000))
        times.append(monotonic_s)

    def sent_last_minute(self, account_id: int, monotonic_s: float) -> int:
        """Return how many orders of the account went out within a minute."""
        times = self._sent.get(account_id)
        while times and times[0] < monotonic_s - _MINUTE_S:
            times.popleft()
        return len(times or ())

    # ── positions and money ──────────────────────────────────────────────────────────────────────
    def position(self, account_id: int, venue: str, symbol: str, instance: str) -> Position:
        """Return the instance's position, flat when it never had one."""
        key = (account_id, venue, symbol, instance)
        return self.positions.get(key) or Position(account_id, venue, symbol, instance, _ZERO, _ZERO, _ZERO, _ZERO)

    def put_position(self, position: Position) -> None:
        """Keep a position's newest state."""
        self.positions[position.account_id, position.venue, position.symbol, position.instance] = position

    def buckets(self, place: Place) -> dict[str, Decimal]:
        """Return the quantities of one place by instance."""
        return {key[3]: p.quantity for key, p in self.positions.items() if key[:3] == place}

    def move_balances(self, fill: Fill, instrument: Instrument, was_resting: bool) -> None:
        """Bring the venue's balances up to a fill, until it tells them itself."""
        balances = self.balances.get(fill.venue)
        if balances is None:
            return
        value = fill.quantity * fill.price * instrument.multiplier
        is_buy = fill.side is Side.BUY
        spent, got = (instrument.quote, instrument.base) if is_buy else (instrument.base, instrument.quote)
        out, into = (value, fill.quantity) if is_buy else (fill.quantity, value)
        held = balances.get(spent, Balance(spent, _ZERO, _ZERO))
        from_locked = min(held.locked, out) if was_resting else _ZERO
        balances[spent] = replace(held, locked=held.locked - from_locked, free=held.free - (out - from_locked))
        gained = balances.get(got, Balance(got, _ZERO, _ZERO))
        balances[got] = replace(gained, free=gained.free + into)
        paid = balances.get(fill.fee_currency)
        if paid is not None:
            balances[fill.fee_currency] = replace(paid, free=paid.free - fill.fee)

    # ── views ────────────────────────────────────────────────────────────────────────────────────
    def mark(self, exchange: str, symbol: str) -> Decimal | None:
        """Return the last price known, or None."""
        known = self.marks.get((exchange, symbol))
        return None if known is None else known.price

    def venue_view(self, name: str, monotonic_s: float) -> VenueView:
        """Return what checks may know of a venue."""
        status = self.venues[name]
        return VenueView(
            state=status.state, is_connected=status.is_connected, skew_ms=status.skew_ms,
            skew_age_s=monotonic_s - status.skew_at_s, capabilities=status.capabilities,
        )  # fmt: skip

    def view(self, intent: Intent, *, now_ns: int, monotonic_s: float, is_leader: bool) -> View:
        """Return the snapshot that `intent` is checked against."""
        exchange, symbol, account_id = intent.exchange, intent.symbol, intent.account_id
        place = (account_id, intent.venue, symbol)
        buckets = self.buckets(place)
        held = sum(buckets.values(), _ZERO)
        mark = self.marks.get((exchange, symbol))
        age_s = None if mark is None or mark.message_ns is None else (now_ns - mark.message_ns) / 1e9
        return View(
            now_ns=now_ns, limits=self.settings.risk, account=self._account(account_id, intent.venue),
            instrument=self.instruments.get((exchange, symbol)), venue=self.venue_view(intent.venue, monotonic_s),
            skew_limit_ms=self.settings.venue.skew_limit_ms, is_leader=is_leader, is_journal_up=self.is_journal_up,
            is_killed=self.is_killed, mark=None if mark is None else mark.price, feed_age_s=age_s,
            position=held - buckets.get(EXTERNAL, _ZERO), held=held, exposures=self._exposures(account_id, exchange),
            open_orders=self.open_of(account_id),
            marks={name: m.price for (on, name), m in self.marks.items() if on == exchange and m.price is not None},
            instruments={name: i for (on, name), i in self.instruments.items() if on == exchange},
            balances=self.balances.get(intent.venue, {}),
            orders_last_minute=self.sent_last_minute(account_id, monotonic_s),
            realized_today=self.realized.get(account_id, _ZERO), instance_state=self._instance_state(intent),
        )  # fmt: skip

    def _account(self, account_id: int, venue: str) -> Account | None:
        """Return the account when the venue's session is its own: through another's, money of others would move."""
        return self.accounts.get(account_id) if self.venues[venue].account_id == account_id else None

    def _exposures(self, account_id: int, exchange: str) -> dict[str, Decimal]:
        totals: dict[str, Decimal] = {}
        for (owner, _, symbol, instance), position in self.positions.items():
            if owner == account_id and instance != EXTERNAL:
                totals[symbol] = totals.get(symbol, _ZERO) + position.quantity
        return {symbol: abs(total) * (self.mark(exchange, symbol) or _ZERO) for symbol, total in totals.items() if total}

    def _instance_state(self, intent: Intent) -> str:
        if intent.role in (Role.ORDER, Role.KILL) or not intent.instance:
            return ""
        known = self.instances.get(intent.instance)
        if intent.instance in self.halted or (known is not None and known.state == "CRASHED"):
            return "CRASHED"
        return "" if known is not None and known.is_enabled else "DISABLED"

    # ── counts ───────────────────────────────────────────────────────────────────────────────────
    def counts(self) -> dict[str, int]:
        """Return how many orders memory keeps, by state."""
        found = {state.value: 0 for state in OPEN}
        for order in self.orders.values():
            found[order.state.value] = found.get(order.state.value, 0) + 1
        return found

    def unknown(self) -> int:
        """Return how many orders have no known outcome."""
        return sum(order.state is State.UNKNOWN for order in self.orders.values())
