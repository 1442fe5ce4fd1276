"""G6, backtest = paper: the strategy worker, the order service and the paper venue, fed one tape bar by bar through
PostgreSQL, fill what a backtest fills: time, side, quantity, price and fee, for every built-in strategy at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.backtest import Setup, run
from fks.clock import RealClock
from fks.config.settings import Data, Risk, Settings, Sim
from fks.jobs.drift import run_drift
from fks.model.bar import Bars
from fks.model.instrument import Instrument
from fks.model.timeframe import NS, iso, to_datetime, to_ns
from fks.store.bus import BARS, WAKE, Bus
from fks.store.db import Database
from fks.strategies.base import Strategy
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from fks.strategy_worker.worker import StrategyWorker
from fks.venues.registry import Making, make_venue
from tests.support.fills import assert_same_fills
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
)


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
            return not row["waiting"]

        await until(is_settled, deadline_s=20)


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
    epoch: int = 0
    rig: Rig | None = None
    working: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.epoch += 1
        log, clock = CollectingLog(), RealClock()
        making = Making(settings=self.settings, node=None, clock=clock, log=log, account_id=1, paper_mode="bar")
        paper = make_venue("paper", making)
        self.rig = Rig(self.market.db, self.market.bus, paper, self.settings, venues={"paper": paper}, log=log)  # type: ignore[arg-type]
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


@pytest.fixture
async def system(market: Market, tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(market, tmp_path)
    await running.start()
    yield running
    await running.crash()


@pytest.mark.parametrize(
    "crashes",
    [
        pytest.param((), id="undisturbed"),
        pytest.param((20, 41), id="killed twice"),
    ],
)
async def test_paper_fills_what_the_backtest_fills(market: Market, system: Running, crashes: tuple[int, ...]) -> None:
    for number, index in enumerate(range(market.first, len(market.tape))):
        await system.advance(index)
        if number in crashes:
            # a stop that is on its way is UNKNOWN to the next one, which asks for half a minute: no bar waits so long
            await until(system.is_at_rest, deadline_s=20)
            await system.crash()
            await system.start()

    async def all_given() -> bool:  # a decision on the last bar rests; everything before it has filled
        rows = await market.db.sql(
            "SELECT count(*) AS n FROM orders o JOIN signals s ON s.id = o.signal_id"
            " WHERE o.state NOT IN ('FILLED','CANCELLED','EXPIRED','DENIED') AND o.role IN ('entry','exit') AND "
            "s.ts_event < $1",
            to_datetime(int(market.tape.time_ns[-1])),
        )
        return not rows[0]["n"]

    try:
        await until(all_given, deadline_s=20)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await system.waiting()}") from None
    assert not await market.db.sql("SELECT code, detail FROM signals WHERE state IN ('denied', 'expired')")
    for symbol, strategy in market.strategies.items():
        wanted = run(
            strategy,
            replace(market.tape, symbol=symbol),
            Setup(
                instrument(symbol), size=SIZE, cash=Decimal(100_000), start_ns=int(market.tape.time_ns[market.first])
            ),
        )

        async def booked(symbol: str = symbol) -> list[Any]:
            return await market.db.sql(
                "SELECT time, lower(trade_type) AS side, quantity, price, fee, fee_currency FROM trades WHERE symbol "
                "= $1"
                " ORDER BY time, id",
                symbol,
            )

        async def enough(count: int = len(wanted.fills), booked: Any = booked) -> bool:
            return len(await booked()) >= count

        with contextlib.suppress(AssertionError):
            await until(enough, deadline_s=5)
        assert len(wanted.fills) > 6 or strategy.name in SELDOM
        assert_same_fills(wanted.fills, await booked())
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
        elif turn in (1, 3, 6):
            ctx.add(size_share=0.7 if turn == 3 else 1.0)
        elif turn in (4, 7, 9):
            ctx.reduce(0.3 if turn == 7 else 0.55)
        elif turn == 11:
            ctx.close()
"""


async def test_positions_of_several_entries_are_closed_in_parts(database: Database, bus: Bus, tmp_path: Path) -> None:
    """After a part is closed the legs of the entries left cover the rest, and stops are moved, on paper as in a
    backtest; killed once."""
    (tmp_path / "strategies").mkdir(mode=0o700)
    (tmp_path / "strategies" / "pile.py").write_text(PILE)
    strategy = load_catalogue(tmp_path / "strategies").make("pile", {})
    market = Market(database, bus, {"S00USDT": strategy}, synthetic(150), 20)
    await market.seed()
    running = Running(market, tmp_path)
    await running.start()
    try:
        for index in range(market.first, len(market.tape)):
            await running.advance(index)
            if index == 85:
                await until(running.is_at_rest, deadline_s=20)
                await running.crash()
                await running.start()
    finally:
        await running.crash()
    start_ns, symbol = int(market.tape.time_ns[market.first]), "S00USDT"
    setup = Setup(instrument(symbol), size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    roles = [fill.role.value for fill in wanted.fills]
    assert min(roles.count(role) for role in ("entry", "exit", "sl", "tp")) > 3, roles
    moved = await database.sql("SELECT count(*) AS n FROM order_events WHERE event = 'StopMoved'")
    assert moved[0]["n"] > 5
    assert_same_fills(wanted.fills, await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"))


async def test_a_tape_goes_on_past_a_flip_to_short(database: Database, bus: Bus, tmp_path: Path) -> None:
    """The exit fills at the next bar's open, and the entry behind it is denied only then."""
    strategy = load_catalogue().make("sma_cross", {"fast": 2, "slow": 5, "short": True})
    first = strategy.warmup() + 2
    market = Market(database, bus, {"S00USDT": strategy}, synthetic(first + 40), first)
    await market.seed()
    running = Running(market, tmp_path)
    await running.start()
    try:
        for index in range(first, len(market.tape)):
            await running.advance(index)
    finally:
        await running.crash()
    start_ns, symbol = int(market.tape.time_ns[first]), "S00USDT"
    setup = Setup(instrument(symbol), size=SIZE, cash=Decimal(100_000), start_ns=start_ns)
    wanted = run(strategy, replace(market.tape, symbol=symbol), setup)
    assert len(wanted.fills) > 6
    assert_same_fills(wanted.fills, await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"))
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
    setup = Setup(item, size=SIZE, cash=Decimal(100_000), start_ns=int(tape.time_ns[first]), collar_pct=Decimal("0.5"))
    wanted = run(strategy, tape, setup)
    assert wanted.expired_count >= 3
    assert [fill.role.value for fill in wanted.fills].count("entry") >= 4
    market = Market(database, bus, {symbol: strategy}, tape, first)
    await market.seed()
    await database.sql("UPDATE instruments SET filters = $1", {"has_oto": True})
    settings = SETTINGS.model_copy(update={"venue": SETTINGS.venue.model_copy(update={"entry_protection": "venue"})})
    running = Running(market, tmp_path, settings)
    await running.start()
    try:
        for index in range(first, len(tape)):
            await running.advance(index)
    finally:
        await running.crash()
    assert_same_fills(wanted.fills, await database.sql("SELECT *, trade_type AS side FROM trades ORDER BY time, id"))
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
    running = Running(market, tmp_path, SETTINGS.model_copy(update={"risk": risk}))
    await running.start()
    try:
        for index in range(first, len(tape)):
            await running.advance(index)

        async def booked() -> list[Any]:
            return await database.sql(
                "SELECT time, lower(trade_type) AS side, quantity, price, fee, fee_currency FROM trades ORDER BY "
                "time, id"
            )

        async def enough() -> bool:
            return len(await booked()) >= len(wanted.fills)

        with contextlib.suppress(AssertionError):
            await until(enough, deadline_s=5)
        assert_same_fills(wanted.fills, await booked())
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
    finally:
        await running.crash()
