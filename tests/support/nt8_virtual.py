"""Runs a conversation file against the simulated bridge: no sockets, one virtual clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from fks.bridge.ninja import messages, strict_json
from fks.bridge.ninja.auth import LineMac, bridge_mac, client_mac, line_macs, marked
from fks.bridge.peer.bridge import Bridge, BridgeConfig
from fks.bridge.peer.journal import EpochJournal
from fks.bridge.peer.platform import PlatformBar, PlatformOrder, PlatformQuote
from fks.bridge.peer.sessions import BridgeSessions, Output
from fks.lab.sim.nt8.platform import SimulatedNinjaTrader
from tests.support import conversations
from tests.support.conversations import Step, Variables

ES = "ES 03-25"
ACCOUNT = "Sim101"
SECRET = b"correct-horse-battery-staple-0001"
INSTANCE = "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7"
SKIPPABLE = {"ev", "status", "trade", "quote", "md_status"}
PROTECTIVE = ("Accepted", "Working", "Suspended", "PartFilled")
SETTLE_MS = 6_000


class Killed(BaseException):
    """The bridge's process was killed at a named point."""


@dataclass
class Wire:
    """One connection: the lines that came, and the values of its opening."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    buffer: bytes = b""
    received: int = 0
    is_ended: bool = False
    is_silent: bool = False
    is_authenticated: bool = False
    opening: dict[str, Any] = field(default_factory=dict)
    nonce: str = ""
    mac: str = ""
    macs: tuple[LineMac, LineMac] | None = None  # of the lines that are sent, and of the bridge's

    def take(self, data: bytes) -> None:
        self.received += len(data)
        *whole, self.buffer = (self.buffer + data).split(b"\n")
        for line in whole:
            line = line if self.macs is None else self.macs[1].opened(line)
            found: dict[str, Any] = dict(strict_json.loads(line))
            if "t" in found:
                known = messages.from_bridge(found)  # every line that the bridge sends is a valid message
                assert not isinstance(known, messages.Unknown), found
            self.lines.append(found)


class Conversation:
    """Runs the steps of one script; the journal is in `folder`."""

    def __init__(self, script: conversations.Conversation, folder: Path) -> None:
        self.script = script
        self.now_ms = script.clock_ms
        self.vars = Variables(lambda: self.now_ms)
        self.platform = SimulatedNinjaTrader(script.clock_ms - SETTLE_MS)
        self.folder = folder
        known = {one.name for one in fields(BridgeConfig)}
        self.config = BridgeConfig(**{name: value for name, value in script.config.items() if name in known})
        self.modes = {one["name"]: one["mode"] for one in script.config.get("accounts", []) if "mode" in one}
        self.bridge: Bridge | None = None
        self.sessions: BridgeSessions | None = None
        self.wires: dict[int, Wire] = {}
        self.last = 0
        self._kill_at = ""
        self._ids = itertools.count(1)
        self._highest_seq = 0
        self._pings = itertools.count(1)
        self._pinged_ms = script.clock_ms
        self._afterwards: list[Callable[[], None]] = []

    def run(self) -> None:
        """Run all steps. Errors: AssertionError that names the file and the line."""
        for name in {ACCOUNT, *self.modes}:
            self.platform.add_account(name)
        self._start()
        self._advance(SETTLE_MS, is_setup=True)
        self.platform.trade(ES, Decimal(4500), at_ms=self.platform.now_ms - 60_000)
        self.platform.keep_quotes()
        self._restart_market()
        for step in self.script.steps:
            try:
                self._step(step)
            except (AssertionError, KeyError) as cause:
                text = f"{self.script.name} line {step.line}: {step.name} {step.text[:160]}\n{cause!r}"
                raise AssertionError(text) from cause

    # ── process ───────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        journal = EpochJournal(self.folder, self._new_id)
        self.bridge = Bridge(self.platform, journal, self.config, self._new_id, self._crash)
        self.bridge.modes.update(self.modes)
        self.sessions = BridgeSessions(self.bridge, SECRET, lambda: f"{next(self._ids):064x}")

    def _restart_market(self) -> None:
        """Count trades from here on: the start price is none of them."""
        assert self.bridge is not None
        self._work()
        self.sessions = BridgeSessions(self.bridge, SECRET, lambda: f"{next(self._ids):064x}")

    def _new_id(self) -> str:
        return f"{next(self._ids):032x}"

    def _crash(self, point: str) -> None:
        if point == self._kill_at:
            self._kill_at = ""
            raise Killed(point)

    def _die(self) -> None:
        """End the process without a word; the platform's process is started again and connects."""
        self.bridge = self.sessions = None
        for wire in self.wires.values():
            wire.is_ended = True
        self.platform.restart()
        for name in self.platform.accounts:
            self.platform.connect(name)

    def _work(self) -> None:
        """Let the bridge finish: until it sends nothing more."""
        for _ in range(20):
            if self.sessions is None:
                return
            for action in self._afterwards:
                action()
            self._afterwards.clear()
            try:
                out = self.sessions.work()
            except Killed:
                self._die()
                return
            if not out:
                return
            self._deliver(out)

    def _deliver(self, out: list[Output]) -> None:
        for conn, data in out:
            wire = self.wires[conn]
            if data is None:
                wire.is_ended = True
            elif not wire.is_silent:
                wire.take(data)
        for number, wire in self.wires.items():
            for ping in [line for line in wire.lines if line.get("t") == "ping"]:
                wire.lines.remove(ping)
                pong = {"t": "pong", "n": ping["n"], "t_ms": self.now_ms, "echo_ms": ping["t_ms"]}
                self._receive(number, strict_json.dumps(pong))

    def _receive(self, number: int, data: bytes, *, is_raw: bool = False) -> None:
        if self.sessions is None or self.wires[number].is_ended:
            return
        macs = self.wires[number].macs
        if macs is not None and not is_raw:
            data = macs[0].sealed(data)
        try:
            self.sessions.receive(number, data)
        except Killed:
            self._die()

    def _x(self, step: Step) -> None:
        verb, _, rest = step.text.partition(" ")
        if verb == "CRASH_AT":
            self._kill_at = rest
        elif verb == "RESTART":
            if self.bridge is not None:
                self._die()
            self._start()
        elif verb in ("STOP", "RECOMPILE"):
            assert self.bridge is not None
            assert self.sessions is not None
            self._deliver(self.sessions.shutdown())
            self.bridge.stop()
            self.bridge = self.sessions = None
            if verb == "RECOMPILE":
                self._start()
        elif verb == "START":
            self._start()
        else:
            assert verb == "DELETE_JOURNAL", verb
            for path in self.folder.iterdir():
                path.unlink()
        self._work()

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────

    def _step(self, step: Step) -> None:
        handlers: dict[str, Callable[[Step], None]] = {
            "iCONNECT": self._connect,
            "iDISCONNECT": self._disconnect,
            "eDISCONNECT": self._expect_end,
            "I": self._send,
            "SIG": self._send,
            "IRAW": lambda one: self._receive(one.connection or self.last, one.raw, is_raw=True),
            "E": lambda one: self._expect(one, skip=False),
            "E*": lambda one: self._expect(one, skip=True),
            "ENONE": self._expect_none,
            "AUTH": self._auth,
            "T": lambda one: self._advance(int(one.text)),
            "P": self._platform,
            "A": self._check,
            "X": self._x,
        }
        handlers[step.name](step)
        self._work()

    def _wire(self, step: Step) -> Wire:
        return self.wires[step.connection or self.last]

    def _connect(self, step: Step) -> None:
        self.last = step.connection or self.last + 1
        assert self.sessions is not None
        self.wires[self.last] = Wire()
        self.sessions.open(self.last)

    def _disconnect(self, step: Step) -> None:
        number = step.connection or self.last
        assert self.sessions is not None
        if step.text == "SILENT":
            self.wires[number].is_silent = True
        elif step.text == "HALF":
            self.sessions.half_close(number)
        else:
            self.sessions.disconnect(number)

    def _expect_end(self, step: Step) -> None:
        assert self._wire(step).is_ended, f"the connection is open; lines: {self._wire(step).lines}"

    def _send(self, step: Step) -> None:
        wire = self._wire(step)
        filled = self.vars.filled({key: value for key, value in step.data.items() if value is not None})
        if filled.get("t") == "hello":
            wire.opening = filled
        if filled.get("t") == "auth":
            wire.mac = self._client_mac(wire)
            filled["mac"] = self._mac_to_send(filled["mac"], wire)
        self._receive(step.connection or self.last, strict_json.dumps(filled))

    def _mac_to_send(self, mac: str, wire: Wire) -> str:
        if mac == "$MAC":
            return wire.mac
        if mac.startswith("$MAC@"):
            return self.wires[int(mac[5:])].mac
        return "0" * 64 if mac == "$BAD" else mac

    @staticmethod
    def _client_mac(wire: Wire) -> str:
        opening = wire.opening
        return client_mac(
            SECRET,
            bridge_nonce=wire.nonce,
            client_nonce=opening["nonce"],
            instance=opening["instance"],
            group=opening["group"],
        )

    @staticmethod
    def _bridge_mac(wire: Wire, epoch: str) -> str:
        opening = wire.opening
        return bridge_mac(
            SECRET, bridge_nonce=wire.nonce, client_nonce=opening["nonce"], epoch=epoch, group=opening["group"]
        )

    # ── expectations ──────────────────────────────────────────────────────────────────────────────

    def _next(self, wire: Wire, *, pong: bool = False) -> dict[str, Any] | None:
        while wire.lines:
            line = wire.lines.pop(0)
            if line.get("t") == "pong" and not pong:
                continue
            if line.get("t") == "challenge":
                wire.nonce = line["nonce"]
            elif line.get("t") == "welcome":
                wire.is_authenticated = True
            elif line.get("t") == "ev":
                self._highest_seq = max(self._highest_seq, line["seq"])
            return line
        return None

    def _matches(self, pattern: dict[str, Any], line: dict[str, Any], wire: Wire) -> bool:
        asked = dict(pattern)
        if asked.get("mac") == "$MAC":
            asked["mac"] = self._bridge_mac(wire, str(line.get("epoch", "")))
        return self.vars.matches(asked, line)

    def _expect(self, step: Step, *, skip: bool) -> None:
        wire = self._wire(step)
        pattern = step.data
        skipped: list[Any] = []
        while True:
            line = self._next(wire, pong=pattern.get("t") == "pong")
            assert line is not None, f"no such line; before: {skipped}; ended: {wire.is_ended}"
            if self._matches(pattern, line, wire):
                return
            assert skip, f"got {line}"
            assert line.get("t") in SKIPPABLE, f"got {line}"
            skipped.append(line)

    def _expect_none(self, step: Step) -> None:
        found = [line for line in self._wire(step).lines if line.get("t") != "pong"]
        assert not found, f"got {found}"

    def _auth(self, step: Step) -> None:
        options = step.data
        last_seq = options.get("last_seq", 0)
        last_seq = self._highest_seq if last_seq == "*" else last_seq
        epoch = self.vars.filled(options["epoch"]) if "epoch" in options else None
        if "epoch" not in options and last_seq:
            epoch = self.vars.values["ep"]
        role = options.get("role", "control")
        self._connect(step)
        wire = self.wires[self.last]
        wire.opening = {
            "t": "hello",
            "v": 1,
            "client": "conversation",
            "instance": INSTANCE,
            "group": "sim",
            "role": role,
            "nonce": marked(f"{next(self._ids):064x}") if options.get("line_mac") else f"{next(self._ids):064x}",
        }
        self._receive(self.last, strict_json.dumps(wire.opening))
        self._work()
        challenge = self._next(wire)
        assert challenge is not None, "no challenge"
        wire.mac = self._client_mac(wire)
        if options.get("line_mac"):
            names = {name: wire.opening[name] for name in ("nonce", "instance", "group", "role")}
            wire.macs = line_macs(SECRET, bridge_nonce=wire.nonce, client_nonce=names.pop("nonce"), **names)
        auth = {"t": "auth", "mac": wire.mac, "epoch": epoch, "last_seq": last_seq}
        self._receive(self.last, strict_json.dumps(auth))
        self._work()
        until = options.get("until", "welcome" if role == "data" else "status")
        self._read_opening(wire, list(options.get("expect", [])), until)

    def _read_opening(self, wire: Wire, wanted: list[dict[str, Any]], until: str) -> None:
        seen: list[Any] = []
        while True:
            line = self._next(wire)
            assert line is not None, f"the opening ended early; lines: {seen}"
            seen.append(line)
            if line["t"] == "welcome":
                assert line["mac"] == self._bridge_mac(wire, line["epoch"]), "the bridge's MAC is wrong"
                self.vars.values.setdefault("ep", line["epoch"])
            if wanted and self._matches(wanted[0], line, wire):
                wanted.pop(0)
            if line["t"] in (until, "bye"):
                assert line["t"] == until, f"closed: {seen}"
                break
        assert not wanted, f"missing {wanted}; lines: {seen}"

    # ── clock and platform ────────────────────────────────────────────────────────────────────────

    def _advance(self, ms: int, *, is_setup: bool = False) -> None:
        end = self.platform.now_ms + ms
        while self.platform.now_ms < end:
            self.platform.advance(min(self.platform.now_ms + 100, end))
            self.platform.keep_quotes()
            if not is_setup:
                self.now_ms = self.platform.now_ms
                if self.now_ms - self._pinged_ms >= 2_000:
                    self._ping()
            self._work()

    def _ping(self) -> None:
        self._pinged_ms = self.now_ms
        for number, wire in self.wires.items():
            if wire.is_authenticated and not wire.is_silent and not wire.is_ended:
                line = strict_json.dumps({"t": "ping", "n": next(self._pings), "t_ms": self.now_ms})
                self._receive(number, line)

    def _platform(self, step: Step) -> None:
        verb, arguments = step.verb, step.data
        getattr(self, f"_do_{verb}")(self.vars.filled(arguments))

    def _do_account(self, asked: dict[str, Any]) -> None:
        name = asked["name"]
        account = self.platform.accounts.get(name) or self.platform.add_account(name)
        if asked.get("live"):
            account.is_sim = False
        if "mode" in asked:
            self.modes[name] = asked["mode"]
            if self.bridge is not None:
                self.bridge.modes[name] = asked["mode"]
        if asked.get("connected"):
            self.platform.set_status(name, "Connected", "Connected")

    def _do_connection(self, asked: dict[str, Any]) -> None:
        for account in self.platform.accounts.values():
            status = asked.get("status", account.status)
            self.platform.set_status(account.name, status, asked.get("price_status", account.price_status))

    def _do_order(self, asked: dict[str, Any]) -> None:
        for state in asked["states"]:
            self.platform.set_state(
                asked["name"],
                state,
                error=asked.get("error", "NoError"),
                comment=asked.get("comment", ""),
                order_id=asked.get("order_id", ""),
            )

    def _do_fill(self, asked: dict[str, Any]) -> None:
        self.platform.fill(asked["name"], asked["qty"], Decimal(asked["price"]), asked["exec"])

    def _do_exec(self, asked: dict[str, Any]) -> None:
        self.platform.fill(asked["name"], asked["qty"], Decimal(asked["price"]), asked["exec"], events="e")

    def _do_position(self, asked: dict[str, Any]) -> None:
        sign = {"long": 1, "short": -1, "flat": 0}[asked["side"]]
        self.platform.set_position(ACCOUNT, asked["instrument"], sign * asked["qty"], Decimal(asked.get("avg", 0)))

    def _do_on_submit(self, asked: dict[str, Any]) -> None:
        name = asked["name"]

        def play(acts: list[dict[str, Any]]) -> None:
            for act in acts:
                if "order" in act:
                    self.platform.set_state(name, act["order"])
                else:
                    self._do_exec({"name": name, **act["exec"]})

        def inside(_: PlatformOrder) -> None:
            play(asked["inside"])
            self._afterwards.append(lambda: play(asked["after"]))

        self.platform.scripts[name] = inside

    def _do_reject(self, asked: dict[str, Any]) -> None:
        self.platform.reject_next[asked["role"]] = asked["count"]

    def _do_executions_again(self, asked: dict[str, Any]) -> None:
        for execution in self.platform.executions(ACCOUNT):
            if execution.exec_id in asked["execs"]:
                self.platform.amend(execution, "add")

    def _do_orders_again(self, asked: dict[str, Any]) -> None:
        self.platform.renew_orders()

    def _do_trade(self, asked: dict[str, Any]) -> None:
        self.platform.trade(
            asked["instrument"],
            Decimal(asked["price"]),
            asked["qty"],
            side=asked.get("side", ""),
            at_ms=asked.get("at_ms"),
        )

    def _do_quote(self, asked: dict[str, Any]) -> None:
        bid, ask = Decimal(asked["bid"]), Decimal(asked["ask"])
        quote = PlatformQuote(asked["instrument"], self.platform.now_ms, bid, asked["bid_qty"], ask, asked["ask_qty"])
        self.platform.show_quote(quote)

    def _do_timezone(self, asked: dict[str, Any]) -> None:
        self.platform.zone = ZoneInfo(asked["id"])

    def _do_bars(self, asked: dict[str, Any]) -> None:
        bars = [
            PlatformBar(datetime.fromisoformat(one["close"]), *(Decimal(one[name]) for name in "ohlc"), one["v"])
            for one in asked["bars"]
        ]
        self.platform.set_bars(asked["instrument"], asked["period"], bars)

    # ── checks ────────────────────────────────────────────────────────────────────────────────────

    def _check(self, step: Step) -> None:
        name, asked = step.verb, step.data
        getattr(self, f"_check_{name}")(self.vars.filled(asked))

    def _submitted(self) -> list[PlatformOrder]:
        return [call.order for call in self.platform.calls if call.order is not None]

    def _check_submits(self, asked: dict[str, Any]) -> None:
        found = [order.name for order in self._submitted()]
        found = [name for name in found if name == asked.get("name", name)]
        found = [name for name in found if name.split(":")[-1].startswith(asked.get("role", ""))]
        assert len(found) == asked["count"], f"submitted: {found}"

    def _check_order(self, asked: dict[str, Any]) -> None:
        order = [one for one in self._submitted() if one.name == asked["name"]][-1]
        assert len(order.name) <= asked.pop("name_max", 50)
        found = {
            "name": order.name,
            "action": order.action,
            "type": order.type,
            "qty": order.qty,
            "limit": order.limit,
            "stop": order.stop,
            "entry": "Automated" if order.automated else "Manual",
            "tif": order.tif,
        }
        assert self.vars.matches(asked, found), f"got {found}"

    def _check_pair(self, asked: dict[str, Any]) -> None:
        suffix = str(asked["n"]) if asked.get("n", 1) > 1 else ""
        legs: list[PlatformOrder] = []
        for role, kind, price in (("S", "StopMarket", "stop"), ("T", "Limit", "target")):
            found = [one for one in self._submitted() if one.name == f"FKS:{asked['id']}:{role}{suffix}"]
            assert len(found) == 1, f"{role}{suffix} was submitted {len(found)} times"
            leg = found[0]
            assert (leg.type, leg.qty) == (kind, asked["qty"]), f"got {leg}"
            assert price not in asked or (leg.stop if role == "S" else leg.limit) == asked[price], f"got {leg}"
            legs.append(leg)
        assert legs[0].oco == legs[1].oco != ""
        assert sum(one.oco == legs[0].oco for one in self._submitted()) == 2, "the OCO id was used again"
        entry = next(one for one in self._submitted() if one.name == f"FKS:{asked['id']}:E")
        assert {leg.is_buy for leg in legs} == {not entry.is_buy}

    def _check_cancels(self, asked: dict[str, Any]) -> None:
        found = [call.name for call in self.platform.calls if call.kind == "cancel"]
        assert found == asked["names"], f"cancelled: {found}"

    def _check_flattens(self, asked: dict[str, Any]) -> None:
        found = [list(call.instruments) for call in self.platform.calls if call.kind == "flatten"]
        assert found.count(asked["instruments"]) == asked["count"], f"flattened: {found}"

    def _check_calls(self, asked: dict[str, Any]) -> None:
        log = [f"{call.kind.capitalize()} {call.name or ','.join(call.instruments)}" for call in self.platform.calls]
        rest = iter(log)
        for wanted in asked["order"]:
            assert wanted in rest, f"{wanted} is not in this order in {log}"

    def _check_live_stops(self, asked: dict[str, Any]) -> None:
        end = self.now_ms + asked.get("within_ms", 0)
        while True:
            live = [
                order.left
                for order in self.platform.orders(ACCOUNT)
                if order.name.startswith(f"FKS:{asked['id']}:S") and order.state in PROTECTIVE
            ]
            if sum(live) == asked["qty"]:
                return
            assert self.now_ms < end, f"live stops: {live}"
            self._advance(100)

    def _check_submit_ms(self, asked: dict[str, Any]) -> None:
        """Nothing to measure: Submit of the simulated platform returns in virtual time."""

    def _check_bytes(self, asked: dict[str, Any]) -> None:
        assert self.wires[asked["conn"]].received == asked["count"]

    def _check_session(self, asked: dict[str, Any]) -> None:
        assert self.sessions is not None
        assert self.sessions.control_state == asked["state"], self.sessions.control_state

    def _check_signal(self, asked: dict[str, Any]) -> None:
        assert self.bridge is not None
        assert self.bridge.signals[asked["id"]].state == asked["state"], self.bridge.signals[asked["id"]].state

    def _check_halted(self, asked: dict[str, Any]) -> None:
        assert self.bridge is not None
        assert self.bridge.halted is asked["on"]

    def _check_handlers(self, asked: dict[str, Any]) -> None:
        assert self.platform.handlers == asked["count"]

    def _check_listeners(self, asked: dict[str, Any]) -> None:
        assert (self.sessions is not None) == (asked["count"] == 1)
