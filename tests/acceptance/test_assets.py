"""Assets chosen while the system runs: over HTTP and by command, for exchanges it knows and for one it did not need
yet."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from tests.support.exchange_peer import Peer
from tests.support.okx_market import Market, trading
from tests.support.system import FKS, System
from tests.support.waiting import wait_until

SOON_S = 5.0  # from the answer to the first subscription
START_S = 10.0  # a process of an actor of its own, on two busy cores
DAYS = 2
MINUTES_A_DAY = 1440


@pytest.fixture(autouse=True)
def _forgotten(system: System) -> Iterator[None]:
    """Leave nothing behind that is fetched, collected or looked for from then on."""
    yield
    for exchange, symbol in (("binance", "SOLUSDT"), ("binance", "AVAXUSDT"), ("okx", "BTC-USDT")):
        system.sql(f"UPDATE assets SET is_enabled = false WHERE exchange = '{exchange}' AND symbol = '{symbol}'")
        system.sql(f"DELETE FROM sync_status WHERE exchange = '{exchange}' AND symbol = '{symbol}'")


@pytest.fixture
def market(portal: BlockingPortal, okx: Peer) -> Iterator[Market]:
    with portal.wrap_async_context_manager(trading(okx)) as made:
        yield made


def enable(client: httpx.Client, **wanted: object) -> dict[str, Any]:
    """Return the asset as the answer shows it."""
    answer = client.post("/assets/enable", json=wanted)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["items"]
    return dict(row)


def shown(client: httpx.Client, symbol: str) -> dict[str, Any]:
    return next(row for row in client.get("/assets").json()["items"] if row["symbol"] == symbol)


def bars(system: System, symbol: str, timeframe: str) -> list[int]:
    """Return the open times of the stored bars, in seconds."""
    found = system.sql(
        "SELECT extract(epoch FROM time)::bigint FROM ohlcv_data"
        f" WHERE symbol = '{symbol}' AND timeframe = '{timeframe}' AND is_complete ORDER BY time"
    )
    return [int(row[0]) for row in found]


def are_whole(times: list[int], step_s: int) -> bool:
    return times == list(range(times[0], times[-1] + 1, step_s))


def sync_rows(system: System, symbol: str) -> dict[str, str]:
    return dict(system.sql(f"SELECT timeframe, sync_status FROM sync_status WHERE symbol = '{symbol}'"))


def chosen(system: System, symbol: str) -> list[tuple[Any, ...]]:
    """Return the row of the asset, and which history is wanted of it."""
    wants = f"SELECT timeframe, wanted_from, wanted_to FROM sync_status WHERE symbol = '{symbol}' ORDER BY timeframe"
    return [*system.sql(f"SELECT * FROM assets WHERE symbol = '{symbol}'"), *system.sql(wants)]


def jobs_done(system: System, since: str) -> int:
    """Return how many sync jobs came to their end since."""
    return int(
        system.sql(f"SELECT count(*) FROM jobs WHERE kind = 'sync' AND state = 'done' AND created_at > '{since}'")[0][0]
    )


def test_asset_is_collected_within_seconds_and_disabling_keeps_its_data(system: System) -> None:
    pids = {name: row["pid"] for name, row in system.components().items()}
    since = system.sql("SELECT now()::text")[0][0]
    wanted = {"symbol": "SOL/USDT", "timeframes": ["1s", "1m", "1h"], "history": DAYS}
    with system.client() as client:
        row = enable(client, **wanted)
        answered = time.time()
        assert (row["exchange"], row["symbol"], row["is_enabled"], row["status"]) == (
            "binance",
            "SOLUSDT",
            True,
            "backfilling",
        )

        def asked() -> list[dict[str, Any]]:
            path = f"/sim/received?all=1&path=/api/v3/aggTrades&since={answered * 1000 - 1000:.0f}"
            return [row for row in system.sim(path)["items"] if "SOLUSDT" in str(row["params"])]

        # only the collector requests trades, and not before its subscription stands
        took_s = wait_until(asked, deadline_s=15.0)[0]["time_ms"] / 1000 - answered
        print(f"SOLUSDT subscribed {took_s:.2f} s after the answer")
        assert took_s < SOON_S
        seen = wait_until(lambda: shown(client, "SOLUSDT")["status"] == "live", deadline_s=60.0, every_s=0.2)
        print(f"live {time.time() - answered:.1f} s after the answer")
        assert seen
        assert "SOLUSDT" in {feed["symbol"] for feed in system.status()["feeds"] if feed["state"] == "LIVE"}
        # new bars go on arriving, without a hole
        first = bars(system, "SOLUSDT", "1s")
        now = wait_until(
            lambda: found if len(found := bars(system, "SOLUSDT", "1s")) >= len(first) + 3 else None, deadline_s=20.0
        )
        assert now is not None
        assert are_whole(now, 1)
        assert client.get("/historical/SOLUSDT?timeframe=1s&limit=5").json()["bars"]
        # its history came through a job of the scheduler
        assert set(sync_rows(system, "SOLUSDT")) == {"1m", "1h"}
        wait_until(lambda: set(sync_rows(system, "SOLUSDT").values()) == {"done"}, deadline_s=30.0, every_s=0.3)
        wait_until(lambda: jobs_done(system, since) >= 1, deadline_s=30.0, every_s=0.3)
        for timeframe, step_s, least in (("1m", 60, DAYS * MINUTES_A_DAY), ("1h", 3600, DAYS * 24)):
            stored = bars(system, "SOLUSDT", timeframe)
            assert are_whole(stored, step_s), timeframe
            assert len(stored) >= least, timeframe
        # the same again changes nothing
        before = chosen(system, "SOLUSDT")
        wait_until(
            lambda: shown(client, "SOLUSDT")["status"] == "live", deadline_s=30.0
        )  # a busy machine's may be stale
        again = enable(client, **wanted)
        assert again["status"] == "live"
        assert chosen(system, "SOLUSDT") == before
        wait_until(lambda: set(sync_rows(system, "SOLUSDT").values()) == {"done"}, deadline_s=30.0)  # the minute's look
        assert {name: row["pid"] for name, row in system.components().items()} == pids
        # and off: no bar more, and none less
        assert client.post("/assets/disable", json={"symbol": "SOLUSDT"}).json()["items"][0]["status"] == "off"
        wait_until(
            lambda: (
                system.sql("SELECT state FROM feeds WHERE symbol = 'SOLUSDT' AND timeframe = 'trades'") == [("OFF",)]
            )
        )
        kept, others = bars(system, "SOLUSDT", "1s"), len(bars(system, "BTCUSDT", "1s"))
        wait_until(lambda: len(bars(system, "BTCUSDT", "1s")) >= others + 3, deadline_s=20.0)
        assert bars(system, "SOLUSDT", "1s") == kept
        assert set(now) <= set(kept)
        assert client.get("/historical/SOLUSDT?timeframe=1h&limit=5").json()["bars"]


def test_killed_history_command_is_finished_by_a_job(system: System, tmp_path: Path) -> None:
    (done,) = system.json("data", "sync", "AVAX/USDT", "5m", "--from", "3d")["items"]
    assert done["fetched"] == done["candles"] >= 3 * MINUTES_A_DAY // 5 - 1
    synced(system, "5m")
    since = system.sql("SELECT now()::text")[0][0]
    where = "exchange = 'binance' AND symbol = 'AVAXUSDT' AND timeframe = '1m'"
    faults = f"{system.node['sim']['rest']}/sim/faults"
    slow = {
        "kind": "latency",
        "path": "/api/v3/klines",
        "seconds": 0.3,
        "count": 1000,
    }  # or it is done before it is killed
    httpx.post(faults, json=slow, timeout=10.0).raise_for_status()
    said = tmp_path / "output"
    with said.open("w") as output_file:
        process = subprocess.Popen(
            [FKS, "data", "sync", "AVAXUSDT", "1m", "--from", "15d"],
            env=system.env,
            stdout=output_file,
            stderr=subprocess.STDOUT,
        )

    def shows(what: str) -> bool:
        assert process.poll() is None, said.read_text()
        return bool(system.sql(f"SELECT FROM sync_status WHERE {where} AND {what}"))

    try:
        wait_until(lambda: shows("sync_status = 'running'"), deadline_s=30.0)  # the process has started
        wait_until(lambda: shows("cursor IS NOT NULL"), deadline_s=30.0)  # and stored a page
    finally:
        print(said.read_text())
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        httpx.delete(faults, timeout=10.0).raise_for_status()
    ((killed_at, state),) = system.sql(f"SELECT cursor, sync_status FROM sync_status WHERE {where}")
    assert state == "running"  # no process was left to record the end
    # after a minute of silence; here at once
    system.sql(f"UPDATE sync_status SET updated_at = updated_at - interval '2 minutes' WHERE {where}")
    wait_until(lambda: sync_rows(system, "AVAXUSDT")["1m"] == "done", deadline_s=60.0, every_s=0.3)
    wait_until(lambda: jobs_done(system, since) >= 1, deadline_s=30.0, every_s=0.3)
    stored = bars(system, "AVAXUSDT", "1m")
    print(f"killed at {killed_at}, then whole: {len(stored)} bars")
    assert are_whole(stored, 60)
    assert stored[0] < killed_at.timestamp()
    output = synced(system, "1m")
    assert len(stored) >= 15 * MINUTES_A_DAY - 1
    assert output["candles"] - len(stored) in (0, 1)  # it is kept up to date: a minute may have ended meanwhile
    system.fks("data", "gaps", "AVAXUSDT", "1m")  # exit 0: nothing is missing


def status_of(system: System, timeframe: str) -> dict[str, Any]:
    """Return what `fks data status` says of a series of AVAXUSDT."""
    return next(
        dict(row) for row in system.json("data", "status", "AVAXUSDT")["items"] if row["timeframe"] == timeframe
    )


def synced(system: System, timeframe: str) -> dict[str, Any]:
    """Return what `fks data status` says once the series is whole: each minute's look at it takes a moment."""

    def status() -> dict[str, Any] | None:
        found = status_of(system, timeframe)
        return found if found["sync"] == "done" else None

    return wait_until(status, deadline_s=30.0, every_s=0.3) or {}


def test_collector_starts_with_first_and_stops_with_last_asset(system: System, okx: Peer, market: Market) -> None:
    pids = {name: row["pid"] for name, row in system.components().items()}
    assert "collector:okx" not in pids
    with system.client() as client:
        row = enable(client, symbol="BTC-USDT", exchange="okx", timeframes=["1s"], history=0)
        answered = time.monotonic()
        assert (row["exchange"], row["status"]) == ("okx", "backfilling")

        def until(condition: Any, deadline_s: float) -> float:
            wait_until(condition, deadline_s=deadline_s)
            return time.monotonic() - answered

        named_s = until(lambda: "collector:okx" in system.components(), SOON_S)
        subscribed_s = until(lambda: okx.received, SOON_S + START_S)
        ready_s = until(lambda: system.components()["collector:okx"]["state"] == "ready", 60.0)
        print(
            f"collector:okx in status after {named_s:.2f} s, subscribed after {subscribed_s:.2f} s, ready after "
            f"{ready_s:.2f} s"
        )
        assert subscribed_s < SOON_S + START_S
        wait_until(lambda: len(bars(system, "BTC-USDT", "1s")) >= 3, deadline_s=20.0)
        assert shown(client, "BTC-USDT")["status"] == "live"
        after = system.components()
        assert {name: after[name]["pid"] for name in pids} == pids
        # its trading goes on as before, though two exchanges list it now
        order = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "0.002"}
        id = system.order(client, order)[1].json()["client_order_id"]
        system.wait_for_order(client, id, "FILLED")
        pid = after["collector:okx"]["pid"]
        # killed, it comes back like every other
        system.kill("collector:okx")
        system.back_after("collector:okx", pid, deadline_s=START_S)
        wait_until(lambda: shown(client, "BTC-USDT")["status"] == "live", deadline_s=30.0, every_s=0.2)
        kept = bars(system, "BTC-USDT", "1s")
        client.post("/assets/disable", json={"symbol": "BTC-USDT", "exchange": "okx"})
        wait_until(lambda: "collector:okx" not in system.components(), deadline_s=20.0)
    assert set(kept) <= set(bars(system, "BTC-USDT", "1s"))
    after = system.components()
    assert {name: after[name]["pid"] for name in pids} == pids


@pytest.fixture
def nt8(system: System) -> Iterator[str]:
    """Run a simulated NinjaTrader on the port that the system's settings name; yield its contract."""
    folder = system.home / "nt8"
    process = subprocess.Popen(
        [FKS, "sim", "nt8", "--data-dir", str(folder), "--port", system.env["FKS_NINJA_PORT"], "--json"],
        env=system.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        shutil.copy(started["secret_file"], system.home / "ninja.key")
        (system.home / "ninja.key").chmod(0o600)
        yield started["instruments"][0]
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.timeout(300)  # its waits together
def test_the_first_contract_starts_the_collector_of_ninjatrader(system: System, nt8: str) -> None:
    assert "collector:ninja" not in system.components()
    with system.client() as client:
        enable(client, symbol=nt8, exchange="ninja", timeframes=["1s"], history=0)
        try:
            wait_until(lambda: "collector:ninja" in system.components(), deadline_s=SOON_S)
            wait_until(lambda: system.components()["collector:ninja"]["state"] == "ready", deadline_s=150.0)
            wait_until(lambda: len(bars(system, nt8, "1s")) >= 3, deadline_s=60.0)
        finally:
            client.post("/assets/disable", json={"symbol": nt8, "exchange": "ninja"}).raise_for_status()
        wait_until(lambda: "collector:ninja" not in system.components(), deadline_s=30.0)
