"""A scripted bridge on a real socket: authenticates, answers pings and status, and keeps what it received."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Self

from fks.bridge.ninja import strict_json
from fks.bridge.ninja.auth import LineMac, bridge_mac, client_mac, line_macs
from tests.support.ninja import BRIDGE_NONCE, EPOCH, MARKED_NONCE, SECRET, challenge, status

ACCOUNT = {
    "name": "Sim101", "status": "Connected", "price_status": "Connected", "trade_date": "2025-02-03", "values": {"CashValue": 100000},
    "positions": [], "orders": [],
}  # fmt: skip


@dataclass
class ScriptedBridge:
    """`events`: the log. `secret`: another than the client's makes an impostor. `has_line_mac`: each line carries one."""

    secret: bytes = SECRET
    events: list[dict[str, Any]] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # answer to a signal, by id
    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # fields of the answer to a request, by its type
    welcome: dict[str, Any] = field(default_factory=dict)  # fields of the welcome that differ
    first_line: dict[str, Any] | None = None  # after the welcome
    replay_from: int | None = None  # number after which the log is replayed, instead of the client's
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    roles: dict[asyncio.StreamWriter, str] = field(default_factory=dict)
    port: int = 0
    has_line_mac: bool = False
    macs: dict[asyncio.StreamWriter, tuple[LineMac, LineMac]] = field(default_factory=dict)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await self._server.wait_closed()

    def drop(self) -> None:
        """Break every connection."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    def lines(self, *types: str) -> list[dict[str, Any]]:
        """Return the lines of these types that were received."""
        return [line for line in self.received if line["t"] in types]

    def write(self, line: dict[str, Any]) -> None:
        """Send a line to every client."""
        for writer in self.writers:
            self._put(writer, line)

    def publish(self, event: dict[str, Any]) -> None:
        """Append an event to the log and send it."""
        self.events.append(event)
        for writer in self.writers:
            if self.roles[writer] != "data":
                self._put(writer, event)

    def _put(self, writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
        data, macs = strict_json.dumps(line), self.macs.get(writer)
        writer.write(data if macs is None else macs[1].sealed(data))

    @property
    def nonce(self) -> str:
        """The nonce of the next challenge."""
        return MARKED_NONCE if self.has_line_mac else BRIDGE_NONCE

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        opening: dict[str, Any] = {}
        try:
            async for line in reader:
                macs = self.macs.get(writer)
                found: dict[str, Any] = strict_json.loads(
                    line.strip() if macs is None else macs[0].opened(line.strip())
                )
                self.received.append(found)
                for answer in self.answers_to(found, opening):
                    self._put(writer, answer)
                    if answer["t"] == "welcome":
                        self.writers.append(writer)
                        self.roles[writer] = opening["role"]
                    if answer["t"] == "bye":
                        writer.close()
                if found["t"] == "hello":
                    opening = found
                    if self.has_line_mac:
                        names = {name: found[name] for name in ("instance", "group", "role")}
                        self.macs[writer] = line_macs(
                            self.secret, bridge_nonce=self.nonce, client_nonce=found["nonce"], **names
                        )
        except ConnectionError:
            return
        finally:
            writer.close()

    def answers_to(self, found: dict[str, Any], opening: dict[str, Any]) -> list[dict[str, Any]]:
        now_ms = time.time_ns() // 1_000_000
        match found["t"]:
            case "hello":
                return [challenge(self.nonce)]
            case "auth":
                return self.welcome_to(found, opening, now_ms)
            case "ping":
                return [{"t": "pong", "n": found["n"], "t_ms": now_ms, "echo_ms": found["t_ms"]}]
            case "status":
                return [status(found["rid"], accounts=[ACCOUNT])]
            case "signal" if found["id"] in self.answers:
                return [self.answers[found["id"]]]
            case kind if kind in self.results:
                return [{"t": "result", "rid": found["rid"], "ok": True, **self.results[kind]}]
            case "query":
                return [
                    {
                        "t": "sigstate",
                        "rid": found["rid"],
                        "id": found["id"],
                        "state": "unknown_id",
                        "filled": 0,
                        "avg_price": None,
                    }
                ]
        return []

    def welcome_to(self, auth: dict[str, Any], opening: dict[str, Any], now_ms: int) -> list[dict[str, Any]]:
        names = {"bridge_nonce": self.nonce, "client_nonce": opening["nonce"], "group": opening["group"]}
        mac = bridge_mac(self.secret, epoch=EPOCH, **names)
        if auth["mac"] != client_mac(SECRET, instance=opening["instance"], **names):
            return [{"t": "bye", "code": "auth_failed", "detail": "", "retry_after_ms": 0}]
        last = len(self.events)
        after = auth["last_seq"] if self.replay_from is None else self.replay_from
        replay = [{**event, "replay": True} for event in self.events[after:]]
        first = [] if self.first_line is None else [self.first_line]
        return [
            {
                "t": "welcome", "mac": mac, "epoch": EPOCH, "last_seq": last, "oldest_seq": 1, "now_ms": now_ms, "hb_ms": 2000,
                "max_line": 65536, "platform": "NinjaTrader 8 (scripted)", "group": opening["group"], "limits": {}, "halted": False,
                "ready": True, "accounts": [{"name": "Sim101", "sim": True, "mode": "auto", "connected": True}],
                **self.welcome,
            },
            *first, *replay, {"t": "replay_end", "last_seq": last, "count": len(replay)}, status(accounts=[ACCOUNT]),
        ]  # fmt: skip
