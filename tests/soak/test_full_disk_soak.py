"""The disk of FKS_HOME is full while the system starts, while it trades for minutes, and while a kill is engaged."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from decimal import Decimal

import pytest

from tests.support.audit import assert_sound, baseline_of
from tests.support.full_disk import assert_back, assert_trades, is_whole, kill, pids_of, system_on_small_disk
from tests.support.system import FKS, System
from tests.support.waiting import wait_until

FULL_S = 40.0
SMALLEST = Decimal(5)  # USDT, the local exchange's minimum notional
STARTS: dict[str, Callable[[System], bool]] = {
    "the database is made": lambda system: (system.home / "postgres" / "PG_VERSION").exists(),
    "the schema is made": lambda system: (system.home / "logs" / "prepare.log").exists(),
    "the actors are deployed": lambda system: (system.home / "logs" / "deploy.log").exists(),
}


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", STARTS)
def test_start_on_a_disk_that_fills_up_goes_on_once_there_is_space(moment: str) -> None:
    with system_on_small_disk() as (system, disk):
        with subprocess.Popen([FKS, "up", "--detach", "--quiet"], env=system.env) as starting:
            wait_until(lambda: STARTS[moment](system), deadline_s=60.0, every_s=0.01)
            disk.keep_full()
            time.sleep(FULL_S)  # how long the disk is full
            assert "disk of FKS_HOME is full" in str(system.status()), "the keeper runs and names the cause"
            assert_back(system, disk)
            assert starting.wait(60) == 0
        assert_trades(system, baseline_of(system))  # nothing was decided before the fault


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_disk_is_full_for_minutes_while_everything_dies_in_turn() -> None:
    with system_on_small_disk() as (system, disk):
        system.up()
        system.wait_for_fills(1)
        baseline, before = baseline_of(system), pids_of(system)
        disk.keep_full()
        for name in ("postgres", "sim", "orders", "keeper", "supervisor", "collector:binance", "gcs", "guardian"):
            time.sleep(FULL_S / 8)
            kill(before, name)
        time.sleep(FULL_S)
        assert_back(system, disk)
        assert_trades(system, baseline)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_full_first", [False, True])
def test_kill_on_a_full_disk_stays_engaged_and_positions_are_flat(is_full_first: bool) -> None:
    with system_on_small_disk() as (system, disk):
        system.up()
        system.wait_for_fills(2)
        baseline = baseline_of(system)
        if is_full_first:
            disk.fill()  # the kill has the space of the reserve
        wait_until(lambda: system.fks("kill", "--yes", "--reason", "a test", check=False).returncode == 0)
        if not is_full_first:
            disk.keep_full()
        before = pids_of(system)
        kill(before, "guardian", "orders", "keeper")
        time.sleep(FULL_S / 2)
        assert_killed(system)
        disk.free()
        wait_until(lambda: is_killed_and_back(system), deadline_s=30.0, every_s=0.2)
        assert_flat(system)
        system.fks("resume", "--force")
        wait_until(lambda: is_whole(system), deadline_s=30.0)
        assert_sound(system, baseline)
        assert_trades(system, baseline)


def assert_killed(system: System) -> None:
    assert system.status()["kill"]["engaged"] is not False


def is_killed_and_back(system: System) -> bool:
    found = system.status()
    rows = [row["state"] for row in found["components"] if row["kind"] in ("actor", "service", "keeper")]
    return (
        found["kill"]["engaged"] is True and set(rows) <= {"ready"} and {f["state"] for f in found["feeds"]} == {"LIVE"}
    )


def assert_flat(system: System) -> None:
    """No order is open at the exchange, and no instance holds what could be sold: less than its smallest order."""

    def held() -> list[tuple[str, str]]:
        prices = {name: Decimal(price) for name, price in system.sim("/sim/state")["prices"].items()}
        rows = system.sql("SELECT symbol, instance, quantity FROM positions WHERE quantity <> 0")
        return [(symbol, instance) for symbol, instance, held in rows if abs(held) * prices[symbol] >= SMALLEST]

    wait_until(lambda: not held() and not system.sim("/sim/account")["open_orders"], deadline_s=30.0, every_s=0.5)
