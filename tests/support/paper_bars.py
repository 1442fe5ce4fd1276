"""A strategy's decisions on the paper venue, bar by bar, without an order manager: one unit an entry, one position."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from fks.clock import FakeClock
from fks.model.bar import Bar
from fks.model.order import Fill, Order, OrderType, Report, Role, Side, State, TimeInForce
from fks.research.backtest import Result
from fks.research.backtest.cash_flows import overnight_bars
from fks.strategies.base import Decisions
from fks.trading.matching import collar
from fks.trading.venues.paper import PaperVenue
from tests.support.venue_orders import order

D = Decimal
_FLAT = D(0)
_COLUMNS = ("stop_loss", "take_profit", "entry_limit", "entry_stop")


@dataclass
class PaperRig:
    """A paper venue that is given what a strategy decides, as the order manager gives it."""

    venue: PaperVenue
    collar_pct: Decimal | None
    tick: Decimal
    entry: Order | None = None
    legs: tuple[Order, ...] = ()
    held: Decimal = _FLAT
    side: Side = Side.BUY  # of the newest entry

    async def decide(
        self, decisions: Decisions, at: int, before: float, close: Decimal, *, is_denied: bool = False
    ) -> None:
        wanted = 0.0 if is_denied else decisions.target[at]
        if before != 0.0:
            for resting in (*self.legs, *([self.entry] if self.entry is not None else [])):
                await self.venue.cancel(resting)
            self.entry, self.legs = None, ()
            if self.held:
                side = Side.SELL if self.held > 0 else Side.BUY
                await self.venue.submit(order(str(abs(self.held)), side=side, role=Role.EXIT))
        if wanted != 0.0:
            self.side = Side.BUY if wanted > 0 else Side.SELL
            prices = {
                name: None if not np.isfinite(column[at]) else str(column[at])
                for name in _COLUMNS
                if (column := getattr(decisions, name)) is not None
            }
            limit, stop = prices.get("entry_limit"), prices.get("entry_stop")
            kind = OrderType.MARKET if limit is None else OrderType.LIMIT
            if stop is not None:
                kind = OrderType.STOP if limit is None else OrderType.STOP_LIMIT
            fields = {name: prices[name] for name in ("stop_loss", "take_profit")}
            terms = {"type": kind, "price": limit, "stop_price": stop}
            has_exits = fields["stop_loss"] is not None or fields["take_profit"] is not None
            if self.collar_pct is not None and kind is OrderType.MARKET and has_exits:
                worst = collar(close, self.collar_pct, D(100), self.side.sign, self.tick)
                terms = {"type": OrderType.LIMIT, "price": str(worst), "time_in_force": TimeInForce.FOK}
            self.levels = {name: None if level is None else D(level) for name, level in fields.items()}
            self.entry = order("1", side=self.side, role=Role.ENTRY, **terms, **self.levels)
            await self.venue.submit(self.entry)

    async def after(self, events: list[Any]) -> list[Fill]:
        """Book the fills of a bar, and place the protections of an entry, which may fill at once."""
        fills = [event for event in events if isinstance(event, Fill)]
        for fill in list(fills):
            self.held += fill.side.sign * fill.quantity
            if self.entry is not None and fill.client_order_id == self.entry.client_order_id:
                fills += await self.protect(self.entry)
                self.entry = None
        return fills

    async def protect(self, entry: Order) -> list[Fill]:
        stop, profit = self.levels["stop_loss"], self.levels["take_profit"]
        common = {"side": self.side.opposite, "parent_id": entry.client_order_id}
        legs = []
        if stop is not None:
            legs.append(order("1", type=OrderType.STOP, stop_price=str(stop), role=Role.STOP_LOSS, **common))
        if profit is not None:
            legs.append(order("1", type=OrderType.TAKE_PROFIT, price=str(profit), role=Role.TAKE_PROFIT, **common))
        self.legs = tuple(legs)
        if len(legs) == 2:
            answers = await self.venue.submit_oco(*legs)
        else:
            answers = tuple([await self.venue.submit(leg) for leg in legs])  # type: ignore[assignment]
        fills = [fill for answer in answers for fill in answer.fills]
        for fill in fills:
            self.held += fill.side.sign * fill.quantity
        return fills


async def _drain(venue: PaperVenue) -> list[Any]:
    found: list[Any] = []

    async def read() -> None:
        async for event in venue.events():
            found.append(event)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    return found


async def on_paper(result: Result, decisions: Decisions) -> tuple[list[tuple[Any, ...]], list[str | None]]:
    """Return the fills (time, side, quantity, price, fee) of a result's decisions on paper, and the codes of the entries
    that expired. Entries of one BTCUSDT on bars of a minute."""
    costs = result.setup.costs
    setup = result.setup
    rules = {"margin": setup.margin_kept, "can_short": setup.can_short}
    venue = PaperVenue(
        [setup.instrument], costs, {"USDT": setup.cash}, FakeClock(), mode="bar", timeframe="1m", **rules
    )
    denied = {row.time_ns for row in result.denied}
    rig, fills, bars, expired = PaperRig(venue, setup.collar_pct, setup.instrument.tick), [], result.bars, []
    nights = overnight_bars(bars, setup.margin_kept)
    for at in range(len(bars)):
        venue.set_overnight("BTCUSDT", nights is not None and bool(nights[at]))
        columns = (bars.open, bars.high, bars.low, bars.close)
        venue.on_bar(Bar("binance", "BTCUSDT", "1m", int(bars.time_ns[at]), *(float(c[at]) for c in columns), 1.0))
        events = await _drain(venue)
        is_end = [event for event in events if isinstance(event, Report) and event.state is State.EXPIRED]
        expired += [report.code for report in is_end if report.code is not None]
        fills += await rig.after(events)
        before = decisions.target[at - 1] if at else 0.0
        if decisions.target[at] != before and at < len(bars) - 1:
            is_denied = int(bars.time_ns[at]) in denied
            await rig.decide(decisions, at, before, D(repr(float(bars.close[at]))), is_denied=is_denied)
    return [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in fills], expired
