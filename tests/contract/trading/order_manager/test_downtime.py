"""An hour of downtime with strategies on bars of a second: the orders of the strategy worker and the order manager when
they are back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.clock import RealClock
from fks.config.settings import Risk
from fks.model.bar import Bars, Floats
from fks.model.timeframe import NS, bar_end, to_ns
from fks.store.bus import Bus
from fks.store.db import Database
from fks.strategies.base import evaluate
from fks.strategies.registry import load_catalogue
from fks.trading.orders.freshness import AGE_LEAST_S
from fks.trading.strategy_worker.worker import StrategyWorker
from tests.support.guardian_process import venue_on
from tests.support.invariants import InvariantError, assert_journal
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig, seed
from tests.support.runtimes import runtime
from tests.support.scripted_venue import ScriptedVenue
from tests.support.strategies import EVERY_EDGE, add_instance, bars_of, hold, seal
from tests.support.waiting import until

D = Decimal
AWAY_S = 3600
SETTINGS = FAST.model_copy(update={"risk": Risk(feed_age_max_s=2 * AWAY_S)})


class TapeClock(RealClock):
    """The machine's clock, but for the time of day: that is the tape's, and stands until the test moves it, so that no
    decision gets old because this machine is busy."""

    def __init__(self) -> None:
        self.tape_ns = 0

    def now_ns(self) -> int:
        return self.tape_ns


@dataclass(frozen=True)
class Case:
    """An instance, its bars, and what its strategy wants before the downtime (`is_held`) and after."""

    name: str
    strategy: str
    params: Mapping[str, Any]
    symbol: str
    fits: Callable[[Floats, int], bool]  # the targets, and the index of the first decision: is it this case
    is_held: bool
    wants: str  # of the bars that it missed: exit, enter or nothing
    is_orphan: bool = False  # its entry was committed after the order manager had died

    def bars(self, end_ns: int, price: Decimal) -> Bars:
        """Return the warm-up, the bar of the first decision and an hour of bars, up to `end_ns`, about `price`."""
        strategy = load_catalogue().make(self.strategy, self.params)
        lead = max(strategy.warmup(), 1)
        count = lead + 1 + AWAY_S
        start_ns = end_ns - count * NS
        for dice in range(5_000):
            steps = np.random.default_rng(dice).integers(-30, 31, count)
            closes = [round(float(price) * level, 4) for level in 1 + np.cumsum(steps) / 1e5]
            bars = bars_of(closes, symbol=self.symbol)
            bars = replace(bars, timeframe="1s", time_ns=start_ns + np.arange(count, dtype=np.int64) * NS)
            if self.fits(evaluate(strategy, bars).target, lead):
                return bars
        raise AssertionError(f"no such bars for {self.name}")


def changes(target: Floats) -> int:
    return int(np.count_nonzero(np.diff(target)))


FAST_SLOW = {"fast": 3, "slow": 8}
CASES = (
    Case("leaves", "sma_cross", FAST_SLOW, "BTCUSDT", lambda t, i: t[i] == 1 and t[-1] == 0, True, "exit"),
    Case(
        "stays", "ema_cross", FAST_SLOW, "ETHUSDT", lambda t, i: t[i] == t[-1] == 1 and changes(t) > 9, True, "nothing"
    ),
    Case("enters", "rsi", {"period": 5}, "SOLUSDT", lambda t, i: t[i] == t[-2] == 0 and t[-1] == 1, False, "enter"),
    Case("too-late", "macd", {}, "AVAXUSDT", lambda t, i: t[i] == 0 and (t[-12:] == 1).all(), False, "nothing"),
    Case("orphan", "buy_and_hold", {}, "SUIUSDT", lambda t, i: t[i] == t[-1] == 1, False, "nothing", is_orphan=True),
)


@dataclass
class Downtime:
    """A strategy worker, its twin that never stops, and an order manager, on the tape's clock."""

    rig: Rig
    clock: TapeClock
    home: Path
    epoch: int = 0

    async def seal(self, bars: Bars) -> None:
        """Store bars as the collector does. How long ago it stored them is the machine's time, not the tape's: by the
        age of their rows none gets old."""
        await seal(self.rig.db, bars)
        await self.rig.db.sql(
            "UPDATE ohlcv_data SET updated_at = now() + interval '1 day' WHERE symbol = $1 AND updated_at < now()",
            bars.symbol,
        )

    async def worker(self, shard: int) -> StrategyWorker:
        """Start a worker: shard 0 is the one that stops, shard 1 the twin."""
        self.epoch += 1
        worker = StrategyWorker(
            runtime(
                self.rig.db, self.rig.bus, await hold(self.rig.db, self.epoch, f"strategy:{shard}"), clock=self.clock
            ),
            shard,
            home=self.home,
        )
        await worker.start()
        return worker

    async def row(self, instance: str) -> Mapping[str, Any]:
        return (await self.rig.db.sql("SELECT * FROM strategy_instances WHERE id = $1", instance))[0]

    async def signals(self) -> list[Mapping[str, Any]]:
        return list(await self.rig.db.sql("SELECT * FROM signals WHERE instance NOT LIKE '%-twin' ORDER BY seq"))

    async def is_decided(self) -> bool:
        """Every signal has its outcome, every order an end, and the position is booked."""
        rows = await self.rig.db.sql(
            "SELECT (SELECT count(*) FROM signals WHERE state = 'ready' AND instance NOT LIKE '%-twin')"
            " + (SELECT count(*) FROM orders WHERE state IN ('INTENDED', 'SENDING', 'UNKNOWN', 'ACCEPTED', 'WORKING',"
            " 'PARTIAL')) AS open"
        )
        return bool(rows[0]["open"] == 0)


@pytest.fixture
def exchange(tmp_path: Path) -> Any:
    found = LocalExchange(tmp_path / "exchange", ("--rate-limits", "off", "--balance", "USDT=1000000")).start()
    yield found
    found.stop()


@pytest.fixture
async def downtime(database: Database, bus: Bus, exchange: LocalExchange, tmp_path: Path) -> AsyncIterator[Downtime]:
    await seed(database, instances=())
    await database.sql("DELETE FROM instruments")
    await database.sql("DELETE FROM feeds")
    prices = exchange.ask("GET", "/sim/state")["prices"]
    for case in CASES:
        base = case.symbol.removesuffix("USDT")
        await database.sql(
            "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
            " VALUES ('binance', $1, $2, 'USDT', 0.01, 0.1, 0.1, 9000000, 5)",
            case.symbol,
            base,
        )
        await database.sql(
            "INSERT INTO feeds (exchange, symbol, timeframe, state, last_message_at, last_price, epoch, updated_at)"
            " VALUES ('binance', $1, 'trades', 'LIVE', now(), $2::text::numeric, 1, now() + interval '1 day')",
            case.symbol,
            str(prices[case.symbol]),
        )
    await database.sql(
        "UPDATE instruments SET lot_step = 0.0001, qty_min = 0.0001 WHERE symbol IN ('BTCUSDT', 'ETHUSDT')"
    )
    for case in CASES:
        shared = {"symbol": case.symbol, "timeframe": "1s", "account": "main"}
        await add_instance(database, case.name, case.strategy, case.params, **shared)
        await add_instance(database, f"{case.name}-twin", case.strategy, case.params, **shared, **EVERY_EDGE)
    await database.sql("UPDATE strategy_instances SET shard = CASE WHEN id LIKE '%-twin' THEN 1 ELSE 0 END")
    clock = TapeClock()
    rig = Rig(database, bus, ScriptedVenue(), SETTINGS, venues={"ccxt": venue_on(exchange.info)}, clock=clock)
    yield Downtime(rig, clock, tmp_path)
    if rig.task is not None:
        await rig.stop()


async def test_an_hour_away_sends_at_most_one_fresh_order_a_position(
    downtime: Downtime, exchange: LocalExchange
) -> None:
    """Nothing of the missed bars is traded but the newest decision of each position, and the state is the twin's."""
    rig, clock, db = downtime.rig, downtime.clock, downtime.rig.db
    end_ns = RealClock().now_ns() // NS * NS
    prices = exchange.ask("GET", "/sim/state")["prices"]
    tapes = {case.name: case.bars(end_ns, D(prices[case.symbol])) for case in CASES}
    first = {case.name: len(tapes[case.name]) - AWAY_S for case in CASES}  # through the bar of the first decision

    # ── an hour ago ──
    clock.tape_ns = end_ns - (AWAY_S + 1) * NS
    for name, bars in tapes.items():
        await downtime.seal(bars[: first[name] - 1])
    worker, twin = await downtime.worker(0), await downtime.worker(1)
    await rig.start()
    for case in CASES:
        if not case.is_orphan:
            await downtime.seal(tapes[case.name][: first[case.name]])
    clock.tape_ns = end_ns - AWAY_S * NS
    await worker.step()
    await until(downtime.is_decided)
    await rig.stop()
    for case in CASES:
        if case.is_orphan:
            await downtime.seal(tapes[case.name][: first[case.name]])
    await worker.step()  # its entry finds no order manager
    before = await downtime.signals()
    held = {case.name: await rig.position(case.name, case.symbol) for case in CASES}
    assert {name for name, quantity in held.items() if quantity > 0} == {case.name for case in CASES if case.is_held}
    assert [row["instance"] for row in before if row["state"] == "ready"] == ["orphan"]
    seq = int(exchange.received()[-1]["seq"])

    # ── the hour: the twin decides on every bar ──
    for start in range(0, AWAY_S, 900):
        for name, bars in tapes.items():
            await downtime.seal(bars[: first[name] + start + 900][first[name] + start :])
        await twin.step()

    # ── back ──
    clock.tape_ns = end_ns + NS // 2
    rig.venues = {"ccxt": venue_on(exchange.info)}
    await rig.start()  # first, so that a slow start does not deny with VENUE_DOWN what the worker decides
    await downtime.worker(0)
    await until(downtime.is_decided)
    known = {row["id"] for row in before}
    late = [row for row in await downtime.signals() if row["id"] not in known]
    assert sorted((row["instance"], row["kind"]) for row in late) == sorted(
        (case.name, case.wants) for case in CASES if case.wants != "nothing"
    )
    assert {(row["state"], row["code"]) for row in late} == {("ordered", None)}
    (orphan,) = await db.sql("SELECT state, code FROM signals WHERE instance = 'orphan'")
    assert (orphan["state"], orphan["code"]) in (("denied", "STALE_DECISION"), ("expired", "SIGNAL_EXPIRED"))

    sent = await _sent(db, exchange, seq)
    assert sorted(sent) == sorted({row["symbol"] for row in late}), "at most one order for a position key"
    for row in sent.values():
        if row["kind"] != "exit":
            assert clock.now_ns() - bar_end(to_ns(row["ts_event"]), "1s") <= AGE_LEAST_S * NS

    for case in CASES:
        row, steady = await downtime.row(case.name), await downtime.row(f"{case.name}-twin")
        assert (row["last_target"], row["cursor_time"]) == (steady["last_target"], steady["cursor_time"])
        assert row["last_target"] == (0.0 if case.wants == "exit" else 1.0)
        quantity = await rig.position(case.name, case.symbol)
        is_flat = quantity < D("0.1") if case.wants == "exit" else quantity == 0
        assert is_flat is (case.wants == "exit" or not (case.is_held or case.wants == "enter")), case.name
        if case.is_held and case.wants == "nothing":
            assert quantity == held[case.name]
        assert quantity == D(exchange.free(case.symbol.removesuffix("USDT")))
    missed = await db.sql("SELECT payload FROM actor_events WHERE event = 'strategy.missed'")
    assert {note["payload"]["instance"] for note in missed} >= {case.name for case in CASES}
    await assert_journal(db)


async def _sent(db: Database, exchange: LocalExchange, after: int) -> dict[str, dict[str, Any]]:
    """Return what the exchange received after a row of its log, by symbol, with each order's signal."""
    found: dict[str, dict[str, Any]] = {}
    for row in exchange.received(path="/api/v3/order", method="POST", after=after):
        (order,) = await db.sql(
            "SELECT o.symbol, s.kind, s.ts_event FROM orders o JOIN signals s ON s.id = o.signal_id"
            " WHERE o.client_order_id = $1",
            row["params"]["newClientOrderId"],
        )
        if order["symbol"] in found:
            raise InvariantError(f"two orders in {order['symbol']}")
        found[order["symbol"]] = dict(order)
    return found
