"""The sample, syncs and the data commands, on a real store and the local exchange."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli.base import NOT_RUNNING, OK, USAGE
from fks.market.exchanges.registry import make_exchange
from fks.market.files.sample import load_tape, sample_tape
from fks.market.history.sync import Sync
from fks.model.errors import InputError
from fks.model.timeframe import NS
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.sync import SyncStore
from tests.support.collecting import settings_for
from tests.support.data_shell import Shell
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.waiting import clear_of_the_hour


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    made = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--seed", "5", "--rate-limits", "off"]).start()
    yield made
    made.stop()


async def test_sample_loads_completely_and_twice_equals_once(database: Database) -> None:
    tape = sample_tape()
    reported: list[tuple[int, int]] = []
    first = await load_tape(database, tape, lambda done, total: reported.append((done, total)))
    assert first["1m"] == (132_480, 132_480)
    assert {name: rows for name, (rows, _) in first.items()} == {
        "1m": 132480,
        "5m": 26496,
        "15m": 8832,
        "30m": 4416,
        "1h": 2208,
        "4h": 552,
        "1d": 92,
        "1w": 13,
        "1M": 3,
    }
    assert reported[-1] == (sum(rows for rows, _ in first.values()),) * 2
    assert all(changed == 0 for _, changed in (await load_tape(database, tape)).values())
    store = BarStore(database)
    minutes, hours = await store.read("BTCUSDT", "1m"), await store.read("BTCUSDT", "1h")
    assert np.array_equal(minutes.open[::60], hours.open)
    assert np.array_equal(minutes.high.reshape(-1, 60).max(1), hours.high)
    assert hours.volume[0] == round(minutes.volume[:60].sum(), 8)
    default = await database.sql("SELECT count(*) FROM ohlcv_data_default")
    assert default[0][0] == 0, "the sample has partitions of its own"


async def test_sync_fetches_missing_bars_and_records_progress(
    database: Database, log: CollectingLog, exchange: LocalExchange
) -> None:
    source = make_exchange("binance", settings=settings_for(exchange.info), node=None, clock=RealClock(), log=log)
    await source.open()
    sync = Sync(source, database, RealClock(), log)
    try:
        done = await sync.init("BTCUSDT", "5m", days=5)
        assert done.candles == done.changed == done.fetched
        assert done.fetched in (1439, 1440, 1441)  # five days, the first bar begun before
        gone = len(await database.sql("DELETE FROM ohlcv_data WHERE time > now() - interval '1 hour' RETURNING 1"))
        assert gone >= 10
        again = await sync.update("BTCUSDT", "5m")
        assert again.candles >= done.candles
        assert gone <= again.changed <= gone + 2  # those that ended meanwhile come along
        minute = await sync.init("ETHUSDT", "1m", days=1)
        assert minute.fetched in (1439, 1440, 1441)
        assert (await sync.init("ETHUSDT", "15m", days=1)).fetched in (95, 96, 97)
        assert (await sync.init("ETHUSDT", "15s", days=1)).fetched in (5759, 5760, 5761)  # folded: the venue has no 15s
        with pytest.raises(InputError):
            await sync.init("NOSUCHCOIN", "1m", days=1)
    finally:
        await source.close()
    rows = {(r["symbol"], r["timeframe"]): r for r in await SyncStore(database).all()}
    assert rows["BTCUSDT", "5m"]["sync_status"] == "done"
    assert rows["BTCUSDT", "5m"]["candles"] == again.candles
    assert rows["NOSUCHCOIN", "1m"]["sync_status"] == "failed"
    assert "Invalid symbol" in rows["NOSUCHCOIN", "1m"]["error"]
    bars = await BarStore(database).read("BTCUSDT", "5m")
    assert set(np.diff(bars.time_ns).tolist()) == {300 * NS}


async def test_the_commands(
    database: Database,
    database_url: str,
    exchange: LocalExchange,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clear_of_the_hour()
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    paths = Paths.of(tmp_path / "home").ensure()
    fks = Shell(paths.home, capsys)
    assert (await fks("data", "sync", "update", "BTCUSDT"))[0] == NOT_RUNNING
    code, _, err = await fks("assets", "enable", "BTC/USDT")
    assert (code, "fks up" in err) == (USAGE, True)
    save_node(paths, NodeEndpoints(database_url, "redis://unused", "", {}, sim=exchange.info))

    done = await fks.json("data", "sync", "init", "BTC-USDT", "1h", "4h", "--days", "3")
    assert [(row["timeframe"], row["fetched"]) for row in done["items"]] == [("1h", 72), ("4h", 18)] or done["items"][
        0
    ]["fetched"] == 73
    assert [row["status"] for row in (await fks.json("data", "sync", "status", "BTC/USDT"))["items"]] == [
        "done",
        "done",
    ]
    status = await fks.json("data", "status")
    assert status["schema"] == "fks.data.status/1"
    assert [(row["symbol"], row["timeframe"]) for row in status["items"]] == [("BTCUSDT", "1h"), ("BTCUSDT", "4h")]
    code, _, err = await fks("data", "sync", "init", "NOSUCHCOIN")
    assert (code, "unknown symbol" in err) == (USAGE, True)
    code, _, err = await fks("data", "sync", "init", "BTCUSDT", "7m")
    assert (code, "use one of 1s" in err) == (USAGE, True)

    source = make_exchange(
        "binance", settings=settings_for(exchange.info), node=None, clock=RealClock(), log=CollectingLog()
    )
    await source.open()
    from fks.store.instruments import InstrumentStore

    await InstrumentStore(database).merge(await source.instruments())
    await source.close()
    await fks("assets", "enable", "BTC/USDT", "ETHUSDT")
    await fks("assets", "disable", "ethusdt")
    rows = {row["symbol"]: row["is_enabled"] for row in (await fks.json("assets", "list"))["items"]}
    assert rows == {"BTCUSDT": True, "ETHUSDT": False}
    assert len((await fks.json("assets", "list", "--all"))["items"]) == 5
    code, out, _ = await fks("assets", "list")
    assert (code, "BTC/USDT" in out) == (OK, True)
