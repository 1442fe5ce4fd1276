"""Durable jobs on real PostgreSQL: claimed once, beating, cancelled, taken over, ended once; and backtests as such
jobs."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.model.errors import InputError, StaleEpochError
from fks.model.timeframe import iso
from fks.research.jobs.backtest import BarsRequest, parse_spec, run_spec
from fks.research.jobs.bars import load_stored, load_tape, read_tape
from fks.research.jobs.runner import run_one
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.jobs import JobStore
from fks.strategies.check import synthetic
from tests.support.strategies import bars_of
from tests.support.waiting import until

SPEC = {"strategy": "sma_cross", "params": {"fast": 3, "slow": 8}, "symbol": "BTC/USDT", "timeframe": "1m"}


async def stored(db: Database, count: int = 600) -> None:
    await BarStore(db).merge(replace(synthetic(count), symbol="BTCUSDT"), source="test")


async def test_a_queued_job_is_claimed_by_exactly_one_of_many(database: Database) -> None:
    store = JobStore(database)
    ids = [await store.submit("backtest", {"n": n}) for n in range(8)]
    claims = await asyncio.gather(*(store.claim() for _ in range(20)))
    got = [job.id for job in claims if job is not None]
    assert sorted(got) == sorted(ids)
    assert {job.attempts for job in claims if job} == {1}
    assert [job.state for job in await store.list(state="running", limit=99)] == ["running"] * 8


async def test_the_same_id_submitted_twice_is_one_job(database: Database) -> None:
    store, job_id = JobStore(database), uuid.uuid4()
    await store.submit("backtest", {"n": 1}, job_id=job_id)
    await store.submit("backtest", {"n": 2}, job_id=job_id)
    (job,) = await store.list()
    assert (job.id, job.spec, job.result) == (job_id, {"n": 1}, None)


async def test_jobs_are_claimed_oldest_first_and_by_kind(database: Database) -> None:
    store = JobStore(database)
    first, other, second = [await store.submit(kind, {}) for kind in ("backtest", "train", "backtest")]
    claimed = [await store.claim(["backtest"]) for _ in range(3)]
    assert [job.id if job else None for job in claimed] == [first, second, None]
    last = await store.claim()
    assert last is not None
    assert last.id == other


async def test_lost_runner_is_replaced_and_its_late_writes_change_nothing(database: Database) -> None:
    store = JobStore(database)
    job_id = await store.submit("backtest", {})
    for attempt in (1, 2, 3):
        old = await store.claim()
        assert old is not None
        assert old.attempts == attempt
        assert await store.requeue_lost(silent_s=30.0, attempts_max=3) == []
        await database.sql("UPDATE jobs SET beat_at = now() - interval '31 s'")
        assert await store.requeue_lost(silent_s=30.0, attempts_max=3) == [job_id]
        with pytest.raises(StaleEpochError):
            await store.beat(old, 0.5)
        with pytest.raises(StaleEpochError):
            await store.finish(old, "done", result={"mine": True})
    job = await store.get(job_id)
    assert job is not None
    assert (job.state, job.error, job.result) == ("failed", "the runner of attempt 3 died or hung", None)
    assert await store.claim() is None


async def test_end_is_written_once_and_may_be_repeated(database: Database) -> None:
    store = JobStore(database)
    await store.submit("backtest", {})
    job = await store.claim()
    assert job is not None
    await store.finish(job, "done", result={"x": "1.10"})
    await store.finish(job, "done", result={"x": "2"})  # the same attempt again: its first answer was lost
    with pytest.raises(StaleEpochError):
        await store.finish(job, "failed", error="too late")
    ended = await store.get(job.id)
    assert ended is not None
    assert (ended.state, ended.progress, ended.result, ended.is_ended) == ("done", 1.0, {"x": "1.10"}, True)


async def test_cancelling_a_queued_job_ends_it_and_an_ended_one_is_left(database: Database) -> None:
    store = JobStore(database)
    job_id = await store.submit("backtest", {})
    cancelled = await store.cancel(job_id)
    assert cancelled is not None
    assert cancelled.state == "cancelled"
    assert await store.cancel(job_id) is None
    assert await store.claim() is None


async def test_a_backtest_runs_as_a_job_and_equals_the_one_here(
    database: Database, as_jobs: Database, tmp_path: Path
) -> None:
    await stored(database)
    store = JobStore(database)
    job_id = await store.submit("backtest", SPEC)
    await store.claim()
    await run_one(as_jobs, job_id, tmp_path)
    job = await store.get(job_id)
    assert job is not None
    assert (job.state, job.error, job.progress) == ("done", None, 1.0)
    spec = parse_spec(SPEC)
    request = BarsRequest(spec.symbol, spec.exchange, spec.timeframe, None, None, 8)
    loaded = await load_stored(database, request)
    result, source = run_spec(spec, lambda _: loaded)
    assert job.result is not None
    assert (job.result["fills_hash"], job.result["inputs_hash"]) == (result.fills_hash, result.inputs_hash)
    assert len(job.result["fills"]) == len(result.fills) > 10
    assert source == "database"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "nope"}, "unknown strategy 'nope'"),
        ({"params": {"fst": 1}}, "has no parameter 'fst'"),
        ({"symbol": "FOOUSDT"}, "unknown symbol 'FOOUSDT'; known: BTCUSDT"),
        ({"from": "2027-01-01"}, "no 1m bars of BTCUSDT from 2027-01-01T00:00:00Z"),
        ({"timeframe": "7m"}, "unknown timeframe '7m'"),
        ({"colour": "red"}, "colour: extra inputs are not permitted"),
    ],
)
async def test_what_is_wrong_with_a_job_is_its_error(
    database: Database, as_jobs: Database, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    await stored(database, 100)
    store = JobStore(database)
    job_id = await store.submit("backtest", {**SPEC, **change})
    await store.claim()
    await run_one(as_jobs, job_id, tmp_path)
    job = await store.get(job_id)
    assert job is not None
    assert job.state == "failed"
    assert message in str(job.error)
    assert "Traceback" not in str(job.error)


SLOW = """
import numpy as np
from fks.strategies.base import Decisions, Strategy
class Slow(Strategy):
    name = "slow"
    def warmup(self) -> int:
        return 1
    def decide(self, bars) -> Decisions:
        while True:
            pass
"""


async def test_a_running_job_ends_when_it_is_cancelled(database: Database, as_jobs: Database, tmp_path: Path) -> None:
    await stored(database)
    (tmp_path / "slow.py").write_text(SLOW)
    store = JobStore(database)
    job_id = await store.submit("backtest", {**SPEC, "strategy": "slow", "params": {}})
    await store.claim()
    running = asyncio.create_task(run_one(as_jobs, job_id, tmp_path))

    async def is_deciding() -> bool:
        row = await store.get(job_id)
        return row is not None and row.progress >= 0.3

    await until(is_deciding)
    assert (await store.cancel(job_id)).state == "running"  # type: ignore[union-attr]
    await asyncio.wait_for(running, 20)
    job = await store.get(job_id)
    assert job is not None
    assert (job.state, job.result) == ("cancelled", None)


async def test_stored_bars_have_their_warmup_and_are_resampled_from_minutes(database: Database) -> None:
    await stored(database)
    every = synthetic(600)
    start, end = int(every.time_ns[300]), int(every.time_ns[400])
    loaded = await load_stored(database, BarsRequest("BTC-USDT", "binance", "1m", start, end, 20))
    assert loaded.bars.time_ns.tolist() == every.time_ns[280:400].tolist()
    fives = await load_stored(database, BarsRequest("btcusdt", "binance", "5m", start, end, 4))
    assert fives.source == "database, made from 1m bars"
    assert fives.bars.time_ns.tolist() == every.time_ns[280:400:5].tolist()
    days = bars_of([100.0 + i for i in range(40)], timeframe="1d")
    await BarStore(database).merge(days, source="test")
    native = await load_stored(database, BarsRequest("BTCUSDT", "binance", "1d", None, None, 0))
    assert (native.source, len(native.bars)) == ("database", 40)


async def test_unlisted_symbol_has_the_tick_and_lot_of_its_bars(database: Database) -> None:
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " VALUES ('binance','BTCUSDT','BTC','USDT',0.01,0.00001,0.00001,9000,5)"
    )
    bars = bars_of([1.0842, 1.08425, 1.0843] * 20, symbol="EUR/USD")
    bars = replace(bars, open=bars.close, high=bars.close, low=bars.close)
    await BarStore(database).merge(bars, exchange="mybroker", source="import")
    for stored, exchange in (("EUR/USD", None), ("eurusd", "mybroker"), ("mybroker:EUR-USD", None)):
        loaded = await load_stored(database, BarsRequest(stored, exchange, "1m", None, None, 0))
        item = loaded.instrument
        assert (item.exchange, item.symbol, item.base, item.quote) == ("mybroker", "EUR/USD", "EUR", "USD")
        assert (item.tick, item.lot_step, len(loaded.bars)) == (Decimal("0.00001"), Decimal(1), 60)


async def test_backtest_of_a_future_uses_its_contract_specification(database: Database) -> None:
    bars = bars_of([5000.0, 5001.0, 5002.0, 5004.0] * 30, symbol="ES 03-25")
    await BarStore(database).merge(bars, exchange="ninjatrader", source="import")
    for symbol in ("ES 03-25", "ESH25", "ninjatrader:ESH25", "es 03-25"):
        item = (await load_stored(database, BarsRequest(symbol, None, "1m", None, None, 0))).instrument
        assert (item.exchange, item.symbol, item.base, item.quote) == ("ninjatrader", "ES 03-25", "ESH25", "USD")
        assert (item.tick, item.multiplier, item.lot_step) == (Decimal("0.25"), Decimal(50), Decimal(1))
    with pytest.raises(InputError, match="unknown symbol 'ES 06-25'"):
        await load_stored(database, BarsRequest("ESM25", None, "1m", None, None, 0))
    spec = parse_spec(
        {
            **SPEC,
            "symbol": "ESH25",
            "sizing": "quantity",
            "size": "2",
            "cash": "2000000",
            "limits": False,
            "fee_rate": "0.00001",
        }
    )
    loaded = await load_stored(database, BarsRequest("ESH25", None, "1m", None, None, 0))
    result, _ = run_spec(spec, lambda request: loaded)
    assert {fill.fee_currency for fill in result.fills} == {"USD"}
    assert {fill.quantity for fill in result.fills} == {Decimal(2)}
    first = result.trades[0]
    gross = (first.exit_price - first.entry_price) * 2 * 50
    assert first.pnl == gross - sum(fill.fee for fill in result.fills[:2])


def test_a_tape_is_cut_to_the_request() -> None:
    tape, name = read_tape("sample")
    start, end = int(tape.time_ns[5000]), int(tape.time_ns[6000])
    loaded = load_tape(tape, name, BarsRequest("btc/usdt", "binance", "1m", start, end, 50))
    assert (len(loaded.bars), iso(int(loaded.bars.time_ns[50]))) == (1050, iso(start))
    assert (loaded.instrument.base, loaded.instrument.quote, loaded.instrument.tick) == ("BTC", "USDT", Decimal("0.01"))
    with pytest.raises(InputError, match="unknown symbol 'ETHUSDT'"):
        load_tape(tape, name, BarsRequest("ETHUSDT", "binance", "1m", None, None, 0))
