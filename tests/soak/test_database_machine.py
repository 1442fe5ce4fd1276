"""A head whose PostgreSQL and Redis are a machine of `fks node database`: that machine's processes are killed with a
position open, and the head trades on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from fks.config.env_file import read
from fks.store.grants import KINDS
from tests.support.free_port import free_port
from tests.support.system import START_S, System
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]
STORES, HEAD = "127.0.0.9", "127.0.0.8"
PARTS = ("keeper", "postgres", "redis", "tls")
HEALTHY_S = 240.0  # a slow machine, on which the parts of a head are started again
#: positions of programs, not of the demo's strategies
HELD = "SELECT quantity FROM positions WHERE instance NOT LIKE 'sma-%' AND quantity <> 0"
ORDER = {"symbol": "BTCUSDT", "type": "market", "account": "paper"}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[System]:
    tmp_path.chmod(0o755)
    system = System.at(tmp_path / "stores")
    ports = ["--postgres-port", str(free_port(STORES)), "--redis-port", str(free_port(STORES))]
    try:
        system.fks("node", "database", "--address", STORES, *ports, "--detach", timeout_s=120.0)
        yield system
    finally:
        system.down()


@pytest.fixture
def head(tmp_path: Path, stores: System) -> Iterator[System]:
    """A head with the lines of `database.env` in its environment, and its own exchange."""
    given = read(stores.home / "database.env")
    # the test is about the loss of the stores, not about a slow machine
    slow = {"START_TIMEOUT_S": "120", "HEARTBEAT_S": "3", "LEASE_TTL_S": "4"}
    system = System.at(
        tmp_path / "head",
        **given,
        **{f"FKS_SUPERVISION_{name}": value for name, value in slow.items()},
        FKS_SIM_ENABLED="true",
        FKS_DATA_SYMBOLS="BTCUSDT",
    )
    port = str(free_port(HEAD))
    try:
        system.fks("node", "head", "--address", HEAD, "--port", port, "--name", "h0", "--detach", timeout_s=2 * START_S)
        yield system
    finally:
        system.down()


def parts(machine: System) -> dict[str, int]:
    """Return the pids of a machine's parts that run, as its node file has them."""
    try:
        found: dict[str, int] = json.loads((machine.home / "run" / "node.json").read_text())["pids"]
    except (OSError, ValueError):
        return {}
    return {name: pid for name, pid in found.items() if psutil.pid_exists(pid)}


def trade(head: System, side: str, quantity: str) -> None:
    """Trade at the paper venue, until the order is filled."""
    with head.client() as client:
        _, answer = head.order(client, ORDER | {"side": side, "quantity": quantity})
        assert answer.is_success, answer.text
        head.wait_for_order(client, answer.json()["client_order_id"], "FILLED")


def test_head_trades_on_after_its_database_machine_is_killed(stores: System, head: System) -> None:
    wait_until(lambda: not head.status()["reasons"], deadline_s=HEALTHY_S, every_s=0.5)
    for name in ("sma-btc-1s", "sma-btc-paper"):
        head.fks("strategies", "disable", name)
    trade(head, "buy", "0.01")
    users = {
        (application.removeprefix("fks ").partition(":")[0], user)
        for application, user in head.sql("SELECT application_name, usename FROM pg_stat_activity")
    }
    assert {(kind, f"fks_{kind}") for kind in KINDS if kind != "jobs"} <= users, "each has its role, over TLS, too"
    before, orders = parts(stores), head.components()["orders"]["pid"]
    ((held,),) = head.sql(HELD)
    filled = head.sql("SELECT client_order_id FROM orders WHERE state = 'FILLED' ORDER BY 1")

    # the parent of the keeper alone is left, which nothing here would start again
    doomed = [psutil.Process(before[name]) for name in PARTS]
    for process in [*doomed, *doomed[PARTS.index("postgres")].children()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    killed_s = time.monotonic()

    def is_back() -> bool:
        now = parts(stores)
        return all(now.get(name) not in (None, before[name]) for name in PARTS)

    wait_until(is_back, deadline_s=90.0, every_s=0.2)
    print(f"the database's machine is back {time.monotonic() - killed_s:.1f} s after it was killed")
    wait_until(lambda: not head.status()["reasons"], deadline_s=HEALTHY_S, every_s=0.5)
    print(f"the head is healthy after {time.monotonic() - killed_s:.1f} s")
    trade(head, "sell", "0.005")
    print(f"it has traded after {time.monotonic() - killed_s:.1f} s; same order manager: ", end="")
    print(head.components()["orders"]["pid"] == orders)
    now = head.sql("SELECT client_order_id FROM orders WHERE state = 'FILLED' ORDER BY 1")
    assert set(filled) < set(now), "nothing that was committed is lost"
    assert head.sql(HELD) == [(held - Decimal("0.005"),)]
