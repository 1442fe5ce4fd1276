"""G6, backtest = paper: the strategy worker, the order service and the paper venue, fed one tape bar by bar through
PostgreSQL, fill what a backtest fills: time, side, quantity, price and fee, for every built-in strategy at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.clock import RealClock
from fks.config.settings import Costs, Data, Paper, Risk, Settings, Sim
from fks.model.bar import Bars
from fks.model.calendars import calendar_of
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import Role, Side
from fks.model.timeframe import NS, iso, to_datetime, to_ns
from fks.research.backtest import Member, Setup, run, run_account
from fks.research.jobs.drift import run_drift
from fks.store.bus import BARS, WAKE, Bus
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.feature_values import FeatureStore
from fks.strategies.base import Strategy
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from fks.trading.matching import CostModel
from fks.trading.orders.crash_points import At, nowhere
from fks.trading.strategy_worker.worker import StrategyWorker
from fks.trading.venues.registry import Making, make_venue
from tests.support.fills import PlainFill, assert_same_fills, plain_fill
from tests.support.order_rig import Rig
from tests.support.ports import CollectingLog
from tests.support.runtimes import TAPE, runtime
from tests.support.strategies import DECIDABLE, add_account, collect, hold, seal
from tests.support.waiting import until

BARS_TRADED = 70
SIZE = Decimal(500)
PARAMS: dict[str, dict[str, Any]] = {
    "sma_cross": {"fast": 2, "slow": 5, "sl_pct": 0.3, "tp_pct": 0.5},
    "ema_cross": {"fast": 2, "slow": 5, "tp_pct": 0.3},
    "macd": {"fast": 2, "slow": 5, "signal": 2, "sl_pct": 0.2, "trail_pct": 0.1},
    "rsi": {"period": 3, "sl_pct": 0.4, "tp_pct": 0.4},
    "bollinger": {"period": 5, "deviations": 1.0},
    "buy_and_hold": {"tp_pct": 2.0},
    "donchian": {"entry": 2, "leave": 2, "trail_pct": 0.15, "tp_pct": 0.6},
    "atr_trend": {"period": 3, "atr_period": 2, "multiple": 1.0},
    "vwap_reversion": {"period": 4, "entry_pct": 0.05, "tp_pct": 0.4},
    "volatility_breakout": {"period": 2, "multiple": 0.7, "bars": 3, "sl_pct": 0.2},
    "pullback": {"factor": 2, "fast": 2, "slow": 4, "period": 2, "low": 45.0, "leave": 55.0},
    "rsi_dip": {"period": 2, "low": 35.0, "leave": 60.0, "sl_pct": 0.1, "hold": 5, "pause": 1},
    "time_of_day": {"zone": "UTC", "start": "01:20", "end": "02:00"},
    "dca": {"every": 3, "buys": 4, "tp_pct": 0.1, "scale": 1.7},
    "grid": {"period": 5, "step_pct": 0.1, "levels": 4, "tp_pct": 0.1, "sl_pct": 1.0},
    "scale_out": {"entry": 2, "leave": 6, "sales": 3, "step_pct": 0.05, "sl_pct": 0.3},
    "combination": {
        "members": [
            {"strategy": "donchian", "params": {"entry": 2, "leave": 2}, "weight": 2.0},
            {"strategy": "bollinger", "params": {"period": 3, "deviations": 0.5}},
        ],
        "rule": "weights",
        "threshold": 0.3,
        "tp_pct": 0.5,
    },
}
#: strategies that decide once a day, or once
SELDOM = {"buy_and_hold", "time_of_day"}
SETTINGS = Settings(
    sim=Sim(fills="tape"),
    data=Data(timeframes=("1m",)),
    risk=Risk(feed_age_max_s=3600, orders_per_minute=100_000, loss_day_max=Decimal(10**6)),
    costs=Costs(fee_rate_maker=Decimal("-0.0002")),
)
COSTS = CostModel.of(SETTINGS.costs)


def instrument(symbol: str) -> Instrument:
    return Instrument(
        "binance",
        symbol,
        symbol[:3],
        "USDT",
        Decimal("0.01"),
        Decimal("0.001"),
        Decimal("0.001"),
        Decimal(9000),
        Decimal(5),
    )


@dataclass
class Market:
    """One tape under several symbols, a strategy on each."""

    db: Database
    bus: Bus
    strategies: dict[str, Strategy]
    tape: Bars
    first: int

    async def seed(self) -> None:
        await add_account(self.db)
        for symbol, strategy in self.strategies.items():
            await self.db.sql(
                "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, "
                "notional_min)"
                " VALUES ('binance', $1, $2, 'USDT', 0.01, 0.001, 0.001, 9000, 5)",
                symbol,
                symbol[:3],
            )
            anchor = int(self.tape.time_ns[self.first - strategy.warmup()])
            await self.db.sql(
                "INSERT INTO strategy_instances (id, strategy, params, exchange, symbol, timeframe, account_id, "
                "venue, size,"
                " anchor_time, cursor_time, pyramiding)"
                " VALUES ($1, $2, $3, 'binance', $1, '1m', 1, 'paper', $4, $5, $6, $7)",
                symbol,
                strategy.name,
                strategy.model_dump(mode="json"),
                SIZE,
                to_datetime(anchor),
                to_datetime(int(self.tape.time_ns[self.first - 1])),
                strategy.entries_max(),
            )
            await seal(self.db, replace(self.tape[: self.first], symbol=symbol))
            await self.db.sql(
                "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price)"
                " VALUES ('binance', $1, 'trades', 'LIVE', now(), 1) ON CONFLICT (exchange, symbol, timeframe)"
                " DO UPDATE SET state = 'LIVE'",
                symbol,
            )
        await collect(self.db)
        await self._mark(self.first - 1)

    async def _mark(self, index: int) -> None:
        price = Decimal(repr(float(self.tape.close[index])))
        await self.db.sql("UPDATE feeds SET last_price = $1, last_message_at = now() WHERE timeframe = 'trades'", price)

    async def advance(self, index: int, rig: Rig) -> None:
        """Seal bar `index` and wait until every signal of it has its outcome.

        The order service knows the bar's close as the last price before: its checks of a stop's side look at that.
        """
        await self._mark(index)
        price = Decimal(repr(float(self.tape.close[index])))

        async def knows_price() -> bool:
            await self.bus.publish(WAKE, {"type": "look"})
            return all(mark.price == price for mark in rig.service.cache.marks.values())

        await until(knows_price)
        for symbol in self.strategies:
            await seal(self.db, replace(self.tape[index : index + 1], symbol=symbol))
            await self.bus.publish(BARS, {"type": "bar", "symbol": symbol, "timeframe": "1m"})
        moment = to_datetime(int(self.tape.time_ns[index]))

        async def is_settled() -> bool:
            (row,) = await self.db.sql(
                f"SELECT (SELECT count(*) FROM strategy_instances WHERE cursor_time < $1) + {DECIDABLE} AS waiting",
                moment,
            )
            if row["waiting"] or not await self.db.sql(
                "SELECT FROM stop_moves WHERE coalesce(entry_limit, entry_stop) > 0"
            ):
                return not row["waiting"]
            facts, after_ns = FactStore(self.db), int(self.tape.time_ns[index]) + NS
            if not any([await facts.is_undecided("paper", symbol, after_ns) for symbol in self.strategies]):
                return True
            await self.bus.publish(WAKE, {"type": "look"})
            return False

        await until(is_settled)


@pytest.fixture
async def market(database: Database, bus: Bus) -> Market:
    catalogue = load_catalogue()
    made = {f"S{i:02}USDT": catalogue.make(name, params) for i, (name, params) in enumerate(PARAMS.items())}
    first = max(s.warmup() for s in made.values()) + 2
    found = Market(database, bus, made, synthetic(first + BARS_TRADED), first)
    await found.seed()
    return found


@dataclass
class Running:
    """Strategy worker and order service on the paper venue that fills by bars; both can be killed and come back."""

    market: Market
    home: Path
    settings: Settings = SETTINGS
    balances_s: float = 0.0  # how long the venue takes to answer what it holds
    epoch: int = 0
    at: At = nowhere
    rig: Rig | None = None
    working: asyncio.Task[None] | None = None
    logs: list[CollectingLog] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        """Whether each bar waited until what the one before filled was booked: after 5 s none waits any longer."""
        return not any(line[1] == "paper.unsettled" for log in self.logs for line in log.lines)

    async def start(self) -> None:
        self.epoch += 1
        log, clock = CollectingLog(), RealClock()
        self.logs.append(log)
        making = Making(settings=self.settings, node=None, clock=clock, log=log, account_id=1, paper_mode="bar")
        paper = make_venue("paper", making)
        balances = paper.balances

        async def late_balances() -> Any:
            await asyncio.sleep(self.balances_s)
            return await balances()

        paper.balances = late_balances  # type: ignore[method-assign]
        self.rig = Rig(
            self.market.db, self.market.bus, paper, self.settings, venues={"paper": paper}, log=log, at=self.at
        )  # type: ignore[arg-type]
        worker = StrategyWorker(
            runtime(
                self.market.db,
                self.market.bus,
                await hold(self.market.db, self.epoch),
                settings=TAPE,
                clock=clock,
                log=log,
            ),
            0,
            home=self.home,
        )
        await worker.start()
        self.working = asyncio.create_task(worker.run())
        await self.rig.start()

    async def advance(self, index: int) -> None:
        """Seal bar `index` and wait for every outcome; say what waits, and which part has ended by itself."""
        assert self.rig is not None
        try:
            await self.market.advance(index, self.rig)
        except AssertionError as error:
            raise AssertionError(f"bar {index}: {error}\n{await self.waiting()}") from None

    async def is_at_rest(self) -> bool:
        """Return whether no order is on its way to the venue."""
        return not await self.market.db.sql("SELECT FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")

    async def waiting(self) -> str:
        """Return the open steps, the last log line, and the part that has ended by itself."""
        assert self.rig is not None
        db = self.market.db
        orders = await db.sql(
            "SELECT symbol, role, state, code, detail FROM orders WHERE state NOT IN ('FILLED','CANCELLED')"
        )
        signals = await db.sql("SELECT symbol, kind, ts_event FROM signals WHERE state = 'ready'")
        tasks = [repr(task) for task in (self.working, self.rig.task)]
        logged = [line for line in self.rig.log.lines if line[0] in ("warning", "error")][-20:]
        return "\n".join(map(str, (orders, signals, tasks, logged)))

    async def crash(self) -> None:
        """End both as kill -9 would: their memory is gone."""
        assert self.working is not None
        assert self.rig is not None
        self.working.cancel()
        await asyncio.gather(self.working, return_exceptions=True)
        await self.rig.crash()

    async def __aenter__(self) -> Running:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.crash()

    async def replay(self, *killed_after: int) -> None:
        """Seal the bars one by one; kill both parts after these bars, once no order is on its way to the venue."""
        for index in range(self.market.first, len(self.market.tape)):
            await self.advance(index)
            if index in killed_after:
                # a stop that is on its way is UNKNOWN to the next one, which asks for half a minute: no bar waits so long
                await until(self.is_at_rest, deadline_s=20)
                await self.crash()
                await self.start()

    async def book(self, fills: int) -> None:
        """Wait until so many fills are booked, for seconds: the comparison that follows names those that lack."""

        async def is_booked() -> bool:
            (row,) = await self.market.db.sql("SELECT count(*) AS n FROM trades")
            return bool(row["n"] >= fills)

        with contextlib.suppress(AssertionError):
            await until(is_booked, deadline_s=10)


@dataclass
class Dying(Running):
    """Both parts are killed once, before the order number `last` is journaled."""

    last: int = 0
    placed: int = 0
    died: asyncio.Event = field(default_factory=asyncio.Event)
    left: list[str] = field(default_factory=list)  # states of the entries at the kill

    def __post_init__(self) -> None:
        self.at = self.count

    def count(self, label: str) -> None:
        self.placed += label == "place.before"
        if self.placed >= self.last:
            self.died.set()
            raise asyncio.CancelledError

    async def advance(self, index: int) -> None:
        advancing = asyncio.create_task(super().advance(index))
        dying = asyncio.create_task(self.died.wait())
        await asyncio.wait({advancing, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if self.died.is_set() and self.at is not nowhere:
            rows = await self.market.db.sql("SELECT state FROM orders WHERE role = 'entry'")
            self.left, self.at = [row["state"] for row in rows], nowhere
            await self.crash()
            await self.start()
        await advancing


@pytest.fixture
async def system(market: Market, tmp_path: Path) -> AsyncIterator[Running]:
    async with Running(market, tmp_path) as running:
        yield running


async def test_paper_fills_what_the_backtest_fills(market: Market, system: Running) -> None:
    await system.replay(market.first + 20, market.first + 41)

    async def all_given() -> bool:  # a decision on the last bar rests; everything before it has filled
        rows = await market.db.sql(
            "SELECT count(*) AS n FROM orders o JOIN signals s ON s.id = o.signal_id"
            " WHERE o.state NOT IN ('FILLED','CANCELLED','EXPIRED','DENIED') AND o.role IN ('entry','exit') AND "
            "s.ts_event < $1",
            to_datetime(int(market.tape.time_ns[-1])),
        )
        return not rows[0]["n"]

    try:
        await until(all_given)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await system.waiting()}") from None
    assert not await market.db.sql("SELECT code, detail FROM signals WHERE state IN ('denied', 'expired')")
    start_ns = int(market.tape.time_ns[market.first])
    wanted = {
        symbol: run(
            strategy,
            replace(market.tape, symbol=symbol),
            Setup(instrument(symbol), COSTS, size=SIZE, cash=Decimal(100_000), start_ns=start_ns),
        ).fills
        for symbol, strategy in market.strategies.items()
    }
    await system.book(sum(map(len, wanted.values())))
    for symbol, strategy in market.strategies.items():
        assert len(wanted[symbol]) > 6 or strategy.name in SELDOM
        rows = await market.db.sql(
            "SELECT *, lower(trade_type) AS side FROM trades WHERE symbol = $1 ORDER BY time, id", symbol
        )
        assert_same_fills(wanted[symbol], rows, is_settled=system.is_settled)
        # the report of drift says so, too
        drift = await run_drift({"instance": symbol}, market.db, SETTINGS, load_catalogue(), now_ns=0)
        assert (drift["mismatch"], drift["cost"]) == ("0", "0"), drift
        assert drift["matched"] == drift["expected"]
        assert drift["matched"] > 6 or strategy.name in SELDOM


PILE = """
from typing import Any, ClassVar

from fks.model.bar import Bars
from fks.strategies.base import BarStrategy, Context


class Pile(BarStrategy):
    name: ClassVar[str] = "pile"

    def entries_max(self) -> int:
        return 4

    def warmup(self) -> int:
        return 1

    def on_bar(self, ctx: Context, bar: Any) -> None:
        turn = bar.time_ns // 60_000_000_000 % 12
        if not ctx.position:
            ctx.buy(stop_loss=bar.close * 0.9975, take_profit=bar.close * 1.0025)
        elif turn in (8, 10):  # in no bar in which a further entry fills
            ctx.move_stop(bar.close * (0.9985 if turn == 8 else 0.999))
            ctx.move_target(bar.close * (1.0012 if turn == 8 else 1.0006))
        elif turn == 5:
            ctx.move_target(bar.close * 1.004)
        elif turn in (1, 3, 6):
            ctx.add(size_share=0.7 if turn == 3 else 1.0)
        elif turn in (4, 7, 9):
            ctx.reduce(0.3 if turn == 7 else 0.55)
        elif turn == 11:
            ctx.close()
"""


async def test_positions_of_several_entries_are_closed_in_parts(database: Database, bus: Bus, tmp_path: Path) -> None:
    """After a part is closed the legs of the entries left cover the rest, and stops and targets are moved, on paper as
    in a backtest; killed once."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "pile.py").write_text(PILE)
    strategy = load_catalogue(tmp_path / "strategies").make("pile", {})
    market = Market(database, bus, {"S00USDT": strategy}, synthetic(150), 20)
    await market.seed()
    start_ns, symbol = int(market.tape.time_ns[market.first]), "S00USDT"
    setup = Setup(instrument(symbol), COSTS, size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    async with Running(market, tmp_path) as running:
        await running.replay(85)
        await running.book(len(wanted.fills))
    roles = [fill.role.value for fill in wanted.fills]
    assert min(roles.count(role) for role in ("entry", "exit", "sl", "tp")) > 3, roles
    moved = await database.sql("SELECT count(*) AS n FROM order_events WHERE event = 'StopMoved'")
    assert moved[0]["n"] > 5
    targets = await database.sql("SELECT count(*) AS n FROM order_events WHERE event = 'TargetMoved'")
    assert targets[0]["n"] > 5
    assert_same_fills(
        wanted.fills,
        await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"),
        is_settled=running.is_settled,
    )


CHASER = """
from typing import Any, ClassVar

from fks.model.bar import Bars
from fks.strategies.base import BarStrategy, Context


class Chaser(BarStrategy):
    name: ClassVar[str] = "chaser"

    def warmup(self) -> int:
        return 1

    def on_bar(self, ctx: Context, bar: Any) -> None:
        turn = bar.time_ns // 60_000_000_000 % 17
        if ctx.is_waiting:
            age = ctx.state.age = ctx.state.age + 1
            if age == 4 and turn < 5:
                ctx.close()
            elif ctx.state.kind == "limit":
                ctx.reprice(limit=bar.close * (1 - 0.002 / age))
            elif ctx.state.kind == "stop":
                ctx.reprice(stop=bar.close * (1 + 0.002 / age))
            else:
                ctx.reprice(stop=bar.close * 1.0003, limit=bar.close * 1.0006)
        elif ctx.position and ctx.bars_held > 3:
            ctx.close()
        elif not ctx.position:
            ctx.state.age, ctx.state.kind = 0, ("limit", "stop", "both")[turn % 3]
            levels = {"stop_loss": bar.close * 0.99, "take_profit": bar.close * 1.01}
            if ctx.state.kind == "limit":
                ctx.buy(limit=bar.close * 0.995, bars=6 if turn % 2 else None, **levels)
            elif ctx.state.kind == "stop":
                ctx.buy(stop=bar.close * 1.005, **levels)
            else:
                ctx.buy(stop=bar.close * 1.004, limit=bar.close * 1.0045, **levels)
"""


async def test_a_repriced_entry_fills_on_paper_as_in_a_backtest(database: Database, bus: Bus, tmp_path: Path) -> None:
    """Killed twice: before the order at the new price is journaled, when the old one is cancelled, and at rest."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "chaser.py").write_text(CHASER)
    strategy = load_catalogue(tmp_path / "strategies").make("chaser", {})
    market = Market(database, bus, {"S00USDT": strategy}, synthetic(130), 20)
    await market.seed()
    start_ns, symbol = int(market.tape.time_ns[market.first]), "S00USDT"
    setup = Setup(instrument(symbol), COSTS, size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    # the second order takes the place of the first
    async with Dying(market, tmp_path, last=2) as running:
        await running.replay(85)
        await running.book(len(wanted.fills))
    assert (running.epoch, running.left) == (3, ["CANCELLED"])
    assert [fill.role.value for fill in wanted.fills].count("entry") > 5
    moved = await database.sql("SELECT error, successor FROM order_amendments WHERE bar_time IS NOT NULL")
    assert sum(row["successor"] is not None for row in moved) > 10
    assert wanted.denied == ()
    assert not await database.sql("SELECT code, detail FROM signals WHERE state IN ('denied', 'expired')")
    assert_same_fills(
        wanted.fills,
        await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"),
        is_settled=running.is_settled,
    )


async def test_a_tape_goes_on_past_a_flip_to_short(database: Database, bus: Bus, tmp_path: Path) -> None:
    """The exit fills at the next bar's open, and the entry behind it is denied only then."""
    strategy = load_catalogue().make("sma_cross", {"fast": 2, "slow": 5, "short": True})
    first = strategy.warmup() + 2
    market = Market(database, bus, {"S00USDT": strategy}, synthetic(first + 40), first)
    await market.seed()
    start_ns, symbol = int(market.tape.time_ns[first]), "S00USDT"
    setup = Setup(instrument(symbol), COSTS, size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    async with Running(market, tmp_path) as running:
        await running.replay()
        await running.book(len(wanted.fills))
    assert len(wanted.fills) > 6
    assert_same_fills(
        wanted.fills,
        await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"),
        is_settled=running.is_settled,
    )
    denied = await database.sql("SELECT ts_event, code FROM signals WHERE state = 'denied' ORDER BY ts_event")
    assert [(to_ns(row["ts_event"]), row["code"]) for row in denied] == [
        (row.time_ns, row.code) for row in wanted.denied
    ]


async def test_paper_expires_what_the_backtest_expires(database: Database, bus: Bus, tmp_path: Path) -> None:
    """Half of the bars open beyond the collar of 0.5 %, a quarter within it."""
    strategy = load_catalogue().make("sma_cross", {"fast": 2, "slow": 5, "sl_pct": 2.0, "tp_pct": 1.5})
    first, symbol = strategy.warmup() + 2, "S00USDT"
    tape = synthetic(first + 80)
    rises = np.random.default_rng(4).choice([0.0, 0.003, 0.008, 0.008], len(tape))
    opens = np.round(tape.open * (1 + rises), 2)
    tape = replace(tape, symbol=symbol, open=opens, high=np.maximum(tape.high, opens))
    item = replace(instrument(symbol), has_oto=True)
    setup = Setup(
        item, COSTS, size=SIZE, cash=Decimal(100_000), start_ns=int(tape.time_ns[first]), collar_pct=Decimal("0.5")
    )
    wanted = run(strategy, tape, setup)
    assert wanted.expired_count >= 3
    assert [fill.role.value for fill in wanted.fills].count("entry") >= 4
    market = Market(database, bus, {symbol: strategy}, tape, first)
    await market.seed()
    await database.sql("UPDATE instruments SET filters = $1", {"has_oto": True})
    settings = SETTINGS.model_copy(update={"venue": SETTINGS.venue.model_copy(update={"entry_protection": "venue"})})
    async with Running(market, tmp_path, settings) as running:
        await running.replay()
        await running.book(len(wanted.fills))
    assert_same_fills(
        wanted.fills,
        await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"),
        is_settled=running.is_settled,
    )
    rows = await database.sql(
        "SELECT s.ts_event, o.code, o.detail FROM orders o JOIN signals s ON s.id = o.signal_id "
        "WHERE o.state = 'EXPIRED' AND o.role = 'entry' ORDER BY s.ts_event"
    )
    assert [(to_ns(row["ts_event"]), row["code"]) for row in rows] == [
        (row.time_ns, row.code) for row in wanted.expired
    ]
    assert wanted.denied == ()
    assert "a market entry that may cost" in rows[0]["detail"]
    assert not await database.sql(
        "SELECT 1 FROM orders WHERE role IN ('sl', 'tp') AND state IN ('WORKING', 'ACCEPTED')"
        " AND parent_id IN (SELECT client_order_id FROM orders WHERE state = 'EXPIRED')"
    )
    # without the collar these entries have positions
    assert len(run(strategy, tape, replace(setup, collar_pct=None)).fills) > len(wanted.fills)


DUO = """
from typing import ClassVar

from fks.indicators import cross_side
from fks.model.bar import Bars
from fks.strategies.base import Decisions, EntryGroup, Strategy, side_to_target


class Duo(Strategy):
    name: ClassVar[str] = "duo"

    def group(self, symbol: str) -> EntryGroup:
        return EntryGroup(self.name, ("S00USDT", "S01USDT"))

    def warmup(self) -> int:
        return 8

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(side_to_target(cross_side(bars.close, 3, 8), short=False))
"""


async def test_paper_makes_the_legs_that_the_backtest_makes(database: Database, bus: Bus, tmp_path: Path) -> None:
    """A limit that binds in the middle of the tape denies the second leg; the order manager is killed once it
    has checked the legs of the second decision, before one is journaled."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "duo.py").write_text(DUO)
    strategy = load_catalogue(tmp_path / "strategies").make("duo", {})
    first, symbols = strategy.warmup() + 2, ("S00USDT", "S01USDT")
    tape = synthetic(first + 50)
    most = Decimal(str(np.median(tape.close[first:]))) * 2
    risk = SETTINGS.risk.model_copy(update={"notional_max_order": most})
    members = [
        Member(
            strategy,
            replace(tape, symbol=symbol),
            Setup(instrument(symbol), COSTS, sizing="quantity", size=Decimal(size), start_ns=int(tape.time_ns[first])),
        )
        for symbol, size in zip(symbols, (1, 2), strict=True)
    ]
    wanted = run_account(members, cash=100_000, limits=risk)
    assert len(wanted.fills) >= 8
    assert {row.code for row in wanted.results[0].denied} == {"GROUP_DENIED"}
    assert {row.code for row in wanted.results[1].denied} == {"NOTIONAL_MAX_ORDER"}

    market = Market(database, bus, dict.fromkeys(symbols, strategy), tape, first)
    await market.seed()
    await database.sql(
        "UPDATE strategy_instances SET sizing = 'quantity', size = CASE symbol WHEN 'S00USDT' THEN 1 ELSE 2 END"
    )
    # two legs, two exits, and the first leg of the second decision
    async with Dying(market, tmp_path, SETTINGS.model_copy(update={"risk": risk}), last=5) as running:
        await running.replay()
        await running.book(len(wanted.fills))
    assert running.epoch == 2
    for number, symbol in enumerate(symbols):
        rows = await database.sql(
            "SELECT *, trade_type AS side FROM trades WHERE symbol = $1 ORDER BY time, id", symbol
        )
        assert_same_fills(wanted.results[number].fills, rows, is_settled=running.is_settled)
        denied = await database.sql(
            "SELECT ts_event, code FROM signals WHERE symbol = $1 AND state = 'denied' ORDER BY ts_event", symbol
        )
        assert [(to_ns(row["ts_event"]), row["code"]) for row in denied] == [
            (row.time_ns, row.code) for row in wanted.results[number].denied
        ]


async def watched_drift(db: Database, **limits: Any) -> dict[str, Any]:
    """Return the watched drift of the only instance, held to these limits."""
    strategies = SETTINGS.strategies.model_copy(update=limits)
    settings = SETTINGS.model_copy(update={"strategies": strategies})
    return await run_drift({"instance": "S00USDT", "is_watched": True}, db, settings, load_catalogue(), now_ns=0)


@pytest.mark.parametrize("limit", ["loss_day_max", "notional_max_order"])
async def test_paper_denies_what_the_backtest_denies(database: Database, bus: Bus, tmp_path: Path, limit: str) -> None:
    """A tape of the trading day that began some hours ago, and a limit that binds in the middle of it."""
    strategy = load_catalogue().make("sma_cross", {"fast": 3, "slow": 8})
    first = strategy.warmup() + 2
    tape = synthetic(first + 50)
    began = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=4)
    tape = replace(tape, symbol="S00USDT", time_ns=tape.time_ns - tape.time_ns[0] + to_ns(began) + 600 * NS)
    # the price rises on the whole, so that orders of a fixed quantity cost more and more
    value = {"loss_day_max": Decimal(2), "notional_max_order": Decimal(str(np.median(tape.close[first:]))) * 2}[limit]
    risk = SETTINGS.risk.model_copy(update={limit: value, "day_start_hour": began.hour})
    setup = Setup(
        instrument("S00USDT"),
        COSTS,
        sizing="quantity",
        size=Decimal(2),
        cash=Decimal(100_000),
        start_ns=int(tape.time_ns[first]),
        limits=risk,
    )
    wanted = run(strategy, tape, setup)
    assert wanted.denied
    assert len(wanted.fills) >= 4

    market = Market(database, bus, {"S00USDT": strategy}, tape, first)
    await market.seed()
    await database.sql("UPDATE strategy_instances SET sizing = 'quantity', size = 2")
    async with Running(market, tmp_path, SETTINGS.model_copy(update={"risk": risk})) as running:
        await running.replay()
        await running.book(len(wanted.fills))
        rows = await database.sql("SELECT *, lower(trade_type) AS side FROM trades ORDER BY time, id")
        assert_same_fills(wanted.fills, rows, is_settled=running.is_settled)
        denied = await database.sql("SELECT ts_event, code FROM signals WHERE state = 'denied' ORDER BY ts_event")
        assert [(to_ns(row["ts_event"]), row["code"]) for row in denied] == [
            (row.time_ns, row.code) for row in wanted.denied
        ]
        # what was denied is what live did not make, with the code
        await database.sql("ALTER TABLE alerts ADD CONSTRAINT refused CHECK (event <> 'strategy.drift')")
        with pytest.raises(Exception, match="refused"):  # the page cannot be stored: then there is no pause
            await watched_drift(market.db, drift_mismatch_max=0.01, drift_pause=True)
        (row,) = await database.sql("SELECT approval FROM strategy_instances")
        assert row["approval"] == "auto"
        await database.sql("ALTER TABLE alerts DROP CONSTRAINT refused")
        drift = await watched_drift(market.db, drift_mismatch_max=0.01, drift_pause=True)
        missed = [step for step in drift["steps"] if step["role"] == "entry" and step["difference"] == "not made"]
        codes = {iso(row.time_ns): row.code for row in wanted.denied}
        assert [(step["decided"], step["reason"]) for step in missed] == sorted(codes.items())
        assert drift["is_paused"]
        (alert,) = await database.sql("SELECT severity, message FROM alerts WHERE event = 'strategy.drift'")
        assert alert["severity"] == "page"
        assert "wait for approval" in alert["message"]
        (row,) = await database.sql("SELECT approval FROM strategy_instances")
        assert row["approval"] == "manual"


STEPS = """
from decimal import Decimal
from typing import Any, ClassVar

from fks.strategies.base import BarStrategy, BreakEven, Context


class Steps(BarStrategy):
    name: ClassVar[str] = "steps"
    at_risk: bool = False
    reduces: bool = False
    rests: bool = False

    def warmup(self) -> int:
        return 1

    def on_bar(self, ctx: Context, bar: Any) -> None:
        away = bar.close * 0.0008
        if not ctx.position:
            if ctx.is_waiting:
                return
            rule = BreakEven(at_risk=Decimal("0.75")) if self.at_risk else BreakEven(after_target=1)
            ctx.buy(
                stop_loss=bar.close - 1.5 * away,
                targets=((bar.close + away, 0.5), (bar.close + 2 * away, 0.3), (bar.close + 3.5 * away, 0.2)),
                break_even=rule,
                limit=bar.close - 0.2 * away if self.rests else None,
                bars=3,
            )
        elif self.reduces and ctx.kept == 1 and ctx.bars_held == 2:
            ctx.reduce(0.4)
        elif ctx.bars_held >= 25:
            ctx.close()
"""


def by_bar(fills: Iterable[Any]) -> list[PlainFill]:
    """Return fills sorted: each target is a list of its own, which of them the venue reports first in one bar has no
    meaning."""
    return sorted(map(plain_fill, fills), key=lambda fill: (fill.time, fill.side, fill.price, fill.quantity))


async def test_targets_and_break_even_fill_as_in_a_backtest(database: Database, bus: Bus, tmp_path: Path) -> None:
    """Several targets and a stop that moves to break-even, by a target and by closes, with parts closed before and
    entries that rest; killed once. Without a rebate, whose worth in base is sold by another leg (docs/backtest.md)."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "steps.py").write_text(STEPS)
    catalogue = load_catalogue(tmp_path / "strategies")
    kinds: tuple[dict[str, Any], ...] = ({}, {"at_risk": True}, {"reduces": True}, {"rests": True})
    made = {f"S{i:02}USDT": catalogue.make("steps", params) for i, params in enumerate(kinds)}
    market = Market(database, bus, made, synthetic(85), 20)
    await market.seed()
    start_ns = int(market.tape.time_ns[market.first])
    wanted = {
        symbol: run(
            strategy,
            replace(market.tape, symbol=symbol),
            Setup(instrument(symbol), size=SIZE, cash=Decimal(100_000), start_ns=start_ns),
        ).fills
        for symbol, strategy in made.items()
    }

    async with Running(market, tmp_path, SETTINGS.model_copy(update={"costs": Costs()})) as running:
        await running.replay(55)
        await running.book(sum(map(len, wanted.values())))
    for symbol, fills in wanted.items():
        roles = [fill.role.value for fill in fills]
        assert min(roles.count(role) for role in ("entry", "sl", "tp")) > 3, roles
        rows = await database.sql("SELECT *, lower(trade_type) AS side FROM trades WHERE symbol = $1", symbol)
        assert_same_fills(by_bar(fills), by_bar(rows), is_settled=running.is_settled)


FOLLOW = """
import numpy as np

from fks.strategies.base import Decisions, Strategy, feature


class Follow(Strategy):
    name = "follow"

    def warmup(self):
        return 2

    def features(self):
        return ("forecast:ar",)

    def decide(self, bars):
        return Decisions(np.where(feature(self, bars, "forecast:ar").values > 0, 1.0, 0.0))
"""


async def test_forecasts_that_are_late_or_missing_give_the_same_fills(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    """Predictions come before the bar, delayed, too late, or never, as where inference was killed, over a crash of the
    worker; a backtest over the rows, `missing` ones included, fills what paper filled."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "follow.py").write_text(FOLLOW)
    strategy, symbol, dice = load_catalogue(tmp_path / "strategies").make("follow", {}), "S00USDT", random.Random(30)
    market = Market(database, bus, {symbol: strategy}, synthetic(50), 10)
    tape = replace(market.tape, symbol=symbol)
    await market.seed()
    await database.sql("INSERT INTO ai_models VALUES ('ar', 'binance', '1m', 60, 'test')")

    async def predict(index: int, delay_s: float = 0.0) -> None:
        await asyncio.sleep(delay_s)
        await database.sql(
            "INSERT INTO feature_values (feature, symbol, time, known_at, value, version, label_end, origin, state)"
            " VALUES ('forecast:ar', $1, $2, $2, $3, 1, $2, 'live', 'ok') ON CONFLICT DO NOTHING",
            symbol,
            to_datetime(int(tape.time_ns[index]) + 60 * NS),
            dice.choice((-1.0, 1.0)),
        )

    for index in range(market.first):
        await predict(index)
    running = Running(market, tmp_path)
    await running.start()
    absent = set()
    try:
        for index in range(market.first, len(tape)):
            kind = dice.choice(("early", "early", "delayed", "late", "never"))
            if kind == "early":
                await predict(index)
            async with asyncio.TaskGroup() as tasks:
                if kind == "delayed":
                    tasks.create_task(predict(index, 0.3))
                await running.advance(index)
            if kind in ("late", "never"):
                absent.add(int(tape.time_ns[index]) + 60 * NS)
            if kind == "late":
                await predict(index)
            if index == 30:
                await until(running.is_at_rest)
                await running.crash()
                await running.start()
        whole = await FeatureStore(database).aligned(["forecast:ar"], symbol, tape)
        start_ns = int(tape.time_ns[market.first])
        setup = Setup(instrument(symbol), COSTS, size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
        wanted = run(strategy, whole, setup).fills
        await running.book(len(wanted))
    finally:
        await running.crash()
    missing = {
        to_ns(row["time"]) for row in await database.sql("SELECT time FROM feature_values WHERE state = 'missing'")
    }
    assert missing >= absent
    assert len(absent) >= 10
    assert len(wanted) >= 10
    rows = await database.sql("SELECT *, lower(trade_type) AS side FROM trades ORDER BY time, id")
    assert_same_fills(wanted, rows, is_settled=running.is_settled)
    assert np.isnan(whole.features["forecast:ar"].values).sum() == len(missing)


WAITING = "FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_kill_before_protection_is_sent_changes_no_fill(database: Database, bus: Bus, tmp_path: Path) -> None:
    """Killed after an entry is booked and before its legs are stored, in bars that fill both the entry and a leg. Its
    successor knows the balances, and so sends the legs, only after it could have had the bar."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "steps.py").write_text(STEPS)
    strategy = load_catalogue(tmp_path / "strategies").make("steps", {})
    market = Market(database, bus, {"S00USDT": strategy}, synthetic(85), 20)
    await market.seed()
    start_ns = int(market.tape.time_ns[market.first])
    setup = Setup(instrument("S00USDT"), COSTS, size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
    wanted = run(strategy, replace(market.tape, symbol="S00USDT"), setup).fills
    entered, left = ({f.time_ns for f in wanted if (f.role.value == "entry") is x} for x in (True, False))
    both = entered & left
    assert len(both) > 1
    await database.sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NEW; END $$"
    )
    await database.sql(
        "CREATE TRIGGER waits BEFORE UPDATE ON orders FOR EACH ROW"
        " WHEN (OLD.state = 'INTENDED' AND OLD.role IN ('sl', 'tp'))"
        " EXECUTE FUNCTION wait()"
    )

    async def waits() -> bool:
        return bool(await database.sql(f"SELECT {WAITING}"))

    running = Running(market, tmp_path, balances_s=0.2)
    await running.start()
    try:
        for index in range(market.first, len(market.tape)):
            if int(market.tape.time_ns[index]) in both:
                async with database.transaction() as blocked:
                    await blocked.connection.execute("SELECT pg_advisory_xact_lock(77)")
                    advancing = asyncio.create_task(running.advance(index))
                    await until(waits, deadline_s=20)
                    advancing.cancel()
                    await asyncio.gather(advancing, return_exceptions=True)
                    await running.crash()
                    await database.sql(f"SELECT pg_terminate_backend(pid) {WAITING}")
                await running.start()
            else:
                await running.advance(index)
        await running.book(len(wanted))
    finally:
        await running.crash()
    assert_same_fills(
        by_bar(wanted),
        by_bar(await database.sql("SELECT *, lower(trade_type) AS side FROM trades")),
        is_settled=running.is_settled,
    )


LEVERED = """
from typing import Any, ClassVar

from fks.strategies.base import BarStrategy, Context


class Levered(BarStrategy):
    name: ClassVar[str] = "levered"

    def warmup(self) -> int:
        return 1

    def on_bar(self, ctx: Context, bar: Any) -> None:
        number, turn = divmod(bar.time_ns // 60_000_000_000, 22)
        share = 0.8 ** (number % 8)
        if turn == 0:
            ctx.buy(size_share=share, stop_loss=(None, bar.close * 0.994, bar.close * 0.95)[number % 3])
        elif turn == 9:
            ctx.sell(size_share=share, stop_loss=bar.close * (1.006 if number % 3 else 1.05))
        elif turn == 20:
            ctx.close()
"""
#: statements that are held up by a lock: the forced close is booked, an order that it ended is
HELD_UP = {
    "": "",
    "trades": "BEFORE INSERT ON trades FOR EACH ROW WHEN (NEW.source = 'liquidation')",
    "orders": "BEFORE UPDATE ON orders FOR EACH ROW WHEN (NEW.state = 'EXPIRED')",
}


@pytest.mark.parametrize("held_up", HELD_UP)
async def test_a_margin_account_is_denied_and_closed_by_force_as_in_a_backtest(
    database: Database, bus: Bus, tmp_path: Path, held_up: str
) -> None:
    """Long and short, with reversals; killed before a forced close is booked, or before the end of its orders is."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "levered.py").write_text(LEVERED)
    strategy, symbol, tape = load_catalogue(tmp_path / "strategies").make("levered", {}), "S00USDT", synthetic(200)
    columns = {name: np.round(200 + 4 * (getattr(tape, name) - 200), 2) for name in ("open", "high", "low", "close")}
    market = Market(database, bus, {symbol: strategy}, replace(tape, **columns), 20)
    margin, cash = "0.01/0.008; fee 0.0005", Decimal(300)
    costs = Costs(fee_rate=Decimal("0.0001"), slippage="2 ticks")
    setup = Setup(
        instrument(symbol),
        replace(CostModel.of(costs), fee_in="quote"),
        sizing="quantity",
        size=Decimal(100),
        cash=cash,
        can_short=True,
        margin=Margin.parse(margin),
        start_ns=int(market.tape.time_ns[market.first]),
    )
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    forced = [fill for fill in wanted.fills if fill.role is Role.LIQUIDATION]
    assert {fill.side for fill in forced} == {Side.BUY, Side.SELL}
    assert {fill.role for fill in wanted.fills} == {Role.ENTRY, Role.EXIT, Role.STOP_LOSS, Role.LIQUIDATION}
    assert [row.code for row in wanted.denied].count("MARGIN") >= 3

    await market.seed()
    await database.sql("UPDATE accounts SET initial_balance = $1", cash)
    await database.sql("UPDATE strategy_instances SET sizing = 'quantity', size = 100")
    if held_up:
        await database.sql(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NEW; END $$"
        )
        await database.sql(f"CREATE TRIGGER waits {HELD_UP[held_up]} EXECUTE FUNCTION wait()")

    async def waits() -> bool:
        return bool(await database.sql(f"SELECT {WAITING}"))

    # where the position has its stop at the venue already
    killed = {fill.time_ns for fill in forced} - {fill.time_ns for fill in wanted.fills if fill.role is Role.ENTRY}
    assert len(killed) == 2
    rules = {"costs": costs, "paper": Paper(margin=margin, can_short=True)}
    running = Running(market, tmp_path, SETTINGS.model_copy(update=rules))
    await running.start()
    try:
        for index in range(market.first, len(market.tape)):
            if held_up and int(market.tape.time_ns[index]) in killed:
                async with database.transaction() as blocked:
                    await blocked.connection.execute("SELECT pg_advisory_xact_lock(77)")
                    advancing = asyncio.create_task(running.advance(index))
                    await until(waits, deadline_s=20)
                    advancing.cancel()
                    await asyncio.gather(advancing, return_exceptions=True)
                    await running.crash()
                    await database.sql(f"SELECT pg_terminate_backend(pid) {WAITING}")
                await running.start()
            else:
                await running.advance(index)
        await running.book(len(wanted.fills))
    finally:
        await running.crash()
    assert_same_fills(
        wanted.fills,
        await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"),
        is_settled=running.is_settled,
    )
    rows = await database.sql("SELECT ts_event, code FROM signals WHERE state = 'denied' ORDER BY ts_event")
    assert [(to_ns(row["ts_event"]), row["code"]) for row in rows] == [(row.time_ns, row.code) for row in wanted.denied]
    booked = await database.sql("SELECT time, instance FROM trades WHERE source = 'liquidation' ORDER BY time")
    assert [(to_ns(row["time"]), row["instance"]) for row in booked] == [(fill.time_ns, symbol) for fill in forced]
    assert not await database.sql("SELECT FROM orders WHERE role = 'sl' AND attempt > 0"), "a leg was sent again"
    drift = await run_drift(
        {"instance": symbol}, database, running.settings, load_catalogue(tmp_path / "strategies"), now_ns=0
    )
    # of positions that were closed by force the exits are not made, and of what was denied nothing is
    assert {step["difference"] for step in drift["steps"]} == {"none", "not made"}, drift
    if not held_up:
        (row,) = await database.sql("SELECT count(*) AS n FROM alerts WHERE event = 'fill.liquidation'")
        assert row["n"] == len(forced)


NIGHTLY = """
from typing import Any, ClassVar

from fks.strategies.base import BarStrategy, Context


class Nightly(BarStrategy):
    name: ClassVar[str] = "nightly"

    def warmup(self) -> int:
        return 1

    def on_bar(self, ctx: Context, bar: Any) -> None:
        minute = bar.time_ns // 60_000_000_000 % 1440 - 1200  # of the hour before the end of the session
        if minute in (10, 35):
            ctx.buy()
        elif minute == 40:
            ctx.sell(size_share=0.4)
        elif minute in (32, 37, 50):
            ctx.close()
"""


async def test_the_overnight_margin_counts_on_paper_as_in_a_backtest(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    """The last 80 minutes of a session in New York: it begins 30 minutes before the end, by the stored calendar."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "nightly.py").write_text(NIGHTLY)
    strategy, symbol, tape = load_catalogue(tmp_path / "strategies").make("nightly", {}), "S00USDT", synthetic(80)
    start_ns = int(tape.time_ns[0])
    minutes = calendar_of("XNYS").expected("1m", start_ns, start_ns + 7 * 86_400 * NS)[310:390]
    market = Market(database, bus, {symbol: strategy}, replace(tape, time_ns=minutes, calendar="XNYS"), 20)
    margin, cash = "0.01/0.005; overnight 30m 0.025/0.022", Decimal(300)
    setup = Setup(
        instrument(symbol),
        replace(COSTS, fee_in="quote"),
        sizing="quantity",
        size=Decimal(100),
        cash=cash,
        can_short=True,
        margin=Margin.parse(margin),
        start_ns=int(minutes[market.first]),
    )
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    assert [fill.role for fill in wanted.fills] == [Role.ENTRY, Role.LIQUIDATION, Role.ENTRY, Role.EXIT]
    assert wanted.fills[1].time_ns == minutes[50]
    assert [row.code for row in wanted.denied] == ["MARGIN"]

    await market.seed()
    await database.sql("UPDATE series SET calendar = 'XNYS'")
    await database.sql("UPDATE accounts SET initial_balance = $1", cash)
    await database.sql("UPDATE strategy_instances SET sizing = 'quantity', size = 100")
    rules = SETTINGS.model_copy(update={"paper": Paper(margin=margin, can_short=True)})
    async with Running(market, tmp_path, rules) as running:
        await running.replay()
        await running.book(len(wanted.fills))
    assert_same_fills(
        wanted.fills,
        await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"),
        is_settled=running.is_settled,
    )
    rows = await database.sql("SELECT ts_event, code FROM signals WHERE state = 'denied'")
    assert [(to_ns(row["ts_event"]), row["code"]) for row in rows] == [(row.time_ns, row.code) for row in wanted.denied]
