"""Splits of shares that are held: positions are carried over once, at the split's time, and protection follows.

Entries of before, and closing orders, are cancelled and their end proven; then the split, the positions and the orders
that they are made of are one statement (`Ledger.split`); then the core replaces the legs, in the order that the venue
allows. From the split's time until then the core places nothing and counts the position as one without a stop
(`Facts.split_ns`), no stop is moved, and no order is amended.

Hard state: position_splits. Soft state: the splits that come (`OrderCache.splits`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from decimal import Decimal
from typing import Final

from fks.market.history.gaps import calendar_for
from fks.model.calendars import midnight_ns
from fks.model.cash_flows import PositionSplit
from fks.model.errors import ConfigError, OutageError
from fks.model.ids import split_id
from fks.model.order import OPEN, Request, Role, State
from fks.model.timeframe import NS
from fks.store.corporate_actions import CorporateActionStore, UpcomingSplit
from fks.trading.order_manager.bar_feed import FedVenue
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.order_manager.trailing import TrailingStops
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.orders import messages as m
from fks.trading.portfolio.position import EXTERNAL

_PERIOD_S: Final = 1.0
_READ_EVERY: Final = 10  # periods between two looks at the tables
_AHEAD_NS: Final = 2 * 86_400 * NS  # a day begins at most so much earlier at a market than its label says
_SUBMITTED_NS: Final = 60 * NS  # an entry that was being submitted when the day began has its order by then
_WAITS_S: Final = 60.0  # a split that is due and not applied for so long pages


class SplitWatch:
    """See the module's text."""

    def __init__(
        self,
        context: OrderManagerContext,
        workers: PositionWorkers,
        venue_orders: VenueOrders,
        trailing: TrailingStops,
        *,
        refresh_balances: Callable[[str], Coroutine[None, None, None]],
    ) -> None:
        self._context, self._venues = context, context.venues
        self._cache, self._ledger, self._clock = context.cache, context.ledger, context.clock
        self._workers, self._venue_orders, self._trailing = workers, venue_orders, trailing
        self._refresh_balances = refresh_balances
        self._store = CorporateActionStore(context.db)
        self._since_s: dict[m.PositionKey, float] = {}  # when a due split was seen first
        self._paged: set[m.PositionKey] = set()

    async def load(self) -> None:
        """Read the splits that come; before the cores act. Errors: OutageError."""
        if self._context.settings.sim.fills == "tape":
            return  # the clock is not the tape's
        found: dict[m.PositionKey, PositionSplit] = {}
        for row in await self._store.upcoming_splits(list(self._venues), self._clock.now_ns() + _AHEAD_NS):
            split = self._split_of(row)
            if split is not None and split.effective_ns > row.traded_ns and self._is_ours(split):
                found.setdefault(split.key, split)
        self._cache.splits = found

    async def run(self) -> None:
        """Apply splits as they become due, for ever; an outage skips a turn. Errors: StaleEpochError."""
        turn = 0
        while True:
            try:
                if turn % _READ_EVERY == 0:
                    await self.load()
                for split in list(self._cache.splits.values()):
                    if split.effective_ns <= self._clock.now_ns():
                        await self._apply(split)
            except OutageError as error:
                self._context.log.debug("splits.skipped", error=str(error))
            turn += 1
            await self._clock.sleep(_PERIOD_S)

    def _is_ours(self, split: PositionSplit) -> bool:
        return self._cache.venues[split.venue].account_id == split.account_id

    def _split_of(self, row: UpcomingSplit) -> PositionSplit | None:
        try:
            effective_ns = midnight_ns(calendar_for(row.exchange, row.calendar, row.symbol), row.day)
        except ConfigError as error:
            self._context.log.error("split.calendar", symbol=row.symbol, reason=str(error))
            return None
        id = split_id(row.account_id, row.venue, row.symbol, row.day)
        place = row.account_id, row.venue, row.exchange, row.symbol
        return PositionSplit(id, *place, row.day, row.new_shares, row.old_shares, effective_ns)

    async def _apply(self, split: PositionSplit) -> None:
        """Take a due split one step further: cancel the entries of before, or apply it."""
        key = split.key
        if key not in self._since_s:
            self._since_s[key] = self._clock.monotonic()
            self._workers.post(key, m.Recheck())  # places nothing from now on
        if not await self._is_settled(split):
            if self._clock.monotonic() - self._since_s[key] >= _WAITS_S and key not in self._paged:
                self._paged.add(key)
                self._alert("page", "position.split_waits", split, "the venue is away, or orders of before may live")
            return
        instrument = self._cache.instruments.get((split.exchange, split.symbol))
        base = "" if instrument is None else instrument.base
        count, net = await self._store.traded_since(*key, split.effective_ns, base)
        held = self._held(key)
        if count:  # it is not known which are of new shares; if nothing was held then, nothing is to be done
            text = "" if held == net else "executions of after the split were booked before it was known"
            split = replace(split, error=text or "nothing was held")
        applied = await self._ledger.split(split)
        self._cache.splits.pop(key, None)
        self._since_s.pop(key, None)
        self._paged.discard(key)
        self._workers.post(key, applied)
        self._trailing.forget(key)
        after = self._held(key)
        if after != held and isinstance(venue := self._venues[split.venue], FedVenue):
            venue.split(split.symbol, after - held)
        self._context.tasks.spawn(self._refresh_balances(split.venue), "balances after a split")
        if count and held != net:
            self._alert("page", "position.split_refused", split, f"{split.error}; correct the position by hand")
        elif held:
            self._alert("warning", "position.split", split, f"{held.normalize():f} became {after.normalize():f}")

    def _held(self, key: m.PositionKey) -> Decimal:
        return sum((q for name, q in self._cache.buckets(key).items() if name != EXTERNAL), Decimal(0))

    async def _is_settled(self, split: PositionSplit) -> bool:
        """Return whether the journal is compared with the venue, no entry of before and no closing order is open, every
        execution is booked, and no command is on its way; cancel those that are open."""
        orders = self._cache.open_at(split.key)
        # quantities of exits and kills are what the books show
        old = [
            o
            for o in orders
            if o.state in OPEN
            and (
                o.role in (Role.EXIT, Role.KILL)
                or (o.role in (Role.ENTRY, Role.ORDER) and o.created_ns < split.effective_ns + _SUBMITTED_NS)
            )
        ]
        for order in old:
            if order.request is Request.NONE and order.state is not State.SENDING:
                reason = f"split {split.new_shares}:{split.old_shares}"
                await self._venue_orders.cancel(order.client_order_id, by="", reason=reason)
        is_booked = all(order.reported_cum_qty <= order.filled for order in orders)
        # until the venue was compared, what it executed before may not be booked: it is in the old shares
        is_compared = self._cache.venues[split.venue].state == "READY"
        return is_compared and not old and is_booked and self._workers.is_idle(split.key)

    def _alert(self, severity: str, event: str, split: PositionSplit, text: str) -> None:
        ratio = f"{split.new_shares}:{split.old_shares}"
        self._context.publisher.alert(
            severity,
            event,
            f"{split.symbol} was split {ratio} on {split.day}: {text}",
            venue=split.venue,
            symbol=split.symbol,
            account_id=split.account_id,
        )
