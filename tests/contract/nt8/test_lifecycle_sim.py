"""Loading and unloading the AddOn, its indicators and its strategy, with the simulated platform."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.invariants import assert_once
from tests.support.free_port import free_port
from tests.support import mono, nt8_host

NOW = 1738594800000


@pytest.fixture
def host(nt8_build: mono.Build, tmp_path: Path) -> Iterator[nt8_host.Host]:
    folder = tmp_path / "NinjaTrader 8"
    (folder / "fks").mkdir(parents=True)
    (folder / "fks" / "secret.key").write_bytes(nt8_host.SECRET)
    config = {"port": free_port(), "port_fallback": free_port()}
    (folder / "fks" / "config.json").write_text(nt8_host.dump(config))
    made = nt8_host.Host(nt8_build, folder)
    made.start(NOW, ["Sim101"])
    yield made
    made.kill()


def test_hundred_loads_leave_no_handler(host: nt8_host.Host) -> None:
    host.do("cycle", count=100)
    report = host.do("report")
    assert set(report["handlers"].values()) == {0}
    assert sum("listening" in line for line in report["printed"]) == 100
    assert report["faults"] == []


def test_missing_secret_is_reported_with_the_remedy(host: nt8_host.Host) -> None:
    (host.folder / "fks" / "secret.key").unlink()
    assert not host.do("activate", wait_ms=500)["listening"]
    printed = " ".join(host.do("report")["printed"])
    assert "secret.key is missing" in printed
    assert "openssl rand -hex 32" in printed


def test_secret_is_never_printed_nor_stored(host: nt8_host.Host) -> None:
    host.do("activate")
    assert nt8_host.SECRET.decode() not in " ".join(host.do("report")["printed"])
    stored = [path for path in (host.folder / "fks").iterdir() if path.name != "secret.key"]
    assert all(nt8_host.SECRET not in path.read_bytes() for path in stored)


def test_scripts_run_without_a_bridge(host: nt8_host.Host) -> None:
    answer = host.do("scripts", historical=[4500] * 30, realtime=[4500, 4600])
    assert answer["buttons_removed"]
    report = host.do("report")
    assert "FKS: no bridge, the signal is dropped" in report["printed"]
    assert report["submits"] == []


@pytest.fixture
def trading(host: nt8_host.Host) -> nt8_host.Host:
    """A host whose bridge takes entries."""
    host.do("activate")
    for _ in range(60):
        host.do("advance", ms=100)
    host.do("trade", instrument="ES 03-25", price=4500, qty=1)
    return host


def test_strategy_hands_over_only_real_time_signals_once_a_bar(trading: nt8_host.Host) -> None:
    trading.do("scripts", historical=[4500] * 25 + [4600] + [4500] * 25, realtime=[4500, 4600])
    report = trading.do("report")
    answers = [line.split(": ")[1] for line in report["printed"] if line.startswith("local signal")]
    assert answers == ["ack submitted"]
    assert [order["name"].split(":")[-1] for order in report["submits"]] == ["E"]


def test_strategy_holds_one_position_at_most(trading: nt8_host.Host) -> None:
    trading.do("scripts", historical=[4500] * 30, realtime=[4600, 4700, 4800, 4300])
    report = trading.do("report")
    (entry,) = report["submits"]
    trading.do("fill", name=entry["name"], qty=1, price=4500, exec="X1")
    trading.do("scripts", historical=[4500] * 30, realtime=[4600], minutes=5)
    assert [order["qty"] for order in trading.do("report")["submits"] if order["name"].endswith(":E")] == [1]
    for leg in "ST":
        trading.do("order", name=entry["name"][:-1] + leg, states=["Accepted"])
    trading.do("fill", name=entry["name"][:-1] + "T", qty=1, price=4520, exec="X2")
    trading.do("order", name=entry["name"][:-1] + "S", states=["Cancelled"])
    trading.do("scripts", historical=[4500] * 30, realtime=[4600], minutes=5)  # the same bar in another timeframe
    entries = [order["name"] for order in trading.do("report")["submits"] if order["name"].endswith(":E")]
    assert_once(entries)
    assert len(entries) == 2, "closed: the next signal goes"


def test_indicators_refresh_without_a_new_price(host: nt8_host.Host) -> None:
    def drawn() -> int:
        return sum(line.startswith("draw FKSStatus") for line in host.do("report")["printed"])

    assert host.do("scripts", historical=[4500], realtime=[4500], linger_ms=2500)["stretched"] is False
    after = drawn()
    assert after > 3, "two bars, and a timer"
    time.sleep(1.5)
    assert drawn() == after, "the timer ends with the indicator"


def test_kill_button_halts_the_bridge(host: nt8_host.Host) -> None:
    host.do("activate")
    host.do("scripts", historical=[4500], realtime=[4500], kill=True)
    assert host.do("report")["halted"] is True
