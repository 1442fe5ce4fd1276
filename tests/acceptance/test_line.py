"""The whole line: from a market tick to a fill, through the real parts, seen as a user sees it."""

from __future__ import annotations

import json
import os
import signal
from decimal import Decimal

import httpx
import psutil
import pytest

from fks.lab.chaos.evidence import Baseline
from tests.support.audit import assert_not_doubled, audit
from tests.support.system import System
from tests.support.waiting import wait_until

SYMBOLS = {"BTCUSDT", "ETHUSDT"}


def test_status_names_every_component_with_its_pid(system: System) -> None:
    wait_until(lambda: {"postgres", "redis", "sim"} <= set(system.components()))  # the keeper writes once a second
    status = system.json("status")
    assert {"state", "components", "feeds", "venues", "kill", "sim"} <= set(status)
    rows = {row["name"]: row for row in status["components"]}
    for name in ("supervisor", "guardian", "orders", "collector:binance", "strategy:0", "scheduler", "monitor"):
        assert rows[name]["kind"] == "actor", name
        assert rows[name]["pid"] > 0
        assert rows[name]["heartbeat_age_ms"] < 5000
    for name in ("postgres", "redis", "sim"):
        assert rows[name]["kind"] == "service", name
    assert {row["kind"] for row in rows.values()} == {"keeper", "service", "serve", "actor"}
    assert {row["symbol"] for row in status["feeds"]} == SYMBOLS
    assert status["kill"] == {"engaged": False} or status["kill"]["engaged"] is False
    assert status["sim"]["pid"] == rows["sim"]["pid"]


def test_ticks_lead_to_fills_and_positions_equal_the_exchange(system: System, baseline: Baseline) -> None:
    wait_until(lambda: audit(system, baseline).orders_sent >= 3, deadline_s=90.0, every_s=0.5)
    rows = system.sql("SELECT count(*) FROM ohlcv_data WHERE timeframe = '1s' AND source = 'live'")
    assert rows[0][0] > 5
    settled = wait_until(lambda: not audit(system, baseline).position_errors, deadline_s=30.0, every_s=0.5)
    assert settled
    found = audit(system, baseline)
    assert found.orders_sent >= 3
    assert_not_doubled(found)
    assert found.undecided == 0


def test_one_trace_id_follows_a_bar_to_its_fill_through_the_logs(system: System) -> None:
    system.wait_for_fills(1)
    row = system.sql(
        "SELECT o.trace_id, o.client_order_id FROM orders o JOIN trades t USING (client_order_id)"
        " WHERE o.role = 'entry' AND o.venue = 'ccxt' ORDER BY t.id DESC LIMIT 1"
    )[0]
    trace = row[0]
    assert trace

    def received() -> dict[str, str]:
        events: dict[str, str] = {}
        for file in (system.home / "logs").glob("*.jsonl*"):
            for line in file.read_text().splitlines():
                if trace in line and line.endswith("}"):  # whole
                    entry = json.loads(line)
                    events[entry["event"]] = entry["component"]
        return events

    wanted = {
        "bar.sealed": "collector:binance",
        "signal.committed": "strategy:0",
        "order.answered": "orders",
        "fill.booked": "orders",
    }
    # a line is written after the commit, and a fill may be booked before the answer to its order is read
    wait_until(lambda: wanted.keys() <= received().keys(), deadline_s=15.0, every_s=0.3)
    events = received()
    assert {name: events[name] for name in wanted} == wanted


def test_the_gateway_answers_everything_the_readme_names(system: System) -> None:
    with system.client() as client:
        for path in (
            "/health",
            "/ready",
            "/metrics",
            "/docs",
            "/assets",
            "/market-data/BTC/USDT",
            "/strategies",
            "/historical/BTCUSDT?timeframe=1s&limit=5",
            "/signals",
            "/orders",
            "/positions",
            "/positions/BTC-USDT",
            "/fills",
            "/accounts",
            "/api/status",
            "/monitor/api/health/",
        ):
            assert client.get(path).status_code == 200, path
    bare = httpx.Client(base_url=system.url)
    assert bare.get("/health").json()["service"]
    assert bare.get("/orders").json()["items"], "in the demo this host reads without a token"
    for id, is_kept in (("mine-7", True), ("a b", False), ("x" * 65, False), ("\u00e9", False)):
        named = bare.get("/health", headers={"X-Request-ID": id.encode()})
        assert (named.status_code, named.headers["x-request-id"] == id) == (200, is_kept), id
    assert (refused := bare.post("/orders", json={})).status_code == 401
    assert refused.headers["content-type"].startswith("application/problem+json")


def test_manual_order_fills_once_and_the_same_key_gives_the_same_answer(system: System) -> None:
    with system.client() as client:
        body = {"symbol": "BTC/USDT", "side": "buy", "type": "market", "quantity": "0.002"}
        key, first = system.order(client, body)
        assert first.status_code == 202, first.text
        id = first.json()["client_order_id"]
        system.wait_for_order(client, id, "FILLED")
        again = client.post("/orders", json=body, headers={"Idempotency-Key": key})
        assert again.json()["client_order_id"] == id
        other = client.post("/orders", json={**body, "quantity": "0.003"}, headers={"Idempotency-Key": key})
        assert other.status_code == 409
    assert system.sql(f"SELECT count(*) FROM trades WHERE client_order_id = '{id}'")[0][0] >= 1
    assert (
        sum(id in str(row) and row["method"] == "POST" for row in system.sim("/sim/received?limit=100000")["items"])
        == 1
    )


def test_a_resting_order_can_be_cancelled(system: System) -> None:
    with system.client() as client:
        price = Decimal(str(client.get("/market-data/BTCUSDT").json()["price"]))
        body = {
            "symbol": "BTCUSDT",
            "side": "buy",
            "type": "limit",
            "quantity": "0.001",
            "price": str((price * Decimal("0.95")).quantize(Decimal(1))),
        }
        id = system.order(client, body)[1].json()["client_order_id"]
        system.wait_for_order(client, id, "WORKING")
        assert client.delete(f"/orders/{id}").status_code in (200, 202)
        system.wait_for_order(client, id, "CANCELLED")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"symbol": "NOPE", "side": "buy", "type": "market", "quantity": "1"}, 404, "SYMBOL_UNKNOWN"),
        ({"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "-1"}, 422, None),
        ({"symbol": "BTCUSDT", "side": "up", "type": "market", "quantity": "1"}, 422, None),
        ({"symbol": "BTCUSDT", "side": "sell", "type": "market", "quantity": "5000"}, 422, None),
        ({"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "5000"}, 422, "NOTIONAL_MAX_ORDER"),
    ],
)
def test_a_bad_order_is_a_problem_document_with_a_code(
    system: System, body: dict[str, str], status: int, code: str | None
) -> None:
    with system.client() as client:
        _, answer = system.order(client, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    if code:
        assert answer.json()["code"] == code


def test_malformed_json_and_a_wrong_token_are_problem_documents(system: System) -> None:
    with system.client() as client:
        broken = client.post(
            "/orders", content=b"{nope", headers={"Idempotency-Key": "x", "content-type": "application/json"}
        )
        assert broken.status_code in (400, 422)
        assert broken.headers["content-type"].startswith("application/problem+json")
    with system.client("not-a-token") as stranger:
        assert stranger.get("/orders").status_code == 401


def test_a_read_token_may_look_and_not_trade(system: System) -> None:
    token = system.json("token", "create", "--name", "looker", "--scope", "read")["token"]
    with system.client(token) as client:
        assert client.get("/orders").status_code == 200
        body = {"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.001"}
        assert client.post("/orders", json=body, headers={"Idempotency-Key": "no"}).status_code == 403
    system.fks("token", "revoke", "looker")

    def is_refused() -> bool:
        with system.client(token) as client:
            return client.get("/orders").status_code == 401

    wait_until(is_refused, deadline_s=15.0)


def test_kill_cancels_flattens_and_denies_and_resume_lets_go(system: System, baseline: Baseline) -> None:
    system.wait_for_fills(1)
    try:
        system.fks("kill", "--yes", "--reason", "a test")
        assert system.status()["kill"]["engaged"] is True
        with system.client() as client:
            body = {"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.001"}
            _, answer = system.order(client, body)
            assert answer.status_code == 422
            assert answer.json()["code"] == "KILLED"
        account = system.sim("/sim/account")
        assert not account["open_orders"]
        wait_until(lambda: not audit(system, baseline).position_errors, deadline_s=30.0, every_s=0.5)
    finally:  # a kill that has just found an order that was on its way is at work on it, and a release waits
        wait_until(lambda: system.fks("resume", check=False).returncode == 0, deadline_s=30.0, every_s=0.5)
    wait_until(lambda: system.status()["kill"]["engaged"] is False, deadline_s=10.0)
    system.wait_for_fills(1)


def test_backtest_job_as_ray_task_equals_a_local_run(system: System) -> None:
    system.fks("data", "sample", timeout_s=120.0)
    period = (
        "--symbol",
        "BTC/USDT",
        "--timeframe",
        "1m",
        "--from",
        "2026-03-01",
        "--to",
        "2026-03-05",
        "--set",
        "fast=20",
    )
    here = system.json("backtest", "run", "sma_cross", *period)
    job = system.json("backtest", "submit", "sma_cross", *period)["id"]
    wait_until(lambda: system.json("backtest", "status", job)["state"] == "done", deadline_s=60.0, every_s=0.5)
    there = system.json("backtest", "result", job)
    assert here["fills_count"] > 10
    assert (there["inputs_hash"], there["fills_hash"]) == (here["inputs_hash"], here["fills_hash"])


def test_the_next_job_takes_the_process_that_was_kept_ready(system: System) -> None:
    """Killed while it waits, a new one is made: no job knows of it."""
    system.fks("data", "sample", timeout_s=120.0)

    def job(fast: int) -> str:
        period = ("--symbol", "BTC/USDT", "--timeframe", "1m", "--from", "2026-03-01", "--to", "2026-03-03")
        return str(system.json("backtest", "submit", "sma_cross", *period, "--set", f"fast={fast}")["id"])

    def is_done(id: str) -> bool:
        return bool(system.json("backtest", "status", id)["state"] == "done")

    def spare() -> int | None:
        waiting = [process for process in system.processes() if titled(process) == "ray::Job"]
        return waiting[0].pid if len(waiting) == 1 else None

    first = job(5)
    wait_until(lambda: is_done(first), deadline_s=60.0, every_s=0.2)
    kept = wait_until(spare, deadline_s=60.0, every_s=0.2)
    second = job(6)
    wait_until(lambda: is_done(second), deadline_s=60.0, every_s=0.2)
    wait_until(lambda: not psutil.pid_exists(kept), deadline_s=30.0, every_s=0.2)  # used once
    kept = wait_until(spare, deadline_s=60.0, every_s=0.2)
    os.kill(kept, signal.SIGKILL)
    third = job(7)
    wait_until(lambda: is_done(third), deadline_s=60.0, every_s=0.2)
    rows = system.sql(f"SELECT attempts FROM jobs WHERE id IN ('{first}', '{second}', '{third}')")
    assert [row[0] for row in rows] == [1, 1, 1]


def titled(process: psutil.Process) -> str:
    """Return what the process list shows of a process, or an empty text."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
