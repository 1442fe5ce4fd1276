"""The paper venue fills like a backtest: random bars, entries of every type, protections, slippage and fees."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict

from fks.backtest import Result, Setup
from fks.backtest.cash_flows import overnight_bars
from fks.backtest.limits import UNLIMITED
from fks.bars.calendars import calendar_of
from fks.clock import FakeClock
from fks.matching import CostModel, Slippage, collar
from fks.matching.margin import Margin
from fks.model.bar import Bar, Bars
from fks.model.instrument import Instrument
from fks.model.order import Fill, Order, OrderType, Report, Role, Side, State, TimeInForce
from fks.model.timeframe import NS
from fks.strategies.base import Decisions, Strategy, evaluate
from fks.venues.paper import PaperVenue
from tests.support.backtests import run
from tests.support.strategies import START_NS
from tests.support.venue_orders import order

D = Decimal
BTC = Instrument(
    "binance", "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.00001"), D("0.00001"), D(9000), D(5), has_oto=True
)
CASH = D(10**7)
#: minutes about the end of a session in New York: the overnight margin begins 18 minutes after the first
CLOSING = calendar_of("XNYS").expected("1m", START_NS, START_NS + 14 * 86_400 * NS)[390 - 48 : 390 - 48 + 160]
NIGHTLY = Margin.parse("0.03/0.02; overnight 30m 0.05/0.045")
_FLAT = D(0)
COLUMNS = ("stop_loss", "take_profit", "entry_limit", "entry_stop")


class Given(Strategy):
    """Decisions as they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)
    name: ClassVar[str] = "given"
    target: tuple[float, ...]
    stop_loss: tuple[float, ...] | None = None
    take_profit: tuple[float, ...] | None = None
    entry_limit: tuple[float, ...] | None = None
    entry_stop: tuple[float, ...] | None = None
    entry_bars: tuple[float, ...] | None = None

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        found = {name: getattr(self, name) for name in (*COLUMNS, "entry_bars")}
        columns = {name: np.array(value)[: len(bars)] for name, value in found.items() if value is not None}
        return Decisions(np.array(self.target)[: len(bars)], **columns)


def tape(random: np.random.Generator, count: int) -> Bars:
    moves = random.integers(-5, 6, 2 * count) + (random.random(2 * count) < 0.06) * random.integers(-20, 21, 2 * count)
    path = np.maximum(300 + np.cumsum(moves), 40)
    open_, close = path[0::2], path[1::2]
    reach = random.integers(0, 6, (2, count))
    columns = (open_, np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1], close)
    times = START_NS + np.arange(count, dtype=np.int64) * 60 * NS
    return Bars("BTCUSDT", "1m", times, *(np.asarray(column, float) for column in columns), np.ones(count))


def strategy(random: np.random.Generator, bars: Bars) -> Given:
    """Return long decisions whose entries and protections lie a few ticks around the closes."""
    count = len(bars)
    target = np.repeat(random.integers(0, 2, count), 4)[:count].astype(float)

    def near(low: int, high: int, share: float) -> tuple[float, ...]:
        away = bars.close + random.integers(low, high, count)
        return tuple(np.where(random.random(count) < share, away, np.nan))

    return Given(
        target=tuple(target),
        stop_loss=near(-24, -12, 0.8),
        take_profit=near(8, 24, 0.8),
        entry_limit=near(-6, 4, 0.5),
        entry_stop=near(1, 8, 0.4),
        entry_bars=tuple(np.where(random.random(count) < 0.5, random.integers(1, 5, count), np.nan)),
    )


@dataclass
class Rig:
    """A paper venue that is given what a strategy decides, as the order manager gives it."""

    venue: PaperVenue
    collar_pct: Decimal | None
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
                for name in COLUMNS
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
                worst = collar(close, self.collar_pct, D(100), self.side.sign, BTC.tick)
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


async def drain(venue: PaperVenue) -> list[Any]:
    found: list[Any] = []

    async def read() -> None:
        async for event in venue.events():
            found.append(event)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    return found


async def on_paper(result: Result, decisions: Decisions) -> tuple[list[tuple[Any, ...]], list[str | None]]:
    """Return the fills, and the codes of the entries that expired."""
    costs = result.setup.costs
    setup = result.setup
    rules = {"margin": setup.margin_kept, "can_short": setup.can_short}
    venue = PaperVenue([BTC], costs, {"USDT": setup.cash}, FakeClock(), mode="bar", timeframe="1m", **rules)
    denied = {row.time_ns for row in result.denied}
    rig, fills, bars, expired = Rig(venue, result.setup.collar_pct), [], result.bars, []
    nights = overnight_bars(bars, setup.margin_kept)
    for at in range(len(bars)):
        venue.set_overnight("BTCUSDT", nights is not None and bool(nights[at]))
        columns = (bars.open, bars.high, bars.low, bars.close)
        venue.on_bar(Bar("binance", "BTCUSDT", "1m", int(bars.time_ns[at]), *(float(c[at]) for c in columns), 1.0))
        events = await drain(venue)
        is_end = [event for event in events if isinstance(event, Report) and event.state is State.EXPIRED]
        expired += [report.code for report in is_end if report.code is not None]
        fills += await rig.after(events)
        before = decisions.target[at - 1] if at else 0.0
        if decisions.target[at] != before and at < len(bars) - 1:
            is_denied = int(bars.time_ns[at]) in denied
            await rig.decide(decisions, at, before, D(repr(float(bars.close[at]))), is_denied=is_denied)
    return [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in fills], expired


@given(st.integers(0, 2**32), st.sampled_from([None, "0.3", "1", "5"]))
def test_paper_fills_what_a_backtest_fills(seed: int, collar_pct: str | None) -> None:
    random = np.random.default_rng(seed)
    bars = tape(random, int(random.integers(8, 60)))
    made = strategy(random, bars)
    slippage = Slippage.parse(str(random.choice(["none", "2 ticks", "20 bps", "0.3 range"])))
    costs = CostModel(D("0.001"), "quote", D("0.0002"), slippage)
    setup = Setup(BTC, costs, "quantity", D(1), CASH, limits=UNLIMITED, allow_gaps=True)
    setup = replace(setup, collar_pct=None if collar_pct is None else D(collar_pct))
    result = run(made, bars, setup)

    ended = [row.code for row in result.expired]
    decisions = evaluate(made, bars)
    wanted = [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in result.fills]
    assert asyncio.run(on_paper(result, decisions)) == (wanted, ended)


def test_the_random_runs_fill_entries_of_every_type() -> None:
    compared, expired, kinds = 0, 0, set()
    for seed in range(60):
        random = np.random.default_rng(seed)
        bars = tape(random, int(random.integers(8, 60)))
        made = strategy(random, bars)
        result = run(made, bars, Setup(BTC, CostModel(D(0)), "quantity", D(1), CASH, limits=UNLIMITED, allow_gaps=True))
        collared = replace(result.setup, collar_pct=D(1))
        expired += run(made, bars, collared).expired_count * (not result.denied)
        decided = result.fill_columns.decided
        assert decided is not None
        entries = decided[result.fill_columns.role == 0]
        compared += not result.denied and len(entries) > 0
        for name in ("entry_limit", "entry_stop"):
            column = getattr(made, name)
            kinds |= {name for index in entries.tolist() if np.isfinite(column[index])}
    assert compared > 20
    assert expired >= 10
    assert kinds == {"entry_limit", "entry_stop"}


def margin_case(seed: int) -> tuple[Given, Bars, Setup]:
    """Return decisions on both sides, whose stops lie before or behind the price of a forced close, and an account with
    a margin that loses a good part of its cash."""
    random = np.random.default_rng(seed)
    bars = tape(random, int(random.integers(20, 160)))
    made, count = strategy(random, bars), len(bars)
    sides = np.repeat(random.integers(-1, 2, count), 16)[:count].astype(float)
    wide = 0.5 if random.random() < 0.5 else 12.0
    levels = {
        "stop_loss": tuple(bars.close + sides * wide * (np.array(made.stop_loss) - bars.close)),
        "take_profit": tuple(bars.close + sides * wide * (np.array(made.take_profit) - bars.close)),
        **({"entry_limit": None, "entry_stop": None} if random.random() < 0.5 else {}),
    }
    texts = ["0.05/0.04", "0.1/0.08; above 300 0.15/0.12", "0.1/0.05; short 0.08; fee 0.0125", "30/20 each", "0.1"]
    margin = NIGHTLY if random.random() < 0.5 else Margin.parse(str(random.choice(texts)))
    if margin.overnight is not None:
        bars = replace(bars, calendar="XNYS", time_ns=CLOSING[: len(bars)])
    cash = margin.needed(D(1), D(repr(float(bars.close[0]))), BTC) * D(int(random.integers(100, 140))) / 100
    slippage = Slippage.parse(str(random.choice(["none", "2 ticks", "0.3 range"])))
    costs = CostModel(D("0.001"), "quote", D("0.0002"), slippage)
    setup = Setup(BTC, costs, "quantity", D(1), cash, can_short=True, limits=UNLIMITED, allow_gaps=True, margin=margin)
    return made.model_copy(update={"target": tuple(sides), **levels}), bars, setup


def test_paper_closes_by_force_what_a_backtest_does() -> None:
    counts = {"denied": 0, "at night": 0, Side.BUY: 0, Side.SELL: 0, Role.STOP_LOSS: 0, Role.TAKE_PROFIT: 0}
    for seed in range(250):
        made, bars, setup = margin_case(seed)
        result = run(made, bars, setup)
        wanted = [(f.time_ns, f.side, f.quantity, f.price, f.fee) for f in result.fills]
        assert asyncio.run(on_paper(result, evaluate(made, bars))) == (wanted, []), seed
        counts["denied"] += sum(row.code == "MARGIN" for row in result.denied)
        for fill in result.fills:
            if fill.role is Role.LIQUIDATION:
                counts[fill.side] += 1
                counts["at night"] += result.setup.margin == NIGHTLY and CLOSING[18] <= fill.time_ns < CLOSING[48]
            elif fill.role in counts:
                counts[fill.role] += 1
    assert min(counts.values()) >= 5, counts
