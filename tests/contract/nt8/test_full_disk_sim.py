"""The AddOn on a disk that is really full: what protects and what closes goes on, and is recorded once there is space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import mono, nt8_host
from tests.support.free_port import free_port
from tests.support.small_disk import SmallDisk, small_disk

NOW = 1738594800000
EXIT = {"action": "exit", "type": "market", "price": None, "sl_points": None, "tp_points": None}


class Rig:
    """An AddOn whose journal lies on a small disk, and a client."""

    def __init__(self, build: mono.Build, folder: Path, disk: SmallDisk) -> None:
        self.disk = disk
        self.port = free_port()
        (disk.place / "secret.key").write_bytes(nt8_host.SECRET)
        config = {"port": self.port, "port_fallback": free_port()}
        (disk.place / "config.json").write_text(nt8_host.dump(config))
        self.host = nt8_host.Host(build, folder)
        self._client: nt8_host.Client | None = None
        self.start()

    def start(self) -> None:
        """Start the process and the AddOn, let the account settle, connect."""
        self.host.start(NOW, ["Sim101"])
        assert self.host.do("activate")["listening"]
        self.pass_time(6000)
        self.connect()

    @property
    def client(self) -> nt8_host.Client:
        assert self._client is not None
        return self._client

    def connect(self) -> None:
        self._client = nt8_host.Client(self.port)
        assert self.client.wait("status") is not None

    def pass_time(self, ms: int) -> None:
        for _ in range(ms // 500):
            self.host.do("advance", ms=500)
            if self._client is not None:
                self.client.ping()
        self.host.do("trade", instrument="ES 03-25", price=4500, qty=1)

    def fill_disk(self) -> None:
        """Take all space, also the rest of the journal's last page."""
        self.disk.fill()
        for number in range(100):
            assert self.signal(f"bad{number}", sl_points=0)["code"] == "bad_bracket"
            if "journal_error" in self.status():
                return
        raise AssertionError("the journal can still be written")

    def status(self) -> dict[str, Any]:
        self.client.send({"t": "status", "rid": "s"})
        found = self.answer("status")
        while found["rid"] != "s":
            found = self.answer("status")
        return found

    def send(self, id: str, **changes: Any) -> None:
        """Send the standard signal; None removes a field."""
        line: dict[str, Any] = {
            "t": "signal", "id": id, "account": "Sim101", "instrument": "ES 03-25", "action": "buy", "qty": 1,
            "type": "limit", "price": 4500, "sl_points": 10, "tp_points": 20, "created_ms": NOW,
            "valid_until": NOW + 3600_000, **changes,
        }  # fmt: skip
        self.client.send({name: value for name, value in line.items() if value is not None})

    def signal(self, id: str, **changes: Any) -> dict[str, Any]:
        """Return the answer to a signal."""
        self.send(id, **changes)
        return self.answer("ack", "nack", "indeterminate")

    def answer(self, *types: str) -> dict[str, Any]:
        found = self.client.wait(*types)
        assert found is not None, "the connection has ended"
        return found

    def live(self, name: str) -> int:
        """Return what is left of the orders of this name that the broker has."""
        ended = ("Cancelled", "Rejected", "Filled")
        orders = self.host.do("report")["orders"]
        return sum(one["qty"] - one["filled"] for one in orders if one["name"] == name and one["state"] not in ended)

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event with these values."""
        while True:
            for event in self.client.events:
                if event["kind"] == kind and all(event.get(name) == value for name, value in fields.items()):
                    return event
            self.client.events.clear()
            self.answer("ev")


@pytest.fixture
def rig(nt8_build: mono.Build, tmp_path: Path) -> Iterator[Rig]:
    folder = tmp_path / "NinjaTrader 8"
    folder.mkdir()
    with small_disk(folder / "fks", size_mb=1) as disk:
        made = Rig(nt8_build, folder, disk)
        yield made
        made.client.close()
        made.host.kill()


def test_fill_on_a_full_disk_has_its_stop(rig: Rig) -> None:
    assert rig.signal("a1", qty=2)["t"] == "ack"
    rig.host.do("order", name="FKS:a1:E", states=["Working"])
    rig.fill_disk()
    rig.host.do("fill", name="FKS:a1:E", qty=2, price=4500, exec="X1")
    assert rig.live("FKS:a1:S") == 2
    assert rig.live("FKS:a1:T") == 2
    assert rig.status()["halted"] is False
    assert rig.signal("a2")["code"] == "journal_error"


def test_first_kill_on_a_full_disk_flattens(rig: Rig) -> None:
    assert rig.signal("a1")["t"] == "ack"
    rig.host.do("order", name="FKS:a1:E", states=["Working"])
    rig.host.do("fill", name="FKS:a1:E", qty=1, price=4500, exec="X1")
    rig.fill_disk()
    rig.client.send({"t": "kill", "rid": "k1", "reason": "test"})
    rig.status()  # the kill is handled before it
    assert rig.host.do("report")["calls"][-1].startswith("Flatten")
    rig.host.do("position", instrument="ES 03-25", side="flat", qty=0)
    rig.pass_time(6000)
    assert rig.answer("result")["flat"] is True
    assert rig.host.do("report")["halted"] is True


def test_exit_on_a_full_disk_closes_the_position(rig: Rig) -> None:
    assert rig.signal("a1")["t"] == "ack"
    rig.host.do("order", name="FKS:a1:E", states=["Working"])
    rig.host.do("fill", name="FKS:a1:E", qty=1, price=4500, exec="X1")
    rig.fill_disk()
    rig.send("x1", **EXIT)
    rig.status()
    for leg in "ST":
        rig.host.do("order", name=f"FKS:a1:{leg}", states=["Cancelled"])
    assert rig.answer("ack", "nack")["t"] == "ack"
    assert rig.live("FKS:x1:E") == 1


def test_freed_disk_gets_everything_and_queries_are_answered(rig: Rig) -> None:
    assert rig.signal("a1")["t"] == "ack"
    rig.host.do("order", name="FKS:a1:E", states=["Working"])
    rig.fill_disk()
    rig.host.do("fill", name="FKS:a1:E", qty=1, price=4500, exec="X1")
    rig.client.send({"t": "query", "rid": "q1", "id": "a1"})
    assert rig.answer("sigstate")["state"] == "open"
    rig.connect()  # its replay ends, although events wait for the disk
    rig.client.send({"t": "query", "rid": "q2", "id": "a1"})
    assert rig.answer("sigstate")["state"] == "open"
    rig.disk.free()
    rig.pass_time(10_000)
    assert rig.event("exec", exec_id="X1")["qty"] == 1
    rig.client.send({"t": "query", "rid": "q3", "id": "a1"})
    assert rig.answer("sigstate")["state"] == "open"
    assert rig.signal("a2")["t"] == "ack"
    rig.connect()
    assert [event["seq"] for event in rig.client.events] == list(range(1, len(rig.client.events) + 1))
    assert sum(event.get("exec_id") == "X1" for event in rig.client.events) == 1


def test_process_killed_on_a_full_disk_reports_and_protects_after_its_restart(rig: Rig) -> None:
    assert rig.signal("a1", qty=2)["t"] == "ack"
    rig.host.do("order", name="FKS:a1:E", states=["Working"])
    rig.fill_disk()
    rig.host.do("fill", name="FKS:a1:E", qty=1, price=4500, exec="X1")  # its exits are submitted, nothing is written
    rig.host.do("crash_at", point="before_exits")
    with pytest.raises(nt8_host.HostEndedError):  # noqa: PT012 (the process ends during one of the two)
        rig.host.do("fill", name="FKS:a1:E", qty=1, price=4501, exec="X2")
        rig.host.do("report")
    rig.disk.free()
    rig.host.kill()
    rig.start()
    rig.pass_time(3000)
    names = [order["name"] for order in rig.host.do("report")["submits"]]
    assert sorted(names) == ["FKS:a1:E", "FKS:a1:S", "FKS:a1:S2", "FKS:a1:T", "FKS:a1:T2"]
    assert [event["exec_id"] for event in rig.client.events if event["kind"] == "exec"] == ["X1", "X2"]
