"""Moves the trailing stops of held entries from sealed bars, by the rule of backtests (`fks.orders.trailing`).

Hard state: the stop loss of the entry's row, moved by the journaled event `StopMoved`; the core replaces the legs.
Soft state: the signals and executions that were read, and up to which bar. A venue that is fed bars gets each bar
before it moves a stop; elsewhere bars are read as they are sealed.
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
from fks.model.signal import Signal
from fks.model.timeframe import bar_end, bar_start, iso
from fks.order_manager.context import Context
from fks.order_manager.position_workers import PositionWorkers
from fks.orders import events as e
from fks.orders.messages import PositionKey
from fks.orders.trailing import is_below_step, left_behind, moved_stop
from fks.store.facts import Facts
from fks.store.signals import SignalStore

TRADED = "ccxt"  # the name of the venue that `settings.venue` is about
_POLL_S = 1.0
_KNOWN_MAX = 5_000


@dataclass(slots=True)
class _Rule:
    """The rule by which the stop of one entry trails; None instead of one: it does not. `after_ns`: bars up to this
    open time are read, or do not count."""

    trail: Decimal
    timeframe: str
    after_ns: int


class TrailingStops:
    """See the module's text."""

    def __init__(self, context: Context, workers: PositionWorkers, signals: SignalStore, facts: Facts) -> None:
        self._context, self._workers = context, workers
        self._signals, self._facts = signals, facts
        self._known: OrderedDict[str, _Rule | None] = OrderedDict()
        self._sealed: set[str] = set()  # symbols with a new bar
        self._looked_s = float("-inf")  # when all keys were looked at last
        self._wake = asyncio.Event()

    def wake(self, symbol: str) -> None:
        """Look for bars of a symbol now instead of at the next poll."""
        self._sealed.add(symbol)
        self._wake.set()

    async def run(self, without: Collection[str]) -> None:
        """Move stops as bars are sealed, for ever; an outage pauses it. `without`: venues whose feed calls `follow`."""
        while True:
            self._wake.clear()
            sealed, self._sealed = self._sealed, set()
            now_s = self._context.clock.monotonic()
            is_poll = now_s - self._looked_s >= _POLL_S  # a message may be lost
            self._looked_s = now_s if is_poll else self._looked_s
            try:
                for key in self._workers.keys:
                    if key[1] not in without and (is_poll or key[2] in sealed):
                        await self.follow(key)
            except OutageError as error:
                self._context.log.warning("orders.trailing_paused", error=str(error))
            await wait_for_event(self._wake, _POLL_S, self._context.clock)

    async def follow(self, key: PositionKey, *, through_ns: int | None = None, timeframe: str | None = None) -> None:
        """Move the stops of a key's positions to where the sealed bars bring them: those that open at most at
        `through_ns`, and of this timeframe alone when one is given. Errors: OutageError."""
        for entries in self._workers.held_entries(key).values():
            found = [(entry, rule) for entry in entries if (rule := await self._rule(entry)) is not None]
            if found and timeframe in (None, found[-1][1].timeframe):  # the first entry's rule is that of all
                await self._follow([entry for entry, _ in found], found[-1][1], through_ns)

    async def _follow(self, entries: Sequence[Order], rule: _Rule, through_ns: int | None) -> None:
        first = entries[-1]
        instrument = self._context.cache.instruments.get((first.exchange, first.symbol))
        if instrument is None:
            return
        found = await self._facts.best_close(
            first.exchange,
            first.symbol,
            rule.timeframe,
            after_ns=rule.after_ns,
            through_ns=through_ns,
            is_highest=first.side is Side.BUY,
        )
        stop = moved_stop(entries, None if found is None else found.close, rule.trail, instrument.tick)
        settings = self._context.settings.venue
        if first.venue == TRADED and stop is not None and is_below_step(entries, stop, settings.trail_step_pct):
            return  # these closes count again with the next one
        bar_ns = rule.after_ns if found is None else found.last_ns
        for entry in [] if stop is None else left_behind(entries, stop):
            assert stop is not None
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
        rule.after_ns = bar_ns  # only now: what failed is read again

    async def _rule(self, entry: Order) -> _Rule | None:
        name = entry.client_order_id
        if name not in self._known:
            record = None if entry.signal_id is None else await self._signals.get(entry.signal_id)
            self._known[name] = None if record is None else await self._rule_of(entry, record.signal)
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(name)
        return self._known[name]

    async def _rule_of(self, entry: Order, signal: Signal) -> _Rule | None:
        if signal.trail is None:
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
        return _Rule(signal.trail, timeframe, first_ns - 1_000)
