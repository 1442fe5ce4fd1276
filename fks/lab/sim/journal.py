"""Changes of one call: written in one commit, and published to the user stream and the public tape only after it.

On a full disk they stay in memory and nothing is published; `settle` tries again. Until it succeeds the exchange does
nothing else: no request is carried out and the market stands still.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from fks.lab.sim.atoms import show
from fks.lab.sim.ledger import BalanceLedger
from fks.lab.sim.orders import Amendment, OrderList, SimFill, SimOrder
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.store import DiskFull, Store
from fks.lab.sim.symbol_state import SymbolState

log = logging.getLogger(__name__)
Event = dict[str, object]


class OrderEvent(dict[str, object]):
    """An executionReport, with the order as it was then and its fill, which another wire writes in its own way.

    `kind` is NEW, CANCELED, REPLACED, TRADE, EXPIRED or REJECTED.
    """

    def __init__(self, report: Event, kind: str, order: SimOrder, fill: SimFill | None) -> None:
        super().__init__(report)
        self.kind = kind
        self.order = replace(order)
        self.fill = fill


class Journal:
    """Collects changes in memory until `settle`. `emit` gets user events, `on_print` our public trades."""

    def __init__(
        self,
        store: Store,
        ledger: BalanceLedger,
        wall_ms: Callable[[], int],
        emit: Callable[[Event], None],
        on_print: Callable[[SymbolState, AggregateTrade], None],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._wall_ms = wall_ms
        self._emit = emit
        self._on_print = on_print
        self._orders: dict[int, SimOrder] = {}
        self._lists: dict[int, OrderList] = {}
        self._events: list[Event] = []
        self._prints: list[tuple[SymbolState, AggregateTrade]] = []
        self._transfers: list[tuple[str, str, str, int, int, int]] = []
        self._amendments: list[Amendment] = []
        self._balances: dict[str, tuple[int, int]] = {}
        self._is_full = False
        self._report_id = max(wall_ms(), int(store.meta("report_id", "0")))  # a restart gives no number twice
        self.fills: list[SimFill] = []

    def note(self, order: SimOrder, what: str, fill: SimFill | None = None) -> int:
        """Note that an order changed, for an executionReport of that kind; return the report's number."""
        self._report_id += 1
        self._orders[order.order_id] = order
        time_ms = fill.time_ms if fill else order.update_ms
        report = order.report(what, self._wall_ms(), fill, time_ms, self._report_id)
        self._events.append(OrderEvent(report, what, order, fill))
        if fill is not None:
            self.fills.append(fill)
        return self._report_id

    def note_amendment(self, order: SimOrder, old_quantity: int) -> Amendment:
        """Note that an order was reduced, for an executionReport and the order's list of amendments."""
        number = self.note(order, "REPLACED")
        quantities = old_quantity, order.quantity
        ids = order.former_id, order.client_id
        found = Amendment(number, order.symbol, order.order_id, *ids, *quantities, order.update_ms)
        self._amendments.append(found)
        return found

    def keep_list(self, pair: OrderList) -> None:
        """Note that a list changed, without a listStatus."""
        self._lists[pair.list_id] = pair

    def note_list(self, pair: OrderList, status_type: str = "") -> None:
        """Note that a list changed, for a listStatus."""
        self.keep_list(pair)
        self._events.append(pair.event(self._wall_ms(), pair.time_ms, status_type))

    def note_print(self, state: SymbolState, trade: AggregateTrade) -> None:
        """Note that a trade of ours became public."""
        self._prints.append((state, trade))

    def note_transfer(self, kind: str, asset: str, amount: int, fee: int, *, is_listed: bool) -> str:
        """Note a deposit or withdrawal, for a balanceUpdate and (unless it is hidden) the list of transfers; return its
        id."""
        now = self._wall_ms()
        self._report_id += 1
        number = f"{kind}-{now}-{self._report_id}"
        moved = amount if kind == "deposit" else -amount - fee
        self._events.append({"e": "balanceUpdate", "E": now, "a": asset, "d": show(moved), "T": now})
        if is_listed:
            self._transfers.append((number, kind, asset, amount, fee, now))
        return number

    def settle(self) -> bool:
        """Write everything in one commit, then publish it in the order it happened; return False when the disk is
        full."""
        try:
            if not self.is_pending:
                self._store.flush()
                return True
            self._balances |= {asset: (free, locked) for asset, free, locked in self._ledger.take_changed()}
            balances = [(asset, *pair) for asset, pair in self._balances.items()]
            self._store.commit(
                balances=balances,
                orders=self._orders.values(),
                lists=self._lists.values(),
                fills=self.fills,
                transfers=self._transfers,
                amendments=self._amendments,
                meta=[("report_id", str(self._report_id))],
            )
        except DiskFull as error:
            if not self._is_full:
                log.warning("the exchange stands still: %s", error)
            self._is_full = True
            return False
        self._balances, self._is_full = {}, False
        if balances:
            now = self._wall_ms()
            changed = [{"a": asset, "f": show(free), "l": show(locked)} for asset, free, locked in balances]
            self._events.append({"e": "outboundAccountPosition", "E": now, "u": now, "B": changed})
        events, prints = self._events, self._prints
        self._events, self._prints, self.fills = [], [], []
        self._orders, self._lists, self._transfers, self._amendments = {}, {}, [], []
        for state, trade in prints:
            self._on_print(state, trade)
        for event in events:
            self._emit(event)
        return True

    @property
    def is_pending(self) -> bool:
        """Return whether there are changes that are not on disk."""
        return bool(self._orders or self._lists or self._events)
