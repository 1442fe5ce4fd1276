"""The order manager's memory: soft state that is rebuilt from the journal, and the views that checks are given.

Everything here is synchronous: a decision made from a view and the reservation that follows it happen without an await
between them, so two signals cannot spend the same money.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.config.check import venue_plaintext
from fks.config.settings import Settings
from fks.model.account import Account, Balance, PortfolioLimit, Position
from fks.model.cash_flows import PositionSplit
from fks.model.codes import Denial
from fks.model.copies import copied_instance
from fks.model.instrument import Instrument
from fks.model.kill import Kills
from fks.model.margin import Margin
from fks.model.order import OPEN, Fill, Order, Role, Side, State
from fks.model.ports import VenueCapabilities
from fks.model.signal import Signal
from fks.model.timeframe import NS
from fks.model.venue import VenueRule, is_enabled
from fks.store.facts import InstanceFacts, Mark
from fks.store.signals import WaitingSignals
from fks.trading.matching import CostModel
from fks.trading.order_manager.account_values import AccountValues
from fks.trading.order_manager.balance_reads import BalanceQuery, BalanceRead, BookedFill
from fks.trading.order_manager.prop_rules import PropGate
from fks.trading.orders.messages import PositionKey
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.intent import Intent
from fks.trading.risk.policy import Reach
from fks.trading.risk.view import RiskView, VenueView, is_list_over, reach_of

_ZERO = Decimal(0)
_MINUTE_S = 60.0
_ENDED_MAX = 2000


@dataclass(slots=True)
class VenueStatus:
    """The state of a venue. `state` is COLD, SYNCING, READY or STALE (C3); DOWN: its session does not open, and is
    tried again; or REFUSED: another account's session."""

    name: str
    account_id: int
    capabilities: VenueCapabilities
    state: str = "COLD"
    detail: str = ""
    has_positions: bool = False  # read at least once: exits may go
    is_connected: bool = False
    skew_ms: float | None = None
    skew_at_s: float = 0.0
    ready_times: int = 0
    compares_begun: int = 0  # comparisons of the journal with the venue, and the last one that ended without an error
    compares_done: int = 0
    refusal: str = ""  # why the session is not the account's own: nothing is sent through it
    margin_of: Callable[[str], Margin | None] = lambda symbol: None  # that of its account, by symbol
    wait_s: Callable[[], float] = lambda: 0.0  # how long an entry would wait for the venue's rate limit
    key_fault: Callable[[], str] = lambda: ""  # why its API key may send no entry
    drifting: dict[str, int] = field(default_factory=dict)  # assets whose holding is unexplained -> incident
    away_s: float | None = None  # monotonic time since when it is not READY; None while it is
    lost: dict[str, int] = field(default_factory=dict)  # symbols with an order of ours without a row -> incident, or 0

    @property
    def reach(self) -> Reach:
        """Return how well the venue is known."""
        return reach_of(self.state, self.is_connected)


def is_kept(order: Order) -> bool:
    """Return whether memory keeps the order: it may still fill, or its executions are not all here."""
    return order.state in OPEN or order.reported_cum_qty > order.filled


def _key_of(order: Order) -> PositionKey:
    return (order.account_id, order.venue, order.symbol)


@dataclass(slots=True)
class OrderCache:
    """Open orders, positions, balances and everything else a check looks at."""

    settings: Settings
    values: AccountValues = field(default_factory=AccountValues)
    orders: dict[str, Order] = field(default_factory=dict)
    positions: dict[tuple[int, str, str, str], Position] = field(default_factory=dict)
    balances: dict[str, dict[str, Balance]] = field(default_factory=dict)
    #: (venue, currency) -> what executions moved and what fees took since this process began
    flows: dict[tuple[str, str], tuple[Decimal, Decimal]] = field(default_factory=dict)
    instruments: dict[tuple[str, str], Instrument] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    instances: dict[str, InstanceFacts] = field(default_factory=dict)
    marks: dict[tuple[str, str], Mark] = field(default_factory=dict)
    venues: dict[str, VenueStatus] = field(default_factory=dict)
    kills: Kills = field(default_factory=Kills)
    is_guardian_alive: bool = False
    prop: dict[str, PropGate] = field(default_factory=dict)  # rules of prop firms, by venue of the account
    escalated: tuple[str, str] | None = None  # a child that money depends on, and why
    disk_free_mb: float | None = None  # under FKS_HOME
    portfolio_limits: Mapping[int | str, tuple[PortfolioLimit, ...]] = field(default_factory=dict)  # by member
    venue_rules: Mapping[str, VenueRule] = field(default_factory=dict)  # persons' decisions, by venue
    unproven: Mapping[str, str] = field(default_factory=dict)  # plug-ins in stage sim with real money, by venue
    is_journal_up: bool = True
    ready: dict[str, WaitingSignals] = field(default_factory=dict)  # signals that wait, by venue
    #: signals that were looked at and have to wait for something (a halt, the end of an order): how many, and when
    held: dict[PositionKey, tuple[int, float]] = field(default_factory=dict)
    #: instances that were halted, and when (monotonic): their rows say so to every read that begins later
    halted: dict[str, float] = field(default_factory=dict)
    #: the next split of shares that is not applied yet, by key
    splits: dict[PositionKey, PositionSplit] = field(default_factory=dict)
    #: lists (`Order.group_id`) with a leg that is open here although another one has executed all
    lists_over: frozenset[str] = frozenset()
    _ended: OrderedDict[str, Order] = field(default_factory=OrderedDict)
    _reads: dict[str, BalanceRead] = field(default_factory=dict)  # the newest of each venue
    _compared: dict[str, BalanceRead] = field(default_factory=dict)  # known when its executions were compared last
    _asked: int = 0  # questions for balances, and executions booked, since this process began
    _booked: int = 0
    _sent: dict[int, deque[float]] = field(default_factory=dict)
    _open_at: dict[PositionKey, dict[str, Order]] = field(default_factory=dict)
    _quantities: dict[PositionKey, dict[str, Decimal]] = field(default_factory=dict)
    _held: dict[int, dict[str, Decimal]] = field(default_factory=dict)
    _by_symbol: tuple[object, dict[str, dict[str, Instrument]]] = (None, {})
    _by_base: tuple[object, dict[str, set[str]]] = (None, {})

    @property
    def is_killed(self) -> bool:
        """Return whether a kill of any scope is engaged, by the rows and the file that were read last."""
        return bool(self.kills)

    def kills_over(self, venue: str, account_id: int, instance: str) -> Kills:
        """Return the kills that concern an instance's orders at a venue."""
        return self.kills.over(venue, account_id, *self.names_of(instance)) if self.kills else self.kills

    def names_of(self, *instances: str) -> set[str]:
        """Return the names by which a kill of a strategy concerns one of some instances, or the copies that it
        holds."""
        leaders = {copied_instance(instance) or instance for instance in instances}
        return {*instances, *leaders, *(self.instances[name].strategy for name in leaders & self.instances.keys())}

    # ── orders ───────────────────────────────────────────────────────────────────────────────────
    def put(self, order: Order) -> None:
        """Keep the order's newest state, or let it go when it is over."""
        self._note_unsent(order)
        if is_kept(order):
            self.orders[order.client_order_id] = order
            self._open_at.setdefault(_key_of(order), {})[order.client_order_id] = order
        else:
            self.forget(order.client_order_id)
            self._ended[order.client_order_id] = order
            while len(self._ended) > _ENDED_MAX:
                self._ended.popitem(last=False)
        if order.group_id is not None and order.parent_id is not None:
            self._note_list(order, order.group_id)

    def _note_list(self, leg: Order, group_id: str) -> None:
        """Keep `lists_over`: a leg's list is in it from the time when all that the leg executed is booked to the time
        when the end of the other leg is known, or further executions are."""
        is_executed = leg.state is State.FILLED and not is_kept(leg)
        here = self.open_at(_key_of(leg)) if is_executed else ()
        if any(other.group_id == group_id and other.parent_id is not None for other in here):
            self.lists_over |= {group_id}
        elif not is_kept(leg) or leg.reported_cum_qty > leg.filled:
            self.lists_over -= {group_id}

    def _note_unsent(self, order: Order) -> None:
        """Remember of an order that is new here that no read of balances up to now holds executions of it; of one that
        may have been sent before (an adopted one), that this is not known."""
        unsent, name = self._read(order.venue).unsent, order.client_order_id
        if order.state in (State.INTENDED, State.SENDING) and self.recall(name) is None:
            unsent.add(name)
        elif order.state is State.UNKNOWN:
            unsent.discard(name)

    def recall(self, client_order_id: str) -> Order | None:
        """Return an order that is kept, or that ended lately: the venue's stream speaks of it once more."""
        return self.orders.get(client_order_id) or self._ended.get(client_order_id)

    def forget(self, client_order_id: str) -> None:
        """Drop a reservation whose order never came to be."""
        order = self.orders.pop(client_order_id, None)
        if order is not None:
            at = self._open_at.get(_key_of(order), {})
            at.pop(client_order_id, None)
            if not at:
                self._open_at.pop(_key_of(order), None)

    def open_at(self, key: PositionKey) -> list[Order]:
        """Return the orders memory keeps of one account, venue and symbol."""
        return list(self._open_at.get(key, {}).values())

    def open_of(self, account_id: int) -> tuple[Order, ...]:
        """Return the orders memory keeps of one account, without legs whose list has executed."""
        mine = (order for order in self.orders.values() if order.account_id == account_id)
        return tuple(order for order in mine if not is_list_over(order, self.lists_over))

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
        key = (position.account_id, position.venue, position.symbol)
        before = self.positions.get((*key, position.instance))
        self.positions[*key, position.instance] = position
        self._quantities.setdefault(key, {})[position.instance] = position.quantity
        if position.instance != EXTERNAL:
            held = self._held.setdefault(position.account_id, {})
            total = held.pop(position.symbol, _ZERO) + position.quantity - (before.quantity if before else _ZERO)
            if total:
                held[position.symbol] = total

    def held_by(self, account_id: int) -> Mapping[str, Decimal]:
        """Return what an account holds by symbol (base, signed), without external holdings."""
        return self._held.get(account_id, {})

    def buckets(self, key: PositionKey) -> dict[str, Decimal]:
        """Return the quantities of one position key by instance."""
        return dict(self._quantities.get(key, {}))

    def split_ns(self, key: PositionKey, now_ns: int) -> int | None:
        """Return since when a key's shares are split while its positions are in the old ones; None = they are not."""
        split = self.splits.get(key)
        return None if split is None or split.effective_ns > now_ns else split.effective_ns

    def averages(self, key: PositionKey) -> dict[str, Decimal]:
        """Return the average prices of the instances' positions at one position key."""
        held = ((name, self.positions.get((*key, name))) for name in self._quantities.get(key, ()))
        return {name: position.average_price for name, position in held if position is not None and position.quantity}

    def instruments_of(self, symbol: str) -> dict[str, Instrument]:
        """Return the instruments of a symbol by exchange."""
        if self._by_symbol[0] is not self.instruments:
            found: dict[str, dict[str, Instrument]] = {}
            for (exchange, name), instrument in self.instruments.items():
                found.setdefault(name, {})[exchange] = instrument
            self._by_symbol = (self.instruments, found)
        return self._by_symbol[1].get(symbol, {})

    def owned_elsewhere(self, key: PositionKey, base: str) -> Decimal:
        """Return what positions of the account at the venue in other symbols own of `base`."""
        if self._by_base[0] is not self.instruments:
            symbols: dict[str, set[str]] = {}
            for (_, symbol), instrument in self.instruments.items():
                symbols.setdefault(instrument.base, set()).add(symbol)
            self._by_base = (self.instruments, symbols)
        others = (self._quantities.get((*key[:2], s), {}) for s in self._by_base[1].get(base, set()) - {key[2]})
        return sum((max(quantity, _ZERO) for held in others for quantity in held.values()), _ZERO)

    def note_flow(self, fill: Fill, instrument: Instrument) -> None:
        """Count what an execution moved of each currency at its venue, since this process began, and explains there."""
        sign, value = fill.side.sign, fill.quantity * fill.price * instrument.multiplier
        # contracts on margin are not paid for: money moves with their profit, as the venue reports it
        paid = _ZERO if self._is_margin(fill.venue) else -sign * value
        moves = ((instrument.base, sign * fill.quantity, _ZERO), (instrument.quote, paid, _ZERO))
        for currency, amount, fee in (*moves, (fill.fee_currency, _ZERO, fill.fee)):
            executed, fees = self.flows.get((fill.venue, currency), (_ZERO, _ZERO))
            self.flows[fill.venue, currency] = executed + amount, fees + fee
        if not self._is_margin(fill.venue):
            self._read(fill.venue).explain(BookedFill(self._booked, fill, instrument, was_resting=False))

    def begin_comparison(self, venue: str) -> None:
        """Remember the balances that are known while the caller reads all executions from the venue."""
        self._compared.pop(venue, None)
        if (read := self._reads.get(venue)) is not None and read.query.number:
            self._compared[venue] = read

    def ask_balances(self, venue: str, asked_ns: int, *, is_settled: bool = False) -> BalanceQuery:
        """Return a question for a venue's balances; the caller sends it now. `is_settled`: it has read and booked all
        executions since `begin_comparison`."""
        self._asked += 1
        unbooked = {
            name: order.reported_cum_qty - order.filled
            for name, order in self.orders.items()
            if order.venue == venue and order.reported_cum_qty > order.filled
        }
        settled = self._compared.get(venue) if is_settled else None
        return BalanceQuery(venue, asked_ns, self._asked, self._booked, unbooked, settled)

    def put_balances(self, query: BalanceQuery, balances: Mapping[str, Balance]) -> bool:
        """Take the answer to a question, with the executions booked since; False, and nothing else, when a later
        question was answered before."""
        before = self._reads.get(query.venue)
        if before is not None and before.query.number > query.number:
            return False
        settled = self._compared.get(query.venue)
        if settled is not None and settled is query.settled:  # else another comparison has begun since the question
            del self._compared[query.venue]
        else:
            settled = None
        read = BalanceRead.of(query, balances, self._unsent_at(query.venue), before, settled)
        self._reads[query.venue] = read
        self.balances[query.venue] = read.balances
        return True

    def see_balances(self, venue: str, balances: Iterable[Balance]) -> None:
        """Take balances that the venue pushed; while they may lack an execution, only the next read is taken."""
        before = self._read(venue)
        read = self._reads[venue] = before.pushed(balances, self._unsent_at(venue))
        if read is not before:
            self.balances[venue] = read.balances

    def move_balances(self, fill: Fill, instrument: Instrument, was_resting: bool) -> None:
        """Bring the venue's balances up to a fill, unless those that were read hold it."""
        self.note_flow(fill, instrument)
        if self._is_margin(fill.venue):
            return
        self._booked += 1
        item, read = BookedFill(self._booked, fill, instrument, was_resting), self._read(fill.venue)
        read.book(item)
        if (compared := self._compared.get(fill.venue, read)) is not read:
            compared.book(item)

    def _read(self, venue: str) -> BalanceRead:
        if (read := self._reads.get(venue)) is None:  # nothing was read yet
            read = self._reads[venue] = BalanceRead(BalanceQuery(venue, 0, 0, 0, {}), {}, set())
        return read

    def _unsent_at(self, venue: str) -> Iterable[str]:
        return (n for n, order in self.orders.items() if order.venue == venue and order.state is State.INTENDED)

    def is_balance_unsure(self, venue: str, currency: str) -> bool:
        """Return whether it is unknown if the balance of a currency holds an execution that is booked."""
        return self._read(venue).is_unsure(currency)

    def least_balances(self, venue: str) -> Mapping[str, Balance]:
        """Return a venue's balances for entries: of each currency the amount that is there in any case, less the cost
        of ended orders' executions that are neither booked nor surely in the balances. The cost of open orders is
        reserved elsewhere."""
        if venue not in self.balances:
            return {}
        read = self._read(venue)
        least = read.least()
        for order in self.orders.values():
            if order.is_open or order.venue != venue or order.side is not Side.BUY:
                continue
            left = order.reported_cum_qty - order.filled - read.unbooked(order.client_order_id)
            if left <= 0:
                continue
            instrument = self.instruments.get((order.exchange, order.symbol))
            price = order.price or self.mark(order.exchange, order.symbol)
            if instrument is not None and price is not None and instrument.quote in least:
                held = least[instrument.quote]
                least[instrument.quote] = replace(held, free=held.free - left * price * instrument.multiplier)
        return least

    def most_balance(self, venue: str, currency: str) -> Balance | None:
        """Return the balance of a currency for exits: the most that may be there; None when it is not known."""
        return self._read(venue).most(currency) if venue in self.balances else None

    def owned(self, account_id: int) -> list[Position]:
        """Return an account's positions with the coins of executions that are not booked: those of buys that the venue
        has reported, and unexplained coins at the venue as far as buys there may have brought them."""
        found = {key: held for key, held in self.positions.items() if key[0] == account_id and held.quantity}
        buys = [o for o in self.orders.values() if o.side is Side.BUY and o.account_id == account_id]
        surplus = {(venue, name): more for venue, read in self._reads.items() for name, more in read.surplus().items()}

        def add(order: Order, coins: Decimal, new: Decimal) -> None:
            """Add coins to an order's position, `new` of them from the surplus."""
            at = self._base_of(order)
            surplus[at] = max(surplus.get(at, _ZERO) - new, _ZERO)
            key = (account_id, order.venue, order.symbol, order.instance)
            held = found.get(key) or self.position(*key)
            found[key] = replace(held, quantity=held.quantity + coins)

        for order in buys:
            if order.reported_cum_qty > order.filled:
                coins = order.reported_cum_qty - order.filled
                add(order, coins, coins - self._read(order.venue).explained_unbooked(order.client_order_id))
        for order in buys if any(surplus.values()) else ():
            if not (left := surplus.get(self._base_of(order), _ZERO)):
                continue
            coins = min(left, order.quantity - order.reported_cum_qty, order.remaining)
            if coins > 0 and order.client_order_id not in self._read(order.venue).unsent:
                add(order, coins, coins)
        return list(found.values())

    def _base_of(self, order: Order) -> tuple[str, str]:
        instrument = self.instruments.get((order.exchange, order.symbol))
        return order.venue, "" if instrument is None else instrument.base

    def _is_margin(self, venue: str) -> bool:
        status = self.venues.get(venue)
        return status is not None and status.capabilities.is_margin

    # ── views ────────────────────────────────────────────────────────────────────────────────────
    def mark(self, exchange: str, symbol: str, now_ns: int = 0, age_max_s: float | None = None) -> Decimal | None:
        """Return the last price known, or None: with `age_max_s` only one that is not older at `now_ns`."""
        known = self.marks.get((exchange, symbol))
        if known is None or (
            age_max_s is not None and (known.message_ns is None or now_ns - known.message_ns > age_max_s * NS)
        ):
            return None
        return known.price

    def venue_view(self, name: str, monotonic_s: float) -> VenueView:
        """Return what checks may know of a venue."""
        status = self.venues[name]
        return VenueView(
            state=status.state,
            is_connected=status.is_connected,
            skew_ms=status.skew_ms,
            skew_age_s=monotonic_s - status.skew_at_s,
            capabilities=status.capabilities,
            wait_s=status.wait_s(),
            is_plaintext=name in self.settings.venues_at_exchanges() and bool(venue_plaintext(self.settings.at(name))),
            key_fault=status.key_fault(),
            is_enabled=is_enabled(name, self.venue_rules, self.settings.enabled_venues),
            unproven=self.unproven.get(name, ""),
        )

    def exchange_of(self, venue: str, symbol: str) -> str:
        """Return the exchange of a venue's symbol, "" where none of the instruments has it."""
        exchange = self.settings.venues_at_exchanges().get(venue, "")
        if (exchange, symbol) in self.instruments:
            return exchange
        return next((on for on, name in self.instruments if name == symbol), "")

    def view(self, intent: Intent, *, now_ns: int, monotonic_s: float, is_leader: bool) -> RiskView:
        """Return the snapshot that `intent` is checked against."""
        exchange, symbol, account_id = intent.exchange, intent.symbol, intent.account_id
        key = (account_id, intent.venue, symbol)
        buckets = self.buckets(key)
        held = sum(buckets.values(), _ZERO)
        mark = self.marks.get((exchange, symbol))
        age_s = None if mark is None or mark.message_ns is None else (now_ns - mark.message_ns) / 1e9
        name = intent.client_order_id  # its own order, when that rests already
        open_orders = tuple(order for order in self.open_of(account_id) if order.client_order_id != name)
        instrument, costs = self.instruments.get((exchange, symbol)), self.settings.costs
        is_in_base = self.venues[intent.venue].capabilities.fee_in_received_asset
        is_in_base &= instrument is not None and not instrument.is_contract
        kills = self.kills_over(intent.venue, account_id, intent.instance)
        return RiskView(
            now_ns=now_ns,
            limits=self.settings.risk,
            account=self._account(account_id, intent.venue),
            account_refusal=self.venues[intent.venue].refusal,
            incidents=self.venues[intent.venue].drifting | self.venues[intent.venue].lost,
            instrument=instrument,
            costs=replace(CostModel.of(costs, instrument), fee_in="received" if is_in_base else "quote"),
            fee_in_base=max(costs.fee_rate, costs.fee_rate_maker or _ZERO) if is_in_base else _ZERO,
            venue=self.venue_view(intent.venue, monotonic_s),
            skew_limit_ms=self.settings.venue.skew_limit_ms,
            is_leader=is_leader,
            is_journal_up=self.is_journal_up,
            kill=kills.mode,
            kill_scope=str(kills[0].scope) if kills else "system",
            is_guardian_alive=self.is_guardian_alive,
            escalated=self.escalated,
            disk_free_mb=self.disk_free_mb,
            disk_free_min_mb=self.settings.monitor.disk_free_min_mb,
            mark=None if mark is None else mark.price,
            feed_age_s=age_s,
            position=held - buckets.get(EXTERNAL, _ZERO),
            held=held,
            open_orders=open_orders,
            prop=self._prop_denial(intent, open_orders, now_ns),
            portfolio_limits=(
                self.portfolio_limits.get(account_id, ()) + self.portfolio_limits.get(intent.instance, ())
            ),
            own=buckets.get(intent.instance, _ZERO),
            balances=self.least_balances(intent.venue),
            orders_last_minute=self.sent_last_minute(account_id, monotonic_s),
            margin=self.venues[intent.venue].margin_of(symbol),
            margin_free=self._margin_free(intent, open_orders),
            instance_state="" if intent.role in (Role.ORDER, Role.KILL) else self.instance_state(intent.instance),
            **self.values.of(self, intent, now_ns),
        )

    def _margin_free(self, intent: Intent, open_orders: tuple[Order, ...]) -> Decimal:
        """Return the equity in the quote of an entry at last prices, less the margin of all positions there and of the
        orders that may add to them; 0 at a venue without a margin."""
        status, item = self.venues[intent.venue], self.instruments.get((intent.exchange, intent.symbol))
        cash = None if item is None else self.balances.get(intent.venue, {}).get(item.quote)
        if item is None or cash is None or status.margin_of(item.symbol) is None:
            return _ZERO
        free, account_id = cash.total, intent.account_id
        for (owner, venue, symbol), quantities in self._quantities.items():
            if (owner, venue) != (account_id, status.name) or not (held := sum(quantities.values(), _ZERO)):
                continue
            for exchange, known in self.instruments_of(symbol).items():
                margin, price = status.margin_of(symbol), self.mark(exchange, symbol)
                if known.quote == item.quote and margin is not None and price is not None:  # else PRICE_MISSING
                    free += held * price * known.multiplier - margin.needed(abs(held), price, known)
                    break
        for order in open_orders:
            listed, margin = self.instruments.get((order.exchange, order.symbol)), status.margin_of(order.symbol)
            is_opening = order.role in (Role.ENTRY, Role.ORDER) and not order.is_reduce_only
            if is_opening and listed is not None and margin is not None and listed.quote == item.quote:
                price = order.price or order.stop_price or self.mark(order.exchange, order.symbol) or _ZERO
                free -= margin.needed(order.remaining, price, listed)
        return free

    def _prop_denial(self, intent: Intent, open_orders: tuple[Order, ...], now_ns: int) -> Denial | None:
        gate = self.prop.get(intent.venue)
        if gate is None or intent.role not in (Role.ENTRY, Role.ORDER):
            return None
        positions: dict[str, Decimal] = {}
        for (account_id, venue, symbol, _), position in self.positions.items():
            if (account_id, venue) == (intent.account_id, intent.venue):
                positions[symbol] = positions.get(symbol, _ZERO) + position.quantity
        return gate.denial(intent, open_orders, positions, now_ns)

    def equity(self, signal: Signal, now_ns: int) -> Decimal | None:
        """Return what the account of an entry is worth in the quote of its instrument: all balances at last prices, the
        base at the signal's reference price; where contracts are no assets, the money and their open profit. A currency
        without a price counts as nothing; None when the balances are not known or the instrument is not."""
        instrument = self.instruments.get((signal.exchange, signal.symbol))
        balances = self.balances.get(signal.venue)
        if instrument is None or not balances or self._account(signal.account_id, signal.venue) is None:
            return None
        rates = self.values.rates(self, signal.exchange, now_ns)
        total = _ZERO
        if self._is_margin(signal.venue):
            balances = {instrument.quote: balances[instrument.quote]} if instrument.quote in balances else {}
            total = self._open_profit(signal, instrument.quote)
        for currency, balance in balances.items():
            rate = None
            if currency == instrument.base and signal.reference_price is not None:
                rate = signal.reference_price * instrument.multiplier
            rate = rates.rate(currency, instrument.quote) if rate is None else rate
            total += balance.total * (rate or _ZERO)
        return total

    def _open_profit(self, signal: Signal, quote: str) -> Decimal:
        """Return the open profit of an account's contracts in a quote currency: at the signal's reference price in its
        symbol, else at last prices."""
        total = _ZERO
        for (account_id, venue, symbol, _), position in self.positions.items():
            item = self.instruments.get((signal.exchange, symbol))
            if (account_id, venue) != (signal.account_id, signal.venue) or item is None or item.quote != quote:
                continue
            price = signal.reference_price if symbol == signal.symbol else None
            price = self.mark(signal.exchange, symbol) if price is None else price
            if price is not None:
                total += position.quantity * (price - position.average_price) * item.multiplier
        return total

    def _account(self, account_id: int, venue: str) -> Account | None:
        """Return the account when the venue's session is its own: through another's, money of others would move."""
        return self.accounts.get(account_id) if self.venues[venue].account_id == account_id else None

    def instance_state(self, instance: str) -> str:
        """Return why an instance may not enter: CRASHED, DISABLED; "" when it may, and for a person's orders."""
        if not instance:
            return ""
        instance = copied_instance(instance) or instance  # a copy trades as long as what it repeats does
        known = self.instances.get(instance)
        if instance in self.halted or (known is not None and known.state == "CRASHED"):
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
