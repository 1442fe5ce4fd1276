"""Our positions as the guardian knows them: read from the database each second, kept in a file for when it is away.

While it is away the order manager's side journal has the orders that are sent without it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from fks.model.account import Environment, VenueIdentity
from fks.model.copies import copied_instance
from fks.model.ids import flatten_id, is_ours
from fks.model.instrument import Instrument, Lot
from fks.model.kill import KillScope, ScopeKind
from fks.model.order import OPEN, TERMINAL, Fill, Order, State
from fks.model.ports import Log
from fks.model.timeframe import NS
from fks.system.process.journal_file import read_lines
from fks.trading.orders import events as e
from fks.trading.orders.machine import advance
from fks.trading.orders.side_lines import PlacedOrders, parse_line
from fks.trading.risk.policy import Action, action_of

#: executions of this window are compared with the venue's history: a fill lost on the stream is booked by the sweep
#: (60 s) at the latest, so what is older than twice that and not booked is not ours to find
WINDOW_S = 150.0
LOOKBACK_S = 120.0
_UNMERGED_S = 60  # an order of ours is listed for longer than that, once the database has it
DAY_NS = 86_400 * NS
_NO_MAXIMUM = Decimal(10) ** 18

_OPEN = frozenset(state.value for state in OPEN)
_ENDED = frozenset(state.value for state in TERMINAL)
_KEPT = (
    "positions",
    "instruments",
    "orders",
    "booked",
    "booked_from_ns",
    "identities",
    "protected",
    "accounts",
    "instances",
)
_CLOCKS_NS = 5 * NS  # the venue's clock and ours differ by less


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """The owner of a position: a strategy instance ("" = persons) in an account at a venue, in one symbol."""

    venue: str
    account_id: int
    symbol: str
    instance: str

    @staticmethod
    def of(order: Order) -> Holder:
        """Return whose position an order changes."""
        return Holder(order.venue, order.account_id, order.symbol, order.instance)

    def kill_intent(self, kill_id: str) -> uuid.UUID:
        """Return the intent of the orders with which a kill closes or protects it."""
        return flatten_id(kill_id, **asdict(self))


@dataclass(frozen=True, slots=True)
class VenueRules:
    """The venue's rules for an order in one symbol."""

    exchange: str
    base: str
    quote: str
    lot_step: Decimal
    qty_min: Decimal
    notional_min: Decimal
    qty_max: Decimal | None = None  # None in a file of an earlier version
    market_lot: Lot | None = None  # for market orders, beside the lot of all orders

    @staticmethod
    def of(row: Sequence[Any]) -> VenueRules:
        """Return the rules of a row of `kill.snapshot`; a file of an earlier version lacks the last members."""
        exchange, _, base, quote, step, least, notional, *more = row
        most = Decimal(more[0]) if more else None
        market = Lot(*(Decimal(value) for value in more[1])) if len(more) > 1 and more[1] else None
        return VenueRules(exchange, base, quote, Decimal(step), Decimal(least), Decimal(notional), most, market)

    def instrument(self, symbol: str) -> Instrument:
        """Return the rules as those of an instrument, for decisions about quantities: its tick is not known."""
        most = self.qty_max or _NO_MAXIMUM
        sizes = self.lot_step, self.qty_min, most, self.notional_min
        names = self.exchange, symbol, self.base, self.quote
        return Instrument(*names, Decimal(0), *sizes, market_lot=self.market_lot)


@dataclass(frozen=True, slots=True)
class Known:
    """An order of ours the database knew of: whose it is, what for, and how much of it was booked.

    `created_ns` is before its bytes left, `changed_ns` after; both are 0 in a file of an earlier version.
    """

    holder: Holder
    exchange: str
    filled: Decimal
    role: str = ""  # "" in a file of an earlier version
    state: str = ""
    created_ns: int = 0
    changed_ns: int = 0
    is_acknowledged: bool = False
    is_reduce_only: bool = False
    is_incomplete: bool = False  # executions that the venue reported are not booked yet
    is_listed: bool = False  # while it may execute: `Snapshot.booked` has all its booked executions of the last day
    parent_id: str = ""  # of a leg

    @staticmethod
    def of(order: Order) -> Known:
        """Return an order that the database does not have: nothing of it is booked."""
        return Known(
            Holder.of(order),
            order.exchange,
            Decimal(0),
            order.role.value,
            order.state.value,
            created_ns=order.created_ns,
            changed_ns=max(order.created_ns, order.sent_ns or 0, order.updated_ns),
            is_acknowledged=order.is_acknowledged,
            is_reduce_only=order.is_reduce_only,
            is_incomplete=True,
            parent_id=order.parent_id or "",
        )

    @property
    def action(self) -> Action:
        """Return its kind, by which a kill cancels it or leaves it alone."""
        return action_of(self.role, is_reduce_only=self.is_reduce_only)

    @property
    def is_unresolved(self) -> bool:
        """Return whether its bytes may have left and no outcome is journaled."""
        return self.state in (State.SENDING.value, State.UNKNOWN.value)

    @property
    def is_ended(self) -> bool:
        """Return whether the journal has its end."""
        return self.state in _ENDED

    @property
    def may_execute(self) -> bool:
        """Return whether executions that the journal lacks may exist: it may still fill, or some are missing."""
        return self.state in _OPEN or self.is_incomplete


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """The database at one moment. `booked`: (venue, symbol, venue trade id) of recent executions it holds, and of those
    of old orders that may still execute; other orders' from before `booked_from_ns` may be booked without being listed,
    so they are taken as booked."""

    as_of_ns: int
    positions: Mapping[Holder, Decimal]
    rules: Mapping[str, VenueRules]  # by symbol, and by exchange:symbol
    orders: Mapping[str, Known]
    booked: frozenset[tuple[str, str, str]]
    booked_from_ns: int = 0
    identities: Mapping[int, VenueIdentity] = field(default_factory=dict)  # account id -> whose it is at its venue
    protected: Sequence[Mapping[str, Any]] = ()  # rows of the entries that may need a stop, and of their legs
    accounts: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # account id -> its name and venue
    instances: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # instance -> its strategy and venue
    exchanges: Mapping[str, str] = field(default_factory=dict)  # venue -> the exchange that it is at

    @staticmethod
    def of(row: Mapping[str, Any], exchanges: Mapping[str, str] | None = None) -> DatabaseSnapshot:
        """Return a snapshot from a row of `kill.snapshot`, or from the file. `exchanges`: those of the venues."""
        return DatabaseSnapshot(
            as_of_ns=int(row["as_of_ns"]),
            positions={Holder(v, int(a), s, i): Decimal(q) for v, a, s, i, q in row["positions"]},
            rules={
                key: VenueRules.of(rules)
                for rules in row["instruments"]
                for key in (str(rules[1]), f"{rules[0]}:{rules[1]}")
            },
            orders={
                c: Known(Holder(v, int(a), s, i), x, Decimal(f), *more) for c, v, a, x, s, i, f, *more in row["orders"]
            },
            booked=frozenset((v, s, t) for v, s, t in row["booked"]),
            booked_from_ns=int(row.get("booked_from_ns", 0)),
            identities={int(a): VenueIdentity(Environment(e), u, n) for a, e, u, n in row.get("identities", ())},
            protected=row.get("protected", ()),
            accounts={int(a): (name, venue) for a, name, venue in row.get("accounts", ())},
            instances={i: (strategy, venue) for i, strategy, venue in row.get("instances", ())},
            exchanges=exchanges or {},
        )

    def rules_at(self, venue: str, symbol: str) -> VenueRules | None:
        """Return the rules for a symbol at a venue: those of its exchange, else of the last one that lists it."""
        return self.rules.get(f"{self.exchanges.get(venue)}:{symbol}") or self.rules.get(symbol)

    def is_in(self, scope: KillScope, holder: Holder) -> bool:
        """Return whether a position, or an order, lies in the scope of a kill."""
        leader = copied_instance(holder.instance) or holder.instance
        strategy, _ = self.instances.get(leader, ("", ""))
        return scope.contains(holder.venue, holder.account_id, holder.instance, leader, strategy)

    def venues_of(self, scope: KillScope) -> set[str]:
        """Return every venue where something may lie in a scope that is narrower than the whole system."""
        if scope.kind is ScopeKind.VENUE:
            return {scope.name}
        found = {venue for id, (_, venue) in self.accounts.items() if scope == KillScope(ScopeKind.ACCOUNT, str(id))}
        found |= {venue for id, (_, venue) in self.instances.items() if self.is_in(scope, Holder(venue, 0, "", id))}
        holders = {*self.positions, *(known.holder for known in self.orders.values())}
        return found | {holder.venue for holder in holders if self.is_in(scope, holder)}

    def holders(self) -> set[Holder]:
        """Return every owner of a position or of an order that may still execute."""
        return {*self.positions, *(known.holder for known in self.orders.values() if known.state in _OPEN)}

    def protected_orders(self, venue: str) -> list[Order]:
        """Return the entries at `venue` that may need a stop, and their legs of all attempts, oldest first."""
        return [msgspec.convert(row, Order) for row in self.protected if row["venue"] == venue]

    def without(self, scopes: Iterable[KillScope]) -> DatabaseSnapshot:
        """Return it without the entries that may need a stop, and lie in one of some scopes."""

        def is_in_one(row: Mapping[str, Any]) -> bool:
            holder = Holder(row["venue"], int(row["account_id"]), row["symbol"], row["instance"])
            return any(self.is_in(scope, holder) for scope in narrow)

        narrow = list(scopes)
        return replace(self, protected=[row for row in self.protected if not is_in_one(row)]) if narrow else self

    def of_session(self, reported: VenueIdentity) -> DatabaseSnapshot:
        """Return what of it belongs to a session: accounts that are known to be others at their venues are left out."""

        def is_other(account_id: int) -> bool:
            known = self.identities.get(account_id)
            return known is not None and not known.is_session(reported)

        return replace(
            self,
            positions={h: q for h, q in self.positions.items() if not is_other(h.account_id)},
            orders={c: k for c, k in self.orders.items() if not is_other(k.holder.account_id)},
        )

    def is_foreign(self, venue: str, reported: VenueIdentity) -> bool:
        """Return whether all we hold or ordered at a venue belongs to accounts that the session is known not to be."""
        accounts = {h.account_id for h in self.positions if h.venue == venue}
        accounts |= {k.holder.account_id for k in self.orders.values() if k.holder.venue == venue}
        known = [self.identities.get(account_id) for account_id in accounts]
        return bool(known) and all(one is not None and not one.is_session(reported) for one in known)

    def is_unused(self, venue: str) -> bool:
        """Return whether nothing of ours can be at a venue: none of its accounts ever had a session there, a local
        exchange apart, and nothing is held, open or lately ordered there."""
        known = (self.identities.get(account_id) for account_id, (_, at) in self.accounts.items() if at == venue)
        has_traded = any(one is not None and one.environment is not Environment.SIM for one in known)
        holders = (*self.positions, *(order.holder for order in self.orders.values()))
        return not has_traded and all(holder.venue != venue for holder in holders)

    def differs(self, before: DatabaseSnapshot, scope: KillScope = KillScope()) -> bool:
        """Return whether positions, or the unresolved orders, in a scope are others than before."""
        return self._part(scope) != before._part(scope)

    def _part(self, scope: KillScope) -> tuple[dict[Holder, Decimal], set[str]]:
        positions = {holder: quantity for holder, quantity in self.positions.items() if self.is_in(scope, holder)}
        return positions, {id for id, of in self.orders.items() if of.is_unresolved and self.is_in(scope, of.holder)}

    def net(self, venue: str, symbol: str) -> Decimal:
        """Return what all of us hold of a symbol."""
        return sum((q for h, q in self.positions.items() if (h.venue, h.symbol) == (venue, symbol)), Decimal(0))

    def symbols(self, venue: str, concerns: Callable[[Holder], bool] = lambda _: True) -> set[str]:
        """Return every symbol in which we, or those of us that `concerns` picks, hold or lately ordered something at
        `venue`."""
        holders = {*self.positions, *(known.holder for known in self.orders.values())}
        return {holder.symbol for holder in holders if holder.venue == venue and concerns(holder)}

    def history_from_ns(self, venue: str, symbol: str) -> int:
        """Return the time from which the venue's executions in `symbol` are compared with the booked ones: that of the
        oldest order that may have unbooked ones, however long the order manager has booked nothing; at least LOOKBACK_S
        ago, at most a day."""
        since = self.as_of_ns - round(LOOKBACK_S * NS)
        for known in self.orders.values():
            if known.may_execute and known.created_ns and (known.holder.venue, known.holder.symbol) == (venue, symbol):
                since = min(since, known.created_ns - _CLOCKS_NS)
        return max(since, self.as_of_ns - DAY_NS)

    def with_fills(
        self, fills: Iterable[Fill], skip: frozenset[str], history_from_ns: Mapping[str, int] | None = None
    ) -> dict[Holder, Decimal]:
        """Return positions with the executions of the venue that the database had not booked yet added.

        Only fills of our own orders count; those of orders in `skip` are accounted for elsewhere. `history_from_ns`:
        `fills` of a symbol are complete from then on. Of a younger order the database booked the first ones, as much as
        it says. Of an older one that may still execute it lists what it booked; of others, those of the last
        LOOKBACK_S that it does not list are taken as not booked.
        """
        positions = dict(self.positions)
        whole: dict[str, list[Fill]] = {}
        for fill in fills:
            known = self.orders.get(fill.client_order_id or "")
            if fill.client_order_id in skip:
                continue
            from_ns = None if history_from_ns is None else history_from_ns.get(fill.symbol)
            if known is not None and from_ns is not None and known.created_ns - _CLOCKS_NS >= from_ns:
                whole.setdefault(fill.client_order_id or "", []).append(fill)
                continue
            if self._is_booked(fill, from_ns, known) or (known is None and not is_ours(fill.client_order_id)):
                continue
            holder = known.holder if known else self._likely_holder(fill, positions)
            if holder is not None:
                positions[holder] = positions.get(holder, Decimal(0)) + self._moved(fill, fill.quantity)
        for client_order_id, of_order in whole.items():
            order = self.orders[client_order_id]
            booked = order.filled
            for fill in sorted(of_order, key=lambda f: (f.time_ns, len(f.venue_trade_id), f.venue_trade_id)):
                left = max(fill.quantity - booked, Decimal(0))
                booked = max(booked - fill.quantity, Decimal(0))
                positions[order.holder] = positions.get(order.holder, Decimal(0)) + self._moved(fill, left)
        return positions

    def with_orders(self, orders: Iterable[Order]) -> DatabaseSnapshot:
        """Return it with orders of ours that are younger than it, or that the database does not have yet: nothing of
        them is booked."""
        young = {
            order.client_order_id: Known.of(order)
            for order in orders
            if order.client_order_id not in self.orders and order.created_ns > self.as_of_ns - _UNMERGED_S * NS
        }
        return replace(self, orders={**self.orders, **young}) if young else self

    def with_side_orders(self, side: SideOrders) -> DatabaseSnapshot:
        """Return it with the orders that were sent while the database was away; it knows better those that it has."""
        sent = {
            id: replace(known, state=State.SENDING.value, changed_ns=sent_ns)
            for id, sent_ns in side.sent.items()
            if (known := self.orders.get(id)) is not None and known.state == State.INTENDED.value
        }
        placed = {id: Known.of(order) for id, order in side.orders.items() if id not in self.orders}
        return replace(self, orders={**self.orders, **placed, **sent}) if placed or sent else self

    def orders_unknown(
        self, fills: Iterable[Fill], skip: frozenset[str], history_from_ns: Mapping[str, int]
    ) -> dict[str, str]:
        """Return the orders of ours that were executed and that the snapshot does not know yet: client id -> symbol.

        `with_fills` can only guess whose they are. Arguments as there.
        """
        return {
            fill.client_order_id: fill.symbol
            for fill in fills
            if fill.client_order_id
            and is_ours(fill.client_order_id)
            and fill.client_order_id not in skip
            and fill.client_order_id not in self.orders
            and not self._is_booked(fill, history_from_ns.get(fill.symbol))
        }

    def _is_booked(self, fill: Fill, from_ns: int | None, known: Known | None = None) -> bool:
        """Return whether an execution is in the positions, or so old that it is taken as booked: not of an order whose
        booked executions are all listed, however long the order manager has booked nothing."""
        if (fill.venue, fill.symbol, fill.venue_trade_id) in self.booked:
            return True
        if known is not None and known.may_execute and known.is_listed and from_ns is not None:
            return False
        is_old = from_ns is not None and fill.time_ns < self.as_of_ns - LOOKBACK_S * NS
        return is_old or fill.time_ns < self.booked_from_ns

    def _moved(self, fill: Fill, quantity: Decimal) -> Decimal:
        """Return by how much `quantity` of an execution moves a position, its share of the fee taken out."""
        rules = self.rules_at(fill.venue, fill.symbol)
        is_in_base = rules is not None and fill.fee_currency == rules.base and fill.quantity > 0
        return fill.side.sign * quantity - (fill.fee * quantity / fill.quantity if is_in_base else Decimal(0))

    def _likely_holder(self, fill: Fill, positions: Mapping[Holder, Decimal]) -> Holder | None:
        """Return whose a fill of an order newer than the snapshot is: the one holder in that symbol, the one whose
        position it can have closed, else the persons' bucket."""
        same = sorted(
            {h for h in self.positions if (h.venue, h.symbol) == (fill.venue, fill.symbol)}
            | {k.holder for k in self.orders.values() if (k.holder.venue, k.holder.symbol) == (fill.venue, fill.symbol)}
        )
        closed = [h for h in same if -fill.side.sign * positions.get(h, Decimal(0)) >= fill.quantity]
        if len(same) == 1 or len(closed) == 1:
            return (closed or same)[0]
        accounts = {k.holder.account_id for k in self.orders.values() if k.holder.venue == fill.venue} | {
            h.account_id for h in self.positions if h.venue == fill.venue
        }
        return Holder(fill.venue, accounts.pop(), fill.symbol, "") if len(accounts) == 1 else None


class PositionsFile:
    """The snapshot on disk, beside the kill file. Replaced whole, and only when something in it changed."""

    def __init__(self, path: Path, exchanges: Mapping[str, str] | None = None) -> None:
        """`exchanges`: as `DatabaseSnapshot.of`."""
        self._path, self._exchanges = path, exchanges
        self._kept: str | None = None

    def load(self) -> DatabaseSnapshot | None:
        """Return what was kept last, or None when there is none or it is damaged."""
        try:
            return DatabaseSnapshot.of(json.loads(self._path.read_text()), self._exchanges)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, row: Mapping[str, Any]) -> None:
        """Keep a row of `kill.snapshot`. Errors: OSError."""
        body = {name: row[name] for name in _KEPT if name in row}
        text = json.dumps(body)
        if text == self._kept:
            return
        part = self._path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps({"as_of_ns": row["as_of_ns"], **body}))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        self._kept = text


class SideOrders:
    """The order manager's orders that its side journal on this machine has, and PostgreSQL may lack.

    `orders`: those placed there, by client order id. `sent`: of those that waited in PostgreSQL, when they were sent.
    Both keep what the file no longer has until `forget`: PostgreSQL has it, and the snapshot may be older.
    """

    def __init__(self, path: Path | None, log: Log) -> None:
        """`path`: None or a missing file has no orders."""
        self._path, self._log = path, log
        self._error = ""  # of the last reading
        self.orders: dict[str, Order] = {}
        self.sent: dict[str, int] = {}

    def read(self) -> set[str]:
        """Read the file; return the ids of earlier readings that it no longer has. What cannot be read is passed over:
        it must not keep the kill switch from its work."""
        orders: dict[str, Order] = {}
        sent: dict[str, int] = {}
        error = ""
        try:
            lines = [] if self._path is None else read_lines(self._path)
        except OSError as reason:
            self._note(str(reason))
            return set()
        for line in lines:
            try:
                content = parse_line(line)
            except Exception as reason:  # of a later version, or damaged
                error = f"{type(reason).__name__}: {reason}"
                continue
            if isinstance(content, PlacedOrders):
                orders |= {order.client_order_id: order for order in content.orders}
                continue
            for id, event in content.events if content is not None else ():
                if isinstance(event, e.Sent):
                    sent[id] = event.recv_ns
                if id in orders:
                    orders[id] = advance(orders[id], event).order
        self._note(error)
        gone = (self.orders.keys() | self.sent.keys()) - orders.keys() - sent.keys()
        self.orders |= orders
        self.sent |= sent
        return gone

    def forget(self, ids: Iterable[str]) -> None:
        """Drop orders that PostgreSQL has."""
        for id in ids:
            self.orders.pop(id, None)
            self.sent.pop(id, None)

    def _note(self, error: str) -> None:
        if error and error != self._error:
            self._log.error("guardian.side_journal_unreadable", error=error)
        self._error = error
