"""The process of `fks sim nt8`: a real socket, the client session of FKS, hostile peers, and a kill."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import bridge_mac, client_mac
from fks.interfaces.cli import main
from tests.support.children import Child

INSTANCE = "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7"


class StandIn:
    """One process of the stand-in over one data directory."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.start()

    def start(self) -> None:
        self.process = Child(
            main, ["sim", "nt8", "--json", "--data-dir", str(self.data_dir), *self.flags], is_read=True
        )
        assert self.process.stdout is not None
        self.info: dict[str, Any] = json.loads(self.process.stdout.readline())

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.info["host"], self.info["port"]), 10)


class Client:
    """One authenticated connection."""

    def __init__(self, stand_in: StandIn, role: str = "control", epoch: str | None = None, last_seq: int = 0) -> None:
        self.socket = stand_in.connect()
        self.file = self.socket.makefile("rb")
        secret = Path(stand_in.info["secret_file"]).read_bytes()
        nonce = "ab" * 32
        opening = {"t": "hello", "v": 1, "client": "test", "instance": INSTANCE, "group": "sim", "role": role}
        self.send({**opening, "nonce": nonce})
        challenge = self.read()
        nonces = {"bridge_nonce": challenge["nonce"], "client_nonce": nonce}
        mac = client_mac(secret, instance=INSTANCE, group="sim", **nonces)
        self.send({"t": "auth", "mac": mac, "epoch": epoch, "last_seq": last_seq})
        self.welcome = self.read()
        assert self.welcome["mac"] == bridge_mac(secret, epoch=self.welcome["epoch"], group="sim", **nonces)

    def send(self, message: dict[str, Any]) -> None:
        self.socket.sendall(strict_json.dumps(message))

    def read(self) -> dict[str, Any]:
        line = self.file.readline()
        assert line, "the connection ended"
        return dict(strict_json.loads(line))

    def until(self, message_type: str, **fields: Any) -> dict[str, Any]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            found = self.read()
            if found.get("t") == "ping":
                self.send({"t": "pong", "n": found["n"], "t_ms": 0, "echo_ms": found["t_ms"]})
            if found.get("t") == message_type and all(found.get(name) == value for name, value in fields.items()):
                return found
        raise AssertionError(f"no {message_type} {fields}")


def market_signal(stand_in: StandIn, signal_id: str) -> dict[str, Any]:
    now_ms = time.time_ns() // 1_000_000
    return {
        "t": "signal",
        "id": signal_id,
        "account": "Sim101",
        "instrument": stand_in.info["instruments"][0],
        "action": "buy",
        "qty": 1,
        "type": "market",
        "sl_points": 10,
        "tp_points": 20,
        "created_ms": now_ms,
        "valid_until": now_ms + 60_000,
    }


@pytest.fixture
def stand_in(tmp_path: Path) -> Any:
    made = StandIn(tmp_path / "nt8")
    yield made
    made.process.kill()
    made.process.wait(10)


def send_until_taken(client: Client, message: dict[str, Any]) -> dict[str, Any]:
    """Send a signal again while the bridge still compares its account after the start."""
    while True:
        client.send(message)
        answer = client.read()
        while answer["t"] not in ("ack", "nack"):
            answer = client.read()
        if answer["t"] == "ack" or answer["code"] != "not_ready":
            return answer
        time.sleep(0.2)


def test_a_signal_over_a_socket_fills_gets_its_bracket_and_survives_a_kill(stand_in: StandIn) -> None:
    client = Client(stand_in)
    message = market_signal(stand_in, "a1")
    assert send_until_taken(client, message)["t"] == "ack"
    fill = client.until("ev", kind="exec", role="E")
    assert client.until("ev", kind="order", role="S", state="Working")["name"] == "FKS:a1:S"
    stand_in.kill()
    stand_in.start()
    again = Client(stand_in, epoch=client.welcome["epoch"], last_seq=fill["seq"])
    assert again.welcome["epoch"] == client.welcome["epoch"]
    again.until("replay_end")
    again.send(message)
    assert again.until("ack", id="a1")["dup"] is True
    stand_in.kill(signal.SIGTERM)
    assert stand_in.process.returncode == 0


def test_market_data_flows_on_a_session_of_its_own(stand_in: StandIn) -> None:
    client = Client(stand_in, role="data")
    client.send({"t": "subscribe", "rid": "s", "instruments": stand_in.info["instruments"], "quotes": True})
    assert client.until("result", rid="s")["ok"] is True
    first, second = client.until("trade"), client.until("trade")
    assert second["n"] == first["n"] + 1
    assert client.until("quote")["ask"] > 0


def test_the_seed_line_without_lf_is_answered_after_the_half_close(stand_in: StandIn) -> None:
    name = stand_in.info["instruments"][0]
    with stand_in.connect() as made:
        made.sendall(json.dumps({"action": "buy", "instrument": name, "tp_points": 20, "sl_points": 10}).encode())
        made.shutdown(socket.SHUT_WR)
        reply = json.loads(made.makefile("rb").readline())
    assert set(reply) == {"success", "message", "signal_id"}


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b"x" * 5_000, b"\xff\n"]
)
def test_a_first_line_that_is_no_json_is_closed_without_a_byte(stand_in: StandIn, data: bytes) -> None:
    with stand_in.connect() as made:
        made.sendall(data if data.endswith(b"\n") else data + b"\n")
        with contextlib.suppress(ConnectionResetError):
            assert made.recv(100) == b""


def test_a_megabyte_in_one_line_ends_the_session_only(stand_in: StandIn) -> None:
    client = Client(stand_in)
    client.until("replay_end")
    with contextlib.suppress(ConnectionError):  # the reset may overtake the goodbye
        client.socket.sendall(b"x" * (1 << 20))
        assert client.until("bye")["code"] == "line_too_long"
        assert client.file.read() == b""
    assert Client(stand_in).welcome["t"] == "welcome"


def test_a_thousand_connections_leave_space_for_the_next_client(stand_in: StandIn) -> None:
    held = [stand_in.connect() for _ in range(300)]
    for made in held:
        made.close()
    for _ in range(700):
        stand_in.connect().close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert Client(stand_in).welcome["t"] == "welcome"
            return
        except (AssertionError, ConnectionError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_slow_sender_is_cut_off_after_five_seconds(stand_in: StandIn) -> None:
    with stand_in.connect() as made:
        begun = time.monotonic()
        made.sendall(b'{"t":')
        assert made.recv(10) == b""
        assert 4 < time.monotonic() - begun < 10


def test_wrong_input_names_the_remedy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fks.interfaces.cli", "sim", "nt8", "--data-dir", str(tmp_path), "--unkind", "rude"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "fks sim nt8 --list" in done.stderr
