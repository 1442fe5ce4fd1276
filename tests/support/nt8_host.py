"""Runs a conversation file against the C# AddOn: the mono host program, real sockets and the virtual clock."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import LineMac, line_macs, marked
from tests.support import conversations
from tests.support.conversations import Step, Variables, parse_json
from tests.support.free_port import free_port
from tests.support.mono import Build

SECRET = b"correct-horse-battery-staple-0001"
INSTANCE = "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7"
WAIT = 10.0
SKIPPABLE = {"ev", "status", "trade", "quote", "md_status"}
SETTLE_MS = 5000
STEP_MS = 100
HEARTBEAT_MS = 2000


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(type(value))


def dump(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), default=_plain)


class HostEndedError(AssertionError):
    """The mono process ended during a command."""


class Host:
    """One mono process with the simulated platform; commands are answered in order."""

    def __init__(self, build: Build, folder: Path) -> None:
        self._build = build
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self, now_ms: int, accounts: list[str], **options: Any) -> None:
        """Start the process; the AddOn is not yet loaded. `live=…`: real time, and a broker that acts by itself."""
        self._process = subprocess.Popen(
            ["mono", str(self._build.folder / "host.exe")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.do("init", folder=str(self.folder), now_ms=now_ms, accounts=accounts, **options)

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def do(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        """Send one command and return its answer. Errors: AssertionError with the host's message."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(dump({"do": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait(WAIT)
            errors = self._process.stderr.read() if self._process.stderr else ""
            raise HostEndedError(f"the host ended during {command}: {errors}")
        answer: dict[str, Any] = parse_json(line)
        assert answer.get("ok"), f"{command}: {answer.get('error')}"
        return answer

    def wait_end(self) -> None:
        """Wait until the process has ended by itself."""
        assert self._process is not None
        self._process.wait(WAIT)
        self._close_pipes()

    def kill(self) -> None:
        """End the process with SIGKILL."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
            self._process.kill()
            self._process.wait(WAIT)
            self._close_pipes()
            self._process = None

    def _close_pipes(self) -> None:
        assert self._process is not None
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@dataclass
class Wire:
    """One connection to the AddOn with the values of its authentication."""

    socket: socket.socket
    buffer: bytes = b""
    lines: list[dict[str, Any]] = field(default_factory=list)
    received: int = 0
    ended: bool = False
    silent: bool = False
    closed: bool = False
    opening: dict[str, Any] = field(default_factory=dict)
    nonce: str = ""
    mac: str = ""
    macs: tuple[LineMac, LineMac] | None = None  # of the lines that are sent, and of the AddOn's
    authenticated: bool = False
    pongs: int = 0
    sent_lines: int = 0

    @property
    def port(self) -> int:
        """The own port, by which the AddOn's report names the connection."""
        found: int = self.socket.getsockname()[1]
        return found

    def send(self, line: bytes) -> None:
        """Send a line, with its MAC where the session has them."""
        self.send_raw(line if self.macs is None else self.macs[0].sealed(line))

    def send_raw(self, data: bytes) -> None:
        """Send bytes; a closed peer is noticed when reading."""
        self.sent_lines += data.count(b"\n")
        try:
            self.socket.sendall(data)
        except OSError:
            self.ended = True

    def read(self, seconds: float) -> bool:
        """Read once into `lines`, answering pings; False at the end or when nothing came in time."""
        if self.ended:
            return False
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return False
        self.received += len(data)
        self.buffer += data
        *whole, self.buffer = self.buffer.split(b"\n")
        for line in whole:
            line = line if self.macs is None else self.macs[1].opened(line)
            self._take(dict(strict_json.loads(line)))  # every line is within the limits of the protocol
        return True

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("t") == "ping":
            self.send((dump({"t": "pong", "n": message["n"], "t_ms": 0, "echo_ms": message["t_ms"]}) + "\n").encode())
        elif message.get("t") == "pong" and message.get("n") == -1:
            self.pongs += 1
        else:
            self.lines.append(message)


def client_mac(wire: Wire) -> str:
    """The MAC that the client sends on this connection."""
    parts = ("fks1", "client", wire.nonce, wire.opening["nonce"], wire.opening["instance"], wire.opening["group"])
    return hmac.new(SECRET, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


class Client:
    """A control session that sends one request at a time and keeps the events it reads."""

    def __init__(self, port: int) -> None:
        self._wire = Wire(socket.create_connection(("127.0.0.1", port), WAIT))
        self.events: list[dict[str, Any]] = []
        self._pings = 0
        self._wire.opening = {
            "t": "hello",
            "v": 1,
            "client": "test",
            "instance": INSTANCE,
            "group": "sim",
            "role": "control",
            "nonce": secrets.token_hex(32),
        }
        self.send(self._wire.opening)
        challenge = self.wait("challenge")
        assert challenge is not None, "no challenge"
        self._wire.nonce = challenge["nonce"]
        self.send({"t": "auth", "mac": client_mac(self._wire), "epoch": None, "last_seq": 0})

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._wire.send((dump(message) + "\n").encode())

    def wait(self, *types: str) -> dict[str, Any] | None:
        """Return the next message of one of these types; None when the connection has ended."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            while self._wire.lines:
                line = self._wire.lines.pop(0)
                if line["t"] == "ev":
                    self.events.append(line)
                if line["t"] in types:
                    return line
            if self._wire.ended:
                return None
            self._wire.read(0.2)
        raise AssertionError(f"no {types} within {WAIT} s")

    def ping(self) -> None:
        """Return once the AddOn has read what was sent, or has ended the connection; what comes meanwhile is kept. A
        client whose pings are not read before its clock goes on is taken for a silent one."""
        self._pings += 1
        self.send({"t": "ping", "n": self._pings, "t_ms": 0})
        end = time.monotonic() + WAIT
        while not self._wire.ended and time.monotonic() < end:
            if any((line["t"], line.get("n")) == ("pong", self._pings) for line in self._wire.lines):
                return
            self._wire.read(0.2)

    def close(self) -> None:
        """Close the connection."""
        self._wire.socket.close()


class Conversation:
    """Runs the steps of one script."""

    def __init__(self, build: Build, script: conversations.Conversation, folder: Path) -> None:
        self._script = script
        self._host = Host(build, folder)
        self._wires: dict[int, Wire] = {}
        self._last = 0
        self._now_ms = script.clock_ms
        self._vars = Variables(lambda: self._now_ms)
        self._ping_ms = script.clock_ms
        self._port = free_port()
        self._highest_seq = 0
        self._accounts = [a["name"] for a in script.config.get("accounts", [])] or ["Sim101"]

    def run(self) -> None:
        """Run all steps. Errors: AssertionError that names the file and the line."""
        self._prepare()
        try:
            for step in self._script.steps:
                try:
                    self.step(step)
                except AssertionError as cause:
                    text = f"{self._script.name} line {step.line}: {step.name} {step.text[:160]}\n{cause}"
                    raise AssertionError(text) from cause
            faults = self._host.do("report")["faults"] if self._host.is_alive else []
            assert not faults, f"{self._script.name}: the platform noted {faults}"
        finally:
            for wire in self._wires.values():
                wire.socket.close()
            self._host.kill()

    # ---- process ----

    def _prepare(self) -> None:
        folder = self._host.folder / "fks"
        folder.mkdir(parents=True)
        (folder / "secret.key").write_bytes(SECRET)
        config = {"group": "sim", "port": self._port, "port_fallback": free_port(), **self._script.config}
        (folder / "config.json").write_text(dump(config))
        before = SETTLE_MS + 1000
        self._host.start(self._now_ms - before, self._accounts)
        self._activate()
        for _ in range(before // STEP_MS):
            self._host.do("advance", ms=STEP_MS)
        self._last_price()

    def _activate(self) -> None:
        assert self._host.do("activate")["listening"], "the AddOn did not start: " + str(
            self._host.do("report")["printed"]
        )

    def _last_price(self) -> None:
        self._host.do("trade", instrument="ES 03-25", price=4500, qty=1)

    def _restart(self) -> None:
        if self._host.is_alive:
            self._host.kill()
            self._host.start(self._now_ms, self._accounts)
        self._activate()
        self._last_price()

    def process(self, step: Step) -> None:
        verb, _, rest = step.text.partition(" ")
        if verb == "CRASH_AT":
            self._host.do("crash_at", point=rest)
        elif verb == "STOP":
            self._host.do("terminate")
        elif verb == "START":
            self._activate()
        elif verb == "RESTART":
            self._restart()
        elif verb == "RECOMPILE":
            assert self._host.do("recompile")["listening"], "the new instance did not start"
        elif verb == "DELETE_JOURNAL":
            for path in (self._host.folder / "fks").glob("journal-*"):
                path.unlink()
        else:
            raise AssertionError(f"unknown X {verb}")

    # ---- steps ----

    def step(self, step: Step) -> None:
        if step.name in ("P", "A", "T"):
            self._sync()
        handlers = {
            "iCONNECT": self._connect,
            "iDISCONNECT": self._disconnect,
            "eDISCONNECT": self._expect_end,
            "I": self._send,
            "SIG": self._send,
            "IRAW": lambda s: self._wire(s).send_raw(s.raw),
            "E": lambda s: self.expect(s, skip=False),
            "E*": lambda s: self.expect(s, skip=True),
            "ENONE": self._expect_none,
            "AUTH": self._auth,
            "T": lambda s: self._advance(int(s.text)),
            "P": self._platform,
            "A": self._check,
            "X": self.process,
        }
        handlers[step.name](step)

    def _wire(self, step: Step) -> Wire:
        return self._wires[step.connection or self._last]

    def _sync(self) -> None:
        """Wait until the AddOn has handled every line sent so far: a ping is answered behind them."""
        for wire in self._wires.values():
            if wire.silent or wire.closed or wire.ended:
                continue
            if not wire.authenticated:
                self._wait_handled(wire)
                continue
            before = wire.pongs
            wire.send(b'{"t":"ping","n":-1,"t_ms":0}\n')
            end = time.monotonic() + WAIT
            while wire.pongs == before and not wire.ended and time.monotonic() < end:
                wire.read(0.2)
            assert wire.pongs > before or wire.ended, "no pong"

    def _wait_handled(self, wire: Wire) -> None:
        """Wait until the AddOn has handled the lines of a connection that may not send a ping."""
        end = time.monotonic() + WAIT
        while self._host.is_alive and time.monotonic() < end:
            handled = self._report().get("lines", {}).get(str(wire.port))
            if handled is None or handled >= wire.sent_lines:
                return

    def _connect(self, step: Step) -> None:
        self._last = step.connection or self._last + 1
        made = socket.create_connection(("127.0.0.1", self._port), WAIT)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wires[self._last] = Wire(made)

    def _disconnect(self, step: Step) -> None:
        wire = self._wire(step)
        if step.text == "SILENT":
            wire.silent = True
        elif step.text == "HALF":
            wire.socket.shutdown(socket.SHUT_WR)
        else:
            if step.text == "RST":
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            wire.closed = True
            wire.socket.close()
            time.sleep(0.05)  # the AddOn's reader notices the end; nothing reports it to a script

    def _expect_end(self, step: Step) -> None:
        wire = self._wire(step)
        end = time.monotonic() + WAIT
        while not wire.ended and time.monotonic() < end:
            wire.read(0.2)
        assert wire.ended, f"the connection is open; lines: {wire.lines}"
        wire.closed = True
        if not self._host.is_alive or self._crashed():
            self._host.wait_end()
            self._host.start(self._now_ms, self._accounts)

    def _crashed(self) -> bool:
        time.sleep(0.05)  # the kernel closes the sockets of a killed process before it can be waited for
        return not self._host.is_alive

    def _send(self, step: Step) -> None:
        wire = self._wire(step)
        filled = self._vars.filled({key: value for key, value in step.data.items() if value is not None})
        if filled.get("t") == "hello":
            wire.opening = filled
        if filled.get("t") == "auth":
            wire.mac = self._client_mac(wire)
            filled["mac"] = self._mac_to_send(filled["mac"], wire)
        wire.send((dump(filled) + "\n").encode())

    def _mac_to_send(self, mac: str, wire: Wire) -> str:
        if mac == "$MAC":
            return wire.mac
        if mac.startswith("$MAC@"):
            return self._wires[int(mac[5:])].mac
        return "0" * 64 if mac == "$BAD" else mac

    def _client_mac(self, wire: Wire) -> str:
        return client_mac(wire)

    @staticmethod
    def _bridge_mac(wire: Wire, epoch: str) -> str:
        parts = ("fks1", "bridge", wire.opening["nonce"], wire.nonce, epoch, wire.opening["group"])
        return hmac.new(SECRET, "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    # ---- expectations ----

    def _next(self, wire: Wire, pong: bool = False) -> dict[str, Any] | None:
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            while wire.lines:
                line = wire.lines.pop(0)
                if line.get("t") != "pong" or pong:
                    self._note(wire, line)
                    return line
            if wire.ended:
                return None
            wire.read(0.2)
        return None

    def _note(self, wire: Wire, line: dict[str, Any]) -> None:
        if line.get("t") == "challenge":
            wire.nonce = line["nonce"]
        elif line.get("t") == "welcome":
            wire.authenticated = True
        elif line.get("t") == "ev":
            self._highest_seq = max(self._highest_seq, line["seq"])

    def _matches(self, pattern: dict[str, Any], line: dict[str, Any], wire: Wire) -> bool:
        asked = dict(pattern)
        if asked.get("mac") == "$MAC":
            asked["mac"] = self._bridge_mac(wire, line.get("epoch", ""))
        return self._vars.matches(asked, line)

    def expect(self, step: Step, skip: bool) -> None:
        wire = self._wire(step)
        pattern = step.data
        skipped: list[Any] = []
        while True:
            line = self._next(wire, pong=pattern.get("t") == "pong")
            assert line is not None, f"no such line; before: {skipped}; ended: {wire.ended}\n{self._diagnosis()}"
            if self._matches(pattern, line, wire):
                return
            assert skip, f"got {dump(line)}"
            assert line.get("t") in SKIPPABLE, f"got {dump(line)}"
            skipped.append(line)

    def _diagnosis(self) -> str:
        if not self._host.is_alive:
            return "the host has ended"
        report = self._host.do("report")
        return dump({key: report[key] for key in ("printed", "faults", "calls")})

    def _expect_none(self, step: Step) -> None:
        wire = self._wire(step)
        self._sync()
        end = time.monotonic() + 0.5
        while time.monotonic() < end and not wire.ended:
            wire.read(0.1)
        found = [line for line in wire.lines if line.get("t") != "pong"]
        assert not found, f"got {found}"

    def _auth(self, step: Step) -> None:
        options = step.data
        last_seq = options.get("last_seq", 0)
        last_seq = self._highest_seq if last_seq == "*" else last_seq
        epoch = self._vars.filled(options["epoch"]) if "epoch" in options else None
        if "epoch" not in options and last_seq:
            epoch = self._vars.values["ep"]
        role = options.get("role", "control")
        self._connect(step)
        wire = self._wires[self._last]
        nonce = marked(secrets.token_hex(32)) if options.get("line_mac") else secrets.token_hex(32)
        wire.opening = {
            "t": "hello",
            "v": 1,
            "client": "conversation",
            "instance": INSTANCE,
            "group": "sim",
            "role": role,
            "nonce": nonce,
        }
        wire.send((dump(wire.opening) + "\n").encode())
        challenge = self._next(wire)
        assert challenge is not None, "no challenge"
        assert challenge["t"] == "challenge", f"got {challenge}"
        wire.mac = self._client_mac(wire)
        if options.get("line_mac"):
            names = {name: wire.opening[name] for name in ("instance", "group", "role")}
            wire.macs = line_macs(SECRET, bridge_nonce=wire.nonce, client_nonce=nonce, **names)
        wire.send((dump({"t": "auth", "mac": wire.mac, "epoch": epoch, "last_seq": last_seq}) + "\n").encode())
        until = options.get("until", "welcome" if role == "data" else "status")
        self._read_opening(wire, list(options.get("expect", [])), until)

    def _read_opening(self, wire: Wire, wanted: list[dict[str, Any]], until: str) -> None:
        seen: list[str] = []
        while True:
            line = self._next(wire)
            assert line is not None, f"the opening ended early; lines: {seen}\n{self._diagnosis()}"
            seen.append(dump(line))
            if line["t"] == "welcome":
                assert line["mac"] == self._bridge_mac(wire, line["epoch"]), "the bridge's MAC is wrong"
                self._vars.values.setdefault("ep", line["epoch"])
            if line["t"] == "bye":
                until = "bye" if until == "bye" else "other"
            if wanted and self._matches(wanted[0], line, wire):
                wanted.pop(0)
            if line["t"] in (until, "bye"):
                break
        assert not wanted, f"missing {wanted}; lines: {seen}"
        assert until != "other", f"closed: {seen}"

    # ---- clock and platform ----

    def _advance(self, ms: int) -> None:
        while ms > 0:
            step = min(STEP_MS, ms)
            self._host.do("advance", ms=step)
            self._now_ms += step
            ms -= step
            if self._now_ms - self._ping_ms >= HEARTBEAT_MS:
                self._ping_ms = self._now_ms
                self._sync()

    def _platform(self, step: Step) -> None:
        verb, arguments = step.verb, step.data
        self._host.do(verb, **self._vars.filled(arguments))

    # ---- checks ----

    def _check(self, step: Step) -> None:
        name, asked = step.verb, step.data
        asked = self._vars.filled(asked)
        getattr(self, f"_check_{name}")(asked)

    def _report(self, **arguments: Any) -> dict[str, Any]:
        return self._host.do("report", **arguments)

    def _check_submits(self, asked: dict[str, Any]) -> None:
        found = [order["name"] for order in self._report()["submits"]]
        if "name" in asked:
            found = [name for name in found if name == asked["name"]]
        if "role" in asked:
            found = [name for name in found if name.split(":")[-1][0] == asked["role"]]
        assert len(found) == asked["count"], f"submitted: {found}"

    def _check_order(self, asked: dict[str, Any]) -> None:
        found = [order for order in self._report()["submits"] if order["name"] == asked["name"]]
        assert found, "not submitted"
        most = asked.pop("name_max", 50)
        assert len(asked["name"]) <= most
        assert self._vars.matches(asked, found[-1]), f"got {found[-1]}"

    def _check_pair(self, asked: dict[str, Any]) -> None:
        report = self._report()["submits"]
        suffix = str(asked["n"]) if asked.get("n", 1) > 1 else ""
        legs = {}
        for role, kind, price in (("S", "StopMarket", "stop"), ("T", "Limit", "target")):
            name = f"FKS:{asked['id']}:{role}{suffix}"
            found = [order for order in report if order["name"] == name]
            assert len(found) == 1, f"{name} was submitted {len(found)} times"
            assert (found[0]["type"], found[0]["qty"]) == (kind, asked["qty"]), f"got {found[0]}"
            field_name = "stop" if role == "S" else "limit"
            assert price not in asked or found[0][field_name] == asked[price], f"got {found[0]}"
            legs[role] = found[0]
        oco = legs["S"]["oco"]
        assert oco, "the stop has no OCO id"
        assert oco == legs["T"]["oco"], "the legs have no common OCO id"
        assert sum(order["oco"] == oco for order in report) == 2, "the OCO id was used again"
        entry = next(order for order in report if order["name"] == f"FKS:{asked['id']}:E")
        other = {"Buy": "Sell", "SellShort": "BuyToCover"}[entry["action"]]
        assert {leg["action"] for leg in legs.values()} == {other}

    def _calls(self, verb: str) -> list[str]:
        return [call.split(" ", 1)[1] for call in self._report()["calls"] if call.startswith(verb + " ")]

    def _check_cancels(self, asked: dict[str, Any]) -> None:
        assert self._calls("Cancel") == asked["names"], f"cancelled: {self._calls('Cancel')}"

    def _check_flattens(self, asked: dict[str, Any]) -> None:
        found = self._calls("Flatten")
        assert found.count(",".join(asked["instruments"])) == asked["count"], f"flattened: {found}"

    def _check_calls(self, asked: dict[str, Any]) -> None:
        calls = iter(self._report()["calls"])
        for wanted in asked["order"]:
            assert wanted in calls, f"{wanted} is not in this order in {self._report()['calls']}"

    def _check_live_stops(self, asked: dict[str, Any]) -> None:
        end = self._now_ms + asked.get("within_ms", 0)
        while True:
            live = [
                order["qty"] - order["filled"]
                for order in self._report()["orders"]
                if order["name"].startswith(f"FKS:{asked['id']}:S")
                and order["state"] in ("Accepted", "Working", "Suspended", "PartFilled")
            ]
            if sum(live) == asked["qty"]:
                return
            assert self._now_ms < end, f"live stops: {live}"
            self._advance(STEP_MS)

    def _check_submit_ms(self, asked: dict[str, Any]) -> None:
        assert self._report()["submit_ms"] <= asked["max"]

    def _check_bytes(self, asked: dict[str, Any]) -> None:
        assert self._wires[asked["conn"]].received == asked["count"]

    def _check_session(self, asked: dict[str, Any]) -> None:
        assert self._report()["session"] == asked["state"], self._report()["session"]

    def _check_signal(self, asked: dict[str, Any]) -> None:
        found = self._report(id=asked["id"])["signal"]
        assert found == asked["state"], f"state {found}"

    def _check_halted(self, asked: dict[str, Any]) -> None:
        assert self._report()["halted"] == asked["on"]

    def _check_handlers(self, asked: dict[str, Any]) -> None:
        assert self._report()["handlers"][asked["event"]] == asked["count"], self._report()["handlers"]

    def _check_listeners(self, asked: dict[str, Any]) -> None:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = [row for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == self._port]
        assert len(listening) == asked["count"]


def run(build: Build, script: conversations.Conversation, folder: Path) -> None:
    """Run one conversation against the AddOn."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    Conversation(build, script, folder).run()
