"""A client session of NinjaTrader under test: a clock moved by hand, and a bridge's lines written by the test."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import LineMac, bridge_mac, client_mac, is_marked, line_macs, marked
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.session import ClientSession, Draws, Identity
from fks.model.ninja import LineMacRule

SECRET = b"correct-horse-battery-staple-0001"
INSTANCE = "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7"
EPOCH = "0b9d8c7e6f5a4b3c2d1e0f9a8b7c6d5e"
OTHER_EPOCH = "ffff8c7e6f5a4b3c2d1e0f9a8b7c6d5e"
BRIDGE_NONCE = "00112233445566778899aabbccddeeff" * 2
MARKED_NONCE = marked(BRIDGE_NONCE)  # of a bridge that puts a MAC on each line
START_MS = 1_738_594_800_000  # 2025-02-03 15:00 UTC

E = TypeVar("E")


@dataclass
class ManualClock:
    """A clock that a test sets forward."""

    elapsed_ms: int = 0
    start_ms: int = START_MS

    def now_ns(self) -> int:
        return (self.start_ms + self.elapsed_ms) * 1_000_000

    def monotonic(self) -> float:
        return self.elapsed_ms / 1000

    @property
    def now_ms(self) -> int:
        return self.start_ms + self.elapsed_ms


def put_secret(path: Path, secret: bytes = SECRET) -> None:
    """Write a secret file that its owner alone can read, from its first moment."""
    path.touch(mode=0o600)
    path.write_bytes(secret)


def draws(share: float = 0.5) -> Draws:
    """Nonces that count up, and one number for every wait: 0.5 leaves a wait as it is."""
    numbers = itertools.count(1)
    return Draws(nonce=lambda: f"{next(numbers):064x}", share=lambda: share)


def identity(role: m.Role = "control", line_mac: LineMacRule = "auto") -> Identity:
    return Identity(group="sim", role=role, instance=INSTANCE, secret=SECRET, line_mac=line_mac)


def welcome(opening: dict[str, Any], clock: ManualClock, nonce: str = BRIDGE_NONCE, **fields: Any) -> dict[str, Any]:
    """Return a complete welcome to an opening message, its MAC right unless `fields` has another."""
    epoch = fields.get("epoch", EPOCH)
    mac = bridge_mac(SECRET, bridge_nonce=nonce, client_nonce=opening["nonce"], epoch=epoch, group=opening["group"])
    return {
        "t": "welcome", "mac": mac, "epoch": epoch, "last_seq": 0, "oldest_seq": 1, "now_ms": clock.now_ms, "hb_ms": 2000,
        "max_line": 65536, "platform": "NinjaTrader 8", "group": "sim", "limits": {}, "halted": False, "ready": True,
        "accounts": [{"name": "Sim101", "sim": True, "mode": "auto", "connected": True}], **fields,
    }  # fmt: skip


def challenge(nonce: str = BRIDGE_NONCE) -> dict[str, Any]:
    return {"t": "challenge", "v": 1, "nonce": nonce, "bridge": "fks-nt8/1.0.0", "alg": "hmac-sha256"}


def right_mac(opening: dict[str, Any], nonce: str = BRIDGE_NONCE) -> str:
    return client_mac(
        SECRET, bridge_nonce=nonce, client_nonce=opening["nonce"], instance=opening["instance"], group=opening["group"]
    )


def log_event(seq: int, *, epoch: str = EPOCH, kind: str = "halt", **fields: Any) -> dict[str, Any]:
    """Return an event of the log; without `kind` one that changes nothing."""
    body = {"on": False, "reason": "test"} if kind == "halt" else {}
    return {"t": "ev", "seq": seq, "epoch": epoch, "at_ms": START_MS, "kind": kind, **body, **fields}


def status(rid: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "t": "status", "rid": rid, "at_ms": START_MS, "ready": True, "halted": False, "accounts": [], "signals_open": [],
        "features": [], "counters": {}, **fields,
    }  # fmt: skip


def ack(signal_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "t": "ack",
        "id": signal_id,
        "state": "submitted",
        "dup": False,
        "order": f"FKS:{signal_id}:E",
        "at_ms": START_MS,
        **fields,
    }


def nack(signal_id: str, code: str, *, final: bool) -> dict[str, Any]:
    return {"t": "nack", "id": signal_id, "code": code, "detail": "test", "final": final, "at_ms": START_MS}


def signal(signal_id: str, now_ms: int = START_MS, **changes: Any) -> m.SignalMessage:
    """Return the standard signal of the conversations."""
    fields: dict[str, Any] = {
        "t": "signal", "id": signal_id, "account": "Sim101", "instrument": "ES 03-25", "action": "buy", "qty": 1, "type": "limit",
        "price": 4500, "sl_points": 10, "tp_points": 20, "created_ms": now_ms, "valid_until": now_ms + 30_000, **changes,
    }  # fmt: skip
    message = m.from_client({key: value for key, value in fields.items() if value is not None})
    assert isinstance(message, m.SignalMessage)
    return message


@dataclass
class Wire:
    """A session, and its written and published messages."""

    session: ClientSession
    clock: ManualClock
    lines: list[dict[str, Any]] = field(
        default_factory=list
    )  # written on the open connection, not read by the test yet
    raw: list[bytes] = field(default_factory=list)  # every line ever written
    events: list[o.Event] = field(default_factory=list)
    dialled: list[int] = field(default_factory=list)
    is_open: bool = False
    opening: dict[str, Any] = field(default_factory=dict)
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    macs: tuple[LineMac, LineMac] | None = None  # of the session's lines and of the bridge's

    @classmethod
    def of(cls, role: m.Role = "control", line_mac: LineMacRule = "auto", **how: Any) -> Wire:
        clock = ManualClock()
        return cls(ClientSession(identity(role, line_mac), clock, draws(), **how), clock)

    def pull(self) -> None:
        """Take the session's outputs."""
        for output in self.session.take():
            match output:
                case o.Dial():
                    self.dialled.append(output.port)
                case o.Write():
                    self.raw.append(output.data)
                    line = output.data.rstrip(b"\n")
                    found = strict_json.loads(line if self.macs is None else self.macs[0].opened(line))
                    if found["t"] == "hello":
                        self.opening = found
                    (self.heartbeats if found["t"] in ("ping", "pong") else self.lines).append(found)
                case o.Close():
                    self.is_open = False
                case _:
                    self.events.append(output)

    def open(self) -> None:
        """Open the socket that the session asked for."""
        self.is_open = True
        self.lines.clear()
        self.macs = None
        self.session.connected()
        self.pull()

    def give(self, *found: dict[str, Any]) -> None:
        """Send lines of the bridge."""
        for line in found:
            data = strict_json.dumps(line)
            self.give_bytes(data if self.macs is None else self.macs[1].sealed(data))

    def challenge(self, nonce: str = BRIDGE_NONCE) -> None:
        """Answer the opening; with `MARKED_NONCE` every line from now on has its MAC, if the session can do it."""
        names = {name: self.opening[name] for name in ("instance", "group", "role")}
        client_nonce = self.opening["nonce"]
        data = strict_json.dumps(challenge(nonce))
        if is_marked(nonce) and is_marked(client_nonce):
            self.macs = line_macs(SECRET, bridge_nonce=nonce, client_nonce=client_nonce, **names)
        self.give_bytes(data)

    def give_bytes(self, data: bytes) -> None:
        self.session.receive(data)
        self.pull()

    def lose(self) -> None:
        """Break the socket."""
        self.is_open = False
        self.session.closed()
        self.pull()

    def advance(self, ms: int, step_ms: int = 100) -> None:
        """Move the clock on, and let the session do what is due."""
        while ms > 0:
            self.clock.elapsed_ms += min(step_ms, ms)
            ms -= step_ms
            self.session.tick()
            self.pull()

    def until_dialled(self) -> None:
        """Move the clock on until the session opens a socket."""
        self.pull()
        before = len(self.dialled)
        for _ in range(1_000):
            if len(self.dialled) > before:
                return
            self.advance(100)
        raise AssertionError("the session does not connect again")

    def to_ready(self, nonce: str = BRIDGE_NONCE, **fields: Any) -> None:
        """Open and authenticate up to READY, with this nonce of the bridge and these fields of the welcome."""
        if self.session.state is LinkState.IDLE:
            self.session.start()
            self.pull()
        elif self.session.state is LinkState.BACKOFF:
            self.until_dialled()
        self.open()
        self.challenge(nonce)
        self.give(welcome(self.opening, self.clock, nonce, **fields))
        if self.session.state is LinkState.REPLAY:
            last = self.session.welcome.last_seq if self.session.welcome else 0
            self.give({"t": "replay_end", "last_seq": last, "count": 0}, status())
        assert self.session.state is LinkState.READY

    def pop(self, t: str) -> dict[str, Any]:
        """Return the next line that the session wrote, which must be of this type."""
        line = self.lines.pop(0)
        assert line["t"] == t, line
        return line

    def seen(self, kind: type[E]) -> list[E]:
        """Return the published events of this class."""
        return [event for event in self.events if isinstance(event, kind)]

    def types(self) -> list[str]:
        return [line["t"] for line in self.lines]
