"""Moves the stops of held entries: trailing ones, and a strategy's that go to break-even at a price, from sealed bars,
by the rule of backtests (`fks.trading.orders.trailing`), and any to the prices that their strategy moves them to (table
`stop_moves`), only nearer to the market; and their take profits to the newest of such prices.

Hard state: stop loss and take profit of the entry's row, moved by the journaled events `StopMoved` and `TargetMoved`;
the core replaces the legs.
Soft state: the signals and executions that were read, and up to which bar and move. A venue that is fed bars gets each
bar before it moves a stop; elsewhere bars are read as they are sealed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.clock.waiting import wait_for_event
from fks.model.copies import copied_instance
from fks.model.errors import OutageError
from fks.model.order import Order, Side
from fks.model.parent import ParentPlan
from fks.model.signal import Signal
from fks.model.timeframe import bar_end, bar_start, iso
from fks.store.corporate_actions import CorporateActionStore
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.orders import events as e
from fks.trading.orders.messages import PositionKey
from fks.trading.orders.trailing import at_other_targets, is_below_step, left_behind, moved_stop, nearest, stop_of

_POLL_S = 1.0
_KNOWN_MAX = 5_000


@dataclass(slots=True)
class _Rule:
    """The rule by which the stop of one entry moves; None instead of one: it does not. `trail`: the distance at which
    it follows the closes, or None. Bars up to the open time `after_ns` are read, or do not count, and so are moves up
    to the number `moves`, and those of bars up to `since_ns`. `take_profit`: where moves that were read have it,
    or None."""

    trail: Decimal | None
    timeframe: str
    after_ns: int
    since_ns: int
    moves: int = 0
    take_profit: Decimal | None = None


class TrailingStops:
    """See the module's text."""

    def __init__(self, context: OrderManagerContext, workers: PositionWorkers) -> None:
        self._context, self._workers = context, workers
        self._known: OrderedDict[str, _Rule | None] = OrderedDict()
        self._sealed: set[str] = set()  # symbols with a new bar
        self._moved: set[str] = set()  # symbols in which a strategy moved a stop
        self._looked_s = float("-inf")  # when all keys were looked at last
        self._wake = asyncio.Event()

    def wake(self, symbol: str, *, is_moved: bool = False) -> None:
        """Look for bars of a symbol now instead of at the next poll, or for stops that a strategy moved."""
        (self._moved if is_moved else self._sealed).add(symbol)
        self._wake.set()

    def forget(self, key: PositionKey) -> None:
        """Read the rules of a key's entries again: its shares were split."""
        for entries in self._workers.held_entries(key).values():
            for entry in entries:
                self._known.pop(entry.client_order_id, None)

    async def run(self, without: Collection[str]) -> None:
        """Move stops as bars are sealed and moves are decided, for ever; an outage pauses it. `without`: venues whose
        feed calls `follow`."""
        while True:
            self._wake.clear()
            (sealed, self._sealed), (moved, self._moved) = (self._sealed, set()), (self._moved, set())
            now_s = self._context.clock.monotonic()
            is_poll = now_s - self._looked_s >= _POLL_S  # a message may be lost
            self._looked_s = now_s if is_poll else self._looked_s
            try:
                for key in self._workers.keys:
                    is_bar, is_moved = is_poll or key[2] in sealed, is_poll or key[2] in moved
                    if key[1] not in without and (is_bar or is_moved):
                        await self.follow(key, is_bar=is_bar, is_moved=is_moved)
            except OutageError as error:
                self._context.log.warning("orders.trailing_paused", error=str(error))
            await wait_for_event(self._wake, _POLL_S, self._context.clock)

    async def follow(
        self,
        key: PositionKey,
        *,
        through_ns: int | None = None,
        timeframe: str | None = None,
        is_bar: bool = True,
        is_moved: bool = True,
    ) -> None:
        """Move the stops of a key's positions to where the sealed bars bring them (`is_bar`), and to where their
        strategies moved them (`is_moved`): by bars that open at most at `through_ns`, and of this timeframe alone when
        one is given. Errors: OutageError."""
        if self._context.cache.split_ns(key, self._context.clock.now_ns()) is not None:
            return  # the closes are in other shares than the entries
        for entries in self._workers.held_entries(key).values():
            found = [(entry, rule) for entry in entries if (rule := await self._rule(entry)) is not None]
            rule = found[-1][1] if found else None  # the first entry's rule is that of all
            if rule is None or timeframe not in (None, rule.timeframe):
                continue
            plan = self._workers.plan_of(key, found[-1][0])
            follows = rule.trail is not None or (plan is not None and plan.is_moved_by_price)
            if is_moved or (is_bar and follows):
                held = [entry for entry, _ in found]
                await self._follow(held, rule, plan, through_ns, is_bar=is_bar and follows, is_moved=is_moved)

    async def _follow(
        self,
        entries: Sequence[Order],
        rule: _Rule,
        plan: ParentPlan | None,
        through_ns: int | None,
        *,
        is_bar: bool,
        is_moved: bool,
    ) -> None:
        first = entries[-1]
        instrument = self._context.cache.instruments.get((first.exchange, first.symbol))
        if instrument is None:
            return
        stops, bar_ns, after_ns = [stop_of(entries)], rule.after_ns, rule.after_ns
        if is_bar:
            found = await self._context.facts.best_close(
                first.exchange,
                first.symbol,
                rule.timeframe,
                after_ns=rule.after_ns,
                through_ns=through_ns,
                is_highest=first.side is Side.BUY,
            )
            close = None if found is None else found.close
            stop = moved_stop(entries, close, rule.trail, instrument, plan)
            settings = self._context.settings
            is_at_exchange, step_pct = first.venue in settings.venues_at_exchanges(), settings.venue.trail_step_pct
            if not is_at_exchange or stop is None or not is_below_step(entries, stop, step_pct):
                stops.append(stop)
                bar_ns = after_ns = rule.after_ns if found is None else found.last_ns
            # else these closes count again with the next one
        moves = None
        if is_moved:
            moves = await self._context.facts.stop_moves(
                copied_instance(first.instance) or first.instance,
                after=rule.moves,
                since_ns=rule.since_ns,
                through_ns=through_ns,
                is_highest=first.side is Side.BUY,
            )
        if moves is not None:
            away = first.side.opposite.value
            if moves.price is not None:
                stops.append(instrument.round_price(moves.price, side=away, is_stop=True))
            if moves.take_profit is not None:
                rule.take_profit = instrument.round_price(moves.take_profit, side=away, is_stop=False)
            bar_ns = max(bar_ns, moves.last_ns)
        stop = nearest([stop for stop in stops if stop is not None], first.side.sign)
        for entry in [] if stop is None else left_behind(entries, stop):
            assert stop is not None
            if self._context.cache.venues[entry.venue].capabilities.keeps_bracket:
                self._report_kept(entry, "stop", stop)
                continue
            event = e.StopMoved(**self._context.ledger.stamp("stop-moved"), stop_loss=stop, bar_ns=bar_ns)
            await self._context.ledger.apply(entry.client_order_id, event)
            self._context.log.info(
                "order.stop_moved",
                client_order_id=entry.client_order_id,
                symbol=entry.symbol,
                instance=entry.instance,
                stop_loss=f"{stop:f}",
                bar=iso(bar_ns),
                trace_id=entry.trace_id,
            )
        if rule.take_profit is not None and (plan is None or not plan.targets):
            await self._move_targets(at_other_targets(entries, rule.take_profit), rule.take_profit, bar_ns)
        # only now: what failed is read again
        rule.after_ns, rule.moves = after_ns, rule.moves if moves is None else moves.number

    async def _move_targets(self, entries: Sequence[Order], take_profit: Decimal, bar_ns: int) -> None:
        """Move the take profits of entries, newest first, to a price: the oldest one's legs are placed first, as a
        backtest has them."""
        for entry in reversed(entries):
            if self._context.cache.venues[entry.venue].capabilities.keeps_bracket:
                self._report_kept(entry, "take profit", take_profit)
                continue
            stamp = self._context.ledger.stamp("target-moved")
            event = e.TargetMoved(**stamp, take_profit=take_profit, bar_ns=bar_ns)
            await self._context.ledger.apply(entry.client_order_id, event)
            self._context.log.info(
                "order.target_moved",
                client_order_id=entry.client_order_id,
                symbol=entry.symbol,
                instance=entry.instance,
                take_profit=f"{take_profit:f}",
                bar=iso(bar_ns),
                trace_id=entry.trace_id,
            )

    def _report_kept(self, entry: Order, leg: str, price: Decimal) -> None:
        """Report that the venue holds the bracket, whose stop or take profit FKS cannot move."""
        self._context.publisher.alert(
            "warning",
            "order.stop_kept",
            f"{entry.symbol}: the strategy moves the {leg} to {price.normalize():f}, and {entry.venue} keeps it where "
            "it is",
            venue=entry.venue,
        )

    async def _rule(self, entry: Order) -> _Rule | None:
        name = entry.client_order_id
        if name not in self._known:
            record = None if entry.signal_id is None else await self._context.signals.get(entry.signal_id)
            self._known[name] = None if record is None else await self._rule_of(entry, record.signal)
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(name)
        return self._known[name]

    async def _rule_of(self, entry: Order, signal: Signal) -> _Rule | None:
        is_moved = signal.source.startswith("strategy:") and (
            entry.stop_loss is not None or entry.take_profit is not None
        )
        if signal.trail is None and not is_moved:
            return None
        instance = self._context.cache.instances.get(copied_instance(entry.instance) or entry.instance)
        timeframe = signal.timeframe or (None if instance is None else instance.timeframe)
        if timeframe is None:  # it is not known which closes: the stop stays where it is
            self._context.log.warning("orders.trailing_without_bars", client_order_id=entry.client_order_id)
            return None
        filled_ns = await self._context.ledger.store.first_fill_ns(entry.client_order_id)
        first_ns = bar_start(entry.created_ns if filled_ns is None else filled_ns, timeframe)
        if signal.timeframe is not None:  # a venue's clock may be a little behind the bars
            first_ns = max(first_ns, bar_end(signal.ts_event_ns, timeframe))
        trail, actions = signal.trail, CorporateActionStore(self._context.db)
        for split in await actions.applied_splits(entry.account_id, entry.venue, entry.symbol):
            if split.effective_ns > entry.created_ns:  # closes and moves of before are in the old shares
                trail = None if trail is None else split.price(trail)
                first_ns = max(first_ns, split.effective_ns)
        return _Rule(trail, timeframe, first_ns - 1_000, first_ns - 1_000)
