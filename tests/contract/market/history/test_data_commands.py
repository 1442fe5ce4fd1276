"""`fks data …` on a real store and the local exchange: a person's input, and the output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.cli.base import FAILED, NOT_RUNNING, OK, USAGE
from fks.interfaces.cli.data.store import lasting
from fks.store.db import Database
from tests.support.data_shell import Shell
from tests.support.local_exchange import LocalExchange
from tests.support.waiting import clear_of_the_hour

EXCHANGE_SEED = 5


@pytest.fixture
def exchange(shared_exchange: LocalExchange) -> Iterator[LocalExchange]:
    """The local exchange in place of this folder's; its faults end with the test, also when it fails."""
    yield shared_exchange
    shared_exchange.clear()


@pytest.fixture
def fks(
    database: Database,
    database_url: str,
    redis_url: str,
    exchange: LocalExchange,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    paths = Paths.of(tmp_path / "home").ensure()
    save_node(paths, NodeEndpoints(database_url, redis_url, "", {}, sim=exchange.info))
    return Shell(paths.home, capsys)


async def test_sync_gaps_quality_and_prune_commands(database: Database, fks: Shell) -> None:
    clear_of_the_hour()
    done = await fks.json("data", "sync", "BTC/USDT", "1h", "1d", "--from", "5d")
    assert [(row["symbol"], row["timeframe"], row["exchange"]) for row in done["items"]] == [
        ("BTCUSDT", "1h", "binance"),
        ("BTCUSDT", "1d", "binance"),
    ]
    assert done["items"][0]["fetched"] in (120, 121)
    again = await fks.json("data", "sync", "BTCUSDT", "1h", "--from", "5d", "--again")
    assert (again["items"][0]["fetched"], again["items"][0]["changed"]) == (done["items"][0]["fetched"], 0)

    assert (await fks("data", "gaps"))[:2] == (OK, "nothing is missing\n")
    await database.sql(
        "DELETE FROM ohlcv_data WHERE timeframe = '1h' AND time BETWEEN now() - interval '50 hours' AND now() - "
        "interval '40 hours'"
    )
    code, out, _ = await fks("data", "gaps", "btc-usdt", "1h")
    assert (code, "10 h" in out, "missing" in out) == (FAILED, True, True)
    code, out, _ = await fks("data", "quality", "BTCUSDT")
    assert code == FAILED
    assert "10 bars from" in out
    code, out, _ = await fks("data", "gaps", "--fill")
    assert (code, out) == (OK, "nothing is missing\n")
    report = await fks.json("data", "quality", "BTCUSDT", "1h")
    assert (report["schema"], report["items"][0]["coverage"], report["items"][0]["is_good"]) == (
        "fks.data.quality/1",
        1.0,
        True,
    )

    status = (await fks.json("data", "status"))["items"]
    assert [(row["timeframe"], row["sync"], row["kept_by"], row["behind"]) for row in status] == [
        ("1h", "done", "sync", 0),
        ("1d", "done", "sync", 0),
    ]
    dry = await fks.json("data", "prune", "--older-than", "2d", "--timeframe", "1h", "--dry-run")
    assert dry["items"][0]["bars"] in (72, 73)
    code, _, err = await fks("data", "prune", "--older-than", "2d", "--json")
    assert (code, "--yes" in err) == (USAGE, True)
    gone = await fks.json("data", "prune", "--older-than", "2d", "--timeframe", "1h", "--yes")
    assert gone["items"] == dry["items"]
    assert (await fks("data", "gaps"))[0] == OK


async def test_update_and_continuous_sync_commands(database: Database, fks: Shell) -> None:
    clear_of_the_hour()
    assert (await fks("data", "update"))[1] == "nothing was synced yet: 'fks data init BTCUSDT'\n"
    assert (await fks("data", "status", "BTCUDST"))[:2] == (OK, "nothing is stored of BTCUDST\n")
    assert (await fks("data", "sync", "status", "BTCUDST"))[:2] == (OK, "no sync of BTCUDST\n")
    await fks.json("data", "init", "MAINS", "1h", "--days", "2")
    await database.sql("DELETE FROM ohlcv_data WHERE time > now() - interval '5 hours'")
    rows = (await fks.json("data", "update"))["items"]
    assert [(row["symbol"], row["fetched"] in (4, 5)) for row in rows] == [("BTCUSDT", True), ("ETHUSDT", True)]
    await database.sql(
        "DELETE FROM ohlcv_data WHERE time BETWEEN now() - interval '20 hours' AND now() - interval '10 hours'"
    )
    await database.sql(
        "INSERT INTO sync_status (symbol, timeframe, sync_status, wanted_from) VALUES ('SOLUSDT', '4h', 'pending', "
        "now() - interval '3 days')"
    )
    code, out, _ = await fks("data", "continuous", "--rounds", "2", "--every", "1")
    assert code == OK
    first, second = out.splitlines()[-2:]
    assert "binance: 1 syncs, 2 gaps, 20 bars" in first
    assert second.endswith("nothing is missing")
    stood = {row["symbol"]: row["status"] for row in (await fks.json("data", "sync", "status"))["items"]}
    assert stood == {"BTCUSDT": "done", "ETHUSDT": "done", "SOLUSDT": "done"}


async def test_failing_series_stops_no_other_and_all_rows_are_printed(
    database: Database, fks: Shell, exchange: LocalExchange
) -> None:
    clear_of_the_hour()
    await fks.json("data", "init", "BTCUSDT", "ETHUSDT", "1h", "--days", "2")
    await database.sql("UPDATE sync_status SET symbol = 'AAAUSDT' WHERE symbol = 'BTCUSDT'")  # listed no longer
    await database.sql("DELETE FROM ohlcv_data WHERE time > now() - interval '5 hours'")
    code, out, err = await fks("data", "update", "--json")
    rows = {row["symbol"]: row for row in orjson.loads(out)["items"]}
    assert (code, err) == (FAILED, "")
    assert "AAAUSDT" not in str(rows["ETHUSDT"])
    assert (rows["ETHUSDT"]["error"], rows["ETHUSDT"]["fetched"] in (4, 5)) == (None, True)
    assert (rows["AAAUSDT"]["fetched"], "Invalid symbol" in rows["AAAUSDT"]["error"]) == (None, True)
    code, out, _ = await fks("data", "update")
    assert (code, "ERROR" in out, "ETHUSDT" in out, "Invalid symbol" in out) == (OK, True, True, False), (
        "what failed is not updated"
    )
    await database.sql("UPDATE sync_status SET sync_status = 'done'")
    exchange.fault("error", path="/api/v3/klines", count=1, status=503)
    code, out, _ = await fks("data", "update", "--json")
    assert code == NOT_RUNNING


async def test_bad_input_gets_one_clear_line(fks: Shell) -> None:
    for arguments, message in [
        (("sync", "NOSUCHCOIN", "1h"), "unknown symbol"),
        (("sync", "BTCUSDT", "7m"), "use one of 1s"),
        (("sync", "BTCUSDT"), "names no timeframe"),
        (("sync", "1h"), "names no symbol"),
        (("sync", "BTCUSDT", "1h", "--from", "2026-02-30"), "is no time"),
        (("sync", "BTCUSDT", "1h", "--from", "2025-02-01", "--to", "2025-01-01"), "ends before it begins"),
        (("sync", "BTCUSDT", "1h", "--from", "2999-01-01"), "lies ahead"),
        (("sync", "BTCUSDT", "1h", "1d", "--from", "0001-01-01"), "begins before 1970"),
        (("sync", "BTCUSDT", "1h", "--from", "1960-01-01"), "begins before 1970"),
        (("sync", "BTCUSDT", "1h", "--from", "99999d"), "begins before 1970"),
        (("sync", "BTCUSDT", "1h", "--from", "9999999d"), "is no time"),
        (("export", "BTCUSDT", "1h", "--from", "9999999d"), "is no time"),
        (("prune", "--older-than", "9999999d"), "is no time"),
        (("prune", "--older-than", "2d", "--symbol", "NOSUCH", "--yes"), "nothing is stored of NOSUCH"),
        (("prune", "--older-than", "2d", "--exchange", "mtgox", "--yes"), "nothing is stored of mtgox"),
        (("sync", "BTCUSDT", "1h", "--exchange", "mtgox"), "use one of binance"),
        (("sync", "mtgox:BTCUSDT", "1h"), "use one of binance"),
        (("gaps", "BTCUSDT", "1y"), "unknown timeframe"),
        (("gaps", "BTCUDST", "1h"), "nothing is stored of BTCUDST 1h; see 'fks data status'"),
        (("quality", "--exchange", "mtgox"), "nothing is stored of mtgox"),
        (("prune", "--older-than", "2999-01-01"), "lies ahead"),
        (("prune",), "older-than"),
    ]:
        code, _, err = await fks("data", *arguments)
        assert (code, len(err.strip().splitlines())) == (USAGE, 1)
        assert message in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (600, "10 min"),
        (7260, "2 h 1 min"),
        (7200, "2 h"),
        (86400 * 9 + 14400, "9 d 4 h"),
        (86400 * 9, "9 d"),
    ],
)
def test_lengths_of_time_are_formatted_shortly(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
