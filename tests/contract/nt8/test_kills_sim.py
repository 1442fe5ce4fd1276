"""The AddOn's process killed at random points: no signal is submitted twice, every fill is protected and reported once."""

from __future__ import annotations

import collections
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.invariants import assert_once
from tests.support.free_port import free_port
from tests.support import mono, nt8_host

NOW = 1738594800000
POINTS = (
    "before_intent",
    "after_intent",
    "before_submit",
    "after_submit",
    "before_exits",
    "after_exits",
    "before_send",
)
SIGNALS = int(os.environ.get("FKS_NT8_SIGNALS", "12"))


class Rig:
    """A client and an AddOn whose process dies; the client follows the protocol's rule for signals without an answer."""

    def __init__(self, build: mono.Build, folder: Path) -> None:
        (folder / "fks").mkdir(parents=True)
        (folder / "fks" / "secret.key").write_bytes(nt8_host.SECRET)
        self.port = free_port()
        config = {
            "port": self.port,
            "port_fallback": free_port(),
            "max_position": 1000,
            "rate_per_second": 1000,
            "rate_per_minute": 9999,
        }
        (folder / "fks" / "config.json").write_text(nt8_host.dump(config))
        self.host = nt8_host.Host(build, folder)
        self.now = NOW
        self.kills = 0
        self.client: nt8_host.Client | None = None
        self.start()

    def start(self) -> None:
        """Start the process and the AddOn, let the account settle, connect."""
        if self.client is not None:
            self.client.close()
        self.host.kill()
        self.host.start(self.now, ["Sim101"])
        assert self.host.do("activate")["listening"]
        self.pass_time(6000)
        self.host.do("trade", instrument="ES 03-25", price=4500, qty=1)
        self.client = nt8_host.Client(self.port)
        assert self.client.wait("replay_end") is not None

    def revive(self) -> None:
        """Start again after a kill."""
        self.kills += 1
        self.start()

    def pass_time(self, ms: int) -> None:
        """Advance the clock; the broker accepts the exits that it was given meanwhile."""
        for _ in range(ms // 500):
            self.host.do("advance", ms=500)
            self.now += 500
            for order in self.host.do("report")["orders"]:
                if order["state"] == "Submitted" and order["name"].split(":")[-1][0] in "ST":
                    self.host.do("order", name=order["name"], states=["Accepted"])

    def command(self, verb: str, /, **arguments: Any) -> bool:
        """Let the platform act; False where the process was killed by it."""
        try:
            self.host.do(verb, **arguments)
        except nt8_host.HostEndedError:
            return False
        return True

    def send(self, line: dict[str, Any]) -> str:
        """Send a signal until it is answered; the same line again only after `unknown_id`."""
        while True:
            assert self.client is not None
            self.client.send(line)
            answer = self.client.wait("ack", "nack", "indeterminate")
            if answer is None:
                self.revive()
                self.client.send({"t": "query", "rid": "q", "id": line["id"]})
                state = self.client.wait("sigstate")
                assert state is not None
                if state["state"] == "unknown_id":
                    continue
                return str(state["state"])
            assert answer["t"] == "ack", answer
            return str(answer["state"])


@pytest.fixture
def rig(nt8_build: mono.Build, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(nt8_build, tmp_path / "NinjaTrader 8")
    yield made
    made.host.kill()


def test_killed_addon_submits_each_signal_at_most_once(rig: Rig) -> None:
    rng = random.Random(11)
    filled = []
    states = {}
    for number in range(SIGNALS):
        name = f"k{number}"
        if not rig.command("crash_at", point=rng.choice(POINTS)):
            rig.revive()
        line = {
            "t": "signal",
            "id": name,
            "account": "Sim101",
            "instrument": "ES 03-25",
            "action": "buy",
            "qty": 1,
            "type": "limit",
            "price": 4500,
            "sl_points": 10,
            "tp_points": 20,
            "created_ms": rig.now,
            "valid_until": rig.now + 3600_000,
        }
        states[name] = rig.send(line)
        if states[name] == "not_submitted":
            continue
        filled.append(name)
        done = rig.command("fill", name=f"FKS:{name}:E", qty=1, price=4500, exec=f"X{number}")
        if not (done and rig.command("report") and rig.command("report")):
            rig.revive()
    rig.start()
    rig.pass_time(9000)

    report = rig.host.do("report")
    submits = collections.Counter(order["name"] for order in report["submits"])
    assert submits
    assert_once(submits.elements())
    assert {name.split(":")[1] for name in submits if name.endswith(":E")} == set(filled)
    stops: collections.Counter[str] = collections.Counter()
    for order in report["orders"]:
        if order["name"].split(":")[-1][0] == "S" and order["state"] in ("Accepted", "Working"):
            stops[order["name"].split(":")[1]] += order["qty"] - order["filled"]
    assert stops == dict.fromkeys(filled, 1), "every fill has one live stop"
    assert report["faults"] == []

    assert rig.client is not None
    rig.client.close()
    reader = nt8_host.Client(rig.port)
    assert reader.wait("replay_end") is not None
    reader.close()
    assert [event["seq"] for event in reader.events] == list(range(1, len(reader.events) + 1))
    executions = collections.Counter(event["exec_id"] for event in reader.events if event["kind"] == "exec")
    assert executions == {f"X{name[1:]}": 1 for name in filled}
    assert rig.kills >= SIGNALS // 3, "too few kills for this test to mean anything"
