"""kill -9 at any moment: answered orders are there afterwards, ids go on, history agrees with itself."""

from __future__ import annotations

import signal
import stat
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psutil

from tests.support.sim_process import Sim
from tests.support.sim_rebuilding import rebuilt_from

Starter = Callable[..., Sim]


def test_orders_fills_balances_and_the_log_survive_kill_9(start_sim: Starter) -> None:
    sim = start_sim("--rate-limits", "off", "--balance", "USDT=50000")
    keys = sim.info["api_key"], sim.info["api_secret"]
    assert stat.S_IMODE((sim.data_dir / "api-key.json").stat().st_mode) == 0o600
    answered: list[str] = []

    def trade() -> None:
        for number in range(10_000):
            try:
                kind: dict[str, Any] = {"price": "30000", "timeInForce": "GTC"} if number % 2 else {}
                sim.order("BUY", "LIMIT" if kind else "MARKET", quantity="0.001", newClientOrderId=f"k{number}", **kind)
            except OSError:
                return
            answered.append(f"k{number}")

    worker = threading.Thread(target=trade)
    worker.start()
    deadline = time.monotonic() + 10
    while len(answered) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    sim.kill()
    worker.join()
    sim.start()
    assert (sim.info["api_key"], sim.info["api_secret"]) == keys
    account = sim.get("/sim/account")
    orders = {order["clientOrderId"]: order for order in account["orders"]}
    assert set(answered) <= set(orders)
    assert len(orders) <= len(answered) + 1, "at most the one in flight more"
    received = [row["client_order_id"] for row in sim.get("/sim/received?path=/api/v3/order")["items"]]
    assert len(received) == len(set(received)) >= len(answered)
    check_books(account, Decimal(50_000))


def check_books(account: dict[str, Any], usdt: Decimal) -> None:
    """Check that balances are the sums of the fills, and that the locked part is that of the open orders."""
    btc = Decimal(0)
    for fill in account["fills"]:
        sign = 1 if fill["isBuyer"] else -1
        btc += sign * Decimal(fill["qty"]) - (Decimal(fill["commission"]) if fill["commissionAsset"] == "BTC" else 0)
        usdt -= sign * Decimal(fill["quoteQty"]) + (
            Decimal(fill["commission"]) if fill["commissionAsset"] == "USDT" else 0
        )
    balances = {row["asset"]: row for row in account["balances"]}
    assert Decimal(balances["BTC"]["free"]) + Decimal(balances["BTC"]["locked"]) == btc
    assert Decimal(balances["USDT"]["free"]) + Decimal(balances["USDT"]["locked"]) == usdt
    held = sum(
        Decimal(o["price"]) * (Decimal(o["origQty"]) - Decimal(o["executedQty"])) for o in account["open_orders"]
    )
    assert Decimal(balances["USDT"]["locked"]) == held


def test_trades_and_klines_agree_across_a_restart(start_sim: Starter) -> None:
    sim = start_sim("--rate-limits", "off", "--balance", "USDT=1000000")
    sim.order("BUY", "MARKET", quantity="0.4")
    before = sim.get("/api/v3/aggTrades?symbol=BTCUSDT&limit=1000")
    minutes = sim.get("/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1000")
    sim.kill()
    sim.start()
    sim.order("BUY", "MARKET", quantity="0.3")
    after = sim.get(f"/api/v3/aggTrades?symbol=BTCUSDT&fromId={before[0]['a']}&limit=1000")
    assert after[: len(before)] == before
    newest = sim.get("/api/v3/aggTrades?symbol=BTCUSDT&limit=1000")
    assert [row["a"] for row in newest] == list(range(newest[0]["a"], newest[0]["a"] + 1000))
    assert [row["T"] for row in newest] == sorted(row["T"] for row in newest)
    again = sim.get(f"/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={minutes[0][0]}&limit=1000")
    assert again[: len(minutes) - 1] == minutes[:-1]
    rebuilt_from(sim, minutes[-3][0], minutes[-1][0] + 60_000)


def test_every_interval_is_what_its_trades_amount_to(sim: Sim) -> None:
    sim.order("BUY", "MARKET", "SOLUSDT", quantity="5")
    now = sim.get("/api/v3/time")["serverTime"]
    hour = now - now % 3_600_000 - 3_600_000
    assert rebuilt_from(sim, hour, hour + 3_600_000, "SOLUSDT", "1h") > 5_000
    assert rebuilt_from(sim, hour, hour + 3_600_000, "SOLUSDT", "15m") > 5_000
    assert rebuilt_from(sim, now - now % 1000 - 60_000, now - now % 1000, "SOLUSDT", "1s") > 50
    day = sim.get("/api/v3/klines?symbol=SOLUSDT&interval=1m&limit=1000")
    assert len(day) == 1000


def test_a_day_of_history_is_there_from_the_first_second(start_sim: Starter) -> None:
    sim = start_sim()
    before_s = cpu_s(sim)
    now = sim.get("/api/v3/time")["serverTime"]
    start = now - now % 60_000 - 86_400_000
    bars = sim.get(f"/api/v3/klines?symbol=ETHUSDT&interval=1m&startTime={start}&limit=1000")
    assert (bars[0][0], len(bars)) == (start, 1000)
    assert cpu_s(sim) - before_s < 2


def cpu_s(sim: Sim) -> float:
    """Return the seconds that the process has used of a processor: a busy machine adds none."""
    times = psutil.Process(sim.pid).cpu_times()
    return times.user + times.system


def test_it_stops_within_two_seconds_with_sockets_open(start_sim: Starter) -> None:
    import websocket

    sim = start_sim()
    links = [
        websocket.create_connection(sim.info["ws"] + "/ws/btcusdt@trade"),
        websocket.create_connection(sim.info["ws_api"]),
    ]
    links[0].recv()
    assert sim.end(signal.SIGTERM) < 2 + 5.0
    for link in links:
        link.close()


def test_a_second_exchange_on_the_same_data_is_refused_in_one_line(start_sim: Starter) -> None:
    import subprocess
    import sys

    sim = start_sim()
    command = [sys.executable, "-m", "fks.interfaces.cli", "sim", "exchange", "--data-dir", str(sim.data_dir)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode != 0
    assert len(second.stderr.strip().splitlines()) == 1
    assert "--data-dir" in second.stderr
    port = sim.info["rest"].rpartition(":")[2]
    third = subprocess.run(
        [*command[:-1], str(sim.data_dir) + "2", "--port", port], capture_output=True, text=True, timeout=20
    )
    assert third.returncode != 0
    assert "--port" in third.stderr
    assert "Traceback" not in third.stderr + second.stderr
