"""A collector is recorded on a real socket; its tape, in the exchange's place, makes the same collector store the
same."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from fks.clock import RealClock
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import FAILED, NOT_RUNNING, OK, USAGE, run
from fks.market.collector.collector import Collector
from fks.market.exchanges.registry import make_exchange
from fks.market.tape.player import play, wires_of
from fks.market.tape.reader import check_file, read_records, tape_files
from fks.market.tape.recorded_exchange import RecordedExchange, taped
from fks.market.tape.replay import TapeExchange
from fks.market.tape.summary import Summary
from fks.model.ports import Exchange
from fks.model.timeframe import to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.runtime import Runtime
from tests.support.collecting import running, settings_for
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

FEW: dict[str, Any] = {"timeframes": ("1s", "5s", "1m"), "symbols": ("BTCUSDT", "ETHUSDT"), "backfill_bars": 20}


EXCHANGE_SEED = 21


@pytest.fixture
async def collect(database: Database, bus: Bus, log: CollectingLog) -> Any:
    def make(source: Exchange, settings: Any, epoch: int) -> Collector:
        lease = TestLease("collector:binance", epoch)
        return Collector(source, Runtime(settings, RealClock(), database, bus, log, RecordingMeter(), lease))

    return make


async def stored(db: Database) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return what the store has: bars, public trades."""
    bars = await db.sql(
        "SELECT symbol, timeframe, time, open, high, low, close, volume, trades, is_complete, is_empty FROM ohlcv_data"
    )
    trades = await db.sql("SELECT symbol, trade_id, time, price, quantity, count FROM market_trades")
    return {tuple(r)[:3]: tuple(r) for r in bars}, {tuple(r)[:2]: tuple(r) for r in trades}


async def test_replayed_run_stores_the_same(
    database: Database, log: CollectingLog, exchange: LocalExchange, collect: Any, tmp_path: Path
) -> None:
    settings = settings_for(exchange.info, tape=True, **FEW).model_copy(update={"home": str(tmp_path)})
    plain = make_exchange("binance", settings=settings, node=None, clock=RealClock(), log=log)
    source = taped(plain, settings, RealClock(), log)
    assert isinstance(source, RecordedExchange)

    async def has_collected() -> bool:
        rows = await database.sql(
            "SELECT count(*) FROM ohlcv_data WHERE source = 'live' AND timeframe = '1s' AND trades > 0"
        )
        return bool(rows[0][0] >= 10)

    async with running(collect(source, settings, 1)):
        await until(has_collected, deadline_s=40)
    live_bars, live_trades = await stored(database)
    files = tape_files(tmp_path / "tapes" / "binance")
    assert all(check_file(file).is_whole for file in files)

    await database.sql("TRUNCATE ohlcv_data, market_trades, feeds")
    played = TapeExchange(tmp_path / "tapes" / "binance", RealClock(), lead_s=1.0)

    async def has_stored() -> bool:
        rows = await database.sql(
            "SELECT count(*) FROM ohlcv_data WHERE source = 'live' AND timeframe = '1s' AND trades > 0"
        )
        return played.ended.is_set() and bool(rows[0][0] >= 5)

    async with running(collect(played, settings, 2)):
        await until(has_stored, deadline_s=40)
    bars, trades = await stored(database)
    both = bars.keys() & live_bars.keys()
    assert len([key for key in both if key[1] == "1s"]) >= 10
    assert {key: bars[key] for key in both} == {key: live_bars[key] for key in both}
    shared = trades.keys() & live_trades.keys()
    assert len(shared) >= 10
    assert {key: trades[key] for key in shared} == {key: live_trades[key] for key in shared}


async def test_bars_of_a_tape_equal_those_its_collector_stored(
    database: Database, log: CollectingLog, exchange: LocalExchange, collect: Any, tmp_path: Path
) -> None:
    settings = settings_for(exchange.info, tape=True, **FEW).model_copy(update={"home": str(tmp_path)})

    async def run_once(epoch: int, faults: list[tuple[str, dict[str, Any]]]) -> None:
        plain = make_exchange("binance", settings=settings, node=None, clock=RealClock(), log=log)
        before = await database.sql("SELECT count(*) FROM ohlcv_data WHERE source = 'live' AND timeframe = '1s'")

        async def has_collected(bars: int) -> bool:
            rows = await database.sql("SELECT count(*) FROM ohlcv_data WHERE source = 'live' AND timeframe = '1s'")
            return bool(rows[0][0] - before[0][0] >= bars)

        async with running(collect(taped(plain, settings, RealClock(), log), settings, epoch)):
            await until(lambda: has_collected(8), deadline_s=60)
            for kind, fields in faults:
                exchange.fault(kind, **fields)
            await until(lambda: has_collected(16), deadline_s=60)

    faults: list[tuple[str, dict[str, Any]]] = [
        ("trade_gap", {"count": 5, "symbol": "BTCUSDT"}),
        ("duplicate_trades", {"count": 5}),
        ("reorder_trades", {"count": 5}),
    ]
    await run_once(1, [*faults, ("cut_stream", {"path": "/ws"})])
    await run_once(2, [])
    exchange.clear()
    live, _ = await stored(database)
    files = tape_files(tmp_path / "tapes" / "binance")
    summary = Summary("binance", "1s").add_all(play(read_records(files), wires_of("binance")))
    assert summary.troubles["run"] == 1
    count = 0
    for symbol, row in summary.symbols.items():
        for bar in row.bars:
            key = (symbol, "1s", to_datetime(bar.time_ns))
            made = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades, bar.is_complete, bar.is_empty)
            assert live.get(key, (*key, *made))[3:] == made
            count += key in live
    assert count >= 20
    assert sum(row.sequence.filled for row in summary.symbols.values()) >= 5, "what the gap left out, REST told"


async def test_without_the_setting_nothing_is_recorded(
    exchange: LocalExchange, log: CollectingLog, tmp_path: Path
) -> None:
    settings = settings_for(exchange.info, **FEW).model_copy(update={"home": str(tmp_path)})
    plain = make_exchange("binance", settings=settings, node=None, clock=RealClock(), log=log)
    assert taped(plain, settings, RealClock(), log) is plain
    assert not os.listdir(tmp_path)
    await plain.close()


async def test_the_commands(
    exchange: LocalExchange, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATA_REST_URL", exchange.info["rest"])
    monkeypatch.setenv("FKS_DATA_WS_URL", exchange.info["ws"])

    async def fks(*arguments: object) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, cli, ["--home", str(tmp_path / "home"), *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    channels = ("--channels", "trades,bars,quotes,book")
    for seconds in (4, 20):  # on a slow machine 4 of them may hold no whole bar
        tape = tmp_path / f"tape-{seconds}"
        code, out, err = await fks(
            "data", "record", "btc/usdt", "--seconds", seconds, *channels, "--to", tape, "--json"
        )
        assert code == OK, err
        made = orjson.loads(out)
        assert made["frames"] > 5
        assert (made["symbols"], made["lost"], len(made["files"])) == (["BTCUSDT"], 0, 1)

        code, out, _ = await fks("sim", "replay", tape, "--timeframe", "1s", "--json")
        assert code == OK
        first = orjson.loads(out)
        assert first["frames"] == made["frames"]
        assert first["symbols"][0]["trades"] > 0
        assert first["troubles"] == {}
        if first["symbols"][0]["bars"]:
            break
    code, out, _ = await fks("sim", "replay", made["files"][0], "--timeframe", "1s", "--expect", first["bars_digest"])
    assert (code, "BTCUSDT" in out) == (OK, True)
    mine = await fks("data", "record", "btc/usdt", "--seconds", "0.5", "--json")
    assert orjson.loads(mine[1])["folder"] == str(tmp_path / "home" / "tapes" / "binance" / "manual"), (
        "apart from the collectors'"
    )
    code, _, err = await fks("sim", "replay", tape, "--expect", "abc")
    assert (code, "other bars:" in err) == (FAILED, True)
    code, out, _ = await fks("sim", "replay", tape, "--check")
    assert (code, "True" in out) == (OK, True)

    for arguments, message in [
        (("data", "record", "NOSUCHCOIN", "--seconds", "1"), "unknown symbol"),
        (("data", "record", "BTCUSDT", "--channels", "gossip"), "there is no channel 'gossip'"),
        (("data", "record", "BTCUSDT", "--channels", ""), "no channel is named"),
        (("sim", "replay", tmp_path / "none"), "there is no tape at"),
        (("sim", "replay", tape, "--speed", "0"), "speed 0 is not above 0"),
    ]:
        code, _, err = await fks(*arguments)
        assert (code, message in err) == (USAGE, True), err
    (tmp_path / "file").write_text("in the way")
    code, _, err = await fks("data", "record", "BTCUSDT", "--to", tmp_path / "file")
    assert (code, "the tape could not be written" in err) == (NOT_RUNNING, True), err
