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
            answers[id] = sim.signed(
                "POST",
                "/api/v3/order",
                symbol="BTCUSDT",
                side="BUY",
                type="MARKET",
                quantity="0.001",
                newClientOrderId=id,
            )[1].get("code", 0)
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
