"""The strategy worker on real PostgreSQL: once, in order, atomically, fenced, and with failures kept apart."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fks.clock import FakeClock, RealClock
from fks.config.settings import Settings, Strategies
from fks.model import ids
from fks.model.bar import Bars
from fks.model.errors import InputError, OutageError, StaleEpochError
from fks.model.timeframe import NS, bar_end, iso, to_datetime, to_ns
from fks.research.backtest import run as run_backtest
from fks.research.backtest import setup_for
from fks.research.jobs.drift import measure
from fks.research.jobs.instances import ensure_collected, fitted_now
from fks.store.bus import BARS, SIGNALS, Bus
from fks.store.db import Database
from fks.store.feature_values import FeatureStore, FeatureValue, add_features
from fks.store.strategies import Owner, StrategyStore
from fks.strategies.base import evaluate
from fks.strategies.registry import load_catalogue
from fks.trading.strategy_worker import sandbox
from fks.trading.strategy_worker import worker as strategy_worker
from fks.trading.strategy_worker.worker import StrategyWorker
from tests.support.cut_link import KINDS, behind_a_link, partition_s
from tests.support.fitted import SCALED
from tests.support.order_rig import signal_of
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.runtimes import TAPE, runtime
from tests.support.servers import role_url
from tests.support.strategies import EVERY_EDGE, START_NS, add_account, add_instance, bars_of, hold, seal
from tests.support.waiting import until

PARAMS = {"fast": 2, "slow": 4}
MOOD = """
import numpy as np
from fks.strategies.base import Decisions, Strategy, feature

class Mood(Strategy):
    name = "mood"
    def warmup(self):
        return 2
    def features(self):
        return ("mood",)
    def decide(self, bars):
        mood = feature(self, bars, "mood")
        is_fresh = bars.time_ns - mood.time_ns < 180 * 10**9
        return Decisions(np.where(is_fresh & (mood.values > 0), 1.0, 0.0))
"""
#: settings of a worker that confines strategy files
CONFINED = TAPE.model_copy(update={"strategies": Strategies(confined=True)})
UNTIL_BAR_30 = """
import os, time
from fks.strategies.sma_cross import SmaCross

class {kind}(SmaCross):
    name = "{name}"
    def decide(self, bars):
        if len(bars) > 30:
            {does}
        return super().decide(bars)
"""
COLUMNS = ("time_ns", "open", "high", "low", "close", "volume")


@dataclass
class Floor:
    """The surroundings of a worker, so that a test can start several on one database."""

    db: Database
    worker_db: Database  # the same, with the rights of a worker
    bus: Bus
    home: Path
    log: CollectingLog
    meter: RecordingMeter
    clock: Any
    is_tape: bool = True  # the bars of most tests are of another year than the clock

    async def worker(
        self, epoch: int = 1, *, shard: int | None = None, settings: Settings | None = None
    ) -> StrategyWorker:
        return StrategyWorker(
            runtime(
                self.worker_db,
                self.bus,
                await hold(self.db, epoch, f"strategy:{shard or 0}"),
                settings=settings or (TAPE if self.is_tape else None),
                clock=self.clock,
                meter=self.meter,
                log=self.log,
            ),
            shard or 0,
            home=self.home,
        )

    async def signals(self, instance: str = "a") -> list[Mapping[str, Any]]:
        return await self.db.sql("SELECT * FROM signals WHERE instance = $1 ORDER BY seq", instance)

    async def row(self, instance: str = "a") -> Mapping[str, Any]:
        return (await self.db.sql("SELECT * FROM strategy_instances WHERE id = $1", instance))[0]


@pytest.fixture
async def floor(
    database: Database,
    as_strategy: Database,
    bus: Bus,
    clock: FakeClock,
    log: CollectingLog,
    meter: RecordingMeter,
    tmp_path: Path,
) -> Floor:
    await add_account(database)
    return Floor(database, as_strategy, bus, tmp_path, log, meter, clock)


def wave(count: int, seed: int = 3) -> Bars:
    dice = np.random.default_rng(seed)
    return bars_of((10_000 + np.cumsum(dice.integers(-30, 31, count))) / 100.0)


def expected(bars: Bars, first: int, params: Mapping[str, Any] = PARAMS) -> list[tuple[int, str, str, int]]:
    """Return (bar time, kind, side, ordinal) of every edge from index `first` on, flat before it."""
    target = evaluate(load_catalogue().make("sma_cross", params), bars).target
    found, before = [], 0.0
    for i in range(first, len(bars)):
        ordinal, t = 0, int(bars.time_ns[i])
        if target[i] != before and before:
            found.append((t, "exit", "sell" if before > 0 else "buy", ordinal))
            ordinal = 1
        if target[i] != before and target[i]:
            found.append((t, "enter", "buy" if target[i] > 0 else "sell", ordinal))
        before = target[i]
    return found


def seen(rows: list[Mapping[str, Any]]) -> list[tuple[int, str, str, int]]:
    return [(to_ns(r["ts_event"]), r["kind"], r["side"], r["ordinal"]) for r in rows]


async def test_signals_are_the_edges_of_the_offline_target(floor: Floor) -> None:
    bars, params = wave(120), {**PARAMS, "short": True, "sl_pct": 1.0, "tp_pct": 2.0}
    await add_instance(floor.db, "a", "sma_cross", params)
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    assert worker.is_ready
    for k in range(10, 116):
        await seal(floor.db, bars[k : k + 1])
        await worker.step()
    rows = await floor.signals()
    # the anchor is `slow` bars before the first decided one (index 10)
    assert seen(rows) == expected(bars[6:116], 4, params)
    entry = next(r for r in rows if r["kind"] == "enter" and r["side"] == "buy")
    bar_ns = to_ns(entry["ts_event"])
    assert entry["id"] == ids.signal_id("a", "BTCUSDT", "1m", bar_ns, entry["ordinal"])
    assert entry["trace_id"] == ids.trace_id("BTCUSDT", "1m", bar_ns)
    close = float(bars.close[int((bar_ns - bars.time_ns[0]) // (60 * NS))])
    assert float(entry["reference_price"]) == close
    assert float(entry["stop_loss"]) == close * (1.0 + 1.0 * -1.0 / 100.0)
    assert float(entry["take_profit"]) == close * (1.0 + 1.0 * 2.0 / 100.0)
    assert (entry["state"], entry["account_id"], entry["venue"]) == ("ready", 1, "paper")
    committed = [f for level, e, f in floor.log.lines if e == "signal.committed"]
    assert {f["trace_id"] for f in committed} == {r["trace_id"] for r in rows}


async def test_confined_files_trade_alike_and_cost_their_instance_alone(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that ends its process, hangs or reads the secrets crashes its instance; the worker and the others go on."""
    for module in (sandbox, strategy_worker):
        monkeypatch.setattr(module, "EVALUATE_S", 3.0)  # a busy machine starts no child in one
    secret = floor.home / "secrets.toml"
    secret.write_text("the key of the venue")
    attempts = {
        "leaves": "os._exit(3)",
        "hangs": "time.sleep(3600)",
        "spies": f"raise ValueError(open({str(secret)!r}).read())",
        "mine": "pass",
    }
    (floor.home / "strategies").mkdir()
    for name, does in attempts.items():
        path = floor.home / "strategies" / f"{name}.py"
        path.write_text(UNTIL_BAR_30.format(kind=name.title(), name=name, does=does))
        path.chmod(0o644)
        await add_instance(floor.db, name, name, PARAMS)
    bars = wave(70)
    await seal(floor.db, bars[:10])
    worker = await floor.worker(settings=CONFINED)
    await worker.start()
    for k in range(10, 70):
        await seal(floor.db, bars[k : k + 1])
        await worker.step()
    assert seen(await floor.signals("mine")) == expected(bars[6:], 4)
    assert (await floor.row("mine"))["state"] == "RUNNING"
    found = {name: await floor.row(name) for name in ("leaves", "hangs", "spies")}
    assert {name: row["state"] for name, row in found.items()} == dict.fromkeys(found, "CRASHED")
    assert "ended its process with status 3" in found["leaves"]["error"]
    assert "took longer than 3 s" in found["hangs"]["error"]
    assert "Permission denied" in found["spies"]["error"]
    assert "the key of the venue" not in str(found)


@pytest.mark.parametrize("is_confined", [True, False])
async def test_a_text_that_no_database_takes_crashes_its_instance_alone(floor: Floor, is_confined: bool) -> None:
    (floor.home / "strategies").mkdir()
    for name, does in {"rude": 'raise ValueError("a\\0b \\ud800")', "mine": "pass"}.items():
        path = floor.home / "strategies" / f"{name}.py"
        path.write_text(UNTIL_BAR_30.format(kind=name.title(), name=name, does=does))
        path.chmod(0o644)
        await add_instance(floor.db, name, name, PARAMS)
    bars = wave(40)
    await seal(floor.db, bars)
    worker = await floor.worker(settings=CONFINED if is_confined else None)
    await worker.start()
    await worker.step()
    assert (await floor.row("rude"))["state"] == "CRASHED"
    assert "ValueError: a?b ?" in (await floor.row("rude"))["error"]
    assert (await floor.row("mine"))["state"] == "RUNNING"


async def test_an_instance_decides_with_the_state_that_a_backtest_from_there_fits(floor: Floor) -> None:
    """It is fitted where it is added; each worker that takes over has the same state."""
    (floor.home / "strategies").mkdir()
    (floor.home / "strategies" / "scaled.py").write_text(SCALED)
    catalogue, bars = load_catalogue(floor.home / "strategies"), wave(150)
    await list_symbol(floor.db, "BTC")
    await seal(floor.db, bars[:40])
    with pytest.raises(InputError, match="there are 40, and scaled is fitted on 60"):
        await fitted_now(floor.db, catalogue.make("scaled"), "binance", "BTCUSDT", "1m")
    await seal(floor.db, bars[40:80])
    made = await fitted_now(floor.db, catalogue.make("scaled"), "binance", "BTCUSDT", "1m")
    await add_instance(floor.db, "a", "scaled", made.model_dump(mode="json"), **EVERY_EDGE)
    await add_instance(floor.db, "b", "scaled", {}, **EVERY_EDGE)
    worker = await floor.worker()
    await worker.start()
    for k in range(80, 150):
        await seal(floor.db, bars[k : k + 1])
        if k % 25 == 0:
            worker = await floor.worker(k)
            await worker.start()
        else:
            await worker.step()
    setup = replace(setup_for(bars), start_ns=int(bars.time_ns[80]))
    result = run_backtest(catalogue.make("scaled"), bars, setup)
    assert result.params == made.model_dump(mode="json") == (await floor.row())["params"]
    target = evaluate(result.decided_by, result.bars).target
    assert int(result.bars.time_ns[result.first]) == int(bars.time_ns[80])
    changes = [int(t) for t in result.bars.time_ns[1:][np.diff(target) != 0]]
    assert sorted({to_ns(row["ts_event"]) for row in await floor.signals()}) == changes
    assert len(changes) > 10
    other = await floor.row("b")
    assert (other["state"], "has no fitted state" in other["error"]) == ("CRASHED", True)


async def list_symbol(db: Database, base: str) -> None:
    """List a symbol in USDT at the exchange."""
    await db.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance', $1, $2, 'USDT', 0.01, 0.001, 0.001, 9000, 5)",
        base + "USDT",
        base,
    )


async def test_two_legs_of_a_pair_decide_as_the_backtest(floor: Floor) -> None:
    """A leg decides on a bar once both symbols are sealed, whichever comes first, also after a restart; bars that one
    symbol lacks are NaN, as in a backtest."""
    first, common = wave(90), wave(90, seed=5)
    second = bars_of(list(np.round(first.close * (1.5 + common.close / 1e4), 2)), symbol="ETHUSDT")
    lacks = np.delete(np.arange(90), [40, 41, 63])
    second = Bars("ETHUSDT", "1m", *(getattr(second, name)[lacks] for name in COLUMNS))
    legs = {
        "long": ("BTCUSDT", first, second, {"other": "ETH/USDT", "period": 10, "entry": 1.0}),
        "other": ("ETHUSDT", second, first, {"other": "BTC/USDT", "leg": "second", "period": 10, "entry": 1.0}),
    }
    await floor.db.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'BTCUSDT'), ('binance', 'ETHUSDT')")
    await list_symbol(floor.db, "BTC")
    await list_symbol(floor.db, "ETH")
    for id, (symbol, _, _, params) in legs.items():
        await add_instance(floor.db, id, "pairs", params, symbol=symbol, **EVERY_EDGE)
    await seal(floor.db, first[:16])
    worker = await floor.worker()
    await worker.start()  # the other symbol has no bar yet: the leg waits, and is neither crashed nor decided
    row = await floor.row("long")
    assert (row["state"], row["cursor_time"], row["error"]) == ("NEW", None, "waits for bars of ETHUSDT")
    await seal(floor.db, second[:16])
    await worker.step()
    for k in range(16, 90):
        early, late = (first, second) if k % 2 else (second, first)
        for bars in (early, late):
            end = int(np.searchsorted(bars.time_ns, first.time_ns[k], side="right"))
            await seal(floor.db, bars[end - 1 : end])
            await worker.step()
            if bars is early and k % 10 == 0:
                assert to_ns((await floor.row("long"))["cursor_time"]) < first.time_ns[k]
        if k in (30, 64):
            worker = await floor.worker(k)
            await worker.start()
    for id, (_, own, other, params) in legs.items():
        joined = own.joined({params["other"]: other})
        target = evaluate(load_catalogue().make("pairs", params), joined).target
        rows = await floor.signals(id)
        cursor_ns = to_ns((await floor.row(id))["cursor_time"])
        changes = [int(t) for t in own.time_ns[1:][np.diff(target) != 0] if own.time_ns[15] < t <= cursor_ns]
        assert sorted({to_ns(row["ts_event"]) for row in rows}) == changes
        assert len(changes) > 6


async def test_own_columns_decide_as_in_the_backtest(floor: Floor) -> None:
    """Values come late, are corrected, and are taken away while the worker runs and is replaced; its decisions with
    the values of their time equal those of a run over all values afterwards."""
    (floor.home / "strategies").mkdir()
    (floor.home / "strategies" / "mood.py").write_text(MOOD)
    bars, dice = wave(90), np.random.default_rng(4)
    await add_instance(floor.db, "a", "mood", {}, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    await (await floor.worker()).start()
    row = await floor.row()
    assert row["state"] == "CRASHED"
    assert "there is no column mood of BTCUSDT" in row["error"]
    with pytest.raises(InputError, match="there is no column mood"):  # what 'fks strategies add' does first
        await FeatureStore(floor.db).ensure(["mood"], "BTCUSDT")
    assert await add_features(floor.db, [FeatureValue("mood", "", START_NS, START_NS, -1.0)]) == 1
    await StrategyStore(floor.db).set_enabled("a", True)
    worker = await floor.worker(2)
    await worker.start()
    for k in range(10, 90):
        end_ns = bar_end(int(bars.time_ns[k]), "1m")
        time_ns = end_ns - int(dice.integers(0, 240)) * NS
        known_ns = end_ns + int(dice.integers(-3, 4)) * 10 * NS
        value = float("nan") if k % 17 == 0 else float(dice.normal())
        if known_ns <= end_ns:  # what is known later is written later, as a program would
            await add_features(floor.db, [FeatureValue("mood", "BTC/USDT", time_ns, max(known_ns, time_ns), value)])
        await seal(floor.db, bars[k : k + 1])
        if k % 20 == 0:
            worker = await floor.worker(k)
            await worker.start()
        else:
            await worker.step()
        if known_ns > end_ns:
            await add_features(floor.db, [FeatureValue("mood", "BTC/USDT", time_ns, known_ns, value)])
    row = await floor.row()
    assert (row["state"], to_ns(row["cursor_time"])) == ("RUNNING", int(bars.time_ns[-1]))
    whole = await FeatureStore(floor.db).aligned(["mood"], "BTCUSDT", bars)
    target = evaluate(load_catalogue(floor.home / "strategies").make("mood", {}), whole).target
    changes = [int(t) for t in bars.time_ns[1:][np.diff(target) != 0] if t > bars.time_ns[9]]
    assert sorted({to_ns(row["ts_event"]) for row in await floor.signals()}) == changes
    assert len(changes) > 10
    await list_symbol(floor.db, "BTC")
    instance = await StrategyStore(floor.db).get("a")
    assert instance is not None
    catalogue = load_catalogue(floor.home / "strategies")
    _, loaded = await measure(floor.db, instance, Settings(), catalogue, since=None)
    assert np.array_equal(
        loaded.bars.features["mood"].values, whole.features["mood"].values[-len(loaded.bars) :], equal_nan=True
    )


async def test_a_decision_waits_for_its_forecast_and_records_a_missing_one(floor: Floor) -> None:
    """Forecasts come in time, too late, or never, over restarts. An instance that declares the column waits a second and
    others do not; its decisions equal those of a run over the rows that were stored, `missing` ones included."""
    (floor.home / "strategies").mkdir()
    follow = MOOD.replace('"mood"', '"forecast:ar"').replace('name = "forecast:ar"', 'name = "follow"')
    (floor.home / "strategies" / "follow.py").write_text(follow)
    bars, dice = wave(90), np.random.default_rng(5)
    await floor.db.sql("INSERT INTO ai_models VALUES ('ar', 'binance', '1m', 60, 'test')")

    async def predict(k: int, value: float | None = None) -> None:
        await floor.db.sql(
            "INSERT INTO feature_values (feature, symbol, time, known_at, value, version, label_end, origin, state)"
            " VALUES ('forecast:ar', 'BTCUSDT', $1, $1, $2, 1, $1, 'live', 'ok') ON CONFLICT DO NOTHING",
            to_datetime(bar_end(int(bars.time_ns[k]), "1m")),
            float(dice.normal()) if value is None else value,
        )

    for k in range(10):
        await predict(k, -1.0)  # flat where the instance begins
    await add_instance(floor.db, "a", "follow", {}, **EVERY_EDGE)
    await add_instance(floor.db, "b", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    missing = []
    for k in range(10, 90):
        kind = str(dice.choice(["early", "in time", "late", "never"]))
        if kind == "early":
            await predict(k)
        await seal(floor.db, bars[k : k + 1])
        if k % 20 == 0:
            worker = await floor.worker(k)
            await worker.start()
        else:
            await worker.step()
        cursors = [to_ns((await floor.row(id))["cursor_time"]) for id in ("a", "b")]
        assert cursors == [int(bars.time_ns[k if kind == "early" else k - 1]), int(bars.time_ns[k])]
        if kind == "in time":
            await floor.clock.advance(0.5)
            await predict(k)
        elif kind in ("late", "never"):
            await floor.clock.advance(1.1)
            missing.append(bar_end(int(bars.time_ns[k]), "1m"))
        await worker.step()
        assert to_ns((await floor.row())["cursor_time"]) == int(bars.time_ns[k])
        if kind == "late":
            await predict(k)
    rows = await floor.db.sql("SELECT time FROM feature_values WHERE state = 'missing' ORDER BY time")
    assert [to_ns(row["time"]) for row in rows] == missing
    assert len(missing) > 20
    whole = await FeatureStore(floor.db).aligned(["forecast:ar"], "BTCUSDT", bars)
    target = evaluate(load_catalogue(floor.home / "strategies").make("follow", {}), whole).target
    changes = [int(t) for t in bars.time_ns[1:][np.diff(target) != 0] if t > bars.time_ns[9]]
    assert sorted({to_ns(row["ts_event"]) for row in await floor.signals()}) == changes
    assert len(changes) > 10


async def test_an_instance_that_catches_up_waits_for_the_newest_forecast_only(floor: Floor) -> None:
    (floor.home / "strategies").mkdir()
    follow = MOOD.replace('"mood"', '"forecast:ar"').replace('name = "forecast:ar"', 'name = "follow"')
    (floor.home / "strategies" / "follow.py").write_text(follow)
    bars = wave(60)
    await floor.db.sql("INSERT INTO ai_models VALUES ('ar', 'binance', '1m', 60, 'test')")
    insert = (
        "INSERT INTO feature_values (feature, symbol, time, known_at, value, version, label_end, origin, state)"
        " VALUES ('forecast:ar', 'BTCUSDT', $1, $1, 1, 1, $1, 'live', 'ok')"
    )
    await floor.db.sql(insert, to_datetime(bar_end(int(bars.time_ns[0]), "1m")))
    await add_instance(floor.db, "a", "follow", {}, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    await floor.clock.advance(1.1)
    await worker.step()
    await seal(floor.db, bars[10:])
    await worker.step()
    assert to_ns((await floor.row())["cursor_time"]) == int(bars.time_ns[58])
    await floor.db.sql(insert, to_datetime(bar_end(int(bars.time_ns[59]), "1m")))
    await worker.step()
    assert to_ns((await floor.row())["cursor_time"]) == int(bars.time_ns[59])
    rows = await floor.db.sql("SELECT state, count(*) FROM feature_values GROUP BY state ORDER BY state DESC")
    assert [row["state"] for row in rows] == ["ok", "missing"]
    assert rows[0]["count"] == 2


async def test_an_instance_whose_input_is_not_collected_is_held_with_the_reason(floor: Floor) -> None:
    await list_symbol(floor.db, "ETH")
    await add_instance(floor.db, "a", "pairs", {"other": "ETH/USDT"})
    await seal(floor.db, wave(10))
    await seal(floor.db, replace(wave(10), symbol="ETHUSDT"))
    await (await floor.worker()).start()
    row = await floor.row()
    assert row["state"] == "CRASHED"
    assert "that is not collected" in row["error"]
    with pytest.raises(InputError) as refused:  # what a change of parameters and 'fks strategies add' do first
        await ensure_collected(floor.db, ["ETH/USDT"], "binance")
    assert refused.value.code == "INPUT_MISSING"
    await floor.db.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'ETHUSDT')")
    await ensure_collected(floor.db, ["ETH/USDT"], "binance")


async def test_a_restart_at_every_bar_gives_the_same_signals_once(floor: Floor) -> None:
    bars = wave(80)
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    await seal(floor.db, bars[:10])
    for epoch, k in enumerate(range(10, 81), start=1):
        await seal(floor.db, bars[:k])
        worker = await floor.worker(epoch)
        await worker.start()  # every bar is decided by a worker that was never there before
    assert seen(await floor.signals()) == expected(bars[6:], 4)
    assert to_ns((await floor.row())["cursor_time"]) == int(bars.time_ns[-1])


async def test_a_failure_between_signal_and_cursor_leaves_neither(floor: Floor) -> None:
    bars = wave(60)
    await add_instance(floor.db, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    await (await floor.worker()).start()
    await floor.db.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'disk full'; END $$"
    )
    for table, event in (("signals", "INSERT"), ("strategy_instances", "UPDATE OF cursor_time")):
        before = (await floor.row())["cursor_time"], len(await floor.signals())
        await floor.db.sql(f"CREATE TRIGGER stop AFTER {event} ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()")
        await seal(floor.db, bars)
        await (await floor.worker()).start()
        assert ((await floor.row())["cursor_time"], len(await floor.signals())) == before
        await floor.db.sql(f"DROP TRIGGER stop ON {table}")
        await floor.db.sql("UPDATE strategy_instances SET state = 'NEW', error = NULL")
    await (await floor.worker()).start()
    assert seen(await floor.signals()) == expected(bars[6:], 4)


async def test_an_older_epoch_commits_nothing(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = wave(60)
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    await seal(floor.db, bars[:10])
    old = await floor.worker(1)
    await old.start()
    await seal(floor.db, bars)
    new_bars, committed = StrategyStore.new_bars, []

    async def overtaken(store: StrategyStore, *given: Any) -> Any:
        """Let a newer worker take over after the old one has read its bars, before it commits."""
        found = await new_bars(store, *given)
        monkeypatch.undo()
        await (await floor.worker(2)).start()
        committed.extend([await floor.signals(), await floor.row()])
        return found

    monkeypatch.setattr(StrategyStore, "new_bars", overtaken)
    with pytest.raises(StaleEpochError):
        await old.step()
    await seal(floor.db, wave(61))
    with pytest.raises(StaleEpochError):
        await old.step()
    row = await floor.row()
    assert [await floor.signals(), row] == committed
    assert (row["epoch"], to_ns(row["cursor_time"])) == (2, int(bars.time_ns[-1]))


async def test_no_signal_is_committed_without_its_cursor(floor: Floor) -> None:
    """The cursor is not where the worker left it: another one has decided on those bars."""
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    await seal(floor.db, wave(20))
    await (await floor.worker()).start()
    store = StrategyStore(floor.db, Owner("strategy:0", 1))
    (row,) = await store.due()
    assert row.cursor_ns is not None
    before = len(await floor.signals())
    signal = signal_of(instance="a", source="strategy:a", account_id=row.account_id, venue=row.venue)
    facts: dict[str, Any] = {"cursor_ns": row.cursor_ns + NS, "target": 1.0, "anchor_ns": row.anchor_ns}
    assert await store.commit(row, [signal], expected_ns=row.cursor_ns - NS, **facts) is None
    assert len(await floor.signals()) == before
    assert await store.commit(row, [signal], expected_ns=row.cursor_ns, **facts) == {signal.id}
    assert len(await floor.signals()) == before + 1
    await hold(floor.db, 2)  # its cursor fits, and a newer worker owns the shard
    later, facts["cursor_ns"] = replace(signal, id=uuid.uuid4()), row.cursor_ns + 2 * NS
    assert await store.commit(row, [later], expected_ns=row.cursor_ns + NS, **facts) is None
    assert len(await floor.signals()) == before + 1


async def test_two_workers_of_one_epoch_do_not_repeat_each_other(floor: Floor) -> None:
    bars = wave(60)
    await add_instance(floor.db, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    first, second = await floor.worker(), await floor.worker()
    await first.start()
    await second.start()
    for k in range(11, 61, 5):
        await seal(floor.db, bars[:k])
        results = await asyncio.gather(first.step(), second.step(), return_exceptions=True)
        assert not [r for r in results if isinstance(r, Exception) and "changed meanwhile" not in str(r)]
    assert seen(await floor.signals()) == expected(bars[6:56], 4)


RAISING = """
import numpy as np
from fks.strategies.base import Decisions, Strategy

class Raising(Strategy):
    name = "raising"
    limit: float = 1000.0
    def warmup(self) -> int:
        return 2
    def decide(self, bars) -> Decisions:
        if bars.close[-1] == 7.77:
            raise ZeroDivisionError("seven")
        return Decisions(np.zeros(len(bars)))
"""
AHEAD = """
import numpy as np
from fks.strategies.base import Decisions, Strategy

class Ahead(Strategy):
    name = "ahead"
    def warmup(self) -> int:
        return 1
    def decide(self, bars) -> Decisions:
        return Decisions((np.append(bars.close[1:], 0.0) > bars.close).astype(float))
"""


async def test_a_strategy_that_raises_or_looks_ahead_stops_alone(floor: Floor) -> None:
    folder = floor.home / "strategies"
    folder.mkdir()
    (folder / "raising.py").write_text(RAISING)
    (folder / "ahead.py").write_text(AHEAD)
    (folder / "broken.py").write_text("def (:\n")
    bars = wave(60)
    for id, strategy in (("a", "sma_cross"), ("r", "raising"), ("x", "ahead"), ("b", "broken"), ("u", "nowhere")):
        await add_instance(floor.db, id, strategy, PARAMS if id == "a" else {})
    worker = await floor.worker()
    await seal(floor.db, bars[:20])
    await worker.start()
    states = {id: await floor.row(id) for id in "arxbu"}
    for name in (
        "fks_strategy_errors_total",
        "fks_strategy_worker_crashes_total",
    ):  # so that a first one is an increase
        assert floor.meter.values[name, (("strategy_instance", "r"),)] == 0
    assert {id: row["state"] for id, row in states.items()} == {
        "a": "RUNNING",
        "r": "RUNNING",
        "x": "CRASHED",
        "b": "CRASHED",
        "u": "CRASHED",
    }
    assert "looks ahead" in states["x"]["error"]
    assert "at bar" in states["x"]["error"]
    assert "SyntaxError" in states["b"]["error"]
    assert "unknown strategy 'nowhere'" in states["u"]["error"]
    close = bars.close.copy()
    close[30] = 7.77
    await seal(floor.db, Bars(bars.symbol, "1m", bars.time_ns, bars.open, bars.high, bars.low, close, bars.volume)[:31])
    await worker.step()
    crashed = await floor.row("r")
    assert crashed["state"] == "CRASHED"
    assert crashed["error"].startswith(
        "strategy raising: decide() with 13 bars raised ZeroDivisionError: seven; correct"
    )
    assert "raising.py line 12: `raise ZeroDivisionError(" in crashed["error"]
    assert to_ns(crashed["cursor_time"]) == int(bars.time_ns[19])
    assert (await floor.row("a"))["state"] == "RUNNING"
    assert to_ns((await floor.row("a"))["cursor_time"]) == int(bars.time_ns[30])
    assert floor.meter.total("fks_strategy_errors_total", strategy_instance="r") == 1
    await StrategyStore(floor.db).set_enabled("r", True)  # a person says: again
    await worker.step()
    assert (await floor.row("r"))["state"] == "CRASHED"


async def test_a_strategy_that_kills_its_worker_while_loading_is_stopped(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    await seal(floor.db, wave(20))
    for epoch in range(1, 5):  # three workers die after they wrote LOADING and before they were done
        with monkeypatch.context() as patch:
            patch.setattr(strategy_worker, "NarrowCatalogue", _die)
            await (await floor.worker(epoch)).start()
        assert (await floor.row())["state"] == "LOADING"
    await (await floor.worker(9)).start()
    row = await floor.row()
    assert row["state"] == "CRASHED"
    assert "its worker died while it was loaded, 3 times" in row["error"]


def _die(folder: object) -> None:
    raise OutageError("as if killed")


TRAILING = """
import numpy as np
from fks.strategies.base import Decisions, Strategy

class Trailing(Strategy):
    name = "trailing"
    def warmup(self) -> int:
        return 2
    def decide(self, bars) -> Decisions:
        close = bars.close
        return Decisions(
            np.where(close > 100.0, 1.0, np.where(close < 90.0, -1.0, 0.0)), trail=np.where(close == 77.7, 1.0, np.nan)
        )
"""


async def test_an_entry_whose_stop_trails_carries_the_distance(floor: Floor) -> None:
    folder = floor.home / "strategies"
    folder.mkdir()
    (folder / "trailing.py").write_text(TRAILING)
    await add_instance(floor.db, "t", "trailing", {}, **EVERY_EDGE)
    bars = bars_of([95.0, 95.0, 95.0, 101.0, 102.0, 77.7, 95.0])
    await seal(floor.db, bars[:3])
    worker = await floor.worker()
    await worker.start()
    await seal(floor.db, bars)
    await worker.step()
    rows = [(row["kind"], row["side"], row["trail"]) for row in await floor.signals("t")]
    assert rows == [
        ("enter", "buy", None),
        ("exit", "sell", None),
        ("enter", "sell", Decimal(1)),
        ("exit", "buy", None),
    ]


async def test_unsealed_and_incomplete_bars_are_never_decided_on(floor: Floor) -> None:
    bars = wave(60)
    await add_instance(floor.db, "a", "buy_and_hold")
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    await seal(floor.db, bars[10:20], sealed=False)
    assert await worker.step() == 0
    await seal(floor.db, bars[10:12], is_complete=False)
    assert await worker.step() == 0
    assert to_ns((await floor.row())["cursor_time"]) == int(bars.time_ns[11])
    await seal(floor.db, bars[12:13])
    assert await worker.step() == 1
    assert seen(await floor.signals()) == [(int(bars.time_ns[12]), "enter", "buy", 0)]


async def test_manual_approval_waits_for_a_person(floor: Floor) -> None:
    await add_instance(floor.db, "a", "buy_and_hold", approval="manual")
    worker = await floor.worker()
    await seal(floor.db, wave(10)[:5])
    await worker.start()
    await seal(floor.db, wave(10)[:6])
    await worker.step()
    assert [r["state"] for r in await floor.signals()] == ["pending"]


def zigzag(count: int) -> Bars:
    """Return bars whose fast average crosses the slow one every dozen bars."""
    return bars_of([100.0 + 5 * (i // 12 % 2) * (i % 12) for i in range(count)])


async def missed(floor: Floor) -> list[Mapping[str, Any]]:
    rows = await floor.db.sql("SELECT payload FROM actor_events WHERE event = 'strategy.missed' ORDER BY id")
    return [row["payload"] for row in rows]


@pytest.mark.parametrize("is_tape", [True, False])
@pytest.mark.parametrize("source", ["live", "rest"])
async def test_a_catch_up_leaves_what_is_not_wanted_and_enters_nothing_old(
    floor: Floor, source: str, is_tape: bool
) -> None:
    """The last decision of the missed bars is an exit: it is one signal without an end; no entry of them is one."""
    bars, floor.is_tape = zigzag(100), is_tape
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    held = next(k for k in range(14, 100) if expected(bars[:k], 4)[-1:] and expected(bars[:k], 4)[-1][1] == "enter")
    await seal(floor.db, bars[: held - 1])
    worker = await floor.worker()
    await worker.start()
    await seal(floor.db, bars[held - 1 : held])
    await worker.step()
    (entry,) = await floor.signals()
    assert (entry["kind"], to_ns(entry["ts_event"])) == ("enter", int(bars.time_ns[held - 1]))
    await seal(floor.db, bars, source=source)  # the worker was away
    floor.clock = FakeClock(int(bars.time_ns[-1]) + 61 * NS)
    await (await floor.worker(2)).start()
    edges = expected(bars, 4)
    assert edges[-1][1] == "exit"
    late = (await floor.signals())[1:]
    assert seen(late) == [edges[-1]]
    assert late[0]["valid_until"] is None
    row = await floor.row()
    assert (row["last_target"], to_ns(row["cursor_time"])) == (0.0, int(bars.time_ns[-1]))
    (note,) = await missed(floor)
    dropped = len([edge for edge in edges if edge[0] > int(bars.time_ns[held - 1])]) - 1
    assert note["instance"] == "a"
    assert (note["from"], note["to"]) == (iso(int(bars.time_ns[held])), iso(int(bars.time_ns[-1])))
    assert (note["dropped"], note["bars"] >= len(bars) - held - 1) == (dropped, True)


@pytest.mark.parametrize(("late_s", "is_fresh"), [(0, True), (50, True), (61, False)])
async def test_a_catch_up_enters_only_on_a_fresh_decision(floor: Floor, late_s: float, is_fresh: bool) -> None:
    """The newest bar of the missed ones asks for an entry: it is taken until it is a bar old, and usable only so
    long."""
    floor.is_tape, bars = False, zigzag(100)
    last = [edge for edge in expected(bars, 4) if edge[1] == "enter"][-1]
    through = int(np.flatnonzero(bars.time_ns == last[0])[0]) + 1
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    await seal(floor.db, bars[:14])
    await (await floor.worker()).start()
    await seal(floor.db, bars[:through], source="rest")
    floor.clock = FakeClock(bar_end(last[0], "1m") + int(late_s * NS))
    await (await floor.worker(2)).start()
    rows = await floor.signals()
    assert seen(rows) == ([last] if is_fresh else [])
    if is_fresh:
        assert abs(to_ns(rows[0]["valid_until"]) - (bar_end(last[0], "1m") + 60 * NS)) < 1_000
    row = await floor.row()
    assert (row["last_target"], to_ns(row["cursor_time"])) == (1.0, last[0])


async def test_on_a_tape_an_old_decision_is_dropped_by_the_time_of_the_tape(floor: Floor) -> None:
    """The collector recorded the tape live while the worker was away: the newest bar is fresh, those before it are
    not."""
    bars = zigzag(100)
    last = [edge for edge in expected(bars, 4) if edge[1] == "enter"][-1]
    through = int(np.flatnonzero(bars.time_ns == last[0])[0]) + 1
    floor.clock = FakeClock(int(bars.time_ns[0]) + 365 * 86_400 * NS)  # the tape is of last year
    await add_instance(floor.db, "a", "sma_cross", PARAMS)
    await seal(floor.db, bars[:14])
    await (await floor.worker()).start()
    await seal(floor.db, bars[:through])
    await (await floor.worker(2)).start()
    assert seen(await floor.signals()) == [last]
    await seal(floor.db, bars[through:])
    await (await floor.worker(3)).start()
    assert [row["kind"] for row in await floor.signals()] == ["enter", "exit"]


async def test_missed_hour_leaves_the_state_of_an_uninterrupted_worker(floor: Floor) -> None:
    """The demo strategies on bars of a second: one worker decides on each bar, its twin was away for an hour of
    them."""
    demo = {
        "sma": ("sma_cross", {"fast": 3, "slow": 8}),
        "rsi": ("rsi", {"period": 5}),
        "macd": ("macd", {}),
        "hold": ("buy_and_hold", {}),
    }
    bars = replace(wave(3700, 8), timeframe="1s", time_ns=START_NS + np.arange(3700, dtype=np.int64) * NS)
    for name, (strategy, params) in demo.items():
        await add_instance(floor.db, f"{name}-steady", strategy, params, timeframe="1s", **EVERY_EDGE)
        await add_instance(floor.db, name, strategy, params, timeframe="1s")
    await floor.db.sql("UPDATE strategy_instances SET shard = CASE WHEN id LIKE '%-steady' THEN 1 ELSE 0 END")
    await seal(floor.db, bars[:60])
    away, steady = await floor.worker(shard=0), await floor.worker(shard=1)
    await away.start()
    await steady.start()
    before = {name: float((await floor.row(name))["last_target"]) for name in demo}
    for k in range(60, 3660, 900):
        await seal(floor.db, bars[k : k + 900])
        await steady.step()
    await (await floor.worker(2, shard=0)).start()
    for name in demo:
        row, twin = await floor.row(name), await floor.row(f"{name}-steady")
        assert (row["last_target"], row["cursor_time"]) == (twin["last_target"], twin["cursor_time"])
        late = await floor.signals(name)
        assert len([signal for signal in late if signal["kind"] == "exit"]) == int(
            before[name] not in (0, row["last_target"])
        )
        newest_ns = int(bars.time_ns[3659])
        assert all(newest_ns - to_ns(signal["ts_event"]) <= 4 * NS for signal in late if signal["kind"] == "enter")
        assert len(late) <= 1
    assert {note["instance"] for note in await missed(floor)} == set(demo)


async def test_instance_given_to_another_worker_is_decided_there_alone(floor: Floor) -> None:
    """A late write of the earlier worker finds no row. The other instances go on."""
    bars = wave(120)
    for name in ("a", "b"):
        await add_instance(floor.db, name, "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:40])
    first, second = await floor.worker(shard=0), await floor.worker(shard=1)
    await first.start()
    await second.start()
    earlier = StrategyStore(floor.db, Owner("strategy:0", 1))
    row = next(row for row in await earlier.due() if row.id == "a")
    assert row.anchor_ns is not None
    assert row.cursor_ns is not None
    await earlier.assign({"a": 1})
    facts: dict[str, Any] = {"cursor_ns": row.cursor_ns + NS, "target": 1.0, "anchor_ns": row.anchor_ns}
    assert await earlier.commit(row, [], expected_ns=row.cursor_ns, **facts) is None
    assert not await earlier.set_state("a", state="CRASHED")
    assert not await earlier.anchor("a", anchor_ns=row.anchor_ns, cursor_ns=row.cursor_ns)
    await seal(floor.db, bars)
    await first.step()
    assert (await floor.row("a"))["cursor_time"] < (await floor.row("b"))["cursor_time"]
    await second.step()
    alone = [(signal["kind"], signal["ts_event"]) for signal in await floor.signals("b")]
    assert alone
    assert [(signal["kind"], signal["ts_event"]) for signal in await floor.signals("a")] == alone


async def test_new_parameters_take_effect_from_the_next_bar_on(floor: Floor) -> None:
    bars = wave(120)
    await add_instance(floor.db, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:40])
    worker = await floor.worker()
    await worker.start()
    async with floor.db.transaction() as tx:
        assert await StrategyStore(tx).set_params("a", {"fast": 3, "slow": 20}, by="test") == 2
    await seal(floor.db, bars)
    await worker.step()
    rows = await floor.signals()
    assert {r["params_version"] for r in rows} == {2}
    assert seen(rows) == expected(bars[20:], 20, {"fast": 3, "slow": 20})
    events = await floor.db.sql("SELECT * FROM actor_events WHERE event = 'strategy.reanchored'")
    assert [e["payload"]["instance"] for e in events] == ["a"]
    versions = await floor.db.sql("SELECT version FROM strategy_parameters WHERE instance_id = 'a' ORDER BY 1")
    assert [v["version"] for v in versions] == [1, 2]


async def test_history_in_memory_is_bounded(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_worker, "ROWS_MAX", 60)
    monkeypatch.setattr(strategy_worker, "ROWS_KEPT", 20)
    monkeypatch.setattr(strategy_worker, "BATCH", 10)
    bars = wave(400)
    await add_instance(floor.db, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    await seal(floor.db, bars)
    await worker.step()
    assert worker.detail()["rows"] <= 70  # type: ignore[operator]
    assert seen(await floor.signals()) == expected(bars[6:], 4)
    assert to_ns((await floor.row())["anchor_time"]) > int(bars.time_ns[300])
    again = await floor.worker(2)
    await seal(floor.db, wave(401))
    await again.start()
    assert seen(await floor.signals()) == expected(wave(401)[6:], 4)


GROWING = """
import numpy as np
from fks.strategies.base import Decisions, Strategy

class Growing(Strategy):
    name = "growing"
    def warmup(self) -> int:
        return 2
    def entries_max(self) -> int:
        return 2
    def decide(self, bars) -> Decisions:
        close = bars.close
        return Decisions(np.where(close > 120.0, 2.0, np.where(close > 100.0, 1.0, 0.0)), stop_loss=close - 10.0)
"""


async def test_bounded_history_keeps_the_protections_of_an_open_position(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that adds has those of the first entry, however long ago that was."""
    monkeypatch.setattr(strategy_worker, "ROWS_MAX", 60)
    monkeypatch.setattr(strategy_worker, "ROWS_KEPT", 20)
    monkeypatch.setattr(strategy_worker, "BATCH", 10)
    folder = floor.home / "strategies"
    folder.mkdir()
    (folder / "growing.py").write_text(GROWING)
    await add_instance(floor.db, "g", "growing", {}, **EVERY_EDGE)
    bars = bars_of([95.0] * 10 + [105.0] + [110.0] * 100 + [125.0])
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    await seal(floor.db, bars)
    await worker.step()
    found = await floor.signals("g")
    assert [(row["kind"], row["is_add"], row["stop_loss"]) for row in found] == [
        ("enter", False, 95),
        ("enter", True, 95),
    ]


async def test_a_sealed_bar_wakes_the_worker_and_a_lost_database_only_delays_it(floor: Floor) -> None:
    floor.clock = RealClock()
    bars = wave(40)
    await add_instance(floor.db, "a", "buy_and_hold")
    await seal(floor.db, bars[:10])
    worker = await floor.worker()
    await worker.start()
    received: list[Any] = []

    async def listen() -> None:
        async for _, payload in floor.bus.subscribe(SIGNALS):
            received.append(payload)

    tasks = [asyncio.create_task(worker.run()), asyncio.create_task(listen())]
    try:
        await floor.db.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
        await seal(floor.db, bars[:11])

        async def decided() -> bool:
            await floor.bus.publish(BARS, {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m"})
            return bool(received) and worker.is_ready

        await until(decided)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert received[0]["instance"] == "a"
    assert len(await floor.signals()) == 1
    assert worker.detail()["instances"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_partition_repeats_no_bar_and_skips_none(floor: Floor, database_url: str, kind: str) -> None:
    """Bars seal while the worker's database does not answer, or cannot be reached."""
    floor.clock = RealClock()
    bars = wave(60)
    await add_instance(floor.db, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:10])
    async with behind_a_link(role_url(database_url, "strategy")) as (db, link):
        worker = await replace(floor, worker_db=db).worker()
        await worker.start()
        task = asyncio.create_task(worker.run())
        try:
            for k in range(10, 20):
                await seal(floor.db, bars[k : k + 1])
                await floor.bus.publish(BARS, {"type": "bar", "symbol": "BTCUSDT", "timeframe": "1m"})
            await link.cut(kind)
            cut_s = time.monotonic()
            await seal(floor.db, bars[20:50])
            if kind == "gone":
                await until(lambda: not worker.is_ready, deadline_s=10)
            await asyncio.sleep(max(partition_s(2.0) - (time.monotonic() - cut_s), 0.0))  # its length
            before = len(await floor.signals())
            await link.restore()
            await seal(floor.db, bars[50:])

            async def is_done() -> bool:
                return (await floor.row())["cursor_time"] == to_datetime(int(bars.time_ns[-1]))

            await until(is_done)
            await until(lambda: worker.is_ready)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert before < len(await floor.signals()), "bars that sealed meanwhile have an edge"
    assert seen(await floor.signals()) == expected(bars[6:], 4)


async def test_corrected_bar_that_is_published_again_is_not_decided_again(floor: Floor) -> None:
    floor.clock = RealClock()
    bars = wave(60)
    await add_instance(floor.db, "a", "sma_cross", PARAMS, **EVERY_EDGE)
    await seal(floor.db, bars[:8])
    worker = await floor.worker()
    await worker.start()
    await seal(floor.db, bars[:40])
    await worker.step()
    before = seen(await floor.signals())
    assert before == expected(bars[4:40], 4)
    close = bars.close.copy()
    close[36:40] = [500.0, 10.0, 500.0, 10.0]  # as far as could be from what was decided on
    corrected = bars_of(close[:40])
    await seal(floor.db, corrected)
    assert (await floor.db.sql("SELECT count(*) FROM ohlcv_data WHERE revision = 1"))[0][0] == 4
    running = asyncio.create_task(worker.run())
    try:
        for n in range(36, 40):
            message = {
                "type": "bar",
                "symbol": "BTCUSDT",
                "timeframe": "1m",
                "time": iso(int(bars.time_ns[n])),
                "revision": 1,
            }
            await floor.bus.publish(BARS, message)
        await seal(floor.db, bars[40:])

        async def is_through() -> bool:
            await floor.bus.publish(BARS, message)
            return to_ns((await floor.row())["cursor_time"]) == int(bars.time_ns[-1])

        await until(is_through, deadline_s=10)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    after = seen(await floor.signals())
    assert after[: len(before)] == before
    assert all(row[0] > int(bars.time_ns[39]) for row in after[len(before) :])
