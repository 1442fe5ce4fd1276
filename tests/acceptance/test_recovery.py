"""Faults that no other test injects: Serve's proxy and controller, PostgreSQL under writes, Redis with its whole
content."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from fks.lab.chaos.evidence import Baseline
from fks.system.process.metrics import TEXT_KEY
from tests.support.audit import assert_sound
from tests.support.invariants import assert_kept, assert_once, assert_same
from tests.support.system import System
from tests.support.waiting import wait_until

GATEWAY_BACK_S = 15.0


def process(system: System, title: str) -> int:
    """Return the pid of the process of this system whose title starts so."""
    for process in system.processes():
        with contextlib.suppress(psutil.Error):  # a backend of PostgreSQL may have ended since it was listed
            if " ".join(process.cmdline()).startswith(title):
                return process.pid
    raise AssertionError(f"no process of this system is called {title}")


def far_below(system: System) -> dict[str, str]:
    """Return an order on paper that rests far below the market."""
    with system.client() as client:
        price = float(client.get("/market-data/BTCUSDT").json()["price"])
    return {
        "symbol": "BTCUSDT",
        "side": "buy",
        "type": "limit",
        "quantity": "0.0002",
        "account": "paper",
        "price": str(int(price * 0.93)),
    }


@pytest.fixture
def orders(system: System) -> Iterator[dict[str, str]]:
    """Return an order body; what rests on paper afterwards is cancelled."""
    yield far_below(system)
    with system.client() as client:
        for row in system.sql(
            "SELECT client_order_id FROM orders WHERE venue = 'paper' AND state = 'WORKING' AND instance = ''"
        ):
            client.delete(f"/orders/{row[0]}")


def send(client: httpx.Client, body: dict[str, str], key: str) -> httpx.Response | None:
    """Return the answer, or None without a clear one: then the same key is tried again."""
    try:
        answer = client.post("/orders", json=body, headers={"Idempotency-Key": key})
    except httpx.HTTPError:
        return None
    return answer if answer.status_code < 500 else None


def write_through(system: System, body: dict[str, str], hit: Any, *, seconds: float) -> dict[str, dict[str, str]]:
    """Write for so long, each until it is answered, the fault after the third; return key -> answer."""
    answers: dict[str, dict[str, str]] = {}
    with system.client() as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(answers) < 5:  # however slow: three before the fault, some after it
            if len(answers) == 3:
                hit()
            key = str(uuid.uuid4())
            answer = wait_until(lambda key=key: send(client, body, key), deadline_s=30.0, every_s=0.1)
            assert answer.status_code in (202, 422), answer.text  # a coded no, such as NOT_LEADER, is an outcome too
            answers[key] = answer.json()
            again = send(client, body, key)
            if again is not None:
                assert_same(again.json()["client_order_id"], answers[key]["client_order_id"], "one key")
    return answers


def assert_each_once(system: System, answers: dict[str, dict[str, str]]) -> None:
    """Every accepted order has its row and its outcome, and no key has two."""
    ids = [answer["client_order_id"] for answer in answers.values()]
    assert_once(ids)
    assert len(ids) > 3  # some of them after the fault
    signals = [answer["id"] for answer in answers.values()]
    assert_kept(signals, [str(row[0]) for row in system.sql("SELECT id FROM signals")])
    wanted = ",".join(f"'{id}'" for id in ids)
    decided = f"SELECT count(*) FROM signals WHERE client_order_id IN ({wanted}) AND state <> 'ready'"
    wait_until(lambda: system.sql(decided)[0][0] == len(ids), deadline_s=20.0)
    rows = system.sql(f"SELECT client_order_id FROM orders WHERE client_order_id IN ({wanted})")
    assert_kept(ids, [row[0] for row in rows])


def test_postgres_may_die_under_writes_and_no_accepted_order_is_lost(
    system: System, baseline: Baseline, orders: dict[str, str]
) -> None:
    actors = {name: row["pid"] for name, row in system.components().items() if row["kind"] == "actor"}
    postgres = system.components()["postgres"]["pid"]
    answers = write_through(system, orders, lambda: os.kill(postgres, signal.SIGKILL), seconds=5.0)
    assert_each_once(system, answers)
    wait_until(lambda: system.status()["state"] == "healthy", deadline_s=60.0, every_s=0.5)
    assert {name: row["pid"] for name, row in system.components().items() if name in actors} == actors
    assert_sound(system, baseline)


def test_redis_may_die_and_be_flushed(system: System, baseline: Baseline, orders: dict[str, str]) -> None:
    import redis

    pid = system.components()["redis"]["pid"]
    answers = write_through(system, orders, lambda: os.kill(pid, signal.SIGKILL), seconds=3.0)
    system.back_after("redis", pid, deadline_s=15.0)
    with redis.Redis.from_url(system.node["redis_url"]) as cache:
        cache.flushall()
        wait_until(lambda: cache.get(TEXT_KEY), deadline_s=15.0)  # what was cached is made again
    assert_each_once(system, answers)
    system.wait_for_fills(1)
    assert_sound(system, baseline)


def test_serve_may_lose_its_controller_and_no_request_fails(system: System) -> None:
    with system.client() as client:
        assert client.get("/positions").status_code == 200
        os.kill(process(system, "ray::ServeController"), signal.SIGKILL)
        end = time.monotonic() + 5.0
        while time.monotonic() < end:
            assert client.get("/positions").status_code == 200


def test_gateway_serves_again_after_a_killed_proxy(system: System, baseline: Baseline) -> None:
    pid = process(system, "ray::ProxyActor")
    os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        with system.client() as client:
            try:
                return client.get("/positions").status_code == 200
            except httpx.HTTPError:
                return False

    start = time.monotonic()
    wait_until(lambda: pid not in [p.pid for p in system.processes()] and answers(), deadline_s=GATEWAY_BACK_S)
    print(f"the door opened after {time.monotonic() - start:.2f} s")
    assert_sound(system, baseline)
