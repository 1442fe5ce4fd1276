"""Exposure of a running system to the network and to other users of the host: nothing is reachable."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import stat
import subprocess
import sys
import time
import tomllib

import httpx
import psutil
from pydantic import SecretStr

from fks.config.credentials import CARRIERS, VenueKey
from fks.config.paths import Paths
from tests.support.children import Child
from tests.support.stored_keys import has_in_memory, store_at
from tests.support.system import System
from tests.support.waiting import wait_until


def test_nothing_listens_beyond_loopback(system: System) -> None:
    found = system.listeners()
    assert len(found) > 5
    assert [entry for entry in found if not ipaddress.ip_address(entry[1]).is_loopback] == []


def test_ray_job_without_the_token_is_refused(system: System) -> None:
    """Ray's job API runs any command: on the dashboard and on its agent it asks for the token."""
    asked = 0
    for process in system.processes():
        with contextlib.suppress(psutil.Error):
            ports = [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            for port in ports if "ashboard" in " ".join(process.cmdline()) else []:
                for path in ("/api/jobs/", "/api/job_agent/jobs/"):
                    with contextlib.suppress(httpx.HTTPError):  # gRPC and others do not speak HTTP/1.1
                        answer = httpx.post(f"http://127.0.0.1:{port}{path}", json={"entrypoint": "true"}, timeout=3.0)
                        assert answer.status_code in (401, 403, 404, 405), (port, path, answer.text)
                        asked += answer.status_code in (401, 403)
    assert asked >= 2


def test_other_users_reach_no_socket_and_no_file_of_ray(system: System) -> None:
    paths = Paths.of(system.home)
    assert stat.S_IMODE(paths.ray_temp.parent.stat().st_mode) == 0o700
    open_to_all = [
        path.name for path in paths.sockets.iterdir() if path.lstat().st_mode & 0o007 and not path.name.startswith("pg")
    ]
    assert open_to_all == []


def test_no_secret_is_in_an_argument_an_environment_or_a_log(system: System) -> None:
    secrets = {
        name: value.encode() for name, value in tomllib.loads((system.home / "secrets.toml").read_text()).items()
    }
    secrets["sim key"] = system.node["sim"]["api_secret"].encode()
    shown: list[tuple[str, str]] = []
    for process in system.processes():
        with contextlib.suppress(psutil.Error):
            text = "\0".join([*process.cmdline(), *process.environ().values()]).encode()
            shown += [(name, f"pid {process.pid} {process.name()}") for name, value in secrets.items() if value in text]
    places = [*(system.home / "logs").rglob("*"), *Paths.of(system.home).ray_temp.rglob("logs/**/*")]
    for file in places:
        with contextlib.suppress(OSError):
            data = file.read_bytes() if file.is_file() else b""
            shown += [(name, str(file)) for name, value in secrets.items() if value in data]
    assert shown == []


def test_only_orders_and_guardian_have_a_stored_venue_key_in_memory(system: System) -> None:
    """A key is stored by a process that has ended. The exchange has it, too: it is no part of FKS."""
    sim = system.node["sim"]
    made = httpx.post(f"{sim['rest']}/sim/keys", json={}, timeout=10.0).json()
    pair, own = (made["api_key"], made["api_secret"]), (sim["api_key"], sim["api_secret"])
    store(system, pair, is_rotation=False)
    logs = [system.home / "logs" / f"{name}.jsonl" for name in CARRIERS]
    fingerprint = VenueKey(SecretStr(pair[0]), SecretStr(pair[1])).fingerprint
    try:
        wait_until(lambda: all(fingerprint in log.read_text() for log in logs), deadline_s=30.0)
        processes = {process.pid: process for process in system.processes()}
        for process in tuple(processes.values()):  # those of PostgreSQL have no environment left that can be read
            with contextlib.suppress(psutil.NoSuchProcess):
                processes |= {child.pid: child for child in process.children(recursive=True)}
        looked, shown = 0, dict[int, str]()
        for process in processes.values():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                outside = "\0".join([*process.cmdline(), *process.environ().values()])
                inside = has_in_memory(process.pid, *(text.encode() for text in pair))
                looked += 1
                if inside or any(text in outside for text in pair):
                    shown[process.pid] = " ".join(process.cmdline())
    finally:
        store(system, own, is_rotation=True)  # the exchange forgets the other one when it is killed
        wait_until(lambda: system.sql("SELECT state FROM credentials WHERE version = 2") == [("active",)])
        system.fks("secrets", "remove", "demo")
    assert looked > 15, "the database, the cache, Ray, the gateway and every child"
    carriers = {system.components()[name]["pid"] for name in CARRIERS}
    assert shown.keys() - {sim["pid"]} == carriers, shown


def store(system: System, pair: tuple[str, str], *, is_rotation: bool) -> None:
    """Store a key of the account at the exchange, by a process that has ended afterwards."""
    assert Child(store_at, system.home, "demo", pair, is_rotation).wait(30.0) == 0


def test_emergency_stop_answers_in_a_second_under_all_hostile_requests(system: System) -> None:
    """A stop is asked for over a connection of its own while heads, frames, numbers and nested JSON come in."""
    made = system.json("webhooks", "add", "hostile", "--symbol", "BTC/USDT", "--account", "demo", "--size", "0.001")
    token = (system.home / "cli.token").read_text().strip()
    http = system.node["http"]
    proxies = serving(system)
    command = [sys.executable, "-m", "tests.support.hostile", http["host"], str(http["port"]), token, made["secret"]]
    hostile = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with system.client() as client:
            body = {"symbol": "BTCUSDT", "side": "buy", "type": "market", "quantity": "0.01"}
            assert system.order(client, body)[1].status_code == 202
        wait_until(lambda: held(system), deadline_s=20.0)
        assert hostile.stdout is not None
        assert hostile.stdout.readline() == "ready\n"
        begun = time.monotonic()
        with system.client() as client:
            answer = client.post("/emergency-stop", json={"reason": "a test"})
        took_s = time.monotonic() - begun
        wait_until(lambda: not held(system), deadline_s=20.0, every_s=0.2)
        flat_s = time.monotonic() - begun
        outcomes = json.loads(hostile.communicate("", timeout=20.0)[0])
    finally:
        hostile.kill()
        hostile.wait()
        wait_until(lambda: system.fks("resume", check=False).returncode == 0, deadline_s=30.0, every_s=0.5)
        system.fks("webhooks", "remove", "hostile", check=False)
    print(f"stopped in {took_s:.2f} s, flat in {flat_s:.2f} s; {outcomes}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["through"] == "guardian"
    assert took_s < 1.0
    assert serving(system) == proxies, "nothing that serves HTTP was killed"
    assert outcomes["long_head"]["431"] > 0
    assert outcomes["long_head"].keys() <= {"431", "closed"}, "closed: as the oldest, or while it was still sending"
    assert outcomes["open_head"]["closed"] >= 100, "the oldest of more than 500"
    assert outcomes["long_frame"].keys() == {"1009"}
    for kind in ("huge_time", "huge_bound", "deep_json"):
        assert {outcome[:3] for outcome in outcomes[kind]} <= {"400", "422", "429"}, outcomes
    system.wait_for_fills(1)


def held(system: System) -> list[tuple[object, ...]]:
    """Return the positions that an order can close: of at least the exchange's smallest value."""
    return system.sql(
        "SELECT p.venue, p.symbol, p.instance, p.quantity FROM positions p JOIN instruments i USING (symbol)"
        " WHERE i.exchange = 'binance' AND abs(p.quantity) * p.average_price >= i.notional_min"
    )


def serving(system: System) -> dict[str, int]:
    """Return the processes that serve HTTP, by name."""
    rows = {name: row["pid"] for name, row in system.components().items() if name.startswith("gateway")}
    [proxy] = [
        process.pid for process in system.processes() if " ".join(process.cmdline()).startswith("ray::ProxyActor")
    ]
    return rows | {"proxy": proxy}
