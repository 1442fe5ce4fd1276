"""The local exchange on a full disk: it stands still, loses nothing, and goes on once there is space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sim_process import Sim
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size_mb=16) as disk:
        yield disk


def test_exchange_survives_a_full_disk_and_no_answered_order_is_lost(disk: SmallDisk) -> None:
    sim = Sim(disk.place / "sim", "--rate-limits", "off", "--balance", "USDT=1000000")
    try:
        made = {f"k{number}" for number in range(3)}
        for id in sorted(made):
            sim.order("BUY", "MARKET", quantity="0.001", newClientOrderId=id)
        disk.keep_full()
        answers: dict[str, int] = {}

        def refused() -> bool:
            id = f"f{len(answers)}"
            answers[id] = buy(sim, id)
            return answers[id] == -1008 and len(answers) > 3

        wait_until(refused, deadline_s=20.0)
        assert sim.call("GET", "/api/v3/ping")[0] == 200, "it is not hung: its keeper must not end it"
        assert set(answers.values()) <= {0, -1007, -1008}
        disk.free()
        wait_until(lambda: sim.signed("GET", "/api/v3/account")[0] == 200)
        # -1007 is an unknown outcome, 0 an order that was made, -1008 one that was not
        certain = made | {id for id, code in answers.items() if code == 0}
        possible = certain | {id for id, code in answers.items() if code == -1007}
        for _ in range(2):
            account = sim.get("/sim/account")
            orders = {order["clientOrderId"]: order["orderId"] for order in account["orders"]}
            assert certain <= set(orders) <= possible
            filled = [fill["orderId"] for fill in account["fills"]]
            assert set(filled) == set(orders.values())
            sim.kill()
            sim.start()
    finally:
        sim.kill()


def test_order_whose_effects_find_no_space_is_not_answered_as_made(disk: SmallDisk) -> None:
    """The space is enough for the row of the request, and not for that of the order."""
    sim = Sim(disk.place / "sim", "--rate-limits", "off", "--balance", "USDT=1000000")
    try:
        disk.fill()
        answers: dict[str, int] = {}
        while -1007 not in answers.values() and len(answers) < 200:
            disk.give(4096)
            answers[f"f{len(answers)}"] = buy(sim, f"f{len(answers)}")
        sim.kill()
        disk.free()
        sim.start()
        orders = {order["clientOrderId"] for order in sim.get("/sim/account")["orders"]}
        assert orders >= {id for id, code in answers.items() if code == 0}
        assert -1007 in answers.values()
        assert set(answers.values()) <= {0, -1007, -1008}
    finally:
        sim.kill()


def buy(sim: Sim, id: str) -> int:
    """Send an order and return the code of its refusal, 0 when it was made."""
    params = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.001", "newClientOrderId": id}
    return int(sim.signed("POST", "/api/v3/order", **params)[1].get("code", 0))
